"""RAGatouille's `RAGPretrainedModel` on a Colonnade index, for programs that were written for RAGatouille 0.0.9.

    from colonnade.ragatouille import RAGPretrainedModel

    RAG = RAGPretrainedModel.from_pretrained("colbert-ir/colbertv2.0")
    RAG.index(collection=[text], index_name="Miyazaki", max_document_length=180, split_documents=True)
    RAG.search("What animation studio did Miyazaki found?", k=3)

Signatures and results are RAGatouille's; what it does wrong is done right (docs/decisions/0021 has the list). The index
is a directory under `.ragatouille/colbert/indexes/`, which every command and `Collection` open.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from colonnade.collection import Collection
from colonnade.in_memory import EncodedTexts
from colonnade.records import Settings
from encoding.encoder import Encoder, load_encoder, load_encoder_of
from index_format.errors import IndexNotFound, InputError
from index_format.index import Index
from index_format.manifest import LEAST_PASSAGE_TOKENS

if TYPE_CHECKING:
    from colonnade.langchain import RagatouilleCompressor, RagatouilleRetriever
    from serving.search import Hit

_log = logging.getLogger("colonnade.ragatouille")

OWNER = "ragatouille_document"
"""Metadata column: of which document a piece is, where a splitter made several of it."""
METADATA = "ragatouille_metadata"
"""Metadata column: the document's metadata as JSON, so that it comes back as it was given."""

Piece = dict[str, str]
Splitter = Callable[..., list[Piece]]
Result = dict[str, Any]
Results = list[Result] | list[list[Result]]

_PIECE = "\u241f"  # between a document's id and the number of a piece; in no id that people choose
_MOST_IDS = 10_000  # of one comparison in a filter


def sentence_splitter(documents: list[str], document_ids: list[str], chunk_size: int = 256) -> list[Piece]:  # noqa: ARG001
    """The documents whole: the index itself cuts them at sentences, into passages of at most `chunk_size` tokens."""
    return [{"document_id": id_, "content": text} for id_, text in zip(document_ids, documents, strict=True)]


