"""kill -9 of flows, of workers with their runs, and of the Prefect server, at random moments.

An index is built, synced and encoded anew. Whatever is killed, until then nothing or everything of the run is
visible; the same flow once more leaves every document in the index once, by one commit, without encoding again what
was finished; and garbage collection leaves nothing over. A late one, stopped while another run does its work and
perhaps garbage is collected, changes nothing. Half of the servers that are killed come back with an empty database.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from index_format import keys
from index_format.garbage import collect_garbage
from index_format.history import Retention
from index_format.index import Index
from index_format.segment import EncodedSegment
from index_format.verify import verify
from tests.prefect_server import PROJECT, PrefectServer
from tests.strategies import live_texts
from tests.torture.flow_processes import MortalServer, RunningFlow, Work, worker
from tests.torture.registry import Step

ENCODER = str(PROJECT / "tests" / "parity" / "golden" / "colbert-bert")  # tiny: a kill is to cost seconds
KILLS_AN_INDEX = 20  # then a fresh one: each kill checks all of it
DOCUMENTS = 12
PATIENCE_SECONDS = 300.0
RUN_PATIENCE_SECONDS = 30.0  # of a flow with a run elsewhere; one that is only slow is encoded twice, and no harm done
LEFT_ALONE_SECONDS = 120.0  # how long a flow may go on without its server


@dataclass
class Place:
    """An index under torture, its documents, and how long a flow takes when nobody kills it."""

    folder: Path
    server: PrefectServer
    rng: random.Random
    index: Index
    held: dict[str, str] = field(default_factory=dict)
    usual_seconds: float = 3.0

    @property
    def log(self) -> Path:
        return self.folder / "flows.log"

    def start(self, work: Work, encode_on: str = "here") -> RunningFlow:
        return RunningFlow(self.server, work, self.log, encode_on, RUN_PATIENCE_SECONDS)

    def pause(self, seconds: float | None = None) -> None:
        """Wait until a random moment of what a flow takes."""
        time.sleep(self.rng.uniform(0, 1.1 * self.usual_seconds if seconds is None else seconds))

    def finish(self, work: Work) -> None:
        """Run the flow in peace."""
        code, seconds = self.start(work).ended(PATIENCE_SECONDS)
        assert code == 0, f"the run after the kill ended with {code}:\n{self.log.read_text()[-4000:]}"
        self.usual_seconds = seconds


Victim = Callable[[Place, Work], bool]
"""Begin the work and kill something. Returns whether there was anything to kill."""


def kill_flow(place: Place, work: Work) -> bool:
    """The process of the flow."""
    flow = place.start(work)
    place.pause()
    return flow.kill()


def stop_flow(place: Place, work: Work) -> bool:
    """A zombie: stopped until another run has done its work, then it goes on where it was."""
    flow = place.start(work)
    place.pause()
    flow.signal(signal.SIGSTOP)
    place.finish(work)
    if place.rng.random() < 0.5:
        collect(place.index)
    before = place.index.current()
    flow.signal(signal.SIGCONT)
    code, _ = flow.ended(PATIENCE_SECONDS)
    assert code is not None, "the late run did not end"
    now = place.index.current()
    assert work.flow == "reindex" or now.version == before.version, f"a late run published version {now.version}"
    return True


def server_killer(server: MortalServer) -> Victim:
    """The Prefect server, which comes back with its database or without; the flow dies with it, or goes on."""

    def kill_server(place: Place, work: Work) -> bool:
        flow = place.start(work)
        place.pause()
        server.kill()
        if place.rng.random() < 0.5:
            server.lose_database()
        if place.rng.random() < 0.5:
            flow.kill()
        server.start()
        flow.ended(LEFT_ALONE_SECONDS)
        flow.kill()
        return True

    return kill_server


def run(count: int, seed: int, step: Step) -> str:
    """Kill `count` times."""
    with tempfile.TemporaryDirectory() as folder:
        server = MortalServer(Path(folder))
        try:
            return kill_flows(Path(folder), server.view, _weighted(server), count, seed, step)
        finally:
            server.kill()


def kill_flows(
    folder: Path, server: PrefectServer, victims: dict[str, Victim], count: int, seed: int, step: Step = lambda: None
) -> str:
    """Kill the victims in turn until there were `count` kills, and return the figure as a sentence."""
    rng, killed, names = random.Random(seed), Counter[str](), list(victims)
    place = Place(folder, server, rng, Index.at(folder / "none"))
    for case in itertools.count():
        if killed.total() == count:
            break
        if case % KILLS_AN_INDEX == 0:
            place.index, place.held = Index.at(folder / f"index-{case}"), {}
        work, name = _planned(place, case), names[case % len(names)]
        where = f"seed {seed}, case {case}: {name.split()[0]} killed in {work.flow}"
        if _case(place, work, victims[name], where):
            killed[name.split()[0]] += 1
            step()
    said = ", ".join(f"{number} of a {name}" for name, number in sorted(killed.items()))
    return f"{killed.total()} kills ({said}): none lost, none doubled, nothing finished done again, nothing left over"


def _weighted(server: MortalServer) -> dict[str, Victim]:
    """Of twenty kills, two of the server and two of a worker, which take longest, and three that come late."""

    kill_server = server_killer(server)

    def kill_worker(place: Place, work: Work) -> bool:
        with worker(place.server, place.folder / "worker.log"):  # killed with its runs at the end
            flow = place.start(work, encode_on="pool:1")
            place.pause(20.0)
        if place.rng.random() < 0.5:
            flow.kill()
        with worker(place.server, place.folder / "worker.log"):
            flow.ended(PATIENCE_SECONDS)
        flow.kill()
        return True

    rare: dict[int, tuple[str, Victim]] = {
        3: ("late", stop_flow),
        5: ("server", kill_server),
        8: ("worker", kill_worker),
        11: ("late", stop_flow),
        14: ("server", kill_server),
        16: ("worker", kill_worker),
        18: ("late", stop_flow),
    }
    chosen = [rare.get(number, ("flow", kill_flow)) for number in range(KILLS_AN_INDEX)]
    return {f"{name} {number}": victim for number, (name, victim) in enumerate(chosen)}


def _planned(place: Place, case: int) -> Work:
    """What the next flow is to do; a fresh index is built first."""
    kind = place.rng.choice(("build", "build", "sync", "reindex")) if place.held else "build"
    where = {"index": place.index.address, "encoder": ENCODER}
    if kind == "reindex":
        bits = 2 if place.index.current().codec.bits == 4 else 4
        # Fewer bits answer worse, and are to be published all the same.
        return Work("reindex", {**where, "bits": bits, "tolerance": 1.0}, dict(place.held))
    texts = {f"{case}-{at}": f"Fox {at} of {case} jumps over the lazy dog. " * 4 for at in range(DOCUMENTS)}
    after = {**place.held, **texts}
    if kind == "sync":
        for gone in place.rng.sample(sorted(place.held), 3):
            del after[gone]
        for changed in place.rng.sample(sorted(set(place.held) & set(after)), 3):
            after[changed] += f"It was changed in {case}."
    source = place.folder / f"source-{case}.jsonl"
    written = after if kind == "sync" else texts
    source.write_text("".join(json.dumps({"id": one, "text": text}) + "\n" for one, text in written.items()))
    more = {"most_deleted": 1} if kind == "sync" else {}
    return Work(kind, {**where, **more, "source": {"location": str(source)}}, after)


def _case(place: Place, work: Work, victim: Victim, where: str) -> bool:
    """Kill, look, finish, and look again. Returns whether there was anything to kill."""
    index = place.index
    base = _version(index)
    killed = victim(place, work)
    texts, published = live_texts(index), _version(index) > base
    assert texts == (work.after if published else place.held), f"{where}: part of a run is visible"
    finished = _finished(index)
    place.finish(work)
    place.held = work.after
    _must_hold(index, work.after, where)
    if work.flow != "reindex" and not published:
        assert index.current().version == base + 1, f"{where}: more than one version came of it"
        left_out = finished - {segment.id for segment in index.current().segments}
        assert not left_out, f"{where}: {len(left_out)} finished shards were encoded again"
    collect(index)
    needed = set[str]()
    for version in index.versions():
        needed |= index.version(version).named_keys() | {keys.manifest(version)}
    left = sorted(set(index.store.list("")) - needed)
    assert not left, f"{where}: {left[:3]} were left over"
    _must_hold(index, work.after, where)
    return killed


def _version(index: Index) -> int:
    head = index.head()
    return head.version if head else 0


def _finished(index: Index) -> set[str]:
    """The segments that receipts name."""
    found = index.store.list(keys.RECEIPTS)
    return {msgspec.json.decode(index.store.get(key), type=EncodedSegment).id for key in found}


def _must_hold(index: Index, documents: dict[str, str], where: str) -> None:
    assert live_texts(index) == documents, where
    faults = list(verify(index.store, [index.current().version]))
    assert not faults, f"{where}: {faults[0]}"


def collect(index: Index) -> None:
    """All that can be collected at all."""
    time.sleep(0.002)  # what is written now is older than the horizon
    collect_garbage(index, Retention(versions=1, days=0), time.time_ns() // 1_000_000)
