"""Judged collections: documents, queries and judgements, and how a ranking is measured against them.

The measures are the product's own, those of trec_eval (tasks/measures.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks import measures
from tasks.measures import DEPTH, mean

Ranking = list[list[str]]  # document ids for each query, best first


@dataclass(frozen=True, slots=True)
class Collection:
    """A folder of corpus.parquet, queries.parquet and qrels.parquet. `texts` are title, blank and text."""

    name: str
    corpus: Path
    document_ids: list[str]
    texts: list[str]
    query_ids: list[str]
    queries: list[str]
    judgements: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a ranking meets the judgements, averaged over the queries that have a relevant document at all."""

    ndcg_10: float
    recall_100: float


def load_collection(folder: Path) -> Collection:
    """Read a collection whole."""
    corpus = pq.read_table(folder / "corpus.parquet").to_pydict()
    queries = pq.read_table(folder / "queries.parquet").to_pydict()
    judgements: dict[str, dict[str, int]] = {}
    for row in pq.read_table(folder / "qrels.parquet").to_pylist():
        judgements.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"]
    return Collection(
        name=folder.name,
        corpus=folder / "corpus.parquet",
        document_ids=corpus["doc_id"],
        texts=[f"{title} {text}" for title, text in zip(corpus["title"], corpus["text"], strict=True)],
        query_ids=queries["query_id"],
        queries=queries["text"],
        judgements=judgements,
    )


def measure(collection: Collection, ranking: Ranking) -> Quality:
    """nDCG@10 and Recall@100 of a ranking that has one list for each query, in the collection's order."""
    rankings = dict(zip(collection.query_ids, ranking, strict=True))
    measured = mean(measures.measure(collection.judgements, rankings))
    return Quality(ndcg_10=measured["nDCG@10"], recall_100=measured["Recall@100"])


def rank(scores_QN: NDArray[np.float32], document_ids: Sequence[str]) -> Ranking:
    """The best documents by score, ties by id. Documents of score -inf were not found."""
    by_id = np.argsort(np.array(document_ids))
    ranking = []
    for scores in scores_QN:
        best = by_id[np.argsort(-scores[by_id], kind="stable")[:DEPTH]]
        ranking.append([document_ids[one] for one in best if np.isfinite(scores[one])])
    return ranking
