"""The one parameter of each flow, as the Prefect UI shows it in a form."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from index_format.filters import Filter, parse_filter
from tasks.rows import Source


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


class BuildParameters(AddParameters):
    """An index to build. What is set here stays for the life of the index."""

    bits: Literal[1, 2, 4, 8] = Field(default=4, description="Bits for each dimension of a token vector")
    passage_tokens: int | None = Field(
        default=None, ge=32, description="Most tokens of a passage; by default as many as the encoder takes"
    )
    overlap_tokens: int = Field(default=0, ge=0, description="Tokens that neighbouring passages share")
    pool_factor: int = Field(default=1, ge=1, description="Tokens of a passage that share a vector, about")
    source_fingerprint: str | None = Field(
        default=None, description="Kept in the version, to tell whether it is current"
    )


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
