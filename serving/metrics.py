"""What a server tells Prometheus. Each server has a registry of its own; seconds and bytes are the units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from index_format.files import FileCounts

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SHARES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class _Counted(Collector):
    """What its owner counts itself, by the values of a label, if it has one; a `Counter` cannot be given a function."""

    name: str
    told: str
    label: str | None
    read: Callable[[], Mapping[str, int]]

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counts as they are now."""
        family = CounterMetricFamily(self.name, self.told, labels=[self.label] if self.label else [])
        for value, count in self.read().items():
            family.add_metric([value] if self.label else [], count)
        yield family


class Metrics:
    """All series of one server. Where a number is read from its owner, the owner hands in a function."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=own)
        self.stage = Histogram(
            "colonnade_stage_seconds",
            "Time of a query by stage: queue, encode (its whole batch), search (its share of its pass)",
            ["stage"],
            buckets=_SECONDS,
            registry=own,
        )
        self.http = Histogram("colonnade_http_seconds", "Time of a request", ["route"], buckets=_SECONDS, registry=own)
        self.responses = Counter("colonnade_http_responses", "Answers by status", ["route", "status"], registry=own)
        self.queue_length = Gauge("colonnade_queue_length", "Queries that wait", registry=own)
        self.batch_queries = Histogram(
            "colonnade_batch_queries", "Queries encoded together", buckets=(1, 2, 4, 8, 16, 32), registry=own
        )
        self.rejected = Counter("colonnade_rejected_queries", "Queries refused because too many wait", registry=own)
        self.dropped = Counter(
            "colonnade_dropped_queries", "Queries dropped unanswered: expired, or the client went away", registry=own
        )
        self.version = Gauge("colonnade_version", "The version that is served", registry=own)
        self.documents = Gauge("colonnade_documents", "Documents that are served", registry=own)
        self.passages = Gauge("colonnade_passages", "Passages that are served", registry=own)
        self.swaps = Counter("colonnade_swaps", "New versions swapped in", registry=own)
        self.newest_version = Gauge("colonnade_newest_version", "The newest version that is known", registry=own)
        self.lag = Gauge(
            "colonnade_lag_seconds", "Age of the oldest version that is not served yet; 0 without one", registry=own
        )
        self.commit_to_served = Gauge(
            "colonnade_commit_to_served_seconds", "From the commit of the served version to its swap", registry=own
        )
        self.set_aside = Gauge("colonnade_version_set_aside", "1 while a newer version cannot be served", registry=own)
        self.faults = Counter("colonnade_faults", "Unexpected errors, by where they were met", ["where"], registry=own)
        self.index_bytes = Gauge("colonnade_index_bytes", "Bytes of the served version's files", registry=own)
        self.gpu_bytes = Gauge(
            "colonnade_gpu_bytes",
            "GPU memory: allocated by this process's tensors, reserved by torch for them, and free on the device",
            ["kind"],
            registry=own,
        )
        self.file_cache_bytes = Gauge(
            "colonnade_file_cache_bytes", "Bytes in the folder of copies of remote files, as far as known", registry=own
        )
        self.filter_bytes = Gauge("colonnade_filter_cache_bytes", "Bytes of kept matches of filters", registry=own)
        self.shadow_recall = Histogram(
            "colonnade_shadow_recall",
            "Share of the exact best k that sampled answers had",
            buckets=(*_SHARES, 1.0),
            registry=own,
        )
        self._stages = [self.stage.labels(stage) for stage in ("queue", "encode", "search")]

    def observe(self, queue_ms: float, encode_ms: float, search_ms: float) -> None:
        """One query's time by stage."""
        for stage, spent in zip(self._stages, (queue_ms, encode_ms, search_ms), strict=True):
            stage.observe(spent / 1000)

    def read_filter_lookups(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Have the lookups of filters, by "hit" and "miss", read from their owner."""
        self.registry.register(
            _Counted("colonnade_filter_lookups", "Filters by whether matches were kept", "result", read)
        )

    def read_files(self, read: Callable[[], FileCounts]) -> None:
        """Have what was counted of files read from their owner."""

        def lookups() -> dict[str, int]:
            counts = read()
            return {"hit": counts.hits, "miss": counts.misses}

        def damaged() -> dict[str, int]:
            counts = read()
            return {"cache": counts.damaged_copies, "index": counts.damaged_objects}

        def fetched() -> dict[str, int]:
            return {"": read().fetched_bytes}

        for counted in (
            _Counted(
                "colonnade_file_lookups", "Files by whether a copy was there when first needed", "result", lookups
            ),
            _Counted("colonnade_file_fetched_bytes", "Bytes of files that were fetched", None, fetched),
            _Counted(
                "colonnade_damaged_files",
                "Files that were not as the index has them written down: copies, and its own",
                "where",
                damaged,
            ),
        ):
            self.registry.register(counted)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
