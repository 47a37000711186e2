"""What the facade gives back: frozen records, and sequences of them that turn into tables.

Light on purpose: pyarrow is imported when a table is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from index_format.errors import InputError
from index_format.manifest import LEAST_PASSAGE_TOKENS

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from serving.explain import Span
    from serving.scorer import Recall
    from serving.search import Hit  # noqa: F401  # named in a string, as it is not imported at run time
    from tasks.rows import Rejected

Record = TypeVar("Record")

_BITS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Records(Sequence[Record], Generic[Record]):
    """Records of one type, in order: a sequence that turns into a table. kind: their dataclass.

    >>> from colonnade import Collection
    >>> collection = Collection("animals-index")
    >>> change = collection.add([{"id": "bees", "text": "Bees make honey."}])
    >>> [version.documents for version in collection.versions()]
    [1]
    >>> collection.versions().to_arrow().column("operation").to_pylist()
    ['build']
    >>> collection.versions().to_dicts()[0]["added"]
    1
    """

    kind: type[Record]
    items: tuple[Record, ...]

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, place: int | slice) -> Record | tuple[Record, ...]:
        return self.items[place]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.items)

    def to_dicts(self) -> list[dict[str, Any]]:
        """A dictionary for each record."""
        return [asdict(item) for item in self.items]  # type: ignore[call-overload]  # items are dataclasses

    def to_arrow(self) -> pa.Table:
        """A table with a column for each field; metadata is a struct.

        Where values of a field are of different types, all of them become text.
        """
        import pyarrow as pa

        rows = self.to_dicts()
        names = [field.name for field in fields(self.kind)]  # type: ignore[arg-type]  # as above
        return pa.table({name: _column([row[name] for row in rows]) for name in names})

    def to_pandas(self) -> pd.DataFrame:
        """The table of `to_arrow` as a dataframe. Needs pandas, which Colonnade does not install."""
        return self.to_arrow().to_pandas()


def _column(values: list[Any]) -> pa.Array:
    import pyarrow as pa

    if any(isinstance(value, dict) for value in values):
        rows = [value or {} for value in values]
        names = list(dict.fromkeys(name for row in rows for name in row))
        missing = pa.array([value is None for value in values])
        own = [_column([row.get(name) for row in rows]) for name in names]
        if own:
            return pa.StructArray.from_arrays(own, names=names, mask=missing)
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if value is None else str(value) for value in values])


@dataclass(frozen=True, slots=True)
class Answer(Records["Hit"]):
    """The hits of one search, best first, and what they are from.

    version: of the index. recall: as it was asked for. scored: passages that got a MaxSim.

    >>> from colonnade import Collection
    >>> collection = Collection("animals-index")
    >>> change = collection.add([{"id": "bees", "text": "Bees make honey.", "legs": 6}])
    >>> answer = collection.search("Who makes something sweet?")
    >>> answer.version, answer.scored
    (1, 1)
    >>> answer[0].document_id, answer[0].metadata
    ('bees', {'legs': 6})
    >>> answer.to_arrow().column_names[:3]
    ['document_id', 'passage', 'score']
    """

    version: int
    recall: Recall
    scored: int


@dataclass(frozen=True, slots=True)
class Match:
    """What one token of a query found in a hit. The weights of a hit, added as float32 in order, are its score.

    token: of the query; None where the query came as vectors. words: those of title or passage that it matched, empty
    for what the encoder put there itself; `spans` are their characters.

    >>> from colonnade import Collection
    >>> collection = Collection("animals-index")
    >>> change = collection.add([{"id": "bees", "text": "Bees make honey."}])
    >>> best = max(collection.explain("honey"), key=lambda match: match.weight)
    >>> best.token, best.words, best.document_id
    ('honey', 'honey', 'bees')
    """

    document_id: str
    passage: int
    token: str | None
    weight: float
    words: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What adding or deleting did. version: one that has it. rejected: rows that cannot be indexed, with reasons.

    >>> from colonnade import Collection
    >>> change = Collection("animals-index").add([{"id": "bees", "text": "Bees make honey."}, {"id": "x", "text": ""}])
    >>> change.version, change.added, change.changed, change.unchanged, change.deleted
    (1, 1, 0, 0, 0)
    >>> change.rejected[0].id, change.rejected[0].reason
    ('x', 'the text is empty')
    """

    version: int
    added: int
    changed: int
    unchanged: int
    deleted: int
    rejected: Records[Rejected]

    def to_dict(self) -> dict[str, Any]:
        """The same as a dictionary, the rejected rows as dictionaries too."""
        counts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "rejected"}
        return {**counts, "rejected": self.rejected.to_dicts()}


@dataclass(frozen=True, slots=True)
class Version:
    """One state of the whole index, and the commit that made it. created_at: ISO 8601, UTC.

    >>> from colonnade import Collection
    >>> collection = Collection("animals-index")
    >>> change = collection.add([{"id": "bees", "text": "Bees make honey."}])
    >>> collection.tag("first")
    2
    >>> newest, *older = collection.versions()
    >>> newest.version, newest.operation, older[0].tags
    (2, 'tag', ('first',))
    """

    version: int
    tags: tuple[str, ...]
    documents: int
    operation: str
    created_at: str
    added: int
    changed: int
    deleted: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What is fixed when the first documents of an index come, until it is made anew (`colonnade reindex`).

    bits: for each dimension of a token vector, 1, 2, 4 or 8. passage_tokens: of a passage at most; as many as the
    encoder takes by default. overlap_tokens: that neighbouring passages share. pool_factor: tokens that share a
    vector, about; 1 pools none. Raises InputError.

    >>> from colonnade import Collection, Settings
    >>> collection = Collection("animals-index", settings=Settings(bits=8, passage_tokens=64))
    >>> change = collection.add([{"id": "bees", "text": "Bees make honey."}])
    >>> collection.inspect()["bits"]
    8
    """

    bits: int = 4
    passage_tokens: int | None = None
    overlap_tokens: int = 0
    pool_factor: int = 1

    def __post_init__(self) -> None:
        if self.bits not in _BITS:
            raise InputError(f"bits: expected 1, 2, 4 or 8, got {self.bits}.")
        if self.passage_tokens is not None and self.passage_tokens < LEAST_PASSAGE_TOKENS:
            raise InputError(f"passage_tokens: expected at least {LEAST_PASSAGE_TOKENS}, got {self.passage_tokens}.")
        if self.overlap_tokens < 0 or self.pool_factor < 1:
            raise InputError(
                "overlap_tokens, pool_factor: expected at least 0 and 1, "
                f"got {self.overlap_tokens} and {self.pool_factor}."
            )
