"""A manifest states a whole index at one moment (SPEC §6): plain frozen records, JSON, and nothing else."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from index_format import keys
from index_format.codec import BITS, MAX_DIM
from index_format.errors import IndexCorrupt, UnsupportedFormat

FORMAT_VERSION = 1
READER_FLAGS: frozenset[str] = frozenset()  # features a reader must know to read an index at all
WRITER_FLAGS: frozenset[str] = frozenset()  # features a writer must know to add to it safely
LEAST_PASSAGE_TOKENS = 32  # of the setting: nobody here begins an index of shorter passages
TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")  # never a number, which names a version
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SEAL_KEY = "manifest_sha256"
_SEAL = re.compile(rf'("{_SEAL_KEY}": ?")[0-9a-f]{{64}}"'.encode())


class FileRef(msgspec.Struct, frozen=True, kw_only=True):
    """An object, and what its bytes must be."""

    key: str
    size: int
    sha256: str


class EncoderRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The encoder of every vector in the index; another fingerprint means other vectors."""

    name: str
    fingerprint: str
    dim: int


class CodecRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How token vectors are coded; the same for all segments of a version."""

    bits: int
    file: FileRef


class ChunkingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How documents are cut into passages, and their tokens pooled; the same for all segments of a version."""

    passage_tokens: int
    overlap_tokens: int
    pool_factor: int = 1


class CodebookRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The centroids that candidates are found by.

    encoder: the fingerprint of what made the vectors they lie among. trained_on_segments: ids, as they were then.
    held_out_distance: mean squared distance to them of vectors of those segments that were held out; None: too few.
    outlier_distance: squared distance from its centroid from which on a token stands for itself among candidates;
    None: none does.
    """

    id: str
    encoder: str
    centroids: int
    trained_on_tokens: int
    trained_on_segments: list[str]
    held_out_distance: float | None
    outlier_distance: float | None
    file: FileRef


class DeletionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The deletion vector of a segment: how many passages and documents it hides."""

    passages: int
    documents: int
    file: FileRef


class SegmentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable segment and, beside it, its current deletion vector. encoder: the fingerprint of what made it."""

    id: str
    encoder: str
    documents: int
    passages: int
    tokens: int
    documents_file: FileRef
    passages_file: FileRef
    codes_file: FileRef
    centroids_file: FileRef
    deletions: DeletionRecord | None = None

    def files(self) -> list[FileRef]:
        own = [self.documents_file, self.passages_file, self.codes_file, self.centroids_file]
        return [*own, self.deletions.file] if self.deletions else own


class CommitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The change that made this version: who, when, and what it did."""

    id: str
    operation: str
    created_at: str
    added: int = 0
    changed: int = 0
    deleted: int = 0
    rejected: int = 0
    rejected_file: FileRef | None = None
    source_fingerprint: str | None = None
    restored: int | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A whole index at one version.

    `floor`, `horizon` and `tags` say what is retained, and never go back: a rollback keeps them.
    floor: the oldest version that is retained, but for tagged ones. horizon: a time in milliseconds; what was
    named before it and is in no retained version is garbage for ever. tags: names of versions.
    """

    format_version: int
    reader_flags: list[str]
    writer_flags: list[str]
    index_id: str
    version: int
    parent_commit: str | None
    commit: CommitRecord
    encoder: EncoderRecord
    codec: CodecRecord
    chunking: ChunkingRecord
    codebook: CodebookRecord
    segments: list[SegmentRecord]
    floor: int
    horizon: int
    tags: dict[str, int]

    @property
    def documents(self) -> int:
        """Live documents."""
        return sum(s.documents - (s.deletions.documents if s.deletions else 0) for s in self.segments)

    @property
    def passages(self) -> int:
        """Live passages."""
        return sum(s.passages - (s.deletions.passages if s.deletions else 0) for s in self.segments)

    def files(self) -> list[FileRef]:
        """Every object this version needs, reports excepted."""
        own = [self.codec.file, self.codebook.file]
        return own + [file for segment in self.segments for file in segment.files()]

    def named_keys(self) -> set[str]:
        """The keys of all objects that this version names, its report too."""
        report = self.commit.rejected_file
        return {file.key for file in self.files()} | ({report.key} if report else set())

    def retains(self, version: int) -> bool:
        """Whether a version up to this one is kept, seen from here."""
        return self.floor <= version <= self.version or version in self.tags.values()


def encode_manifest(manifest: Manifest) -> bytes:
    """The JSON bytes of a manifest, indented: people read them."""
    unsealed = msgspec.structs.asdict(manifest) | {_SEAL_KEY: "0" * 64}
    return seal(msgspec.json.format(msgspec.json.encode(unsealed), indent=1) + b"\n")


def seal(data: bytes) -> bytes:
    """A manifest's bytes with their own hash in `manifest_sha256`, computed with zeros in its place."""
    digest = hashlib.sha256(_SEAL.sub(rb'\g<1>%s"' % (b"0" * 64), data)).hexdigest()
    return _SEAL.sub(rb'\g<1>%s"' % digest.encode(), data)


