"""Indexes that ColBERT, RAGatouille and fast-plaid wrote, made ours: what comes along, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from colonnade.importing import import_index
from encoding.encoder import load_encoder
from flows.summary import Summary
from index_format.errors import InputError
from index_format.index import Index
from index_format.reports import read_report
from index_format.verify import verify
from serving.query import SearchQuery
from serving.searcher import Searcher
from tasks.imports import segments
from tasks.imports.fit import Fit, measure_fit, refuse_misfit
from tasks.imports.layouts import open_peer_index
from tasks.imports.peer import PeerPassage, Residuals
from tasks.rows import Source
from tests.colonnade.command import Run, runner

GOLDEN = Path(__file__).parent / "golden"
ENCODER = str(GOLDEN / "checkpoint")
TEXTS = json.loads((GOLDEN / "texts.json").read_text(encoding="utf-8"))
DOCUMENTS: dict[str, dict[str, Any]] = {one["id"]: one for one in TEXTS["documents"]}
IDS = list(DOCUMENTS)
COLLECTION = str(GOLDEN / "collection.tsv")

HELD = {
    "ragatouille": IDS,
    "colbert": [str(number) for number in range(len(IDS))],
    "fast-plaid-1.4": [one for place, one in enumerate(IDS) if place not in (2, 21)],
    "fast-plaid-1.7": [one for place, one in enumerate(IDS) if place not in (2, 21)],
}


def bring(source: Path | str, target: Path, **settings: Any) -> Summary:
    """Import with the checkpoint of the golden indexes; ColBERT's with the collection that it was made of."""
    if Path(source).name == "colbert":
        settings.setdefault("texts", COLLECTION)
    return import_index(Source(location=str(source)), str(target), **{"encoder": ENCODER} | settings)


def documents_of(index: Index) -> list[dict[str, Any]]:
    """All documents in the order of the index."""
    return [
        one for part in index.segments(index.current()) for one in part.read_documents(range(part.record.documents))
    ]


@pytest.fixture(scope="module", params=HELD)
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Index]:
    """A golden index by name, imported."""
    target = tmp_path_factory.mktemp("imported") / "index"
    bring(GOLDEN / request.param, target, bits=8)
    return request.param, Index.at(target)


def test_ids_texts_and_metadata_come_along(imported: tuple[str, Index]) -> None:
    """In the order of the source; RAGatouille's splitter leaves its passages, which are found again by their spans."""
    name, index = imported
    found = documents_of(index)
    assert [one["id"] for one in found] == HELD[name]
    for document in found:
        source = TEXTS["documents"][int(document["id"])] if name == "colbert" else DOCUMENTS[document["id"]]
        assert document["text"].split() == source["text"].split()
        assert document.get("metadata", {}) == ({} if name == "colbert" else source["metadata"])
    assert list(verify(index.store, [1])) == []


def test_every_passage_keeps_its_vectors(imported: tuple[str, Index]) -> None:
    """As many passages and tokens as the source counts, and each vector within the codec's error of the source's."""
    name, index = imported
    peer = open_peer_index(Source(location=str(GOLDEN / name)))
    manifest = index.current()
    assert manifest.passages == len(peer.lengths)
    wanted = segments.sampled_vectors(peer, list(range(len(peer.lengths))))
    (part,) = index.segments(manifest)
    vectors = index.codec(manifest).decompress(part.codes.codes, part.codes.scales)
    assert np.diff(part.codes.offsets).tolist() == peer.lengths.tolist()
    assert np.abs(vectors - np.concatenate(wanted)).max() < 0.01


def test_scores_are_those_of_the_source(imported: tuple[str, Index]) -> None:
    """The peer's own search gave the scores: each is met within the codec's error."""
    name, index = imported
    expected = np.load(GOLDEN / f"{name}.npz")["scores"]
    searcher = Searcher(index, load_encoder(ENCODER))
    (part,) = index.segments(index.current())
    first = np.searchsorted(part.document_rows, np.arange(part.record.documents))
    rows = {document["id"]: row for row, document in enumerate(documents_of(index))}
    for query, scores in zip(TEXTS["queries"], expected, strict=True):
        hits = searcher.search(SearchQuery(query, k=1000, recall="exact")).hits
        found = np.full(len(scores), np.nan)
        for hit in hits:
            found[first[rows[hit.document_id]] + hit.passage] = hit.score
        told = ~np.isnan(scores)
        assert told.sum() > 5
        assert np.abs(found - scores)[told].max() < 0.05  # of about 30


