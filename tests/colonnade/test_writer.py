"""Documents added and deleted over HTTP, by the steps that the flows run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from colonnade.client import Client, Method, Methods, Refused
from colonnade.writer import IndexWriter
from encoding.encoder import load_encoder
from index_format.index import Index
from index_format.store import open_store
from index_format.verify import verify
from serving.documents import matching_ids
from serving.http.app import make_app
from serving.http.parts import Settings
from serving.keys import KeyRing, make_key, write_keys
from serving.searcher import Searcher
from tests.serving.running import running
from tests.serving.vectors import add_texts

GIVEN: dict[str, tuple[object, ...]] = {"rerank": ("honey", ["bees"])}
NOT_FOR_CLIENTS = {"/health/live", "/health/ready", "/metrics"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of one document."""
    index = Index.at(tmp_path_factory.mktemp("writer") / "index")
    add_texts(index, load_encoder("embedded"), {"bees": "Bees make honey."}, legs=6)
    return index


@pytest.fixture(scope="module")
def client(place: Index) -> Iterator[Client]:
    """Of a server that was started with --writable."""
    index = Index.at(place.address)
    app = make_app(Searcher(index, load_encoder("embedded")), "i", writer=IndexWriter(index.address, None))
    with running(app) as address, Client(address, attempts=1) as asking:
        yield asking


def test_what_was_written_is_read_at_once(client: Client, place: Index) -> None:
    """The answer names the version that has it; equal documents are unchanged, changed ones replaced."""
    cats = {"id": "cats", "title": "Cats", "text": "Cats sleep all day.", "metadata": {"legs": 4}}
    added = client.add([cats, {"id": "bees", "text": "Bees sting."}, {"id": " ", "text": "no id"}])
    assert (added.version, added.added, added.changed) == (2, 1, 1)
    assert added.rejected == [{"id": " ", "reason": "the id is missing"}]
    found = client.search("Who sleeps?", k=1, min_version=added.version)
    assert (found.version, found.hits[0].document_id, found.hits[0].title) == (2, "cats", "Cats")
    assert found.hits[0].metadata is not None
    assert found.hits[0].metadata["legs"] == 4

    again = client.add([cats])
    assert (again.version, again.unchanged, again.added) == (2, 1, 0)

    deleted = client.delete(["cats", "dogs"])
    assert (deleted.version, deleted.deleted, deleted.unchanged) == (3, 1, 1)
    left = client.search("Who sleeps?", min_version=3)
    assert [hit.document_id for hit in left.hits] == ["bees"]

    client.add([cats])
    deleted = client.delete(filter={"op": "==", "column": "legs", "value": 4})
    assert (deleted.version, deleted.deleted) == (5, 1)
    assert [hit.document_id for hit in client.search("Who sleeps?", min_version=5).hits] == ["bees"]
    assert client.delete(filter={"op": "==", "column": "id", "value": "cats"}).version == 5

    assert list(verify(open_store(place.address), [3, 5])) == []
    assert not place.store.list("staging/")
    assert not place.store.list("receipts/")


def test_documents_that_are_none_are_refused(client: Client, place: Index) -> None:
    """The field is named, and nothing is written."""
    before = place.current().version
    for document, field in (({"id": "a"}, "text"), ({"text": "b"}, "id"), ({"id": "a", "text": "b", "x": 1}, "x")):
        with pytest.raises(Refused, match=rf"documents\.0\.{field}"):
            client.add([document])
    with pytest.raises(Refused, match="no column may be called text"):
        client.add([{"id": "a", "text": "b", "metadata": {"text": "c"}}])
    for names in ([{"Name": 1}, {"name": 2}], [{"by": {"Name": 1}}, {"by": [{"name": 2}]}], [{"name": 1}, {"": 2}]):
        with pytest.raises(Refused, match=r"documents\.1\.metadata: '(by\.)?(name)?': expected ('Name'|a name)"):
            client.add([{"id": "a", "text": "b", "metadata": one} for one in names])
    for given in ({}, {"ids": ["a"], "filter": {"op": "is_null", "column": "legs"}}, {"ids": []}, {"ids": [""]}):
        with pytest.raises(Refused, match="ids"):
            client.delete(**given)
    with pytest.raises(Refused, match="there is no column 'wings'"):
        client.delete(filter={"op": "is_null", "column": "wings"})
    assert place.current().version == before


def test_a_server_that_only_reads_has_no_way_to_write(place: Index) -> None:
    """Neither the routes nor their description."""
    with running(make_app(Searcher(Index.at(place.address), load_encoder("embedded")), "i")) as address:
        assert httpx.post(f"{address}/v1/documents", json={"documents": []}, timeout=30).status_code == 404
        assert "/v1/documents" not in json.loads(httpx.get(f"{address}/openapi.json", timeout=30).text)["paths"]


def test_the_client_has_a_method_for_every_route(client: Client) -> None:
    """All that the API describes, but what is for those who look after the process."""
    described = json.loads(client._http.get("/openapi.json").text)["paths"]
    routes = {(way.upper(), path) for path, ways in described.items() for way in ways if path not in NOT_FOR_CLIENTS}
    methods = {name: one for name, one in vars(Methods).items() if isinstance(one, Method)}
    takes_nothing = {"index", "columns", "versions"}
    calls = [one.make(*GIVEN.get(name, () if name in takes_nothing else ([],))) for name, one in methods.items()]
    assert {(call.method, "/" + call.path.partition("?")[0]) for call in calls} == routes


def test_a_tenant_deletes_its_own_documents_and_adds_none(tmp_path: Path) -> None:
    """By id and by filter; another's stay, whatever the filter says."""
    index = Index.at(tmp_path / "index")
    encoder = load_encoder("embedded")
    add_texts(index, encoder, {"ours": "Our bees.", "ours too": "Our honey."}, owner="us")
    add_texts(index, encoder, {"theirs": "Their bees."}, owner="them", wings=4)
    key, secret = make_key("us", ["search", "write"], tenant="us")
    write_keys(tmp_path / "keys.json", [key])
    ring, writer = KeyRing(tmp_path / "keys.json"), IndexWriter(index.address, None)
    app = make_app(Searcher(index, encoder), "i", Settings(tenant_column="owner"), keys=ring, writer=writer)
    with running(app) as address, Client(address, key=secret, attempts=1) as client:
        with pytest.raises(Refused, match=r"there is no column 'wings'\. There is 'id', 'owner'"):
            client.delete(filter={"op": "is_null", "column": "wings"})
        deleted = client.delete(["ours", "theirs", "ours"])
        assert (deleted.version, deleted.deleted, deleted.unchanged) == (3, 1, 1)
        assert client.delete(filter={"op": "==", "column": "owner", "value": "them"}).version == 3
        assert client.delete(filter={"op": "!=", "column": "id", "value": ""}).deleted == 1
        with pytest.raises(Refused, match="adds no documents"):
            client.add([{"id": "theirs", "text": "Ours now."}])
    assert matching_ids(Searcher(index, encoder).snapshot, None) == ["theirs"]
