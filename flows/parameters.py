"""The one parameter of each flow, as the Prefect UI shows it in a form."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from index_format.errors import InputError
from index_format.filters import Filter, parse_filter
from index_format.manifest import LEAST_PASSAGE_TOKENS
from tasks.questions import Judged
from tasks.rows import Source
from tasks.settings import DEFAULT_BITS, refuse_wide_overlap

OnDrift = Literal["warn", "reindex"]


def _refuse_wide_overlap(passage_tokens: int | None, overlap_tokens: int | None) -> None:
    """As soon as the form is sent, where both are in it; what the encoder decides is seen when the run starts."""
    if passage_tokens is not None and overlap_tokens is not None:
        try:
            refuse_wide_overlap(passage_tokens, overlap_tokens)
        except InputError as error:
            raise ValueError(str(error)) from None


class AddParameters(BaseModel):
    """Documents to add to an index; an id that is there already gets the new content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Source = Field(description="Where the documents are")
    index: str = Field(min_length=1, description="Directory of the index, or s3://bucket/prefix")
    encoder: str | None = Field(
        default=None,
        description="'embedded', a folder, s3://, or owner/name on the Hugging Face hub; "
        "by default the one that the index was begun with, and 'embedded' for a new one",
    )
    on_drift: OnDrift = Field(
        default="warn",
        description="What to do when new documents lie far from the centroids: warn, or train a new codebook",
    )


class BuildParameters(AddParameters):
    """An index to build. What is set here stays for its life: an index that is there and has it otherwise refuses."""

    bits: Literal[1, 2, 4, 8] | None = Field(
        default=None, description=f"Bits for each dimension of a token vector; {DEFAULT_BITS} for a new index"
    )
    passage_tokens: int | None = Field(
        default=None,
        ge=LEAST_PASSAGE_TOKENS,
        description="Most tokens of a passage; by default as many as the encoder takes",
    )
    overlap_tokens: int | None = Field(
        default=None, ge=0, description="Tokens that neighbouring passages share; none for a new index"
    )
    pool_factor: int | None = Field(
        default=None,
        ge=1,
        description="Tokens of a passage that share a vector, about; 1, which pools none, for a new one",
    )
    source_fingerprint: str | None = Field(
        default=None, description="Kept in the version, to tell whether it is current"
    )

    @property
    def cut(self) -> tuple[int | None, int | None, int | None]:
        """Passage tokens, overlap and pool factor."""
        return self.passage_tokens, self.overlap_tokens, self.pool_factor

    @property
    def settings(self) -> dict[str, int | None]:
        """What is chosen once for an index, by name."""
        return self.model_dump(include={"bits", "passage_tokens", "overlap_tokens", "pool_factor"})

    @model_validator(mode="after")
    def _refuse_wide_overlap(self) -> BuildParameters:
        _refuse_wide_overlap(self.passage_tokens, self.overlap_tokens)
        return self


class SyncParameters(AddParameters):
    """A source to mirror: what it has is added or changed, what it no longer has is deleted."""

    most_deleted: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of the documents that may be missing from the source; with more, nothing is changed",
    )


class ReindexParameters(BaseModel):
    """What to make anew. What is not set stays as it is; when nothing is set, the codebook alone is made anew."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(min_length=1, description="Directory of the index, or s3://bucket/prefix")
    encoder: str | None = Field(
        default=None, description="'embedded', a folder, s3://, or owner/name on the Hugging Face hub"
    )
    bits: Literal[1, 2, 4, 8] | None = Field(default=None, description="Bits for each dimension of a token vector")
    passage_tokens: int | None = Field(default=None, ge=LEAST_PASSAGE_TOKENS, description="Most tokens of a passage")
    overlap_tokens: int | None = Field(default=None, ge=0, description="Tokens that neighbouring passages share")
    pool_factor: int | None = Field(default=None, ge=1, description="Tokens of a passage that share a vector, about")
    judged: Judged | None = Field(
        default=None,
        description="Queries with relevance judgements: a version that answers them worse is not published",
    )
    tolerance: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="How much worse is still published: in nDCG@10; without queries, in recall of exhaustive search",
    )

    @model_validator(mode="after")
    def _refuse_wide_overlap(self) -> ReindexParameters:
        _refuse_wide_overlap(self.passage_tokens, self.overlap_tokens)
        return self


class EvaluateParameters(BaseModel):
    """A version of an index to measure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(min_length=1, description="Directory of the index, or s3://bucket/prefix")
    judged: Judged | None = Field(
        default=None, description="Queries with relevance judgements; without, passages of the index stand for them"
    )
    version: int | None = Field(default=None, ge=1, description="A version; by default the current one")
    beside: int | None = Field(default=None, ge=1, description="Another version to compare it with")
    encoder: str | None = Field(default=None, description="Where the version's encoder is now, if it moved")
    beside_encoder: str | None = Field(default=None, description="The same for the other version")
    tolerance: float = Field(default=0.01, ge=0, le=1, description="How much worse than it calls for a warning")


class EncodeParameters(BaseModel):
    """Shards for a worker to encode; written by a build whose COLONNADE_ENCODE_ON is pool:N."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(min_length=1, description="Directory of the index, or s3://bucket/prefix")
    work: str = Field(min_length=1, description="Key of the work list in the index")


class DeleteParameters(BaseModel):
    """Documents to delete from an index: those with certain ids, or those that match a filter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(min_length=1, description="Directory of the index, or s3://bucket/prefix")
    ids: list[str] = Field(default=[], description="Ids of the documents")
    # Not as a model: Prefect's forms refuse a schema that contains itself.
    filter: dict[str, Any] | None = Field(
        default=None, description='Instead of ids, a filter such as {"op": "<", "column": "year", "value": 1990}'
    )

    @model_validator(mode="after")
    def _refuse_vague(self) -> DeleteParameters:
        if bool(self.ids) == (self.filter is not None):
            raise ValueError("expected either ids or a filter")
        _ = self.matching
        return self

    @property
    def matching(self) -> Filter | None:
        """The filter, if there is one. Raises InputError where it is none."""
        return None if self.filter is None else parse_filter(self.filter)


class VerifyParameters(BaseModel):
    """An index to check against every rule of its format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(min_length=1, description="Directory of the index, or s3://bucket/prefix")
    version: int | None = Field(default=None, ge=1, description="A version; by default the current one")
    all_versions: bool = Field(default=False, description="Check every retained version")


class CompactParameters(BaseModel):
    """When the segments of an index are rewritten."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(min_length=1, description="Directory of the index, or s3://bucket/prefix")
    alike: int = Field(default=8, ge=2, description="How many segments of like size become one")
    deleted_share: float = Field(
        default=0.25, ge=0.01, le=1, description="Share of deleted passages from which a segment is rewritten"
    )


class CollectParameters(BaseModel):
    """What garbage collection keeps, and whether it deletes the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(min_length=1, description="Directory of the index, or s3://bucket/prefix")
    keep_versions: int = Field(default=10, ge=1, description="How many versions to keep at least")
    keep_days: float = Field(default=7.0, ge=0, description="Keep what was current or written within so many days")
    delete: bool = Field(default=False, description="Delete it; otherwise it is only counted")