def test_passages_that_ragatouille_deleted_are_left_out_and_the_others_keep_their_texts(tmp_path: Path) -> None:
    """RAGatouille's issues 101 and 222: its delete shifts texts against ids; here each finds its own again."""
    done = bring(GOLDEN / "ragatouille-deleted", tmp_path / "index")

    index = Index.at(tmp_path / "index")
    left = [one for place, one in enumerate(IDS) if place not in (3, 20)]
    assert [one["id"] for one in documents_of(index)] == left
    for document in documents_of(index):
        assert document["text"].split() == DOCUMENTS[document["id"]]["text"].split()
    assert {row["reason"] for row in read_report(index.files, done.rejected_file)} == {
        "it has no vectors: the index deleted it"
    }


def test_passages_without_text_are_set_aside(tmp_path: Path) -> None:
    """An index holds texts: a passage that has none is told, and the rest comes along."""
    source = copy(tmp_path, "ragatouille")
    collection = json.loads((source / "collection.json").read_text())
    write(source / "collection.json", [" ", *collection[1:]])

    done = bring(source, tmp_path / "index")

    (row,) = read_report(Index.at(tmp_path / "index").files, done.rejected_file)
    assert (row["row"], row["reason"]) == (1, "the text is empty")
    assert done.passages == len(collection) - 1


def test_segments_are_cut_between_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small segments, blocks and batches answer as one does."""
    bring(GOLDEN / "ragatouille", tmp_path / "one")
    monkeypatch.setattr(segments, "SEGMENT_TOKENS", 100)
    monkeypatch.setattr(segments, "_BLOCK", 64)
    bring(GOLDEN / "ragatouille", tmp_path / "many")

    one, many = (Index.at(tmp_path / name) for name in ("one", "many"))
    assert len(many.current().segments) > 3
    assert documents_of(many) == documents_of(one)
    asked = [Searcher(index, load_encoder(ENCODER)) for index in (one, many)]
    query = SearchQuery(TEXTS["queries"][0], k=20, recall="exact")
    first, second = ([(hit.document_id, hit.score) for hit in each.search(query).hits] for each in asked)
    assert first == second


def test_pooled_vectors_come_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep their order, which tells nothing of places in the text."""
    monkeypatch.setattr("colonnade.importing.measure_fit", lambda *_: Fit(likeness=0.96, same_counts=1.0))
    assert bring(GOLDEN / "ragatouille", tmp_path / "one").warnings == []
    monkeypatch.setattr(
        "colonnade.importing.open_peer_index", lambda source: replace(open_peer_index(source), pool_factor=2)
    )
    (warning,) = bring(GOLDEN / "ragatouille", tmp_path / "two").warnings
    assert "pooled" in warning


def test_texts_of_an_index_without_them_come_from_a_file(tmp_path: Path) -> None:
    """Its rows are the passages in their order; its columns and those that fast-plaid keeps are the metadata."""
    rows = [{"name": f"n{place}", "body": DOCUMENTS[one]["text"]} for place, one in enumerate(HELD["fast-plaid-1.7"])]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = Source(location=str(GOLDEN / "fast-plaid-1.7"), id_column="name", text_column="body")

    import_index(named, str(tmp_path / "index"), texts=str(texts), encoder=ENCODER)

    first = documents_of(Index.at(tmp_path / "index"))[0]
    own = DOCUMENTS[HELD["fast-plaid-1.7"][0]]
    assert (first["id"], first["text"]) == ("n0", own["text"])
    assert first["metadata"] == {"id": own["id"], "text": own["text"], **own["metadata"]}


def test_rows_of_one_id_are_one_document_if_they_say_the_same_of_it(tmp_path: Path) -> None:
    """Two passages of one document; with other metadata they are refused, as one of the two would be lost."""
    texts = tmp_path / "texts.jsonl"
    bodies = [one["text"] for one in TEXTS["documents"]]

    def rows(**more: object) -> str:
        ids = ["one", "one", *IDS[2:]]
        said = [{"id": own, "text": text, "year": 1} for own, text in zip(ids, bodies, strict=True)]
        return "".join(json.dumps(row | (more if place == 1 else {})) + "\n" for place, row in enumerate(said))

    texts.write_text(rows(year=2))
    with pytest.raises(InputError, match="passage 1 has the document id 'one' of the passage before it"):
        bring(GOLDEN / "colbert", tmp_path / "index", texts=str(texts))
    texts.write_text(rows())
    bring(GOLDEN / "colbert", tmp_path / "index", texts=str(texts))
    assert documents_of(Index.at(tmp_path / "index"))[0]["text"] == f"{bodies[0]}\n\n{bodies[1]}"


