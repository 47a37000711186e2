"""The rules of SPEC §4 for each kind of file, as problems with their rows. Files come with the right hash."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from index_format import schema
from index_format.errors import IndexCorrupt, ObjectMissing
from index_format.manifest import SegmentRecord
from index_format.npz import map_npz

LEAST_SCALE = 2.0**-14
_MAX_ID = 512
_EXAMPLES = 3  # of one kind in one file; a thousand lines of the same help nobody
_PASSAGES = 1024  # whose outliers are compared at once
_SHOWN_BYTES = 8  # of a row of codes

RENEW = "Have it made anew from the codes: colonnade reindex INDEX. No code and no score changes."


@dataclass(frozen=True, slots=True)
class Problem:
    """A rule that does not hold, and the row, passage or token where it does not. repair: where there is its own."""

    text: str
    row: int | None = None
    repair: str | None = None


def check_codec(path: Path, dim: int) -> Iterator[Problem]:
    """SPEC §4.7."""
    arrays = map_npz(path, schema.codec_arrays(dim))
    wrong = ~np.isfinite(arrays["mean"].astype(np.float32))
    yield from _each(wrong, lambda at: f"the mean is not finite in dimension {at}")
    if not np.array_equal(np.sort(arrays["order"]), np.arange(dim)):
        yield Problem(f"order does not have each dimension from 0 to {dim - 1} once")
    signs = arrays["signs"]
    yield from _each(np.abs(signs) != 1, lambda at: f"sign {at} is {signs[at]}, not 1 or -1")


def check_codebook(path: Path, centroids: int, dim: int) -> Iterator[Problem]:
    """SPEC §4.7."""
    yield from _scales(map_npz(path, schema.codebook_arrays(centroids, dim))["scales"], "centroid")


def check_codes(path: Path, record: SegmentRecord, row_bytes: int) -> Iterator[Problem]:
    """SPEC §4.4."""
    arrays = map_npz(path, schema.codes_arrays(record.passages, record.tokens, row_bytes))
    yield from _offsets(arrays["offsets"], record.tokens)
    yield from _scales(arrays["scales"], "token")


def check_passage_centroids(path: Path, passages: int, centroids: int, row_bytes: int) -> Iterator[Problem]:
    """SPEC §4.5."""
    arrays = map_npz(path, schema.centroid_arrays(passages, centroids, row_bytes))
    outliers = len(arrays["outlier_scales"])
    if len(arrays["outlier_codes"]) != outliers:
        yield Problem(f"{len(arrays['outlier_codes'])} outlier_codes, but {outliers} outlier_scales")
    yield from _offsets(arrays["outlier_offsets"], outliers, "outlier_offsets", least=0)
    yield from _scales(arrays["outlier_scales"], "outlier")
    offsets, ids = arrays["offsets"].astype(np.int64), arrays["ids"].astype(np.int64)
    problems = list(_offsets(arrays["offsets"], len(ids)))
    yield from problems
    if problems:
        return
    owners = np.repeat(np.arange(passages), np.diff(offsets))
    yield from _each(
        ids >= centroids,
        lambda at: f"passage {owners[at]} touches centroid {ids[at]} of {centroids}",
        lambda at: int(owners[at]),
    )
    falling = (np.diff(ids) <= 0) & (np.diff(owners) == 0)
    yield from _each(
        falling, lambda at: f"the centroid ids of passage {owners[at]} do not ascend", lambda at: int(owners[at])
    )


def check_outliers(
    path: Path, codes_path: Path, record: SegmentRecord, centroids: int, row_bytes: int
) -> Iterator[Problem]:
    """SPEC §4.5: outliers are tokens of their passage, in their order.

    Nothing where codes.npz or an offset breaks a rule of its own: a copy that differs may be the one that is right.
    """
    if any(check_codes(codes_path, record, row_bytes)):
        return
    codes = map_npz(codes_path, schema.codes_arrays(record.passages, record.tokens, row_bytes))
    copies = map_npz(path, schema.centroid_arrays(record.passages, centroids, row_bytes))
    tokens, outliers = codes["offsets"].astype(np.int64), copies["outlier_offsets"].astype(np.int64)
    count = min(len(copies["outlier_codes"]), len(copies["outlier_scales"]))
    if any(_offsets(outliers, count, least=0)):
        return
    row_of, copy_of = _rows(codes["codes"], codes["scales"]), _rows(copies["outlier_codes"], copies["outlier_scales"])
    blocks = [slice(first, first + _PASSAGES + 1) for first in range(0, record.passages, _PASSAGES)]
    strays = np.concatenate([_first_strays(tokens[own], outliers[own], row_of, copy_of) for own in blocks])

    def told(passage: int) -> str:
        stray = strays[passage]
        code, scale = copies["outlier_codes"][stray].tobytes(), copies["outlier_scales"][stray]
        return (
            f"outlier {stray} of passage {passage} is no copy: expected one of its tokens {tokens[passage]} to "
            f"{tokens[passage + 1] - 1}, in their order, got the codes {code[:_SHOWN_BYTES].hex()}"
            f"{' ...' if len(code) > _SHOWN_BYTES else ''} and the scale {scale}"
        )

    yield from _each(strays < outliers[1:], told, lambda passage: int(strays[passage]), repair=RENEW)


RowsAt = Callable[[NDArray[np.int64]], NDArray[np.uint8]]


def _rows(codes: NDArray[np.generic], scales: NDArray[np.generic]) -> RowsAt:
    """What gives the bytes of some rows, codes and scale: uint8 [rows, row_bytes + 2]."""
    return lambda at: np.hstack([codes[at], scales[at].view(np.uint8).reshape(len(at), -1)])


def _first_strays(
    tokens: NDArray[np.int64], outliers: NDArray[np.int64], row_of: RowsAt, copy_of: RowsAt
) -> NDArray[np.int64]:
    """The first outlier of each passage that is none of its tokens after those before it; the last one's end if none.

    tokens, outliers: where those of the passages begin, and end: int64 [P + 1]. All passages go on by a token at once.
    """
    token, outlier = tokens[:-1].copy(), outliers[:-1].copy()
    while len(left := np.flatnonzero((token < tokens[1:]) & (outlier < outliers[1:]))):
        outlier[left] += (row_of(token[left]) == copy_of(outlier[left])).all(axis=1)
        token[left] += 1
    return outlier


def check_deletions(
    path: Path, record: SegmentRecord, rows: NDArray[np.uint32]
) -> Generator[Problem, None, NDArray[np.uint32]]:
    """SPEC §4.6; returns the ordinals. `rows` are the documents of the passages, empty where they are not known."""
    assert record.deletions is not None
    ordinals = np.asarray(map_npz(path, schema.deletion_arrays())["ordinals"], np.uint32)
    if len(ordinals) != record.deletions.passages:
        yield Problem(f"expected {record.deletions.passages} ordinals, got {len(ordinals)}")
    falling = np.diff(ordinals.astype(np.int64)) <= 0
    yield from _each(falling, lambda at: f"ordinal {ordinals[at + 1]} follows {ordinals[at]}")
    outside = ordinals >= record.passages
    yield from _each(outside, lambda at: f"ordinal {ordinals[at]} is not below the {record.passages} passages")
    if outside.any() or len(rows) != record.passages:
        return ordinals
    deleted = np.zeros(record.passages, bool)
    deleted[ordinals] = True
    gone = np.unique(rows[ordinals])
    halves = np.isin(rows, gone) & ~deleted
    yield from _each(halves, lambda at: f"passage {at} is live, but others of its document {rows[at]} are deleted")
    if len(gone) != record.deletions.documents:
        yield Problem(f"expected {record.deletions.documents} deleted documents, got {len(gone)}")
    return ordinals


def check_documents(path: Path, count: int) -> Generator[Problem, None, tuple[list[str], NDArray[np.int64]]]:
    """SPEC §4.2; returns the id of each row and the characters of its text. Reads a row group at a time."""
    file = schema.open_parquet(path, count)
    metadata = file.schema_arrow.field(schema.METADATA).type if schema.METADATA in file.schema_arrow.names else None
    struct = metadata if metadata is None or pa.types.is_struct(metadata) else None
    expected = schema.documents_schema(struct)
    yield from _parquet(path, file, expected)
    if not file.schema_arrow.equals(expected):
        return [], np.zeros(0, np.int64)
    ids: list[str] = []
    lengths: list[NDArray[np.int64]] = []
    for group in range(file.num_row_groups):
        table = _read_group(path, file, group)
        start = len(ids)
        if table["content_hash"].null_count:
            yield Problem(f"row group {group} has documents without content_hash")
        own = [one or "" for one in table["id"].to_pylist()]
        for row, one in enumerate(own, start):
            if not 1 <= len(one) <= _MAX_ID or not one.strip():
                yield Problem(f"the id of document {row} is blank or longer than {_MAX_ID} characters", row)
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(table["text"])), 0)
        wrong = np.asarray(pc.fill_null(blank, True).to_numpy(), bool)
        yield from _each(wrong, lambda at, start=start: f"the text of document {start + at} is blank", start=start)  # type: ignore[misc]
        lengths.append(np.asarray(pc.fill_null(pc.utf8_length(table["text"]), 0).to_numpy(), np.int64))
        ids += own
    first: dict[str, int] = {}
    for row, one in enumerate(ids):
        if first.setdefault(one, row) != row:
            yield Problem(f"documents {first[one]} and {row} have the same id {one!r}", row)
    return ids, np.concatenate(lengths) if lengths else np.zeros(0, np.int64)


def check_passages(
    path: Path, record: SegmentRecord, lengths: NDArray[np.int64]
) -> Generator[Problem, None, NDArray[np.uint32]]:
    """SPEC §4.3; returns the document of each passage. `lengths` are characters of texts, empty where not known."""
    file = schema.open_parquet(path, record.passages)
    if not file.schema_arrow.equals(schema.PASSAGES):
        raise IndexCorrupt(f"{path}: unexpected columns {file.schema_arrow.names}.")
    yield from _parquet(path, file, schema.PASSAGES)
    groups = [_read_group(path, file, group) for group in range(file.num_row_groups)]
    table = pa.concat_tables(groups) if groups else schema.PASSAGES.empty_table()
    if any(column.null_count for column in table.columns):
        raise IndexCorrupt(f"{path}: a column has nulls.")
    rows, numbers, starts, ends = (np.asarray(table[name].to_numpy(), np.int64) for name in schema.PASSAGES.names)
    steps = np.diff(rows, prepend=-1)
    yield from _each(
        (steps < 0) | (steps > 1), lambda at: f"passage {at} is of document {rows[at]}, after {rows[at - 1]}"
    )
    if len(rows) and rows[-1] != record.documents - 1:
        yield Problem(f"the last passage is of document {rows[-1]}, expected {record.documents - 1}", len(rows) - 1)
    expected = np.arange(len(rows)) - np.maximum.accumulate(np.where(steps != 0, np.arange(len(rows)), 0))
    yield from _each(numbers != expected, lambda at: f"passage {at} has number {numbers[at]}, expected {expected[at]}")
    yield from _each(starts >= ends, lambda at: f"passage {at} spans {starts[at]} to {ends[at]}")
    if len(lengths) == record.documents and (rows < len(lengths)).all():
        yield from _each(
            ends > lengths[rows],
            lambda at: f"passage {at} ends at {ends[at]}, the text of document {rows[at]} at {lengths[rows[at]]}",
        )
    return rows.astype(np.uint32)


def check_report(path: Path) -> Iterator[Problem]:
    """SPEC §4.8."""
    file = schema.open_parquet(path)
    yield from _parquet(path, file, schema.REJECTED)
    for group in range(file.num_row_groups):
        _read_group(path, file, group)


def _scales(stored: NDArray[np.generic], of: str) -> Iterator[Problem]:
    scales = stored.astype(np.float32)
    wrong = ~(np.isfinite(scales) & (scales >= LEAST_SCALE))
    yield from _each(wrong, lambda at: f"the scale of {of} {at} is {scales[at]}, expected 2^-14 or more")


def _offsets(offsets: NDArray[np.generic], total: int, name: str = "offsets", least: int = 1) -> Iterator[Problem]:
    """least: how many things a passage has at least."""
    values = offsets.astype(np.int64)
    if values[0] != 0 or values[-1] != total:
        yield Problem(f"{name} go from {values[0]} to {values[-1]}, expected 0 to {total}")
    problem = "do not rise" if least else "fall"
    yield from _each(np.diff(values) < least, lambda at: f"the {name} of passage {at} {problem}")


def _parquet(path: Path, file: pq.ParquetFile, expected: pa.Schema) -> Iterator[Problem]:
    """Columns, row groups, compression and page checksums."""
    if not file.schema_arrow.equals(expected):
        yield Problem(f"expected the columns {_columns(expected)}, got {_columns(file.schema_arrow)}")
    metadata = file.metadata
    try:
        raw = path.open("rb")
    except FileNotFoundError:
        raise ObjectMissing(f"{path} is gone.") from None
    with raw:
        for group in range(metadata.num_row_groups):
            own = metadata.row_group(group)
            last = group == metadata.num_row_groups - 1
            if own.num_rows != schema.ROW_GROUP and not (last and 0 < own.num_rows < schema.ROW_GROUP):
                yield Problem(f"row group {group} has {own.num_rows} rows, expected {schema.ROW_GROUP}")
            for column in map(own.column, range(own.num_columns)):
                if column.compression != "ZSTD":
                    yield Problem(f"{column.path_in_schema}: compressed with {column.compression}, expected ZSTD")
                raw.seek(column.dictionary_page_offset or column.data_page_offset)
                if not _has_checksum(raw.read(32)):
                    yield Problem(f"{column.path_in_schema}: a page of row group {group} has no checksum")


def _has_checksum(header: bytes) -> bool:
    """Whether a page header (Thrift, compact) has field 4, the CRC: the fourth 32-bit integer in a row."""
    match = re.match(rb"(?:\x15[\x80-\xff]*[\x00-\x7f]){4}", header)
    return match is not None


def _read_group(path: Path, file: pq.ParquetFile, group: int) -> pa.Table:
    try:
        table = file.read_row_group(group)
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise IndexCorrupt(f"{path}: row group {group} cannot be read ({error}).") from error
    return table


def _columns(columns: pa.Schema) -> list[str]:
    return [f"{one.name} {one.type}{'' if one.nullable else ' not null'}" for one in columns]


def _each(
    wrong: NDArray[np.bool_],
    text: Callable[[int], str],
    row: Callable[[int], int] | None = None,
    start: int = 0,
    repair: str | None = None,
) -> Iterator[Problem]:
    """A problem for each true place, its row the place itself, counted from `start`, unless `row` says which."""
    places = np.flatnonzero(wrong)
    for at in places[:_EXAMPLES].tolist():
        yield Problem(text(at), row(at) if row else start + at, repair)
    if len(places) > _EXAMPLES:
        yield Problem(f"and {len(places) - _EXAMPLES} more such", repair=repair)
