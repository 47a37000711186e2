"""From what Python asks to what the engine is asked, and back: a query and its options, hits and matches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from colonnade.records import Answer, Match, Records
from index_format.errors import InputError
from index_format.filters import Filter, parse_filter
from serving.explain import Match as TokenMatch
from serving.hybrid import DEPTH, Fusion
from serving.query import SearchQuery
from serving.scorer import Recall
from serving.search import Hit
from serving.searcher import Answer as FoundAnswer

Query = str | NDArray[np.float32]
Where = str | Mapping[str, Any] | None
Hybrid = Literal["rank", "weight"] | None

_RECALLS = ("fast", "balanced", "exact")


def filter_of(where: Where) -> Filter | None:
    """A filter as it was given, JSON or what it holds. Raises InputError."""
    return None if where is None else parse_filter(where)


def refuse_one_text(name: str, given: object) -> None:
    """A text is a sequence of texts, too: its characters, which nobody means."""
    if isinstance(given, str):
        raise InputError(f"{name}: expected several, such as [{given!r}], got one text.")


def as_asked(
    query: Query,
    k: int,
    where: Where,
    recall: Recall,
    offset: int = 0,
    *,
    explain: bool = False,
    fusion: Fusion | None = None,
) -> SearchQuery:
    """The record of a question. Raises InputError."""
    if k < 1 or offset < 0:
        raise InputError(f"k, offset: expected at least 1 and 0, got {k} and {offset}.")
    if recall not in _RECALLS:
        raise InputError(f"recall: expected one of {', '.join(_RECALLS)}, got {recall!r}.")
    matching = filter_of(where)
    options: dict[str, Any] = {
        "k": k, "offset": offset, "recall": recall, "matching": matching, "explain": explain, "fusion": fusion
    }  # fmt: skip
    if fusion is not None and not isinstance(query, str):
        raise InputError("hybrid: BM25 needs the query's text, got its vectors.")
    if fusion is not None and offset and offset + k > DEPTH:
        raise InputError(
            f"offset: with hybrid, k and offset together may reach {DEPTH}, got {k + offset}; "
            "for more hits ask for them at once, without an offset."
        )
    if isinstance(query, str):
        if not query.strip():
            raise InputError("query: it is empty.")
        return SearchQuery(text=query, **options)
    try:
        return SearchQuery(vectors=np.asarray(query, np.float32), **options)
    except (TypeError, ValueError):
        raise InputError(f"query: expected a text or its token vectors, got {type(query).__name__}.") from None


def as_fusion(hybrid: Hybrid, weight: float) -> Fusion | None:
    """How MaxSim and BM25 become one ranking; None for MaxSim alone. Raises InputError."""
    if hybrid not in (None, "rank", "weight"):
        raise InputError(f"hybrid: expected 'rank', 'weight' or None, got {hybrid!r}.")
    if not 0 <= weight <= 1:
        raise InputError(f"weight: expected MaxSim's share from 0 to 1, got {weight}.")
    return None if hybrid is None else Fusion(hybrid, weight)


def refuse_unfit(vectors: NDArray[np.float32], dim: int) -> None:
    """Raise InputError unless query vectors are [Q, `dim`] and finite."""
    if vectors.ndim != 2 or vectors.shape[1] != dim or not len(vectors):
        raise InputError(f"query: expected vectors of shape [tokens, {dim}], got {list(vectors.shape)}.")
    if not np.isfinite(vectors).all():
        raise InputError("query: expected finite numbers in its vectors, got infinity or NaN.")


def as_answer(found: FoundAnswer) -> Answer:
    """The hits of an answer, with what they are from."""
    return Answer(Hit, tuple(found.hits), found.version, found.recall, found.scored)


def as_matches(found: FoundAnswer) -> Records[Match]:
    """The explanation of an answer, a record for each token of the query and each hit."""
    assert found.explanation is not None
    tokens = [one.token for one in found.explanation.query]
    explained = zip(found.hits, found.explanation.hits, strict=True)
    return Records(
        Match,
        tuple(
            _match(hit, tokens[place] if tokens else None, match)
            for hit, told in explained
            for place, match in enumerate(told.matches)
        ),
    )


def _match(hit: Hit, token: str | None, match: TokenMatch) -> Match:
    fields = {"title": hit.title or "", "text": hit.text}
    words = " ".join(fields[span.field][span.start : span.end] for span in match.spans)
    return Match(hit.document_id, hit.passage, token, match.weight, words, tuple(match.spans))
