"""Evaluations side by side, and the gate that a reindexed version has to pass."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from prefect.artifacts import create_image_artifact, create_table_artifact

from flows.picture import MEASURE, differences, picture_address
from flows.sight import show_drift, warn
from index_format.errors import WorseAnswers
from index_format.index import Index
from index_format.manifest import Manifest
from tasks.drift import LIMIT, SegmentDrift, measure_drift_task
from tasks.evaluate import EXACT, Evaluation, evaluate_sample_task, evaluate_task, recall_of_exact_task
from tasks.measures import Judgements, PerQuery, mean

SAMPLE = 100  # passages that stand for queries where there are none
_SHOWN = 20  # queries that differ most

Questions = tuple[dict[str, str], Judgements]


@dataclass(frozen=True)
class Drift:
    """The newest segments against their codebook, and what a person should look at."""

    segments: list[SegmentDrift]
    warnings: list[str]

    @property
    def found(self) -> bool:
        return any(one.drifted for one in self.segments)


@dataclass(frozen=True)
class Comparison:
    """A version measured, and perhaps another beside it. texts: of the queries, by id. drift: of its segments.

    reference: the version whose exhaustive search both are held to; None where each is held to its own.
    """

    index: str
    measured: Evaluation
    beside: Evaluation | None = None
    texts: dict[str, str] = field(default_factory=dict)
    drift: list[SegmentDrift] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reference: int | None = None

    @property
    def loss(self) -> float:
        """How much worse the version is than the one beside it: in nDCG@10, or in recall without judgements."""
        if self.beside is None:
            return 0.0
        if self.measured.served and self.beside.served:
            return self.beside.served[MEASURE] - self.measured.served[MEASURE]
        return self.beside.recall_10 - self.measured.recall_10

    @cached_property
    def differences(self) -> list[dict[str, object]]:
        """The queries whose nDCG@10 differs most between the two versions, the losses first."""
        if self.beside is None:
            return []
        before, after = self.beside.per_query, self.measured.per_query
        rows = [(after[query][MEASURE] - before[query][MEASURE], query) for query in before.keys() & after.keys()]
        most = sorted(sorted((row for row in rows if row[0]), key=lambda row: -abs(row[0]))[:_SHOWN])
        return [
            {"query": query, "before": round(before[query][MEASURE], 4), "now": round(after[query][MEASURE], 4)}
            for _, query in most
        ]

    @cached_property
    def references(self) -> dict[str, PerQuery]:
        """What the version's answers are held against, by name: the measures of each query."""
        before = {} if self.beside is None else {f"version {self.beside.version}": self.beside.per_query}
        return {**before, **self.measured.others} if self.measured.per_query else {}


def measure_version(
    index: Index, manifest: Manifest, questions: Questions | None, encoder: str | None = None, *, words: bool = False
) -> Evaluation:
    """Measure a version, by questions where there are any; words: and BM25 and the hybrid searches too."""
    if questions is None:
        return evaluate_sample_task(index.address, manifest, SAMPLE)
    return evaluate_task(index.address, manifest, *questions, encoder, words=words)


def measure_beside(
    index: Index,
    manifest: Manifest,
    other: Manifest,
    questions: Questions | None,
    encoders: tuple[str | None, str | None] = (None, None),
    *,
    words: bool = False,
) -> Comparison:
    """Measure a version, published or not, and another beside it.

    Without questions both are held to an exhaustive search over the finer of them, or each to its own.
    encoders: where those of the two are now. words: whether the first is measured by words too.
    """
    if questions is None:
        reference = finer(manifest, other)
        measured, beside = (evaluate_sample_task(index.address, one, SAMPLE, reference) for one in (manifest, other))
        return Comparison(index.address, measured, beside, reference=reference.version if reference else None)
    measured = measure_version(index, manifest, questions, encoders[0], words=words)
    beside = measure_version(index, other, questions, encoders[1])
    return Comparison(index.address, measured, beside, texts=questions[0])


def needs_questions(one: Manifest, other: Manifest) -> bool:
    """Whether two versions are of two encoders, whose rankings can only be compared by judgements."""
    return one.encoder.fingerprint != other.encoder.fingerprint


