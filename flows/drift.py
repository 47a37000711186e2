"""What a run does about drift: it shows it, warns of it, and has a new codebook trained where that is wanted."""

from __future__ import annotations

from dataclasses import replace

from flows.parameters import OnDrift, ReindexParameters
from flows.reindex_index import reindex_index
from flows.sight import show_drift
from flows.summary import Summary
from index_format.errors import WorseAnswers
from tasks.drift import LIMIT, measure_drift_task
from tasks.evaluate import recall_of_exact_task


def follow_drift(summary: Summary, on_drift: OnDrift) -> Summary:
    """The summary with a warning when the newest segments drifted, or of the new version that came of it."""
    if not summary.published or not summary.passages:
        return summary
    drift = measure_drift_task(summary.index, summary.version)
    show_drift(summary.index, drift, recall_of_exact_task(summary.index, summary.version))
    drifted = [one for one in drift if one.drifted]
    if not drifted:
        return summary
    worst = max(one.ratio or 0.0 for one in drifted)
    warning = (
        f"{summary.index}: {len(drifted)} segments lie up to {worst:.2f} times as far from their centroids as text of "
        f"the kind that the codebook was trained on; {LIMIT} is the limit. "
    )
    if on_drift == "warn":
        advice = f"Answers stay right and become slower to find. Train a new one: colonnade reindex {summary.index}"
        return replace(summary, warnings=[*summary.warnings, warning + advice])
    try:
        renewed = reindex_index(ReindexParameters(index=summary.index))
    except WorseAnswers as error:  # the gate held; the documents of this run are published all the same
        kept = f"A new codebook was trained and answers worse, so the old one stays. {error}"
        return replace(summary, warnings=[*summary.warnings, warning + kept])
    done = f"A new codebook was trained: version {renewed.version}."
    return replace(summary, version=renewed.version, warnings=[*summary.warnings, warning + done])
