"""The hash of all that a document says: what changes it, and what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.stage_documents import content_hash

values = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=3))


@given(
    title=st.none() | st.text(max_size=5),
    text=st.text(max_size=20),
    metadata=st.dictionaries(st.text(max_size=5), values, max_size=5),
)
def test_the_content_hash_does_not_depend_on_the_order_of_columns(
    title: str | None, text: str, metadata: dict[str, object]
) -> None:
    """Nor on how nested fields are ordered."""
    backwards = dict(reversed(metadata.items()))
    assert content_hash(title, text, metadata) == content_hash(title, text, backwards)
    assert content_hash(title, text, {"in": metadata}) == content_hash(title, text, {"in": backwards})


@pytest.mark.parametrize(
    ("title", "text", "metadata"),
    [
        ("U", "x", {"year": 1}),
        (None, "x", {"year": 1}),
        ("T", "y", {"year": 1}),
        ("T", "x ", {"year": 1}),
        ("T", "x", {"year": 2}),
        ("T", "x", {"year": "1"}),
        ("T", "x", {"month": 1}),
        ("T", "x", {"year": 1, "month": 2}),
        ("T", "x", {"year": [1]}),
        ("T", "x", None),
        ("Tx", "", {"year": 1}),
    ],
)
def test_the_content_hash_changes_with_all_that_a_document_says(
    title: str | None, text: str, metadata: dict[str, object] | None
) -> None:
    """Title, text, and each field's name, value and type."""
    assert content_hash(title, text, metadata) != content_hash("T", "x", {"year": 1})


def test_no_metadata_and_empty_metadata_are_the_same() -> None:
    """A source with no further columns says nothing further."""
    assert content_hash("T", "x", None) == content_hash("T", "x", {})


def test_a_field_that_is_null_says_the_same_as_one_that_is_absent() -> None:
    """At every depth; a null in a list has its place there, and stays."""
    assert content_hash("T", "x", {"year": 1, "month": None}) == content_hash("T", "x", {"year": 1})
    assert content_hash("T", "x", {"year": None}) == content_hash("T", "x", None)
    deep = {"by": [{"name": "Ann", "born": None}], "at": {"page": None, "line": 2}}
    assert content_hash("T", "x", deep) == content_hash("T", "x", {"by": [{"name": "Ann"}], "at": {"line": 2}})
    assert content_hash("T", "x", {"tags": ["a", None]}) != content_hash("T", "x", {"tags": ["a"]})
