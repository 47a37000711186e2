"""What a run does about drift: it shows it, warns of it, and has a new codebook trained where that is wanted."""

from __future__ import annotations

from dataclasses import replace

from flows.evaluation import show_drift_of
from flows.parameters import OnDrift, ReindexParameters
from flows.reindex_index import reindex_index
from flows.sight import link_version, warn
from flows.summary import Summary
from index_format.errors import WorseAnswers


def follow_drift(summary: Summary, on_drift: OnDrift) -> Summary:
    """The summary of a run that is done and shown, with the drift of what it published.

    Where that is wanted and the newest segments drifted, a new codebook is trained and published. Nothing that goes
    wrong here makes a failure of the run.
    """
    if not summary.published or not summary.passages:
        return summary
    drift = show_drift_of(summary.index, summary.version)
    summary = replace(summary, drift=drift.segments, warnings=[*summary.warnings, *drift.warnings])
    return _with_new_codebook(summary) if drift.found and on_drift == "reindex" else summary


def _with_new_codebook(summary: Summary) -> Summary:
    version = summary.version
    try:
        version = reindex_index(ReindexParameters(index=summary.index)).version
        outcome = f"A new codebook was trained: version {version}."
        link_version(summary.index, version)
    except WorseAnswers as error:  # the gate held
        outcome = f"A new codebook was trained and answers worse, so the old one stays. {error}"
    except Exception as error:  # noqa: BLE001  # the documents of this run are published all the same
        outcome = f"A new codebook was to be trained, and that failed: {error}"
    return replace(summary, version=version, warnings=[*summary.warnings, warn(f"{summary.index}: {outcome}")])
