"""Another encoder, codec, cut or codebook for an index, made beside the one that is served and put in place at once."""

from __future__ import annotations

from dataclasses import replace

from prefect import flow

from flows.evaluation import measure_beside, needs_questions, refuse_worse, show_comparison, show_drift_of
from flows.parameters import ReindexParameters
from flows.reindexing import keeps_vectors, renew_codebook, renew_vectors
from flows.sight import progress_shown, show_summary
from flows.spread import ONE_THREAD
from flows.summary import Summary
from index_format.index import Index
from index_format.manifest import Manifest
from tasks.questions import read_questions


@flow(name="reindex-index", task_runner=ONE_THREAD, persist_result=False, result_serializer="json")
def reindex_index(parameters: ReindexParameters) -> Summary:
    """Make an index anew, measure it against the one that is there, and publish it when it is no worse."""
    index = Index.at(parameters.index)
    base = index.current()
    questions = read_questions(parameters.judged) if parameters.judged else None
    only_codebook, warnings = keeps_vectors(base, parameters), list[str]()

    def gate(proposed: Manifest) -> None:
        if questions is None and needs_questions(proposed, base):
            warnings.append(_unmeasured(index.address))
            return
        comparison = measure_beside(index, proposed, base, questions)
        show_comparison(comparison)
        refuse_worse(comparison, parameters.tolerance)

    with progress_shown(index.address):
        summary = renew_codebook(index, base, gate) if only_codebook else renew_vectors(index, base, parameters, gate)
    summary = show_summary(replace(summary, warnings=warnings))
    drift = show_drift_of(index.address, summary.version)
    return replace(summary, drift=drift.segments, warnings=[*warnings, *drift.warnings])


def _unmeasured(address: str) -> str:
    return (
        f"{address}: nobody has measured whether the new encoder answers worse, as that takes questions with known "
        "answers (--queries and --judgements, or judged in the flow's parameters). The old version stays: colonnade "
        "eval compares the two, and colonnade rollback goes back."
    )
