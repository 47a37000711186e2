"""Writes the tiny random checkpoints of tests/parity/golden and what the peers' own packages make of them.

    python tests/parity/make_golden.py PEER OUT

PEER is one of `colbert`, `pylate`, `multi-vector`; each runs in an environment of its own, as they need different
versions of transformers: `requirements-PEER.txt` beside this file says which, and how it is made. The suite reads the
files only.

A folder holds a checkpoint as its peer saved it, and for each variant (other settings, same weights) a file with
the vectors of all queries and documents, and their MaxSim.
"""

from __future__ import annotations

import json
import shutil
import string
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

QUERIES = [
    "which bird circles above the harbour?",
    "honey",
    "Where, when & how: does the glacier move (a metre a day)?",
    "a lantern burned all night and nobody came to the harbour where the copper meadow and the violin and the owl "
    "waited for the crane that called above the old mill until the evening came",
    "",
    "  ~ unknown ^ 中文 [MASK] café  ",
    "what [PAD] and [SEP] mean",
]
DOCUMENTS = [
    "The heron circled above the harbour until the evening came.",
    "bees make honey from nectar; they live in hives!",
    "A glacier moves, slowly: a metre a day. " * 8,
    "",
    "?!",
    "honey",
    "  Ein Reiher kreist über dem Hafen; 中文 ~ and ^ emoji 😀 too!  ",
    "what [MASK] and [PAD] and [SEP] mean in a text, nobody knows.",
]
WORDS = [
    "the",
    "a",
    "and",
    "which",
    "bird",
    "circle",
    "##s",
    "above",
    "harbour",
    "honey",
    "where",
    "when",
    "how",
    "does",
    "glacier",
    "move",
    "metre",
    "day",
    "lantern",
]
HIDDEN = 32
Vectors = Sequence[np.ndarray]


def main() -> None:
    """Write what the command line asks for."""
    torch.manual_seed(20)
    peer, out = sys.argv[1], Path(sys.argv[2])
    {"colbert": colbert, "pylate": pylate, "multi-vector": multi_vector}[peer](out)


def colbert(out: Path) -> None:
    """Stanford's package: one BERT."""
    from colbert.infra import ColBERTConfig
    from colbert.modeling.base_colbert import BaseColBERT
    from colbert.modeling.checkpoint import Checkpoint
    from colbert.modeling.colbert import ColBERT, colbert_score

    ColBERT.loaded_extensions = True  # they are compiled, and for its search only
    with tempfile.TemporaryDirectory() as base:
        save_bert(Path(base))
        folder = fresh(out / "colbert-bert")
        made = BaseColBERT(base, ColBERTConfig(dim=16, query_maxlen=24, doc_maxlen=40, checkpoint=base))
        made.save(str(folder))
    metadata = json.loads((folder / "artifact.metadata").read_text())
    kept = ("dim", "query_maxlen", "doc_maxlen", "query_token_id", "doc_token_id", "attend_to_mask_tokens")
    write_json(folder / "artifact.metadata", {name: metadata[name] for name in (*kept, "mask_punctuation")})
    shrink(folder)

    def encode(at: Path) -> tuple[Vectors, Vectors, np.ndarray]:
        checkpoint = Checkpoint(str(at), ColBERTConfig(), verbose=0)
        queries = checkpoint.queryFromText(QUERIES)
        documents, mask = checkpoint.doc(*checkpoint.doc_tokenizer.tensorize(DOCUMENTS), keep_dims="return_mask")
        config = checkpoint.colbert_config
        scores = [colbert_score(query[None], documents, mask, config=config) for query in queries]
        kept = [one[own[:, 0]] for one, own in zip(documents, mask, strict=True)]
        return list(queries.float().numpy()), [one.float().numpy() for one in kept], torch.stack(scores).numpy()

    variants = {
        "default": {},
        "attend": {"attend_to_mask_tokens": True},
        "lengths": {"query_maxlen": 12, "doc_maxlen": 20},
    }
    write_variants(folder, "artifact.metadata", variants, encode)


