"""Writes the small indexes of tests/imports/golden with the peers' own packages, and the scores that they give.

    python tests/imports/make_golden.py PEER OUT

PEER is one of `ragatouille` (which comes first: it also makes the checkpoint, and the vectors that fast-plaid is
given), `colbert`, `fast-plaid-1.4`, `fast-plaid-1.7`. The suite reads the files only. They were made with Python 3.11,
torch 2.11.0 on a CPU and

    ragatouille:     ragatouille 0.0.9.post2, colbert-ai 0.2.22, transformers 4.48.2, langchain 0.3.30
    colbert:         colbert-ai 0.2.22: its ResidualCodec and IndexSaver, as its Indexer starts processes for a GPU
    fast-plaid-1.4:  fast-plaid 1.4.6.2110
    fast-plaid-1.7:  fast-plaid 1.7.0.2110

An index stands beside NAME.npz: the scores of queries for passages, NaN where the peer's own search left one out;
for `colbert`, MaxSim of what its codec decompresses.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.parity import make_golden as parity

THINGS = ["heron", "glacier", "lantern", "violin", "orchard", "engine", "harbour", "library", "kitchen", "comet"]
KINDS = ["old", "copper", "quiet", "distant", "narrow", "bright", "frozen", "borrowed"]
DOES = ["waits", "carries", "follows", "remembers", "crosses", "repairs", "paints", "measures"]
WHERE = ["at dawn", "in the valley", "behind the mill", "for a year", "under the bridge", "without a sound"]
MAXLEN = 60


def main() -> None:
    """Write what the command line asks for."""
    torch.manual_seed(20)
    random.seed(20)
    np.random.seed(20)  # the peers draw from it
    peer, out = sys.argv[1], Path(sys.argv[2]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    if peer == "ragatouille":
        parity.write_json(out / "texts.json", make_texts())
    texts = json.loads((out / "texts.json").read_text())
    {"ragatouille": ragatouille, "colbert": colbert}.get(peer, fast_plaid)(out, texts)


def make_texts() -> dict[str, Any]:
    """Sentences of few words: 24 documents of one sentence to a page, and queries."""

    def sentence() -> str:
        one, two = random.sample(THINGS, 2)
        return f"the {random.choice(KINDS)} {one} {random.choice(DOES)} the {two} {random.choice(WHERE)}."

    documents = [
        {
            "id": f"{random.choice(THINGS)}-{number}",
            "text": " ".join(sentence().capitalize() for _ in range(random.choice((1, 2, 4, 9)))),
            "metadata": {"year": 1900 + number, "place": random.choice(THINGS)},
        }
        for number in range(24)
    ]
    return {"queries": ["who " + sentence()[4:-1] + "?" for _ in range(6)], "documents": documents}


def make_checkpoint(folder: Path) -> None:
    """A random BERT with a projection to 32 dimensions, whose tokenizer knows every word of the texts."""
    from colbert.infra import ColBERTConfig
    from colbert.modeling.base_colbert import BaseColBERT

    parity.WORDS[:] = sorted({*THINGS, *KINDS, *DOES, *" ".join(WHERE).split(), "the", "who"})
    with tempfile.TemporaryDirectory() as base:
        parity.save_bert(Path(base))
        parity.fresh(folder)
        config = ColBERTConfig(dim=32, query_maxlen=32, doc_maxlen=MAXLEN, checkpoint=base)
        BaseColBERT(base, config).save(str(folder))
    metadata = json.loads((folder / "artifact.metadata").read_text())
    kept = ("dim", "query_maxlen", "doc_maxlen", "query_token_id", "doc_token_id", "attend_to_mask_tokens")
    parity.write_json(folder / "artifact.metadata", {name: metadata[name] for name in (*kept, "mask_punctuation")})
    parity.shrink(folder)


def ragatouille(out: Path, texts: dict[str, Any]) -> None:
    """RAGatouille's own `index` with its splitter, and after that its `delete_from_index`."""
    from ragatouille import RAGPretrainedModel

    make_checkpoint(out / "checkpoint")
    documents = texts["documents"]
    with tempfile.TemporaryDirectory() as root, chdir(root):  # its delete looks nowhere else
        rag = RAGPretrainedModel.from_pretrained(str(out / "checkpoint"), verbose=0)
        made = rag.index(
            [one["text"] for one in documents],
            document_ids=[one["id"] for one in documents],
            document_metadatas=[one["metadata"] for one in documents],
            index_name="whole",
            max_document_length=MAXLEN,
        )
        keep_index(Path(made), out / "ragatouille", root)
        rag = RAGPretrainedModel.from_index(made, verbose=0)
        scores = np.full((len(texts["queries"]), len(rag.model.collection)), np.nan, np.float32)
        for row, query in enumerate(texts["queries"]):
            for hit in rag.search(query, k=len(rag.model.collection)):
                scores[row, hit["passage_id"]] = hit["score"]
        np.savez_compressed(out / "ragatouille.npz", scores=scores)
        rag.delete_from_index([documents[3]["id"], documents[20]["id"]])
        keep_index(Path(made), out / "ragatouille-deleted", root)


