"""What each process does, over the real code of the product, for as long as its script says."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from index_format import change, compaction, garbage, history, keys
from index_format.change import Addition, Origin
from index_format.codebook import Codebook
from index_format.commit import commit
from index_format.compaction import CompactionPolicy
from index_format.errors import (
    CodebookChanged,
    CommitConflict,
    CommitUnknown,
    IndexNotFound,
    ObjectMissing,
)
from index_format.history import Retention
from index_format.index import Index
from index_format.manifest import CodebookRecord, Manifest
from index_format.segment import SegmentReader, write_centroids, write_codebook
from tests.simulator.schedule import Schedule, Stopped
from tests.simulator.store import Ambiguous, SimStore
from tests.simulator.world import Documents, Violation, World
from tests.strategies import CENTROIDS, WORDS, recipe_of, word_vector, write_documents

IDS = ["a", "b", "c", "d", "e"]
ALL_SMALL = CompactionPolicy(alike=2, deleted_share=0.01)
OUTCOMES = (CommitConflict, CommitUnknown, Ambiguous)  # what a caller is told to expect, and to run again after


class Actors:
    """The kinds of processes of one schedule. Every operation starts with an empty memory, as a process does."""

    def __init__(self, schedule: Schedule, world: World, store: SimStore) -> None:
        self.random = schedule.random
        self.schedule = schedule
        self.world = world
        self.store = store
        self.acknowledged = 0
        self.outcomes: dict[str, int] = {}
        self.violation: Violation | None = None
        self._operations = 0

    def loop(self, operation: Callable[[Index], None], times: int) -> Callable[[], None]:
        """An actor that does one thing again and again, whatever becomes of it."""

        def work() -> None:
            for _ in range(times):
                try:
                    operation(Index(self.store))
                except OUTCOMES as error:
                    self._count(type(error).__name__)
                except ObjectMissing as error:
                    self._count("ObjectMissing")
                    key = str(error).rpartition(" ")[2]
                    if operation == self.read or not self.world.may_be_gone(key):
                        self._violate(Violation(f"{operation.__name__}: {error}"))
                except Stopped:
                    if self.schedule.stopping:
                        raise
                except Violation as violation:
                    self._violate(violation)
                except Exception as error:  # noqa: BLE001  # whatever it is, nobody was told to expect it
                    unexpected = Violation(f"{operation.__name__}: {type(error).__name__}: {error}")
                    unexpected.__cause__ = error
                    self._violate(unexpected)

        return work

    def add(self, index: Index) -> None:
        """A batch of documents, of which others add and delete some too."""
        batch = {
            self.random.choice(IDS): " ".join(self.random.choices(WORDS, k=self.random.randrange(1, 7)))
            for _ in range(self.random.randrange(1, 4))
        }
        origin = self._origin("add", lambda documents: documents | batch)
        since = self._version()
        recipe = recipe_of(index)
        record = write_documents(index, recipe, batch)
        book, codebook = recipe.codebook_record, recipe.codebook
        while True:
            made = Addition(recipe.encoder, recipe.codec_record, recipe.chunking, book, [record])
            try:
                published = commit(index.store, lambda base, made=made: change.add_segments(index, base, made, origin))
                break
            except CodebookChanged:  # as the flow does: only the centroid ids are made again
                book, codebook = self._codebook(index)
                file = write_centroids(index.store, record, index.files, recipe.codec, codebook)
                record = msgspec.structs.replace(record, centroids_file=file)
        self._done(published, since, lambda documents: documents | batch == documents, origin)

    def delete(self, index: Index) -> None:
        """Some ids, there or not."""
        gone = self.random.sample(IDS, self.random.randrange(1, 3))
        origin = self._origin("delete", lambda documents: {k: v for k, v in documents.items() if k not in gone})
        since = self._version()
        published = index.change(lambda base: change.delete_documents(index, base, gone, origin))
        self._done(published, since, lambda documents: not documents.keys() & set(gone), origin)

    def compact(self, index: Index) -> None:
        """Whatever can be joined."""
        compaction.compact_index(index, ALL_SMALL)

    def collect(self, index: Index) -> None:
        """With hardly any grace: one or two versions, and no time or nearly none."""
        days = self.random.choice([0.0, 0.0, 500 / 86_400_000])
        retention = Retention(versions=self.random.choice([1, 1, 2]), days=days)
        garbage.collect_garbage(index, retention, self.schedule.now)

    def swap_codebook(self, index: Index) -> None:
        """Another set of centroids for all segments."""
        replaced = index.current().codebook
        chosen = self.random.sample(WORDS, CENTROIDS)
        book_id = keys.new_id()
        book = Codebook.of(np.stack([word_vector(word) for word in chosen]))
        file = write_codebook(index.store, book_id, book)
        record = msgspec.structs.replace(replaced, id=book_id, centroids=CENTROIDS, file=file)
        self._acknowledge(change.replace_codebook(index, replaced.id, record, self._origin("codebook")))

    def turn_back(self, index: Index) -> None:
        """Roll back to a version, or tag or untag one."""
        head = index.current()
        version = self.random.randrange(max(1, head.version - 3), head.version + 1)
        kind = self.random.choice(["rollback", "rollback", "tag", "untag"])
        origin = self._origin(kind)

        def turn(base: Manifest) -> Manifest | None:
            if kind == "rollback":
                return history.rollback(index, base, version, origin)
            if kind == "tag":
                return history.tag(index, base, "kept", version, origin)
            return history.untag(index, base, "kept", origin) if "kept" in base.tags else None

        try:
            self._acknowledge(index.change(turn))
        except IndexNotFound:
            if self.world.head.retains(version):
                raise

    def read(self, index: Index) -> None:
        """Open the current version as a server does, then read all that it holds."""
        since = self._version()
        manifest, segments = index.open_current(lambda manifest: (manifest, load(index, manifest)))
        documents: Documents = {}
        for segment in segments:
            live = np.flatnonzero(~segment.deleted_rows).tolist()
            texts = segment.read_documents(live)
            documents |= {str(one["id"]): str(one["text"]) for one in texts}
        if manifest.version < since:
            raise Violation(f"a reader got version {manifest.version} when {since} was there")
        self.world.check_reading(manifest.version, documents)

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def _violate(self, violation: Violation) -> None:
        self.violation = violation
        self.schedule.stopping = True
        raise Stopped

    def _origin(self, kind: str, effect: Callable[[Documents], Documents] | None = None) -> Origin:
        self._operations += 1
        name = f"{kind} {self._operations}"
        if effect:
            self.world.effects[name] = effect
        return Origin(name)

    def _done(self, published: Manifest | None, since: int, holds: Callable[[Documents], bool], origin: Origin) -> None:
        if published is None:
            self.world.acknowledge_nothing(since, holds, origin.operation)
        self._acknowledge(published)

    def _acknowledge(self, published: Manifest | None) -> None:
        self.acknowledged += 1
        if published is not None:
            self.world.acknowledge(published)

    def _version(self) -> int:
        return self.world.head.version

    def _codebook(self, index: Index) -> tuple[CodebookRecord, object]:
        manifest = index.current()
        return manifest.codebook, index.codebook(manifest)


def load(index: Index, manifest: Manifest) -> list[SegmentReader]:
    """As `serving.snapshot.open_snapshot` does."""
    index.codebook(manifest)
    segments = index.segments(manifest)
    for segment in segments:
        segment.load()
    return segments