def pylate(out: Path) -> None:
    """PyLate: one BERT with a Dense module, one ModernBERT with two."""
    from pylate import models as pylate_models
    from pylate import scores as pylate_scores
    from sentence_transformers.models import Transformer

    def encode(at: Path) -> tuple[Vectors, Vectors, np.ndarray]:
        model = pylate_models.ColBERT(str(at), device="cpu")
        queries = model.encode(QUERIES, is_query=True)
        documents = model.encode(DOCUMENTS, is_query=False)
        scores = [[float(pylate_scores.colbert_scores([q], [d])) for d in documents] for q in queries]
        return queries, documents, np.array(scores, np.float32)

    def save(name: str, save_base: Callable[[Path], None], dense: list[Any]) -> Path:
        folder = fresh(out / name)
        with tempfile.TemporaryDirectory() as base:
            save_base(Path(base))
            modules = [Transformer(base), *dense]
            settings = {"query_length": 24, "document_length": 40}
            pylate_models.ColBERT(modules=modules, device="cpu", **settings).save(str(folder))
        shrink(folder)
        return folder

    dense = pylate_models.Dense
    bert = save("pylate-bert", save_bert, [dense(HIDDEN, 16, bias=False)])
    variants = {
        "default": {},
        "attend": {"attend_to_expansion_tokens": True},
        "no-expansion": {"do_query_expansion": False},
        "no-markers": {"query_prefix": "", "document_prefix": ""},
        "prompt": {"prompts": {"search": "honey: "}, "default_prompt_name": "search"},
        "lengths": {"query_length": 12, "document_length": 20, "skiplist_words": ["the", "a"]},
    }
    write_variants(bert, "config_sentence_transformers.json", variants, encode)
    two = [
        dense(HIDDEN, 48, bias=True, activation_function=torch.nn.GELU(), use_residual=True),
        dense(48, 16, bias=False, use_residual=True),
    ]
    modern = save("pylate-modernbert", save_modernbert, two)
    chosen = {name: variants[name] for name in ("default", "attend", "no-expansion")}
    write_variants(modern, "config_sentence_transformers.json", chosen, encode)
    write_pooled(out / "pooling.npz", pylate_models.ColBERT(str(modern), device="cpu"))
    # Last: PyLate draws random numbers whenever it loads a model, and what is pooled is random too.
    write_variants(modern, "config_sentence_transformers.json", {"prompt": variants["prompt"]}, encode)


