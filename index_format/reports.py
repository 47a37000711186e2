"""Which rows of a source were set aside, and why (SPEC §4.8): kept beside the versions, for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from index_format import keys, schema
from index_format.files import FileCache, write_object
from index_format.manifest import FileRef
from index_format.store import Store


def write_report(store: Store, report_id: str, rows: Iterable[dict[str, Any]]) -> FileRef:
    """Write rows of source, row, id and reason."""
    table = pa.Table.from_pylist(list(rows), schema=schema.REJECTED)
    return write_object(store, keys.rejected(report_id), schema.write_parquet(table))


def read_report(files: FileCache, report: FileRef | None) -> list[dict[str, Any]]:
    """The rows of a report; none where nothing was set aside."""
    if report is None:
        return []
    rows: list[dict[str, Any]] = schema.open_parquet(files.path(report)).read().to_pylist()
    return rows