def keep_index(made: Path, folder: Path, root: str) -> None:
    """A copy of an index that names no folder of the machine it was made on."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, folder)
    for name in ("metadata.json", "plan.json"):
        path = folder / name
        said = re.sub(r'"[^"]*/checkpoint(/?)"', '"checkpoint"', path.read_text()).replace(root, "/indexes")
        path.write_text(re.sub(r'"(cwd|cmd)":\s*"[^"]*"', r'"\1": ""', said))


def encoded(out: Path, texts: dict[str, Any]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Vectors of the queries and of the documents, one each however long, by ColBERT's own encoder."""
    from colbert.infra import ColBERTConfig
    from colbert.modeling.checkpoint import Checkpoint
    from colbert.modeling.colbert import ColBERT

    ColBERT.loaded_extensions = True  # they are compiled, and for its search only
    checkpoint = Checkpoint(str(out / "checkpoint"), ColBERTConfig(), verbose=0)
    bodies = [one["text"] for one in texts["documents"]]
    vectors, mask = checkpoint.doc(*checkpoint.doc_tokenizer.tensorize(bodies), keep_dims="return_mask")
    kept = [one[own[:, 0].bool()].float() for one, own in zip(vectors, mask, strict=True)]
    return list(checkpoint.queryFromText(texts["queries"]).float()), kept


def colbert(out: Path, texts: dict[str, Any]) -> None:
    """ColBERT's own codec and saver at one bit, in three chunks; the metadata as its Indexer writes it."""
    from colbert.indexing.codecs.residual import ResidualCodec
    from colbert.indexing.index_saver import IndexSaver
    from colbert.infra import ColBERTConfig

    queries, documents = encoded(out, texts)
    config = ColBERTConfig(
        dim=32, nbits=1, root="/indexes", experiment="e", index_name="colbert", checkpoint="checkpoint",
        doc_maxlen=MAXLEN, query_maxlen=32,
    )  # fmt: skip
    folder = parity.fresh(out / "colbert")
    config.index_path = str(folder)
    flat = torch.cat(documents)
    centroids = torch.nn.functional.normalize(flat[torch.randperm(len(flat))[:64]], dim=-1)
    nearest = centroids[(flat @ centroids.T).argmax(1)]
    residuals = (flat - nearest).flatten()
    cutoffs, weights = residuals.quantile(torch.tensor([0.5])), residuals.quantile(torch.tensor([0.25, 0.75]))
    codec = ResidualCodec(config, centroids, (flat - nearest).abs().mean(), cutoffs, weights)
    said = {
        "config": {**config.export(), "index_path": None}, "num_chunks": 3, "num_partitions": 64,
        "num_embeddings": len(flat), "avg_doclen": len(flat) / len(documents),
    }  # fmt: skip
    for name in ("plan.json", "metadata.json"):
        parity.write_json(folder / name, said)
    saver = IndexSaver(config)
    saver.save_codec(codec)
    with saver.thread():
        for chunk, start in enumerate(range(0, len(documents), 10)):
            own = documents[start : start + 10]
            saver.save_chunk(chunk, start, torch.cat(own).half().float(), [len(one) for one in own])
    stored = ResidualCodec.load(str(folder))  # its centroids were rounded when they were saved
    decoded = stored.decompress(stored.compress(flat.half().float()))
    save_maxsim(out / "colbert.npz", queries, list(decoded.split([len(one) for one in documents])))
    rows = [f"{pid}\t{one['text']}\n" for pid, one in enumerate(texts["documents"])]
    (out / "collection.tsv").write_text("".join(rows))


def save_maxsim(path: Path, queries: list[torch.Tensor], documents: list[torch.Tensor]) -> None:
    """The scores of all documents for all queries: float32 [Q, P]."""
    scores = [[float((query @ one.T).max(1).values.sum()) for one in documents] for query in queries]
    np.savez_compressed(path, scores=np.array(scores, np.float32))


def fast_plaid(out: Path, texts: dict[str, Any]) -> None:
    """fast-plaid's own `create` with metadata, then `update` and `delete`, and its own scores at the end."""
    import importlib.metadata

    from fast_plaid import filtering
    from fast_plaid.search import FastPlaid

    name = "fast-plaid-" + ".".join(importlib.metadata.version("fast-plaid").split(".")[:2])
    queries, documents = encoded(out, texts)
    said = [{"id": one["id"], "text": one["text"], **one["metadata"]} for one in texts["documents"]]
    folder = parity.fresh(out / name)
    index = FastPlaid(str(folder), device="cpu")
    index.create(documents[:20], nbits=4, metadata=said[:20], seed=20, start_from_scratch=0, batch_size=7)
    index.update(documents[20:], metadata=said[20:])
    index.delete([2, 21])
    assert len(filtering.get(str(folder))) == len(documents) - 2
    found = index.search(torch.stack(queries), top_k=len(documents), n_ivf_probe=64, n_full_scores=4096)
    scores = np.full((len(queries), len(documents) - 2), np.nan, np.float32)
    for row, hits in enumerate(found):
        for place, score in hits:
            scores[row, place] = score
    np.savez_compressed(out / f"{name}.npz", scores=scores)
    for unread in folder.glob("*.lock"):
        unread.unlink()


if __name__ == "__main__":
    main()
