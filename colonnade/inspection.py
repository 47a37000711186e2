"""What can be told of an index without searching it, as plain values."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec

from index_format.index import Index
from index_format.manifest import Manifest

if TYPE_CHECKING:
    from flows.summary import Summary


def describe(manifest: Manifest, address: str) -> dict[str, Any]:
    """One version: what it holds, what made it, and its bytes by kind of file."""
    sizes: dict[str, int] = {}
    for file in manifest.files():
        folder, _, name = file.key.partition("/")
        kind = name.partition("/")[2].partition("-")[0] if folder == "segments" else folder
        sizes[kind] = sizes.get(kind, 0) + file.size
    return {
        "index": address,
        "version": manifest.version,
        "published_at": manifest.commit.created_at,
        "operation": manifest.commit.operation,
        "documents": manifest.documents,
        "passages": manifest.passages,
        "tokens": sum(segment.tokens for segment in manifest.segments),
        "segments": len(manifest.segments),
        "deleted_passages": sum(one.deletions.passages for one in manifest.segments if one.deletions),
        "set_aside": manifest.commit.rejected,
        "encoder": manifest.encoder.name,
        "encoder_fingerprint": manifest.encoder.fingerprint,
        "dim": manifest.encoder.dim,
        "bits": manifest.codec.bits,
        "centroids": manifest.codebook.centroids,
        "passage_tokens": manifest.chunking.passage_tokens,
        "pool_factor": manifest.chunking.pool_factor,
        "bytes": sum(sizes.values()),
        "bytes_by_file": sizes,
        "bytes_per_passage": round(sum(sizes.values()) / max(1, manifest.passages), 1),
    }


def versions(index: Index) -> list[dict[str, Any]]:
    """Every retained version and the commit that made it, newest first."""
    head = index.current()
    rows = []
    for number in sorted(filter(head.retains, index.versions()), reverse=True):
        manifest = head if number == head.version else index.version(number)
        tags = ", ".join(sorted(name for name, version in head.tags.items() if version == number))
        told = ("operation", "created_at", "added", "changed", "deleted", "rejected")
        commit = {name: getattr(manifest.commit, name) for name in told}
        rows.append({"version": number, "tags": tags, "documents": manifest.documents, **commit})
    return rows


def summary_as_dict(summary: Summary, rejected: list[dict[str, Any]] | None) -> dict[str, Any]:
    """A run's outcome for `--json`, with the rows set aside where they were asked for."""
    values = asdict(summary)
    report = summary.rejected_file
    values["rejected_file"] = msgspec.structs.asdict(report) if report else None
    return values if rejected is None else values | {"rejected_rows": rejected}
