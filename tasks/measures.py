"""How well rankings meet judgements: the measures are those of trec_eval, through ir-measures.

nDCG has linear gain, as trec_eval computes it, and no measure looks further than the first 100 documents. Queries
without a relevant document are left out; a query that found nothing counts as zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from index_format.errors import InputError

DEPTH = 100  # documents of a ranking that are looked at
MEASURES = ("nDCG@10", "Recall@100", "MRR@100", "MAP@100")

Judgements = Mapping[str, Mapping[str, int]]  # relevance by query id and document id; above 0 is relevant
Rankings = Mapping[str, Sequence[str]]  # document ids for each query id, best first
PerQuery = dict[str, dict[str, float]]  # by query id, then by measure


def measure(judgements: Judgements, rankings: Rankings) -> PerQuery:
    """Each measure for each query that has a relevant document. Raises InputError where ir-measures is missing."""
    try:
        from ir_measures import AP, RR, R, iter_calc, nDCG
    except ImportError as error:
        raise InputError("Measuring quality needs the package ir-measures: pip install 'colonnade[eval]'.") from error
    asked = {nDCG @ 10: "nDCG@10", R @ DEPTH: "Recall@100", RR: "MRR@100", AP @ DEPTH: "MAP@100"}
    judged = answerable(judgements)
    # Places instead of scores: ties were settled when the ranking was made.
    run = {
        query: {document: float(-place) for place, document in enumerate(rankings.get(query, [])[:DEPTH])}
        for query in judged
    }
    found: PerQuery = {query: {} for query in judged}
    for metric in iter_calc(list(asked), judged, run):
        found[metric.query_id][asked[metric.measure]] = float(metric.value)
    return found


def answerable(judgements: Judgements) -> dict[str, dict[str, int]]:
    """The judgements of queries that have a relevant document."""
    return {query: dict(judged) for query, judged in judgements.items() if any(one > 0 for one in judged.values())}


def mean(per_query: PerQuery) -> dict[str, float]:
    """Each measure over all queries."""
    return {name: float(np.mean([one[name] for one in per_query.values()])) for name in MEASURES if per_query}


def overlap(found: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]], depth: int = 10) -> float:
    """The mean share of the first documents of each of `wanted` that are among as many of `found`."""
    pairs = [(one, other) for one, other in zip(found, wanted, strict=True) if other]
    shares = [len(set(one[:depth]) & set(other[:depth])) / len(other[:depth]) for one, other in pairs]
    return float(np.mean(shares)) if shares else 1.0
