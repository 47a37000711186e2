"""Another encoder, codec, cut or codebook for an index, made beside the one that is served and put in place at once."""

from __future__ import annotations

from dataclasses import replace

from prefect import flow

from flows.evaluation import Comparison, measure_version, refuse_worse, show_comparison, show_drift_of
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
    only_codebook = keeps_vectors(base, parameters)

    def gate(proposed: Manifest) -> None:
        if questions is None and not only_codebook:
            return  # rankings of two encoders can only be compared by judgements
        measured, beside = (measure_version(index, manifest, questions) for manifest in (proposed, base))
        comparison = Comparison(index.address, measured, beside)
        show_comparison(comparison)
        refuse_worse(comparison, parameters.tolerance)

    with progress_shown(index.address):
        summary = renew_codebook(index, base, gate) if only_codebook else renew_vectors(index, base, parameters, gate)
    drift = show_drift_of(index.address, show_summary(summary).version)
    return replace(summary, drift=drift.segments, warnings=drift.warnings)
