"""The shapes of requests and answers."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from index_format.filters import Filter
from serving.explain import MAX_EXPLAINED, Explanation
from serving.http.errors import wrong_field
from serving.query import SearchQuery
from serving.search import MAX_K, Hit, Recall

MAX_QUERY_CHARACTERS = 10_000
MAX_QUERY_VECTORS = 1_024
MAX_DIM = 1_024
MAX_COMPONENT = 1e6  # keeps every product in a float32

QueryText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUERY_CHARACTERS)]
Component = Annotated[float, Field(ge=-MAX_COMPONENT, le=MAX_COMPONENT, allow_inf_nan=False)]
Vector = Annotated[list[Component], Field(min_length=1, max_length=MAX_DIM)]
QueryVectors = Annotated[list[Vector], Field(min_length=1, max_length=MAX_QUERY_VECTORS)]
HitField = Literal["title", "text", "metadata"]


class Request(BaseModel):
    """What all bodies share: a field that is not known is refused."""

    model_config = ConfigDict(extra="forbid")


class SearchOptions(Request):
    """How to search, whatever is asked."""

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


class SearchRequest(SearchOptions):
    """A question: its text, or the token vectors of it."""

    vectors: QueryVectors | None = Field(default=None, description="Token vectors in place of a text")
    query: QueryText | None = Field(default=None, validate_default=True, description="A text")

    @field_validator("query")
    @classmethod
    def _one_question(cls, query: str | None, others: ValidationInfo) -> str | None:
        # Faulty vectors are absent here, and are complained of by themselves.
        if "vectors" in others.data and (query is None) == (others.data["vectors"] is None):
            raise ValueError("give 'query' or 'vectors', one of them")
        return query


class SearchAnswer(BaseModel):
    """Passages, best first, all from one version of the index."""

    version: int
    hits: list[Hit]
    recall: Recall
    scored: int = Field(description="How many passages were scored exactly")
    encode_ms: float
    search_ms: float
    explanation: Explanation | None = Field(default=None, description="What each hit matched, if that was asked for")


class IndexDescription(BaseModel):
    """What is being served."""

    index: str
    version: int
    published_at: str
    documents: int
    passages: int
    segments: int
    encoder: str
    dim: int
    bits: int
    set_aside: str | None = Field(description="Why a newer version is not served, if there is one")


def as_query(request: SearchOptions, text: str | None, vectors: list[Vector] | None, dim: int) -> SearchQuery:
    """The engine's record of a request. Raises Refusal when the vectors are not of the index's `dim`."""
    array = None if vectors is None else as_array(vectors, dim)
    return SearchQuery(
        text=text,
        vectors=array,
        k=request.k,
        offset=request.offset,
        recall=request.recall,
        matching=request.filter,
        explain=request.explain,
    )


def as_array(vectors: list[Vector], dim: int) -> NDArray[np.float32]:
    """Vectors as float32 [Q, D]."""
    odd = next((len(vector) for vector in vectors if len(vector) != dim), None)
    if odd is not None:
        raise wrong_field("vectors", f"expected {dim} components in each vector, got {odd}")
    return np.array(vectors, np.float32)
