"""A retriever for LlamaIndex: `pip install 'colonnade[llama-index]'`.

from colonnade import Collection
from colonnade.llama_index import ColonnadeRetriever

retriever = ColonnadeRetriever(Collection("animals-index"), k=3)
retriever.retrieve("Who makes honey?")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from colonnade.collection import Collection
from index_format.errors import InputError

try:
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
except ImportError as error:
    raise InputError("LlamaIndex is not installed: pip install 'colonnade[llama-index]'.") from error

if TYPE_CHECKING:
    from serving.scorer import Recall
    from serving.search import Hit


class ColonnadeRetriever(BaseRetriever):  # type: ignore[misc]  # of a package without types here
    """The best passages of a collection as nodes, whose source is the document. Options as in `Collection.search`."""

    def __init__(
        self, collection: Collection, k: int = 10, *, where: Any = None, recall: Recall = "balanced", **kwargs: Any
    ) -> None:
        """kwargs: of LlamaIndex's own retrievers."""
        self._collection = collection
        self._k = k
        self._where = where
        self._recall = recall
        super().__init__(**kwargs)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._collection.search(query_bundle.query_str, self._k, where=self._where, recall=self._recall)
        return [NodeWithScore(node=_node(hit), score=hit.score) for hit in hits]


def _node(hit: Hit) -> TextNode:
    title = {} if hit.title is None else {"title": hit.title}
    return TextNode(
        id_=f"{hit.document_id}#{hit.passage}",
        text=hit.text,
        metadata={**hit.metadata, **title},
        start_char_idx=hit.start,
        end_char_idx=hit.end,
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=hit.document_id)},
    )
