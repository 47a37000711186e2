"""Segments: centroids are the nearest, and files against the format are refused though their hash is right."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from index_format import keys, schema
from index_format.codebook import Codebook, distinct_per_passage, exclusive_sum
from index_format.errors import IndexCorrupt, IndexNotFound, InputError
from index_format.files import write_object
from index_format.index import Index
from index_format.manifest import DeletionRecord, FileRef, SegmentRecord
from index_format.npz import write_npz
from index_format.segment import SegmentReader, write_centroids
from index_format.store import MemoryStore
from tests.strategies import CENTROIDS, OUTLIER_DISTANCE, Recipe, add, live_texts, make_recipe, write_documents

DOCUMENTS = {"a": "harbour lantern", "b": "copper meadow violin ember glacier"}


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(0, 30))
def test_the_nearest_centroid_is_the_least_far(seed: int, centroids: int, tokens: int) -> None:
    """As brute force over all distances says."""
    random = np.random.default_rng(seed)
    book = Codebook.of(random.normal(size=(centroids, 8)).astype(np.float32))
    vectors = random.normal(size=(tokens, 8)).astype(np.float32)
    distances = ((vectors[:, None] - book.centroids[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(book.nearest(vectors), distances.argmin(axis=1) if tokens else [])


def test_equal_centroids_give_the_lowest_id() -> None:
    """A tie has one answer."""
    book = Codebook.of(np.ones((4, 8), np.float32))
    assert book.nearest(np.ones((3, 8), np.float32)).tolist() == [0, 0, 0]


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6), max_size=6))
def test_each_passage_keeps_its_distinct_centroids_in_order(passages: list[list[int]]) -> None:
    """As sets of Python integers say."""
    offsets = exclusive_sum(np.array([len(one) for one in passages], np.int64))
    ids = np.array([one for passage in passages for one in passage], np.uint32)
    own_offsets, distinct = distinct_per_passage(offsets, ids)
    kept = [distinct[a:b].tolist() for a, b in pairwise(own_offsets)]
    assert kept == [sorted(set(one)) for one in passages]


@pytest.fixture
def record(index: Index, recipe: Recipe) -> SegmentRecord:
    return write_documents(index, recipe, DOCUMENTS)


def touched_reader(index: Index, recipe: Recipe, record: SegmentRecord, **arrays: NDArray[np.generic]) -> SegmentReader:
    """The segment with some arrays of its centroids file replaced."""
    changed = dict(np.load(index.files.path(record.centroids_file))) | arrays
    file = arrays_file(index, keys.centroids(record.id, keys.new_id()), changed)
    return SegmentReader(index.files, msgspec.structs.replace(record, centroids_file=file), recipe.codec, CENTROIDS)


def arrays_file(index: Index, key: str, arrays: Mapping[str, NDArray[np.generic]]) -> FileRef:
    return write_object(index.store, key, write_npz(arrays))


@pytest.mark.parametrize("offsets", [[0, 2, 2, 7], [0, 6, 2, 7], [0, 2, 6, 8], [1, 2, 6, 7], [0, 2, 6]])
def test_offsets_that_do_not_rise_to_the_total_are_refused(
    index: Index, recipe: Recipe, record: SegmentRecord, offsets: list[int]
) -> None:
    """An empty passage, one that runs backwards, a wrong first or last, a wrong length."""
    array = np.array(offsets, np.uint32)
    codes, scales = recipe.codec.compress(np.zeros((7, 8), np.float32))
    file = arrays_file(index, keys.codes(keys.new_id()), {"offsets": array, "codes": codes, "scales": scales})
    with pytest.raises(IndexCorrupt, match="offsets"):
        SegmentReader(index.files, msgspec.structs.replace(record, codes_file=file), recipe.codec, CENTROIDS).load()
    with pytest.raises(IndexCorrupt, match="offsets"):
        touched_reader(index, recipe, record, offsets=array, ids=np.zeros(7, np.uint16)).load()


@pytest.mark.parametrize("offsets", [[0, 1, 0, 2], [0, 1, 1, 1], [1, 1, 1, 2], [0, 1, 2]])
def test_outliers_that_do_not_fit_their_offsets_are_refused(
    index: Index, recipe: Recipe, record: SegmentRecord, offsets: list[int]
) -> None:
    """Backwards, a wrong total, a wrong first, a wrong length; a code without a scale. A passage may have none."""
    codes, scales = recipe.codec.compress(np.ones((2, 8), np.float32))
    outliers = {"outlier_codes": codes, "outlier_scales": scales}
    touched_reader(index, recipe, record, outlier_offsets=np.array([0, 0, 2, 2], np.uint32), **outliers).load()
    with pytest.raises(IndexCorrupt, match="outlier_offsets"):
        touched_reader(index, recipe, record, outlier_offsets=np.array(offsets, np.uint32), **outliers).load()
    with pytest.raises(IndexCorrupt, match="2 outlier_codes, but 1 outlier_scales"):
        touched_reader(index, recipe, record, outlier_codes=codes, outlier_scales=scales[:1]).load()


def test_tokens_far_from_their_centroid_are_kept_with_it(index: Index, recipe: Recipe, record: SegmentRecord) -> None:
    """Copies of the codes of just those whose squared distance is the codebook's or more, by passage; none without."""
    reader = SegmentReader(index.files, record, recipe.codec, CENTROIDS)
    codes, touched = reader.codes, reader.centroids
    vectors, book = recipe.codec.decompress_rotated(codes.codes, codes.scales), recipe.codebook.centroids
    distances = ((vectors[:, None] - book[None]) ** 2).sum(axis=2).min(axis=1)
    far = np.flatnonzero(distances >= OUTLIER_DISTANCE)
    assert 0 < len(far) < len(vectors)
    for passage, (first, last) in enumerate(pairwise(touched.outlier_offsets)):
        start, stop = codes.offsets[passage], codes.offsets[passage + 1]
        own = far[(far >= start) & (far < stop)]
        np.testing.assert_array_equal(touched.outlier_codes[first:last], codes.codes[own])
        np.testing.assert_array_equal(touched.outlier_scales[first:last], codes.scales[own])
    plain = write_centroids(index.store, record, index.files, recipe.codec, Codebook.of(book))
    assert len(np.load(index.files.path(plain))["outlier_scales"]) == 0