def decode_manifest(data: bytes, *, where: str) -> Manifest:
    """Read and check a manifest. Raises IndexCorrupt or UnsupportedFormat; `where` names it in errors."""
    _refuse_unknown_format(data, where)
    if not _SEAL.search(data) or seal(data) != data:
        raise IndexCorrupt(f"{where}: its bytes do not have the hash in {_SEAL_KEY}. Restore the file or rebuild.")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.ValidationError as error:
        raise IndexCorrupt(f"{where}: not a valid manifest: {error}.") from error
    rejected = manifest.commit.rejected_file
    for file in [*manifest.files(), *([rejected] if rejected else [])]:
        if not keys.is_data_key(file.key) or file.size < 0 or not _SHA256.fullmatch(file.sha256):
            raise IndexCorrupt(f"{where}: {file.key!r} is not a valid reference to a file of an index.")
    _refuse_bad_numbers(manifest, where)
    foreign = foreign_vectors(manifest)
    if foreign:
        raise IndexCorrupt(f"{where}: {foreign}. Restore the file or rebuild.")
    return manifest


def foreign_vectors(manifest: Manifest) -> str | None:
    """What of a version another encoder made than its own, with both fingerprints; None where one made it all."""
    own = manifest.encoder.fingerprint
    made = [(f"codebook {manifest.codebook.id}", manifest.codebook.encoder)]
    made += [(f"segment {one.id}", one.encoder) for one in manifest.segments]
    return next(
        (f"{name} is of the encoder {encoder!r}, the index of {own!r}" for name, encoder in made if encoder != own),
        None,
    )


def _refuse_bad_numbers(manifest: Manifest, where: str) -> None:
    counts = [count for one in manifest.segments for count in (one.documents, one.passages, one.tokens)]
    dim, bits = manifest.encoder.dim, manifest.codec.bits
    if not all(0 < count < 2**32 for count in [*counts, manifest.codebook.centroids]):
        raise IndexCorrupt(f"{where}: a count of documents, passages, tokens or centroids is out of range.")
    if (manifest.codebook.held_out_distance or 0.0) < 0:
        raise IndexCorrupt(f"{where}: held_out_distance is {manifest.codebook.held_out_distance}, expected 0 or more.")
    if manifest.codebook.outlier_distance is not None and manifest.codebook.outlier_distance <= 0:
        raise IndexCorrupt(f"{where}: outlier_distance is {manifest.codebook.outlier_distance}, expected more than 0.")
    if bits not in BITS or dim % 8 or not 8 <= dim <= MAX_DIM:
        raise IndexCorrupt(f"{where}: no codec has {bits} bits and {dim} dimensions.")
    if not all(1 <= version <= manifest.version for version in [manifest.floor, *manifest.tags.values()]):
        raise IndexCorrupt(f"{where}: floor {manifest.floor} or a tag names no version up to {manifest.version}.")


def _refuse_unknown_format(data: bytes, where: str) -> None:
    try:
        head: dict[str, Any] = msgspec.json.decode(data)
        version = head["format_version"]
        if type(version) is not int:
            raise TypeError(f"format_version is {version!r}")
        # Another format may have flags of another kind, or none.
        unknown = sorted(set(head["reader_flags"]) - READER_FLAGS) if version == FORMAT_VERSION else []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IndexCorrupt(f"{where}: not a manifest ({error}).") from error
    if version != FORMAT_VERSION or unknown:
        flags = f" with reader flags {unknown}" if unknown else ""
        raise UnsupportedFormat(
            f"{where}: format {version}{flags}, this release reads format "
            f"{FORMAT_VERSION}. Upgrade Colonnade to open this index."
        )


def refuse_unknown_writer(manifest: Manifest, *, where: str) -> None:
    """Raise UnsupportedFormat when this release may read the index but must not add to it."""
    unknown = set(manifest.writer_flags) - WRITER_FLAGS
    if unknown:
        raise UnsupportedFormat(
            f"{where}: needs writer features {sorted(unknown)} that this release does not have. "
            "It can still be searched; upgrade Colonnade to change it."
        )
