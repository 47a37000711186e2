"""The shapes of requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from index_format.filters import Filter
from serving.explain import MAX_EXPLAINED, Explanation
from serving.http.errors import wrong_field
from serving.hybrid import DEPTH, Fusion
from serving.query import SearchQuery
from serving.search import MAX_K, Fused, Recall

MAX_QUERY_CHARACTERS = 10_000
MAX_QUERY_VECTORS = 1_024
MAX_DIM = 1_024
MAX_QUERIES = 64
MAX_BATCH_HITS = 5_000
MAX_VERSION = 2**53  # what JSON's readers agree on
MAX_COMPONENT = 1e6  # keeps every product in a float32

QueryText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUERY_CHARACTERS)]
Component = Annotated[float, Field(ge=-MAX_COMPONENT, le=MAX_COMPONENT, allow_inf_nan=False)]
# The first fault of a list of many is told, and no other: a small request could have a million.
Vector = Annotated[list[Component], Field(min_length=1, max_length=MAX_DIM, fail_fast=True)]
QueryVectors = Annotated[list[Vector], Field(min_length=1, max_length=MAX_QUERY_VECTORS, fail_fast=True)]
DocumentId = Annotated[str, Field(min_length=1, max_length=10_000)]
HitField = Literal["title", "text", "metadata"]


class Request(BaseModel):
    """What all bodies share: a field that is not known is refused."""

    model_config = ConfigDict(extra="forbid")


class Timed(Request):
    """How long an answer is worth waiting for."""

    timeout_ms: int | None = Field(
        default=None, strict=True, ge=1, le=600_000, description="A shorter deadline than the server's own"
    )


class Versioned(Request):
    """From which version to answer; the newest by default."""

    version: int | None = Field(
        default=None, strict=True, ge=1, le=MAX_VERSION, description="Exactly this one, if it is retained"
    )
    min_version: int | None = Field(
        default=None, strict=True, ge=1, le=MAX_VERSION, description="At least this one: to read what you just wrote"
    )

    @field_validator("min_version")
    @classmethod
    def _one_wish(cls, least: int | None, others: ValidationInfo) -> int | None:
        if least is not None and others.data.get("version") is not None:
            raise ValueError("give 'version' or 'min_version', not both")
        return least


class Hybrid(Request):
    """How BM25 and MaxSim become one score."""

    by: Literal["rank", "weight"] = Field(
        default="rank",
        description="'rank': reciprocal ranks, added; 'weight': the scores, each spread from 0 to 1, added",
    )
    weight: float = Field(default=0.5, ge=0, le=1, description="The share of MaxSim; the rest is BM25's")


class Question(Request):
    """A question, its text or its token vectors, and how to search."""

    k: int = Field(default=10, strict=True, ge=1, le=MAX_K, description="How many passages to return")
    offset: int = Field(default=0, strict=True, ge=0, le=MAX_K, description="How many of the best to leave out")
    recall: Recall = Field(
        default="balanced", description="'exact' scores every passage; the others stop when few can be missing"
    )
    filter: Filter | None = Field(default=None, description="Which documents may be found: docs/filters.md")
    explain: bool = Field(
        default=False, strict=True, description=f"Tell what each hit matched; for k of at most {MAX_EXPLAINED}"
    )
    fields: list[HitField] | None = Field(
        default=None, description="What of a document each hit carries beside its id, span and score; all by default"
    )
    hybrid: Hybrid | None = Field(
        default=None, description="Rank by BM25 too, which needs the text; {} is reciprocal ranks, half and half"
    )
    vectors: QueryVectors | None = Field(default=None, description="Token vectors in place of a text")
    query: QueryText | None = Field(default=None, validate_default=True, description="A text")

    @field_validator("explain")
    @classmethod
    def _explain_few(cls, explain: bool, others: ValidationInfo) -> bool:
        if explain and others.data.get("k", 0) > MAX_EXPLAINED:
            raise ValueError(f"at most {MAX_EXPLAINED} hits are explained: ask for a smaller k")
        return explain

    @field_validator("offset")
    @classmethod
    def _within_reach(cls, offset: int, others: ValidationInfo) -> int:
        if others.data.get("k", 0) + offset > MAX_K:
            raise ValueError(f"k and offset together may reach {MAX_K}")
        return offset

    @field_validator("hybrid")
    @classmethod
    def _pages_of_one_order(cls, hybrid: Hybrid | None, others: ValidationInfo) -> Hybrid | None:
        offset = others.data.get("offset", 0)
        if hybrid and offset and others.data.get("k", 0) + offset > DEPTH:
            raise ValueError(f"with an offset, k and offset together may reach {DEPTH}: ask for more hits at once")
        return hybrid

    @field_validator("query")
    @classmethod
    def _one_question(cls, query: str | None, others: ValidationInfo) -> str | None:
        # Faulty vectors are absent here, and are complained of by themselves.
        if "vectors" in others.data and (query is None) == (others.data["vectors"] is None):
            raise ValueError("give 'query' or 'vectors', one of them")
        if query is None and others.data.get("hybrid") is not None:
            raise ValueError("hybrid ranks by the words of 'query': give the text")
        return query


class SearchRequest(Question, Versioned, Timed):
    """One question."""


class BatchSearchRequest(Versioned, Timed):
    """Several questions, answered from one version."""

    queries: Annotated[list[Question], Field(min_length=1, max_length=MAX_QUERIES, fail_fast=True)]

    @field_validator("queries")
    @classmethod
    def _few_hits(cls, queries: list[Question]) -> list[Question]:
        if sum(one.k + one.offset for one in queries) > MAX_BATCH_HITS:
            raise ValueError(f"k and offset of all queries together may reach {MAX_BATCH_HITS}")
        if sum(one.k for one in queries if one.explain) > MAX_EXPLAINED:
            raise ValueError(f"at most {MAX_EXPLAINED} hits of all queries together are explained")
        return queries


class EncodeRequest(Timed):
    """Queries to turn into token vectors."""

    texts: Annotated[list[QueryText], Field(min_length=1, max_length=MAX_QUERIES, fail_fast=True)]


class FoundHit(BaseModel):
    """A passage that was found, with what of its document was asked for."""

    document_id: str
    passage: int = Field(description="Its place in the document, from 0")
    score: float
    start: int = Field(description="First character of the passage in the document's text")
    end: int = Field(description="One past its last character")
    title: str | None = None
    text: str = Field(default="", description="That of the passage")
    metadata: dict[str, Any] = Field(default={})
    fused: Fused | None = Field(default=None, description="Of a hybrid search, what both sides say")


class Answered(BaseModel):
    """The answer to one question: passages, best first, all from one version of the index."""

    version: int
    hits: list[FoundHit]
    recall: Recall
    scored: int = Field(description="How many passages were scored exactly")
    queue_ms: float = Field(description="Waiting for those before it")
    encode_ms: float = Field(description="In the encoder, together with those that waited with it")
    search_ms: float
    explanation: Explanation | None = Field(default=None, description="What each hit matched, if that was asked for")


class BatchAnswered(BaseModel):
    """The answers, in the order of the questions."""

    version: int
    answers: list[Answered]


class Encoded(BaseModel):
    """The token vectors of each text, as /v1/search takes them."""

    version: int = Field(description="The index version that is served, whose vectors these can be compared with")
    encoder: str
    dim: int
    vectors: list[list[list[float]]]


class IndexDescription(BaseModel):
    """What is being served. A key of one tenant is not told how many documents all of them have."""

    index: str
    version: int
    published_at: str
    documents: int | None
    passages: int | None
    segments: int
    encoder: str
    dim: int
    bits: int
    set_aside: str | None = Field(description="Why a newer version is not served, if there is one")


class VersionDescription(BaseModel):
    """A version that the index retains, and the commit that made it."""

    version: int
    created_at: str
    operation: str
    documents: int | None
    passages: int | None
    tags: list[str]


class Versions(BaseModel):
    """The newest versions, newest first."""

    served: int
    versions: list[VersionDescription]


def as_query(asked: Question, dim: int, matching: Filter | None) -> SearchQuery:
    """The engine's record of a question, whose hits match a filter: its own, within what the key may see.

    Raises Refusal when its vectors are not of the index's `dim`.
    """
    return SearchQuery(
        text=asked.query,
        vectors=None if asked.vectors is None else as_array(asked.vectors, dim),
        k=asked.k,
        offset=asked.offset,
        recall=asked.recall,
        matching=matching,
        explain=asked.explain,
        fusion=None if asked.hybrid is None else Fusion(asked.hybrid.by, asked.hybrid.weight),
    )


def as_array(vectors: list[Vector], dim: int) -> NDArray[np.float32]:
    """Vectors as float32 [Q, D]."""
    odd = next((len(vector) for vector in vectors if len(vector) != dim), None)
    if odd is not None:
        raise wrong_field("vectors", f"expected {dim} components in each vector, got {odd}")
    return np.array(vectors, np.float32)