class RAGPretrainedModel:
    """A late-interaction encoder, the index it works on, and texts encoded in memory."""

    def __init__(self, encoder: Encoder, index_root: str | Path = ".ragatouille/") -> None:
        self._encoder = encoder
        self._folder = Path(index_root) / "colbert" / "indexes"
        self._opened: dict[str, Collection] = {}
        self._in_memory: EncodedTexts | None = None
        self._in_memory_metadata: list[dict[Any, Any] | None] = []
        self.index_name: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        n_gpu: int = -1,  # noqa: ARG003  # a GPU is used where there is one
        verbose: int = 1,  # noqa: ARG003  # logging decides
        index_root: str | None = None,
    ) -> RAGPretrainedModel:
        """Load an encoder: "embedded", a folder, s3://, or owner/name on the Hugging Face hub. Raises InputError."""
        return cls(load_encoder(str(pretrained_model_name_or_path)), index_root or ".ragatouille/")

    @classmethod
    def from_index(cls, index_path: str | Path, n_gpu: int = -1, verbose: int = 1) -> RAGPretrainedModel:  # noqa: ARG003
        """Open any index of Colonnade with the encoder that it was written with. Raises IndexNotFound."""
        path = Path(index_path)
        made = cls(load_encoder_of(Index.at(path).current().encoder, None))
        made._folder, made.index_name = path.parent, path.name
        return made

    def index(
        self,
        collection: list[str],
        document_ids: list[str] | None = None,
        document_metadatas: list[dict[Any, Any]] | None = None,
        index_name: str | None = None,
        overwrite_index: bool | str = True,
        max_document_length: int = 256,
        split_documents: bool = True,
        document_splitter_fn: Splitter | None = sentence_splitter,
        preprocessing_fn: Callable[..., Any] | list[Callable[..., Any]] | None = None,
        bsize: int = 32,  # noqa: ARG002  # batches are bounded by tokens
        use_faiss: bool = False,  # noqa: ARG002
    ) -> str:
        """Build an index and return its path. One that is there is replaced once the new one is whole.

        overwrite_index: False refuses one that is there, "reuse" takes it as it is.
        max_document_length: tokens of a passage, at most as many as the encoder takes.
        """
        self.index_name = index_name or self.index_name or f"{Path(self._encoder.record.name).name}new_index"
        path = self._folder / self.index_name
        there = Index.at(path)
        there.refuse_foreign_directory()
        if there.head() is not None and overwrite_index == "reuse":
            return str(path)
        if there.head() is not None and overwrite_index is False:
            raise InputError(f"{path}: there is an index of that name. Give another one, or overwrite_index=True.")
        splitter = document_splitter_fn if split_documents else None
        rows = _rows(
            collection, document_ids, document_metadatas, splitter, preprocessing_fn, chunk_size=max_document_length
        )
        tokens = min(max_document_length, self._encoder.checkpoint.max_tokens)
        settings = Settings(passage_tokens=max(LEAST_PASSAGE_TOKENS, tokens))
        self._opened.pop(self.index_name, None)
        self._replace(path, rows, settings)
        return str(path)

    def add_to_index(
        self,
        new_collection: list[str],
        new_document_ids: list[str] | None = None,
        new_document_metadatas: list[dict[Any, Any]] | None = None,
        index_name: str | None = None,
        split_documents: bool = True,
        document_splitter_fn: Splitter | None = sentence_splitter,
        preprocessing_fn: Callable[..., Any] | list[Callable[..., Any]] | None = None,
        bsize: int = 32,  # noqa: ARG002
        use_faiss: bool = False,  # noqa: ARG002
    ) -> None:
        """Add documents as one new version; a document whose id is there gets the new content.

        Where its splitter made more pieces of it before, a second version leaves out those that are too many.
        """
        opened = self._collection(index_name)
        splitter = document_splitter_fn if split_documents else None
        tokens = int(opened.inspect()["passage_tokens"])
        given = (new_collection, new_document_ids, new_document_metadatas)
        rows = _rows(*given, splitter, preprocessing_fn, chunk_size=tokens)
        fresh = {str(row["id"]) for row in rows}
        before = _stored_ids(opened, {str(row.get(OWNER) or row["id"]) for row in rows})
        _warn_of(opened.add(rows).rejected)
        if gone := [one for one in before if one not in fresh]:
            opened.delete(gone)  # pieces that the document no longer has

    def delete_from_index(self, document_ids: str | Iterable[str], index_name: str | None = None) -> None:
        """Delete documents by their ids, as one new version; ids that are not there change nothing."""
        opened = self._collection(index_name)
        wanted = {document_ids} if isinstance(document_ids, str) else set(document_ids)
        if stored := _stored_ids(opened, wanted):
            opened.delete(stored)

    def search(
        self,
        query: str | list[str],
        index_name: str | None = None,
        k: int = 10,
        force_fast: bool = False,
        zero_index_ranks: bool = False,
        doc_ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Results:
        """The best passages for a query, best first: content, score, rank, document_id, passage_id, and perhaps
        document_metadata. For several queries a list of such lists.

        doc_ids: the only documents that may be found, for every one of the queries. kwargs: `where` and `recall`, as
        `Collection.search` takes them. Raises IndexNotFound.
        """
        opened = self._collection(index_name)
        queries = [query] if isinstance(query, str) else list(query)
        if force_fast:
            kwargs.setdefault("recall", "fast")
        if doc_ids is not None:
            kwargs["where"] = _both(kwargs.get("where"), _of_documents(opened, doc_ids))
            if not doc_ids:
                return _shaped([[] for _ in queries])
        first = 0 if zero_index_ranks else 1
        answers = opened.batch_search(queries, k, **kwargs)
        return _shaped([[_result(hit, rank) for rank, hit in enumerate(answer, first)] for answer in answers])

    def rerank(
        self,
        query: str | list[str],
        documents: list[str],
        k: int = 10,
        zero_index_ranks: bool = False,
        bsize: Literal["auto"] | int = "auto",  # noqa: ARG002
    ) -> Results:
        """Some texts in order of their scores, at most `k`: content, score, rank and result_index of each."""
        texts = EncodedTexts(self._encoder)
        texts.add(documents)
        return self._ranked(texts, query, k, first=0 if zero_index_ranks else 1)

    def encode(
        self,
        documents: list[str],
        bsize: Literal["auto"] | int = "auto",  # noqa: ARG002
        document_metadatas: list[dict[Any, Any]] | None = None,
        verbose: bool = True,  # noqa: ARG002
        max_document_length: Literal["auto"] | int = "auto",
    ) -> None:
        """Encode texts and keep them in memory, beside those that are there. The first call sets the length."""
        if document_metadatas is not None and len(document_metadatas) != len(documents):
            raise ValueError("document_metadatas must be the same length as documents")
        if self._in_memory is None:
            most = None if max_document_length == "auto" else max_document_length
            self._in_memory = EncodedTexts(self._encoder, most)
        self._in_memory.add(documents)
        nothing: list[dict[Any, Any] | None] = [None] * len(documents)
        self._in_memory_metadata.extend(document_metadatas or nothing)

    def search_encoded_docs(self, query: str | list[str], k: int = 10, bsize: int = 32) -> Results:  # noqa: ARG002
        """The best of the texts in memory, as `rerank` gives them, with document_metadata where it was given."""
        if self._in_memory is None:
            raise InputError("No documents are encoded: call encode first.")
        return self._ranked(self._in_memory, query, k, metadata=self._in_memory_metadata)

    def clear_encoded_docs(self, force: bool = False) -> None:  # noqa: ARG002  # nothing waits, so nothing is forced
        """Forget the texts in memory."""
        self._in_memory, self._in_memory_metadata = None, []

    def as_langchain_retriever(self, **kwargs: Any) -> RagatouilleRetriever:
        """A retriever of LangChain (`colonnade[langchain]`). kwargs: of `search`."""
        from colonnade.langchain import RagatouilleRetriever

        return RagatouilleRetriever(model=self, kwargs=kwargs)

    def as_langchain_document_compressor(self, k: int = 5, **kwargs: Any) -> RagatouilleCompressor:
        """A compressor of LangChain (`colonnade[langchain]`) that keeps the best `k`. kwargs: of `rerank`."""
        from colonnade.langchain import RagatouilleCompressor

        return RagatouilleCompressor(model=self, k=k, kwargs=kwargs)

    def _collection(self, index_name: str | None) -> Collection:
        """The index of a name, which becomes the current one; opened once."""
        name = index_name or self.index_name
        if name is None:
            raise IndexNotFound("There is no index yet: call index, or give an index_name.")
        if name not in self._opened:
            Index.at(self._folder / name).current()  # raises for one that is not there, before the name is kept
            self._opened[name] = Collection(self._folder / name, encoder=self._encoder.record.name)
        self.index_name = name
        return self._opened[name]

    def _replace(self, path: Path, rows: list[dict[str, Any]], settings: Settings) -> None:
        """Build an index beside the one that is at `path`, if any, and put it there."""
        fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            built = Collection(fresh, encoder=self._encoder.record.name, settings=settings)
            _warn_of(built.add(rows).rejected)
            if path.exists():
                old = fresh.with_name(f"{fresh.name}.old")
                path.rename(old)
                try:
                    fresh.rename(path)
                except OSError:
                    old.rename(path)
                    raise
                shutil.rmtree(old)
            else:
                fresh.rename(path)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _ranked(
        self,
        texts: EncodedTexts,
        query: str | list[str],
        k: int,
        *,
        first: int = 1,
        metadata: Sequence[dict[Any, Any] | None] = (),
    ) -> Results:
        found = []
        for vectors in self._encoder.encode_queries([query] if isinstance(query, str) else query):
            results = []
            for rank, one in enumerate(texts.best(vectors, k), first):
                at = one.position
                result = {"content": texts.texts[at], "score": one.score, "rank": rank, "result_index": at}
                if metadata and metadata[at] is not None:
                    result["document_metadata"] = metadata[at]
                results.append(result)
            found.append(results)
        return _shaped(found)


def _shaped(found: list[list[Result]]) -> Results:
    """As RAGatouille has it: the results alone where there is one query, though it came in a list."""
    return found[0] if len(found) == 1 else found


def _result(hit: Hit, rank: int) -> Result:
    told = dict(hit.metadata)
    document_id, metadata = told.pop(OWNER, hit.document_id), told.pop(METADATA, None)
    result = {
        "content": hit.text,
        "score": hit.score,
        "rank": rank,
        "document_id": document_id,
        "passage_id": _passage_id(hit),
    }
    if metadata is not None or told:
        result["document_metadata"] = told if metadata is None else json.loads(str(metadata))
    return result


def _passage_id(hit: Hit) -> int:
    """A number for a passage that stays the same whatever is added, deleted or compacted: 53 bits, as JSON can say."""
    digest = hashlib.blake2b(f"{hit.document_id}\0{hit.passage}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 11


def _rows(
    collection: Sequence[str],
    document_ids: Sequence[str] | None,
    document_metadatas: Sequence[dict[Any, Any]] | None,
    splitter: Splitter | None,
    preprocessing_fn: Callable[..., Any] | list[Callable[..., Any]] | None,
    *,
    chunk_size: int,
) -> list[dict[str, Any]]:
    """Rows for an index: a document under its id, or its pieces where a splitter made several."""
    ids = _checked_ids(document_ids, len(collection))
    if document_metadatas is not None and len(document_metadatas) != len(collection):
        raise ValueError("document_metadatas must be the same length as collection")
    told = dict(zip(ids, document_metadatas or [{}] * len(ids), strict=True))
    pieces: Any = list(collection)
    if splitter is not None:
        pieces = splitter(pieces, ids, chunk_size=chunk_size)
    functions = preprocessing_fn if isinstance(preprocessing_fn, list) else [preprocessing_fn]
    for function in filter(None, functions):
        pieces = function(pieces, ids)
    by_document: dict[str, list[str]] = {}
    for document_id, content in _paired(pieces, ids):
        by_document.setdefault(document_id, []).append(content)
    return [row for document_id, own in by_document.items() for row in _document(document_id, own, told)]


def _document(document_id: str, pieces: list[str], told: dict[str, dict[Any, Any]]) -> Iterator[dict[str, Any]]:
    metadata = told.get(document_id)
    given = {METADATA: json.dumps(metadata, ensure_ascii=False, default=str)} if metadata else {}
    if len(pieces) == 1:
        yield {"id": document_id, "text": pieces[0], **given}
        return
    for number, piece in enumerate(pieces):
        yield {"id": f"{document_id}{_PIECE}{number}", "text": piece, OWNER: document_id, **given}


def _paired(pieces: list[Any], ids: list[str]) -> Iterator[tuple[str, str]]:
    """Document ids and contents, of pieces or of texts that were not split."""
    for place, piece in enumerate(pieces):
        yield (ids[place], piece) if isinstance(piece, str) else (piece["document_id"], piece["content"])


def _checked_ids(document_ids: Sequence[str] | None, count: int) -> list[str]:
    if document_ids is None:
        return [str(uuid.uuid4()) for _ in range(count)]
    if len(document_ids) != count:
        raise ValueError("document_ids must be the same length as collection")
    ids = [str(one) for one in document_ids]
    if len(set(ids)) != len(ids):
        raise ValueError("document_ids must be unique")
    if any(not one.strip() for one in ids):
        raise ValueError("document_ids must not contain empty strings")
    return ids


def _of_documents(opened: Collection, ids: Iterable[str]) -> dict[str, Any]:
    """The filter that finds some documents, whole ones and those in pieces."""
    wanted = sorted(set(ids))
    columns = ["id", OWNER] if OWNER in opened.columns() else ["id"]
    groups = [wanted[start : start + _MOST_IDS] for start in range(0, len(wanted), _MOST_IDS)]
    either = [{"op": "in", "column": column, "values": group} for column in columns for group in groups]
    return {"op": "or", "filters": either}


def _both(one: Any, other: dict[str, Any]) -> dict[str, Any]:
    if one is None:
        return other
    return {"op": "and", "filters": [json.loads(one) if isinstance(one, str) else one, other]}


def _stored_ids(opened: Collection, ids: set[str]) -> list[str]:
    """Under which ids the index holds some documents: their own, or those of their pieces."""
    return opened.matching_ids(_of_documents(opened, ids)) if ids else []


def _warn_of(rejected: Sequence[Any]) -> None:
    for row in rejected:
        _log.warning("document %s was not indexed: %s", row.id, row.reason)
