"""What the client's methods return: the answers of the server as records, told apart by type."""

from __future__ import annotations

from typing import Any

import msgspec


class Fused(msgspec.Struct, frozen=True):
    """The two sides of a hybrid search: scores, and the rank among the best of each, from 1, if it is one of them."""

    maxsim: float
    maxsim_rank: int | None
    bm25: float
    bm25_rank: int | None


class Hit(msgspec.Struct, frozen=True):
    """A passage that was found. start, end: characters of its document. What `fields` left out is None."""

    document_id: str
    passage: int
    score: float
    start: int
    end: int
    title: str | None = None
    text: str | None = None
    metadata: dict[str, Any] | None = None
    fused: Fused | None = None


class QueryToken(msgspec.Struct, frozen=True):
    """A token of the query: characters start to end of its text without blanks around it, or None for what the encoder
    put there itself.
    """

    token: str
    start: int | None
    end: int | None


class Span(msgspec.Struct, frozen=True):
    """Characters of a hit's "title" or "text", as `field` says."""

    field: str
    start: int
    end: int


class Match(msgspec.Struct, frozen=True):
    """What one token of the query found: a vector of the passage, the weight of their likeness, and its characters."""

    weight: float
    vector: int
    spans: list[Span]


class HitExplanation(msgspec.Struct, frozen=True):
    """One match for each token of the query. pooled: vectors stand for several tokens. note: why there are no spans."""

    matches: list[Match]
    pooled: bool
    note: str | None


class Explanation(msgspec.Struct, frozen=True):
    """The tokens of the query, and how each hit matched them, in the order of the hits."""

    query: list[QueryToken]
    hits: list[HitExplanation]


class Answer(msgspec.Struct, frozen=True):
    """Hits, best first, the index version that they are from, and the milliseconds that they took."""

    version: int
    hits: list[Hit]
    recall: str
    scored: int
    queue_ms: float
    encode_ms: float
    search_ms: float
    explanation: Explanation | None = None


class Answers(msgspec.Struct, frozen=True):
    """The answers to several questions, in their order, from one version."""

    version: int
    answers: list[Answer]


class Vectors(msgspec.Struct, frozen=True):
    """Token vectors, [texts, tokens, dim], and the index version that was served then."""

    version: int
    encoder: str
    dim: int
    vectors: list[list[list[float]]]


class Document(msgspec.Struct, frozen=True):
    """A document as it was given."""

    document_id: str
    text: str
    title: str | None = None
    metadata: dict[str, Any] = {}


class Documents(msgspec.Struct, frozen=True):
    """The documents that are there, in the order of the ids."""

    version: int
    documents: list[Document]


class Reranked(msgspec.Struct, frozen=True):
    """A text's score, that of its characters start to end. position: its place among those given, from 0."""

    position: int
    score: float
    start: int
    end: int


class Reordered(msgspec.Struct, frozen=True):
    """Texts, best first, scored as that version of the index would."""

    version: int
    texts: list[Reranked]


class Column(msgspec.Struct, frozen=True):
    """A column that a filter may name. kinds: one, unless segments disagree. types: as the files have them."""

    name: str
    kinds: list[str]
    types: list[str]


class Columns(msgspec.Struct, frozen=True):
    """The document's id, then the columns of the metadata."""

    version: int
    columns: list[Column]


class Version(msgspec.Struct, frozen=True):
    """A version that the index retains. documents, passages: None for a key of one tenant."""

    version: int
    created_at: str
    operation: str
    documents: int | None
    passages: int | None
    tags: list[str]


class Versions(msgspec.Struct, frozen=True):
    """The newest versions, newest first, and the one that is served."""

    served: int
    versions: list[Version]


class IndexDescription(msgspec.Struct, frozen=True):
    """What is being served. documents, passages: None for a key of one tenant. set_aside: why a newer one is not."""

    index: str
    version: int
    published_at: str
    documents: int | None
    passages: int | None
    segments: int
    encoder: str
    dim: int
    bits: int
    set_aside: str | None = None


class Written(msgspec.Struct, frozen=True):
    """What a change did. version: one that has it, for `min_version`."""

    version: int
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: list[dict[str, Any]] = []
