"""Retrievers for LangChain: `pip install 'colonnade[langchain]'`.

from colonnade import Collection
from colonnade.langchain import ColonnadeRetriever

retriever = ColonnadeRetriever(collection=Collection("animals-index"), k=3)
retriever.invoke("Who makes honey?")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from index_format.errors import InputError

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever
except ImportError as error:
    raise InputError("LangChain is not installed: pip install 'colonnade[langchain]'.") from error


class ColonnadeRetriever(BaseRetriever):  # type: ignore[misc]  # of a package without types here
    """The best passages of a collection. where, recall: as `Collection.search` takes them.

    A document's metadata is its own, and beside that its id, title, passage, start, end and score.
    """

    collection: Any
    k: int = 10
    where: Any = None
    recall: str = "balanced"

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:  # noqa: ARG002
        hits = self.collection.search(query, self.k, where=self.where, recall=self.recall)
        return [
            Document(
                id=f"{hit.document_id}#{hit.passage}",
                page_content=hit.text,
                metadata={
                    **hit.metadata,
                    "document_id": hit.document_id,
                    "title": hit.title,
                    "passage": hit.passage,
                    "start": hit.start,
                    "end": hit.end,
                    "score": hit.score,
                },
            )
            for hit in hits
        ]


class RagatouilleRetriever(BaseRetriever):  # type: ignore[misc]
    """What RAGatouille's `as_langchain_retriever` returns: passages with the metadata of their documents."""

    model: Any
    kwargs: dict[str, Any] = Field(default_factory=dict)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:  # noqa: ARG002
        found = self.model.search(query, **self.kwargs)
        return [Document(page_content=one["content"], metadata=one.get("document_metadata", {})) for one in found]


class RagatouilleCompressor(BaseDocumentCompressor):  # type: ignore[misc]
    """What RAGatouille's `as_langchain_document_compressor` returns: the best `k` documents, with their scores."""

    model: Any
    kwargs: dict[str, Any] = Field(default_factory=dict)
    k: int = 5

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Any = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> list[Document]:
        """The best documents for a query, best first; those that were given stay as they are."""
        texts = [document.page_content for document in documents]
        ranked = self.model.rerank(query=query, documents=texts, k=kwargs.get("k", self.k), **self.kwargs)
        return [
            documents[one["result_index"]].model_copy(
                update={"metadata": {**documents[one["result_index"]].metadata, "relevance_score": one["score"]}}
            )
            for one in ranked
        ]