def test_a_date_that_python_has_not_is_refused_by_its_row_and_column(tmp_path: Path) -> None:
    """A passage cannot be left out: those behind it would get its neighbour's texts."""
    texts = tmp_path / "texts.parquet"
    bodies = [one["text"] for one in TEXTS["documents"]]
    when = pa.array([0, 2**62, *[0] * (len(IDS) - 2)], pa.timestamp("us"))
    pq.write_table(pa.table({"id": IDS, "text": bodies, "when": when}), texts)
    with pytest.raises(InputError, match=r"row 2: column 'when' has a date or time out of range"):
        bring(GOLDEN / "colbert", tmp_path / "index", texts=str(texts))
    assert Index.at(tmp_path / "index").head() is None


def test_texts_of_any_characters_come_along_as_they_are(tmp_path: Path) -> None:
    """Beyond the basic plane, control characters, quotes and line ends; half a surrogate pair becomes a mark."""
    source = copy(tmp_path, "ragatouille")
    collection = json.loads((source / "collection.json").read_text())
    odd = collection[0] + ' 😀 \u0001 "quoted" \\ \r\n\ttab \u2028'
    write(source / "collection.json", [odd, *collection[1:-1], collection[-1] + "\ud800"])

    bring(source, tmp_path / "index")

    found = documents_of(Index.at(tmp_path / "index"))
    assert found[0]["text"] == odd
    assert found[-1]["text"].endswith("?")


