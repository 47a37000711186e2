"""Retrievers for other frameworks, against the real packages where they are installed."""

from __future__ import annotations

import asyncio
import sys

import pytest

from colonnade import Collection
from index_format.errors import InputError
from tests.colonnade.test_facade import ANIMALS


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Three documents."""
    collection = Collection(tmp_path_factory.mktemp("frameworks") / "index")
    collection.add(ANIMALS)
    return collection


def test_langchain_retrieves_passages_with_where_they_are_from(animals: Collection) -> None:
    """By invoke, ainvoke and in a chain; a filter holds."""
    pytest.importorskip("langchain_core", reason="colonnade[langchain] is not installed")
    from langchain_core.runnables import RunnableLambda

    from colonnade.langchain import ColonnadeRetriever

    retriever = ColonnadeRetriever(collection=animals, k=2)
    best, _second = retriever.invoke("Who makes honey?")
    assert (best.page_content, best.id) == ("They make honey from nectar.", "bees#0")
    assert {**best.metadata, "score": 0} == {
        "legs": 6,
        "document_id": "bees",
        "title": "Bees",
        "passage": 0,
        "start": 0,
        "end": 28,
        "score": 0,
    }
    assert asyncio.run(retriever.ainvoke("Who makes honey?"))[0] == best
    few = ColonnadeRetriever(collection=animals, where={"op": "==", "column": "legs", "value": 4}, recall="exact")
    chain = few | RunnableLambda(lambda documents: {one.metadata["document_id"] for one in documents})
    assert chain.invoke("Who makes honey?") == {"cats", "dogs"}


def test_llama_index_retrieves_nodes_whose_source_is_the_document(animals: Collection) -> None:
    """With text, metadata, place and score; and async."""
    pytest.importorskip("llama_index.core", reason="colonnade[llama-index] is not installed")
    from colonnade.llama_index import ColonnadeRetriever

    retriever = ColonnadeRetriever(animals, k=2)
    best, second = retriever.retrieve("Who makes honey?")
    assert (best.text, best.node_id, best.node.ref_doc_id) == ("They make honey from nectar.", "bees#0", "bees")
    assert best.metadata == {"legs": 6, "title": "Bees"}
    assert (best.node.start_char_idx, best.node.end_char_idx) == (0, 28)
    assert best.score > second.score
    assert asyncio.run(retriever.aretrieve("Who makes honey?"))[0].node_id == "bees#0"
    few = ColonnadeRetriever(animals, where={"op": "==", "column": "legs", "value": 4})
    assert {one.node.ref_doc_id for one in few.retrieve("Who makes honey?")} == {"cats", "dogs"}


@pytest.mark.parametrize(("ours", "theirs"), [("langchain", "langchain_core"), ("llama_index", "llama_index")])
def test_a_framework_that_is_missing_is_named_with_its_extra(
    ours: str, theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a bare ImportError."""
    for name in [name for name in sys.modules if name == theirs or name.startswith(f"{theirs}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, theirs, None)
    monkeypatch.delitem(sys.modules, f"colonnade.{ours}", raising=False)
    with pytest.raises(InputError, match=rf"pip install 'colonnade\[{ours.replace('_', '-')}\]'"):
        __import__(f"colonnade.{ours}")
