"""What the answers of an index are worth, beside exact MaxSim, BM25, both together, and an older version."""

from __future__ import annotations

from dataclasses import replace

from prefect import flow

from flows.evaluation import Comparison, measure_version, show_comparison, show_drift_of
from flows.parameters import EvaluateParameters
from flows.sight import link_version, warn
from index_format.index import Index
from tasks.questions import read_questions


@flow(name="evaluate-index", persist_result=False, result_serializer="json")
def evaluate_index(parameters: EvaluateParameters) -> Comparison:
    """Measure a version, by judged queries where there are any, and by a sample of its own passages otherwise."""
    index = Index.at(parameters.index)
    questions = read_questions(parameters.judged) if parameters.judged else None
    current = index.current() if parameters.version is None else index.version(parameters.version)
    measured = measure_version(index, current, questions, parameters.encoder, words=True)
    previous = None
    if parameters.beside is not None:
        previous = measure_version(index, index.version(parameters.beside), questions, parameters.beside_encoder)
    comparison = Comparison(index.address, measured, previous, questions[0] if questions else {})
    show_comparison(comparison)
    link_version(index.address, current.version)
    drift = show_drift_of(index.address, current.version, measured.recall_10)
    warnings = list(drift.warnings)
    if previous is not None and comparison.loss > parameters.tolerance:
        worse = f"{index.address}: version {measured.version} answers worse than version {previous.version}."
        warnings.append(warn(worse))
    return replace(comparison, drift=drift.segments, warnings=warnings)