def test_the_command_imports_and_the_index_takes_further_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`colonnade import`, then a search by the recorded encoder; a second import to the same place is refused."""
    run: Run = runner(monkeypatch, capfd)
    made = run("import", GOLDEN / "ragatouille", tmp_path / "index", "--encoder", ENCODER, "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["added"] == len(IDS)

    found = run("search", tmp_path / "index", TEXTS["queries"][0], "-k", "1", "--json")
    assert json.loads(found.out)["hits"][0]["document_id"] in IDS
    again = run("import", GOLDEN / "ragatouille", tmp_path / "index", "--encoder", ENCODER)
    assert (again.code, "there is an index already" in again.err) == (3, True)


@pytest.mark.parametrize(
    ("bits", "buckets", "packed"), [(1, [1, 0, 0, 0, 0, 0, 0, 1], 0x81), (2, [0, 1, 2, 3], 0x27), (4, [1, 2], 0x84)]
)
def test_residuals_are_unpacked_as_colbert_packs_them(bits: int, buckets: list[int], packed: int) -> None:
    """Bytes that were checked by hand: within a dimension the lowest bit comes first."""
    codec = Residuals(np.zeros((1, len(buckets)), np.float32), np.arange(1, 2**bits + 1, dtype=np.float32))
    vector = codec.decompress(np.array([0]), np.array([[packed]], np.uint8))[0]
    expected = np.array(buckets, np.float32) + 1
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), rtol=1e-6)


Break = Callable[[Path], object]


def copy(tmp_path: Path, name: str) -> Path:
    """A copy of a golden index that a test may break."""
    return Path(shutil.copytree(GOLDEN / name, tmp_path / name))


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def changed(name: str, change: Callable[[Any], object]) -> Break:
    """What changes a JSON file of an index."""
    return lambda folder: write(folder / name, change(json.loads((folder / name).read_text())))


def cut(name: str) -> Break:
    """What cuts a file of an index in the middle."""
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


class Wicked:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, ("touch /tmp/colonnade-was-here",)


def replaced(name: str, save: Callable[[Path], object]) -> Break:
    """What writes a file of an index anew."""
    return lambda folder: save(folder / name)


BROKEN: dict[str, tuple[str, Break, str]] = {
    "a passage without id": (
        "ragatouille",
        changed("pid_docid_map.json", lambda it: {k: v for k, v in it.items() if k != "5"}),
        "passage 5 has tokens and no document id",
    ),
    "an id twice": (
        "ragatouille",
        changed("pid_docid_map.json", lambda it: it | {str(len(it) - 1): it["0"]}),
        "which other passages before it have",
    ),
    "a passage too many": (
        "ragatouille",
        changed("pid_docid_map.json", lambda it: it | {"999": "x"}),
        "passage: expected a number below",
    ),
    "a text too few": ("ragatouille", changed("collection.json", lambda it: it[:-1]), "collection.json: texts"),
    "no map": ("ragatouille", lambda it: (it / "pid_docid_map.json").unlink(), "pid_docid_map.json is missing"),
    "a map that is no JSON": ("ragatouille", cut("pid_docid_map.json"), "cannot be read as JSON"),
    "lengths that do not add up": (
        "colbert",
        changed("doclens.1.json", lambda it: [it[0] + 1, *it[1:]]),
        "doclens.1.json: tokens",
    ),
    "a chunk too few": ("colbert", lambda it: (it / "2.codes.pt").unlink(), "2.codes.pt is missing"),
    "a chunk twice": (
        "colbert",
        changed("1.metadata.json", lambda it: it | {"passage_offset": 0}),
        "passage_offset: expected 10",
    ),
    "a tensor cut off": ("colbert", cut("1.residuals.pt"), "1.residuals.pt"),
    "a program in a tensor": (
        "colbert",
        replaced("0.codes.pt", lambda at: torch.save(Wicked(), at)),
        "more than tensors",
    ),
    "another tensor": (
        "colbert",
        replaced("0.codes.pt", lambda at: torch.save(torch.zeros(3, dtype=torch.int32), at)),
        "codes: expected",
    ),
    "numbers that are no centroids": (
        "colbert",
        replaced("0.codes.pt", lambda at: torch.save(torch.load(at) + 9999, at)),
        "codes: expected 0 to 63",
    ),
    "a chunk too few in the merged file": (
        "fast-plaid-1.7",
        cut("merged_codes.npy"),
        "merged_codes.npy: cannot be read",
    ),
    "no codes": ("fast-plaid-1.7", lambda it: (it / "merged_codes.npy").unlink(), "codes.npy is missing"),
    "a document that has no row": (
        "fast-plaid-1.7",
        changed("metadata.json", lambda it: it | {"num_documents": 99}),
        "num_documents",
    ),
    "a program in an array": (
        "fast-plaid-1.4",
        replaced("1.codes.npy", lambda at: at.write_bytes(pickle.dumps(Wicked()))),
        "1.codes.npy: cannot be read",
    ),
    "another codec": (
        "fast-plaid-1.4",
        changed("metadata.json", lambda it: it | {"nbits": 2}),
        "bits: expected 4, got 2",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_index_is_refused_with_the_reason(what: str, tmp_path: Path) -> None:
    """Before anything is published, and without running what a file holds."""
    name, spoil, reason = BROKEN[what]
    source = copy(tmp_path, name)
    spoil(source)

    with pytest.raises(InputError, match=reason):
        bring(source, tmp_path / "index")

    assert Index.at(tmp_path / "index").head() is None
    assert not Path("/tmp/colonnade-was-here").exists()


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("colbert", {"texts": None}, "--texts FILE"),
        ("fast-plaid-1.7", {"encoder": None}, "does not say what encoded it"),
        ("fast-plaid-1.7", {"encoder": "embedded"}, "32 dimensions, those of embedded have 384"),
        ("fast-plaid-1.7", {"texts": COLLECTION}, "column"),
        ("ragatouille", {"texts": COLLECTION}, "leave out --texts"),
        ("checkpoint", {}, "found neither file"),
    ],
)
def test_what_the_source_lacks_is_asked_for(name: str, settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """Texts, the encoder, or an index at all."""
    with pytest.raises(InputError, match=reason):
        bring(GOLDEN / name, tmp_path / "index", **settings)


def test_texts_in_another_order_than_the_vectors_are_refused() -> None:
    """Counts cannot tell that a map is shifted: some texts are encoded again and compared."""
    encoder = load_encoder("embedded")
    said = ["Bees make honey from nectar.", "The glacier moves a metre a day.", "Copper conducts heat and electricity."]
    passages = [PeerPassage(str(place), text, None, {}) for place, text in enumerate(said)]
    vectors = [one for batch in encoder.encode(said) for _, one in sorted(batch, key=lambda pair: pair[0])]

    refuse_misfit(measure_fit(encoder, vectors, passages, 1), encoder, "here")
    shifted = measure_fit(encoder, vectors, passages[1:] + passages[:1], 1)
    with pytest.raises(InputError, match="not in the same order"):
        refuse_misfit(shifted, encoder, "here")