def finer(one: Manifest, other: Manifest) -> Manifest | None:
    """Of two versions that cut documents alike the one that is nearer to their encoder's vectors; None where none is.

    More bits are nearer, and so is less pooling.
    """
    cuts = {(made.chunking.passage_tokens, made.chunking.overlap_tokens) for made in (one, other)}
    if needs_questions(one, other) or len(cuts) > 1:
        return None
    return next((fine for fine, coarse in ((one, other), (other, one)) if _is_finer(fine, coarse)), None)


def _is_finer(one: Manifest, other: Manifest) -> bool:
    bits, pooled = one.codec.bits - other.codec.bits, one.chunking.pool_factor - other.chunking.pool_factor
    return bits >= 0 >= pooled and (bits, pooled) != (0, 0)


def measures_table(comparison: Comparison) -> list[dict[str, object]]:
    """A row for each measure: as served, exact, by words where that was asked for, and of the version beside it."""
    measured, beside = comparison.measured, comparison.beside
    others = {other: mean(found) for other, found in measured.others.items() if other != EXACT}
    rows: list[dict[str, object]] = []
    own = comparison.reference in (None, measured.version)
    for name in [*measured.served, _recall_name(comparison)]:
        row: dict[str, object] = {"measure": name}
        row[f"version {measured.version}"] = round(measured.served.get(name, measured.recall_10), 4)
        row[EXACT] = round(measured.exact.get(name, 1.0), 4) if own else None
        row |= {other: round(means[name], 4) if name in means else None for other, means in others.items()}
        if beside is not None:
            row[f"version {beside.version}"] = round(beside.served.get(name, beside.recall_10), 4)
        rows.append(row)
    return rows


def _recall_name(comparison: Comparison) -> str:
    """The measure of recall, with the version whose exhaustive search it is held to where there is a choice."""
    if comparison.reference is not None:
        return f"Recall@10 of exact in version {comparison.reference}"
    return "Recall@10 of exact" if comparison.beside is None else "Recall@10 of each one's exact"


def show_comparison(comparison: Comparison) -> None:
    """Leave the measures, a picture of each query, and the queries that differ most, on the run's page."""
    create_table_artifact(key="evaluation", table=measures_table(comparison), description=comparison.index)
    for name, reference in list(comparison.references.items())[:1]:
        picture = picture_address(differences(comparison.measured.per_query, reference))
        create_image_artifact(picture, key="picture", description=f"{MEASURE} of each query, less that of {name}")
    if comparison.differences:
        create_table_artifact(key="differences", table=comparison.differences, description="nDCG@10 by query")


def refuse_worse(comparison: Comparison, tolerance: float) -> None:
    """Raise WorseAnswers when the new version lost more than `tolerance` against the one beside it."""
    if comparison.loss > tolerance:
        beside = comparison.beside
        assert beside is not None
        what = MEASURE if comparison.measured.served else "recall against exhaustive search"
        now = comparison.measured.served.get(MEASURE, comparison.measured.recall_10)
        before = beside.served.get(MEASURE, beside.recall_10)
        raise WorseAnswers(
            f"{comparison.index}: the new version would have {what} {now:.4f}, version {beside.version} has "
            f"{before:.4f}. Nothing was published. To publish it all the same, allow a loss of "
            f"{comparison.loss + 0.0001:.4f} (--tolerance, or tolerance in the flow's parameters)."
        )


def show_drift_of(address: str, version: int, recall_10: float | None = None) -> Drift:
    """Leave the drift table of a version on the run's page, and warn where its newest segments drifted.

    recall_10: where it was measured already. What fails here is a warning too: the version is there and stays.
    """
    try:
        segments = measure_drift_task(address, version)
        if segments:
            recall = recall_of_exact_task(address, version) if recall_10 is None else recall_10
            show_drift(address, segments, recall)
    except Exception as error:  # noqa: BLE001  # whatever it is, it does not undo what the run has done
        return Drift([], [warn(f"{address}: drift of version {version} could not be measured: {error}")])
    drift = Drift(segments, [])
    return replace(drift, warnings=[warn(_drifted(address, segments))]) if drift.found else drift


def _drifted(address: str, segments: list[SegmentDrift]) -> str:
    drifted = [one.ratio or 0.0 for one in segments if one.drifted]
    return (
        f"{address}: {len(drifted)} segments lie up to {max(drifted):.2f} times as far from their centroids as text of "
        f"the kind that the codebook was trained on; {LIMIT} is the limit. Answers stay right and become slower to "
        f"find. A new codebook is trained by: colonnade reindex {address}"
    )
