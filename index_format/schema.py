"""The columns and arrays of every file, as data (SPEC §4)."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from index_format.errors import IndexCorrupt, ObjectMissing, storage_error
from index_format.npz import ArraySpec

ROW_GROUP = 128  # rows; a hit's text is read by row group, so small ones keep answers quick
_ZSTD_LEVEL = 9  # 9 % fewer bytes than Arrow's 1, in 12 µs in place of 4 a document of 600 characters

ID = pa.field("id", pa.string(), nullable=False)
CONTENT_HASH = pa.field("content_hash", pa.binary(32), nullable=False)
TITLE = pa.field("title", pa.string())
TEXT = pa.field("text", pa.string(), nullable=False)
METADATA = "metadata"  # a struct column, absent when the source has no further columns

PASSAGES = pa.schema(
    [
        pa.field("document", pa.uint32(), nullable=False),
        pa.field("number", pa.uint32(), nullable=False),
        pa.field("start", pa.uint32(), nullable=False),
        pa.field("end", pa.uint32(), nullable=False),
    ]
)

REJECTED = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("row", pa.uint64()),  # null for a line that is no row, which the reason names
        pa.field("id", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


def documents_schema(metadata: pa.StructType | None) -> pa.Schema:
    """The schema of documents.parquet for a given metadata type."""
    extra = [pa.field(METADATA, metadata)] if metadata is not None and metadata.num_fields else []
    return pa.schema([ID, CONTENT_HASH, TITLE, TEXT, *extra])


def metadata_type(columns: pa.Schema) -> pa.StructType:
    """The metadata columns among those of documents.parquet; none where there is no metadata."""
    return columns.field(METADATA).type if METADATA in columns.names else pa.struct([])


def codec_arrays(dim: int) -> dict[str, ArraySpec]:
    return {"mean": ArraySpec("<f4", (dim,)), "order": ArraySpec("<u2", (dim,)), "signs": ArraySpec("|i1", (dim,))}


def codebook_arrays(centroids: int, dim: int) -> dict[str, ArraySpec]:
    return {"codes": ArraySpec("|u1", (centroids, dim)), "scales": ArraySpec("<f2", (centroids,))}


def codes_arrays(passages: int, tokens: int, row_bytes: int) -> dict[str, ArraySpec]:
    return {
        "offsets": ArraySpec("<u4", (passages + 1,)),
        "codes": ArraySpec("|u1", (tokens, row_bytes)),
        "scales": ArraySpec("<f2", (tokens,)),
    }


def centroid_id_dtype(centroids: int) -> str:
    """The narrowest dtype that holds the ids of so many centroids."""
    return "<u2" if centroids <= 2**16 else "<u4"


def centroid_arrays(passages: int, centroids: int, row_bytes: int) -> dict[str, ArraySpec]:
    return {
        "offsets": ArraySpec("<u4", (passages + 1,)),
        "ids": ArraySpec(centroid_id_dtype(centroids), (None,)),
        "outlier_offsets": ArraySpec("<u4", (passages + 1,)),
        "outlier_codes": ArraySpec("|u1", (None, row_bytes)),
        "outlier_scales": ArraySpec("<f2", (None,)),
    }


def deletion_arrays() -> dict[str, ArraySpec]:
    return {"ordinals": ArraySpec("<u4", (None,))}


def write_parquet(table: pa.Table) -> bytes:
    """The bytes of a Parquet file of this format: zstd, page checksums, small row groups."""
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        row_group_size=ROW_GROUP,
        write_page_checksum=True,
    )
    return buffer.getvalue()


def open_parquet(path: Path, rows: int | None = None) -> pq.ParquetFile:
    """Open a Parquet file of this format, its page checksums verified as pages are read.

    Raises IndexCorrupt when it is not Parquet, or has not as many rows as the manifest says.
    """
    try:
        # Buffering ahead is not safe where threads share the file.
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
    except FileNotFoundError:
        raise ObjectMissing(f"{path} is gone.") from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise storage_error("open", str(path), error) from error
        raise IndexCorrupt(f"{path}: not a readable Parquet file ({error}).") from error
    if rows is not None and file.metadata.num_rows != rows:
        raise IndexCorrupt(f"{path}: expected {rows} rows, got {file.metadata.num_rows}.")
    return file
