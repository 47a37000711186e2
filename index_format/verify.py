"""Everything that SPEC demands of an index, checked; each fault with its file, its row and a repair.

Opening an index checks hashes and whatever would make a search fail. This reads all of it, one segment at a
time, and trusts nothing: objects come from the store itself, never from the cache of this machine.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index_format import keys
from index_format.commit import read_head, read_version, versions
from index_format.errors import IndexCorrupt, IndexNotFound, ObjectMissing
from index_format.files import FileCache
from index_format.manifest import TAG, FileRef, Manifest, SegmentRecord
from index_format.store import Store
from index_format.verify_files import (
    Problem,
    check_codebook,
    check_codec,
    check_codes,
    check_deletions,
    check_documents,
    check_outliers,
    check_passage_centroids,
    check_passages,
    check_report,
)

RESTORE = "Restore the object from a copy of the index, or publish its documents again in a new index."
REWRITE = "The writer of this file broke the format: take an older version, or publish its documents in a new index."
RELINK = "The history was changed by hand: restore the manifests from a copy of the index."


FileCheck = Callable[[Path], Iterator[Problem]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule that does not hold. `row` counts from 0 in what `problem` names: a document, passage or token."""

    version: int
    file: str
    row: int | None
    problem: str
    repair: str


@dataclass(slots=True)
class _Segment:
    """What other files are checked against: document ids, characters of their texts, the document of each passage.

    Each stays empty where its file is damaged.
    """

    ids: list[str] = field(default_factory=list)
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    rows: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))


@dataclass(slots=True)
class _Walk:
    """One run: where objects are, and what was found of segments that several versions share."""

    store: Store
    files: FileCache
    segments: dict[str, _Segment] = field(default_factory=dict)
    checked: set[FileRef] = field(default_factory=set)


def wanted_versions(store: Store, version: int | None, *, all_versions: bool) -> list[int]:
    """The versions to check: all that are retained, the one asked for, or the current one. Raises IndexNotFound."""
    retained = _retained(store)
    if not retained:
        raise IndexNotFound(f"There is no index at {store.address}.")
    if version is not None and version not in retained:
        raise IndexNotFound(f"{store.address} has no version {version}; it has {retained}.")
    return retained if all_versions else [version or retained[-1]]


def _retained(store: Store) -> list[int]:
    """The versions that the current one retains, there or not; others are garbage. All, if that cannot be read."""
    try:
        head = read_head(store)
    except (IndexCorrupt, IndexNotFound):
        return versions(store)
    return sorted({*range(head.floor, head.version + 1), *head.tags.values()}) if head else []


def verify(store: Store, wanted: Collection[int]) -> Iterator[Fault]:
    """Every fault of the wanted versions, and of the chain of all manifests. Raises StorageError.

    Others may change the index meanwhile: a version that they collect is no longer one, and lacks nothing.
    """
    with tempfile.TemporaryDirectory(prefix="colonnade-verify-") as folder:
        # Of what must be downloaded, only the segment at hand is kept.
        yield from _verify(_Walk(store, FileCache(store, Path(folder), limit=0)), wanted)


def _verify(walk: _Walk, wanted: Collection[int]) -> Iterator[Fault]:
    previous = None
    for version in _retained(walk.store):
        try:
            manifest = read_version(walk.store, version)
        except (IndexCorrupt, IndexNotFound) as error:
            if not isinstance(error, IndexNotFound) or version in _retained(walk.store):
                yield Fault(version, keys.manifest(version), None, str(error), RESTORE)
            previous = None
            continue
        yield from _check_chain(previous, manifest)
        if version in wanted:
            yield from _check_manifest(manifest)
            yield from _check_files(walk, manifest)
        previous = manifest


def _check_chain(previous: Manifest | None, manifest: Manifest) -> Iterator[Fault]:
    """The rules between a manifest and the one before it that is retained."""
    broken = []
    if manifest.version == 1 and manifest.parent_commit is not None:
        broken.append("version 1 has a parent_commit")
    if previous is not None:
        if manifest.version == previous.version + 1 and manifest.parent_commit != previous.commit.id:
            broken.append("parent_commit is not the commit of the version before")
        shared = {one.id for one in manifest.segments} & {one.id for one in previous.segments}
        kept = _kept_for_life(manifest) | (_kept_with_segments(manifest) if shared else {})
        before = _kept_for_life(previous) | _kept_with_segments(previous)
        broken += [f"{name} differs from the version before" for name, value in kept.items() if value != before[name]]
        if manifest.floor < previous.floor or manifest.horizon < previous.horizon:
            broken.append("floor or horizon is lower than in the version before")
    for problem in broken:
        yield Fault(manifest.version, keys.manifest(manifest.version), None, problem, RELINK)


def _kept_for_life(manifest: Manifest) -> dict[str, object]:
    return {"index_id": manifest.index_id}


def _kept_with_segments(manifest: Manifest) -> dict[str, object]:
    """What a segment is made with; it changes only when no segment stays (SPEC §6.1)."""
    return {
        "encoder.fingerprint": manifest.encoder.fingerprint,
        "codec": manifest.codec,
        "chunking": manifest.chunking,
    }


def _check_manifest(manifest: Manifest) -> Iterator[Fault]:
    """The rules inside one manifest."""
    broken = []
    if not all(map(keys.is_id, (manifest.index_id, manifest.commit.id, manifest.codebook.id))):
        broken.append("index_id, commit.id or codebook.id is not 32 digits of 0-9a-f")
    if manifest.codebook.file.key != keys.codebook(manifest.codebook.id):
        broken.append(f"codebook {manifest.codebook.id} is under {manifest.codebook.file.key}")
    if not manifest.codec.file.key.startswith("codecs/"):
        broken.append(f"the codec is under {manifest.codec.file.key}")
    broken += [f"{name!r} is no name for a tag" for name in manifest.tags if not TAG.fullmatch(name)]
    ids = [record.id for record in manifest.segments]
    broken += [f"segment {one} is named twice" for one in sorted({one for one in ids if ids.count(one) > 1})]
    for record in manifest.segments:
        broken += _misplaced(record)
        if record.deletions and record.deletions.documents >= record.documents:
            broken.append(f"segment {record.id} has no live document and should not be named")
    for problem in broken:
        yield Fault(manifest.version, keys.manifest(manifest.version), None, problem, REWRITE)


