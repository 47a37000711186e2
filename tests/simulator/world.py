"""What is true: the history as it was written, and the documents that each version must hold.

It sees every create and delete as it happens, and knows of each commit what it was meant to do. It reads what was
written with plain code and compares: a difference is a violation.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from index_format import keys
from index_format.codebook import Codebook, distinct_per_passage
from index_format.codec import Codec
from index_format.manifest import Manifest, SegmentRecord, decode_manifest
from index_format.rotation import Rotation
from tests.strategies import token_vectors

Documents = dict[str, str]


class Violation(Exception):
    """A promise is broken."""


class World:
    """All objects that ever were, the versions in order, and the documents of each."""

    def __init__(self) -> None:
        self.ever: dict[str, bytes] = {}
        self.there: set[str] = set()
        self.history: list[Manifest] = []
        self.states: list[Documents] = []
        self.effects: dict[str, Callable[[Documents], Documents]] = {}
        self.removed = 0
        self._memory: dict[tuple[str, ...], Any] = {}

    @property
    def head(self) -> Manifest:
        return self.history[-1]

    def created(self, key: str, data: bytes) -> None:
        """An object was created. A manifest of a new version is the next step of the history."""
        again = key in self.ever
        self.ever.setdefault(key, data)
        self.there.add(key)
        version = keys.manifest_version(key)
        if version is not None and not again:
            self._advance(decode_manifest(data, where=key))

    def deleted(self, key: str) -> None:
        """An object was deleted: nothing that is retained may need it."""
        self.there.discard(key)
        self.removed += 1
        version = keys.manifest_version(key)
        if version is not None and self.head.retains(version):
            raise Violation(f"the manifest of version {version} was deleted, which version {self.head.version} retains")
        for manifest in self._retained():
            if key in self._named(manifest):
                raise Violation(f"{key} was deleted, which version {manifest.version} names")

    def may_be_gone(self, key: str) -> bool:
        """Whether a file that a slow writer missed is garbage by now: it is told to run again."""
        return keys.drawn_at(key) < self.head.horizon and all(key not in self._named(one) for one in self._retained())

    def acknowledge(self, manifest: Manifest) -> None:
        """A commit was acknowledged: it must be in the history."""
        if manifest.version > len(self.history) or self.history[manifest.version - 1].commit.id != manifest.commit.id:
            raise Violation(f"{manifest.commit.operation!r} was acknowledged and is not in the history")

    def acknowledge_nothing(self, since: int, holds: Callable[[Documents], bool], operation: str) -> None:
        """A change was said to be there already: some version of that time must show it, and not by this change."""
        if not any(holds(state) for state in self.states[since - 1 :]):
            raise Violation(f"{operation!r} was said to be there, and never was")
        if operation in {manifest.commit.operation for manifest in self.history}:
            raise Violation(f"{operation!r} was said to change nothing, and is in the history")

    def check_reading(self, version: int, documents: Documents) -> None:
        """A reader read a version: it must be what that version holds."""
        if documents != self.states[version - 1]:
            raise Violation(f"version {version} read as {documents}, holds {self.states[version - 1]}")

    def _advance(self, manifest: Manifest) -> None:
        before = self.history[-1] if self.history else None
        if manifest.version != len(self.history) + 1:
            raise Violation(f"version {manifest.version} follows version {len(self.history)}")
        if manifest.parent_commit != (before.commit.id if before else None):
            raise Violation(f"version {manifest.version} was made from another version than the one before it")
        operation = manifest.commit.operation
        if any(char.isdigit() for char in operation) and operation in {one.commit.operation for one in self.history}:
            raise Violation(f"{operation!r} was committed twice")
        lost = self._named(manifest) - self.there
        if lost:
            raise Violation(f"version {manifest.version} ({operation!r}) names {sorted(lost)}, which is not there")
        documents = self._documents(manifest)
        expected = self._expected(manifest)
        if documents != expected:
            raise Violation(f"version {manifest.version} ({operation!r}) holds {documents}, should hold {expected}")
        self.history.append(manifest)
        self.states.append(documents)

    def _expected(self, manifest: Manifest) -> Documents:
        if manifest.commit.restored is not None:
            return self.states[manifest.commit.restored - 1]
        before = self.states[-1] if self.states else {}
        return self.effects.get(manifest.commit.operation, lambda documents: documents)(before)

    def _retained(self) -> list[Manifest]:
        return [one for one in self.history if self.head.retains(one.version)]

    def _named(self, manifest: Manifest) -> set[str]:
        return self._remember(("named", manifest.commit.id), manifest.named_keys)

    def _documents(self, manifest: Manifest) -> Documents:
        found: Documents = {}
        for record in manifest.segments:
            self._remember(
                ("checked", record.codes_file.key, record.centroids_file.key, manifest.codebook.id),
                lambda record=record: self._check_arrays(manifest, record),
            )
            rows = self._rows(record)
            for document_id, text in self._live(record, rows):
                if document_id in found:
                    raise Violation(f"{document_id!r} is live twice in version {manifest.version}")
                found[document_id] = text
        return found

    def _live(self, record: SegmentRecord, rows: np.ndarray) -> list[tuple[str, str]]:
        table = self._table(record.documents_file.key)
        gone: set[int] = set()
        if record.deletions:
            gone = set(rows[self._arrays(record.deletions.file.key)["ordinals"]].tolist())
        pairs = zip(table["id"], table["text"], strict=True)
        return [pair for row, pair in enumerate(pairs) if row not in gone]

    def _rows(self, record: SegmentRecord) -> np.ndarray:
        return np.array(self._table(record.passages_file.key)["document"])

    def _check_arrays(self, manifest: Manifest, record: SegmentRecord) -> bool:
        """Codes are those of the text, and centroid ids those of the manifest's codebook."""
        own = self._arrays(manifest.codec.file.key)
        codec = Codec(own["mean"], manifest.codec.bits, Rotation(own["order"], own["signs"]))
        centroids = self._arrays(manifest.codebook.file.key)
        book = Codebook(centroids["codes"], centroids["scales"], manifest.codebook.outlier_distance)
        arrays, touched = self._arrays(record.codes_file.key), self._arrays(record.centroids_file.key)
        texts, passages = self._table(record.documents_file.key)["text"], self._table(record.passages_file.key)
        spans = zip(passages["document"], passages["start"], passages["end"], strict=True)
        codes, _ = codec.compress(np.concatenate([token_vectors(texts[row][start:end]) for row, start, end in spans]))
        vectors = codec.decompress_rotated(arrays["codes"], arrays["scales"])
        nearest = book.nearest(vectors)
        offsets, ids = distinct_per_passage(arrays["offsets"], nearest)
        if not np.array_equal(codes, arrays["codes"]):
            raise Violation(f"the codes of segment {record.id} are not those of its text")
        if not (np.array_equal(ids, touched["ids"]) and np.array_equal(offsets, touched["offsets"])):
            raise Violation(f"the centroid ids of segment {record.id} are of another codebook than the manifest's")
        outliers = arrays["codes"][book.outliers(vectors, nearest)]
        if not np.array_equal(outliers, touched["outlier_codes"]):
            raise Violation(f"the outliers of segment {record.id} are of another codebook than the manifest's")
        return True

    def _table(self, key: str) -> dict[str, list[Any]]:
        return self._remember(
            ("table", key), lambda: pq.ParquetFile(io.BytesIO(self.ever[key])).read(use_threads=False).to_pydict()
        )

    def _arrays(self, key: str) -> dict[str, np.ndarray]:
        return self._remember(("arrays", key), lambda: dict(np.load(io.BytesIO(self.ever[key]))))

    def _remember(self, name: tuple[str, ...], make: Callable[[], Any]) -> Any:
        if name not in self._memory:
            self._memory[name] = make()
        return self._memory[name]
