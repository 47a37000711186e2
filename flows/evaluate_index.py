"""What the answers of an index are worth, beside an exhaustive search, BM25, both together, and an older version."""

from __future__ import annotations

from dataclasses import replace

from prefect import flow

from flows.evaluation import (
    Comparison,
    measure_beside,
    measure_version,
    needs_questions,
    show_comparison,
    show_drift_of,
)
from flows.parameters import EvaluateParameters
from flows.sight import link_version, warn
from index_format.errors import InputError
from index_format.index import Index
from index_format.manifest import Manifest
from tasks.questions import read_questions


@flow(name="evaluate-index", persist_result=False, result_serializer="json")
def evaluate_index(parameters: EvaluateParameters) -> Comparison:
    """Measure a version, by judged queries where there are any, and by a sample of passages otherwise."""
    index = Index.at(parameters.index)
    questions = read_questions(parameters.judged) if parameters.judged else None
    current = index.current() if parameters.version is None else index.version(parameters.version)
    if parameters.beside is None:
        measured = measure_version(index, current, questions, parameters.encoder, words=True)
        comparison = Comparison(index.address, measured, texts=questions[0] if questions else {})
    else:
        other = index.version(parameters.beside)
        if questions is None and needs_questions(current, other):
            raise InputError(_incomparable(index.address, current, other))
        encoders = parameters.encoder, parameters.beside_encoder
        comparison = measure_beside(index, current, other, questions, encoders, words=True)
    show_comparison(comparison)
    link_version(index.address, current.version)
    measured, beside = comparison.measured, comparison.beside
    recall_of_its_own = measured.recall_10 if comparison.reference in (None, current.version) else None
    drift = show_drift_of(index.address, current.version, recall_of_its_own)
    warnings = list(drift.warnings)
    if beside is not None and comparison.loss > parameters.tolerance:
        worse = f"{index.address}: version {measured.version} answers worse than version {beside.version}."
        warnings.append(warn(worse))
    return replace(comparison, drift=drift.segments, warnings=warnings)


def _incomparable(address: str, one: Manifest, other: Manifest) -> str:
    return (
        f"{address}: versions {one.version} and {other.version} are of two encoders, {one.encoder.name} and "
        f"{other.encoder.name}, whose rankings can only be compared by questions with known answers. Name them "
        "(--queries and --judgements, or judged in the flow's parameters)."
    )