@pytest.mark.parametrize("ordinals", [[0, 3], [1, 0], [1, 1], [0, 1, 2], [0]])
def test_deletions_that_do_not_fit_the_segment_are_refused(
    index: Index, recipe: Recipe, record: SegmentRecord, ordinals: list[int]
) -> None:
    """Beyond the last passage, not ascending, twice, too many, too few."""
    key = keys.deletions(record.id, keys.new_id())
    file = arrays_file(index, key, {"ordinals": np.array(ordinals, np.uint32)})
    wrong = msgspec.structs.replace(record, deletions=DeletionRecord(passages=2, documents=1, file=file))
    with pytest.raises(IndexCorrupt, match="ordinals"):
        SegmentReader(index.files, wrong, recipe.codec, CENTROIDS).load()


def test_tables_that_are_not_as_promised_are_refused(index: Index, recipe: Recipe, record: SegmentRecord) -> None:
    """Other columns, another number of rows, and what is no table at all."""
    other_columns = schema.write_parquet(pa.table({"document": [0, 1, 1]}))
    other_rows = schema.write_parquet(pa.Table.from_pylist([], schema=schema.PASSAGES))
    for data in (other_columns, other_rows, b"PAR1"):
        file = write_object(index.store, keys.passages(keys.new_id()), data)
        wrong = msgspec.structs.replace(record, passages_file=file)
        reader = SegmentReader(index.files, wrong, recipe.codec, CENTROIDS)
        with pytest.raises(IndexCorrupt):
            _ = reader.passages


def test_there_is_no_index_before_the_first_version(index: Index, recipe: Recipe) -> None:
    """Files alone are no index, and the error says how to make one."""
    write_documents(index, recipe, DOCUMENTS)
    assert index.head() is None
    assert live_texts(index) == {}
    with pytest.raises(IndexNotFound, match="colonnade build"):
        index.current()


def test_a_directory_of_other_things_is_refused(tmp_path: Path) -> None:
    """An index is not mixed into a folder that holds something else; its own folders are fine."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        Index.at(other).refuse_foreign_directory()
    own = Index.at(tmp_path / "own")
    own.refuse_foreign_directory()
    add(own, make_recipe(own), DOCUMENTS)
    (tmp_path / "own" / ".DS_Store").write_bytes(b"x")  # which a desktop leaves, and no listing shows
    own.refuse_foreign_directory()
    Index(MemoryStore()).refuse_foreign_directory()