def _misplaced(record: SegmentRecord) -> list[str]:
    """Files of a segment that are not under its own keys."""
    expected = {
        record.documents_file.key: keys.documents(record.id),
        record.passages_file.key: keys.passages(record.id),
        record.codes_file.key: keys.codes(record.id),
        record.centroids_file.key: keys.centroids(record.id, keys.attempt_of(record.centroids_file.key)),
    }
    if record.deletions:
        key = record.deletions.file.key
        expected[key] = keys.deletions(record.id, keys.attempt_of(key))
    return [f"segment {record.id} has {key}, expected {own}" for key, own in expected.items() if key != own]


def _check_files(walk: _Walk, manifest: Manifest) -> Iterator[Fault]:
    """Every object that a version names, and the ids that are live in it."""
    dim, book = manifest.encoder.dim, manifest.codebook
    checks: list[tuple[FileRef | None, FileCheck]] = [
        (manifest.codec.file, lambda path: check_codec(path, dim)),
        (book.file, lambda path: check_codebook(path, book.centroids, dim)),
        (manifest.commit.rejected_file, check_report),
    ]
    for reference, check in checks:
        if reference is not None:
            yield from _once(walk, manifest, reference, check)
    live: dict[str, str] = {}
    for record in manifest.segments:
        walk.files.hold(())
        found = walk.segments.setdefault(record.id, _Segment())
        yield from _check_segment(walk, manifest, record, found)
        deleted = yield from _check_deletions(walk, manifest, record, found)
        yield from _check_live(manifest, record, found, deleted, live)


def _check_segment(walk: _Walk, manifest: Manifest, record: SegmentRecord, found: _Segment) -> Iterator[Fault]:
    """The four files of a segment; what the others are checked against goes to `found`."""
    row_bytes = manifest.encoder.dim * manifest.codec.bits // 8

    def documents(path: Path) -> Iterator[Problem]:
        found.ids, found.lengths = yield from check_documents(path, record.documents)

    def passages(path: Path) -> Iterator[Problem]:
        found.rows = yield from check_passages(path, record, found.lengths)

    def codes(path: Path) -> Iterator[Problem]:
        return check_codes(path, record, row_bytes)

    def touched(path: Path) -> Iterator[Problem]:
        centroids = manifest.codebook.centroids
        yield from check_passage_centroids(path, record.passages, centroids, row_bytes)
        with contextlib.suppress(IndexCorrupt, ObjectMissing):  # codes that are damaged are named under their own key
            yield from check_outliers(path, walk.files.path(record.codes_file), record, centroids, row_bytes)

    with contextlib.suppress(IndexCorrupt, ObjectMissing):  # each is met again below, one at a time
        walk.files.fetch(file for file in record.files() if file not in walk.checked)
    yield from _once(walk, manifest, record.documents_file, documents)
    yield from _once(walk, manifest, record.passages_file, passages)
    yield from _once(walk, manifest, record.codes_file, codes)
    yield from _once(walk, manifest, record.centroids_file, touched)


def _check_deletions(
    walk: _Walk, manifest: Manifest, record: SegmentRecord, found: _Segment
) -> Generator[Fault, None, NDArray[np.uint32]]:
    """The deletion vector of a segment; returns its ordinals. Read for each version: it says what is live there."""
    deleted = np.zeros(0, np.uint32)
    if record.deletions is None:
        return deleted

    def deletions(path: Path) -> Iterator[Problem]:
        nonlocal deleted
        deleted = yield from check_deletions(path, record, found.rows)

    yield from _faults(walk, manifest, record.deletions.file, deletions)
    return deleted


def _check_live(
    manifest: Manifest, record: SegmentRecord, found: _Segment, deleted: NDArray[np.uint32], live: dict[str, str]
) -> Iterator[Fault]:
    """No id may be live twice."""
    gone = set(found.rows[deleted[deleted < len(found.rows)]].tolist())
    for row, document_id in enumerate(found.ids):
        if row in gone:
            continue
        other = live.setdefault(document_id, record.id)
        if other != record.id:
            problem = f"document {document_id!r} is live here and in segment {other}"
            yield Fault(manifest.version, record.documents_file.key, row, problem, "Delete the id, then add it again.")


def _once(walk: _Walk, manifest: Manifest, reference: FileRef, check: FileCheck) -> Iterator[Fault]:
    """The faults of one object; none where another version had the very same one checked."""
    if reference not in walk.checked:
        walk.checked.add(reference)
        yield from _faults(walk, manifest, reference, check)


def _faults(walk: _Walk, manifest: Manifest, reference: FileRef, check: FileCheck) -> Iterator[Fault]:
    """The faults of one object. That it is missing is none where the version is collected by now."""
    repair = RESTORE
    try:
        path = walk.files.path(reference)
        repair = REWRITE
        for problem in check(path):
            yield Fault(manifest.version, reference.key, problem.row, problem.text, problem.repair or REWRITE)
    except ObjectMissing as error:
        if manifest.version in _retained(walk.store):
            yield Fault(manifest.version, reference.key, None, str(error), RESTORE)
    except IndexCorrupt as error:
        yield Fault(manifest.version, reference.key, None, str(error), repair)