def write_pooled(path: Path, model: Any) -> None:
    """PyLate's pooling of random unit vectors: some near each other, and documents of odd lengths."""
    arrays: dict[str, np.ndarray] = {}
    for tokens in (1, 2, 3, 7, 40, 161):
        centres = torch.randn(max(tokens // 3, 1), 16)
        vectors = centres[torch.randint(len(centres), (tokens,))] + 0.4 * torch.randn(tokens, 16)
        vectors = torch.nn.functional.normalize(vectors, dim=-1)
        arrays[f"{tokens}"] = vectors.numpy()
        for factor in (2, 3, 5):
            for protected in (0, 1):
                (pooled,) = model.pool_embeddings_hierarchical([vectors], factor, protected)
                arrays[f"{tokens}/{factor}/{protected}"] = pooled.numpy()
    np.savez_compressed(path, **arrays)


def multi_vector(out: Path) -> None:
    """sentence-transformers 6: one BERT, one ModernBERT."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    def encode(at: Path) -> tuple[Vectors, Vectors, np.ndarray]:
        model = MultiVectorEncoder(str(at), device="cpu")
        queries, documents = model.encode_query(QUERIES), model.encode_document(DOCUMENTS)
        scores = model.similarity(queries, documents).numpy()
        return [one.numpy() for one in queries], [one.numpy() for one in documents], scores

    def save(name: str, save_base: Callable[[Path], None], skip: list[str], prompts: dict[str, str]) -> Path:
        folder = fresh(out / name)
        with tempfile.TemporaryDirectory() as base:
            save_base(Path(base))
            modules = [
                Transformer(base, document_length=40, query_expansion={"strategy": "fixed", "length": 24}),
                Dense(HIDDEN, 16, False, torch.nn.Identity(), module_input_name="token_embeddings"),
                MultiVectorMask(skiplist_words=skip),
                Normalize(module_input_name="token_embeddings"),
            ]
            MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu").save(str(folder))
        shrink(folder)
        return folder

    fixed = {"strategy": "fixed", "length": 24}
    variants = {
        "default": {},
        "attend": {"query_expansion": fixed | {"attend": True}},
        "at-least": {"query_expansion": fixed | {"strategy": "min", "length": 12}, "query_length": 30},
        "no-expansion": {"query_expansion": None, "query_length": 16, "document_length": None},
    }
    markers = {"query": "[Q] ", "document": "[D] "}
    bert = save("multi-vector-bert", save_bert, list(string.punctuation), markers)
    write_variants(bert, "sentence_bert_config.json", variants, encode)
    modern = save("multi-vector-modernbert", save_modernbert, [], {"query": "find: ", "document": "text: "})
    chosen = {name: variants[name] for name in ("default", "at-least")}
    write_variants(modern, "sentence_bert_config.json", chosen, encode)


def save_bert(folder: Path) -> None:
    """A random BERT and a lower-casing WordPiece tokenizer that lacks ~ and ^."""
    letters = string.ascii_lowercase + string.digits + "éü中文"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
    signs = [sign for sign in string.punctuation if sign not in "~^"]
    tokens = [*special, *signs, *letters, *(f"##{one}" for one in letters), *WORDS]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    save_tokenizer(tokenizer, folder, ["[Q] ", "[D] "])
    config = BertConfig(
        vocab_size=len(vocabulary) + 2, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)


def save_modernbert(folder: Path) -> None:
    """A random ModernBERT, with local attention too, and a byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([*QUERIES, *DOCUMENTS], trainer)
    save_tokenizer(tokenizer, folder, ["[Q] ", "[D] "])
    config = ModernBertConfig(
        vocab_size=tokenizer.get_vocab_size() + 2, hidden_size=HIDDEN, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=64, local_attention=8, global_attn_every_n_layers=3,
        initializer_range=0.3, initializer_cutoff_factor=3.0, pad_token_id=0, bos_token_id=2, cls_token_id=2,
        eos_token_id=3, sep_token_id=3,
    )  # fmt: skip
    ModernBertModel(config).save_pretrained(folder)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, markers: list[str]) -> None:
    """Save a tokenizer with [CLS] and [SEP] around each text, and the markers as tokens of their own."""
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ends)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=64,
    )  # fmt: skip
    fast.add_tokens(markers, special_tokens=True)
    fast.save_pretrained(folder)


def write_variants(folder: Path, settings: str, variants: dict[str, Any], encode: Callable[[Path], Any]) -> None:
    """For each variant, what the peer makes of a copy of the folder with other settings."""
    for name, changes in variants.items():
        with tempfile.TemporaryDirectory() as copied:
            at = Path(copied) / "model"
            shutil.copytree(folder, at)
            write_json(at / settings, json.loads((folder / settings).read_text()) | changes)
            queries, documents, scores = encode(at)
        np.savez_compressed(
            folder / f"golden-{name}.npz",
            settings=np.frombuffer(json.dumps({settings: changes}).encode(), np.uint8),
            queries=np.concatenate(queries), query_lengths=[len(one) for one in queries],
            documents=np.concatenate(documents), document_lengths=[len(one) for one in documents],
            scores=scores,
        )  # fmt: skip
    inputs = {"queries": QUERIES, "documents": DOCUMENTS}
    write_json(folder.parent / "texts.json", inputs)


def shrink(folder: Path) -> None:
    """Remove what nobody reads."""
    for name in ("README.md", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)  # a temporary folder
    write_json(folder / "config.json", config)


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_json(path: Path, value: object) -> None:
    """JSON that people can read."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
