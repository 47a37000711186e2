"""A model that was trained for one vector a text gives that vector too, in front of those of its tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from encoding.checkpoint import open_checkpoint
from encoding.encoder import WHOLE_TEXT, Encoder

TEXTS = ["Where do herons nest?", "A lantern, in the harbour, burned all night - and nobody came."]
TINY = Path(__file__).parents[1] / "parity" / "golden" / "multi-vector-bert"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plain encoder as sentence-transformers saves it: a transformer, a Pooling module, a Dense one."""
    made = tmp_path / "model"
    shutil.copytree(TINY, made, ignore=shutil.ignore_patterns("golden-*", "config_sentence_transformers.json"))
    (made / "sentence_bert_config.json").write_text("{}")
    pooling = {"idx": 1, "path": "pooling", "type": "sentence_transformers.models.Pooling"}
    modules = json.loads((made / "modules.json").read_text())
    (made / "modules.json").write_text(json.dumps([modules[0], pooling, {**modules[1], "idx": 2}]))
    (made / "pooling").mkdir()
    return made


def _encoder(folder: Path, **pooling: object) -> Encoder:
    (folder / "pooling" / "config.json").write_text(json.dumps(pooling))
    return Encoder(open_checkpoint(str(folder)), "cpu")


def test_it_is_the_mean_of_all_states_as_the_model_was_trained(encoder: Encoder) -> None:
    """Markers and punctuation count in it, whose own vectors are not kept."""
    folder = encoder.checkpoint.folder
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32)
    found = dict(pair for batch in encoder.encode(TEXTS) for pair in batch)
    for position, text in enumerate(TEXTS):
        with torch.inference_mode():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(found[position][0], mean / np.linalg.norm(mean), atol=1e-5)


def test_in_a_query_it_weighs_half_as_much_as_all_tokens_together(encoder: Encoder) -> None:
    """The same direction, and half as long as there are tokens."""
    vectors = encoder.encode_query(TEXTS[0])
    (((_, document),),) = encoder.encode([TEXTS[0]])
    tokens = len(vectors) - 1
    assert tokens == len(encoder.tokenizer.encode("Where do herons nest", add_special_tokens=False).ids)
    np.testing.assert_allclose(vectors[0], tokens / 2 * document[0], rtol=1e-5)
    np.testing.assert_array_equal(vectors[1:], document[1:])


def test_queries_encoded_together_have_the_same_weights(encoder: Encoder) -> None:
    """Whatever the batch."""
    for together, text in zip(encoder.encode_queries(TEXTS), TEXTS, strict=True):
        np.testing.assert_allclose(together, encoder.encode_query(text), atol=1e-5)


def test_among_the_tokens_it_is_named_and_has_no_place(encoder: Encoder) -> None:
    """So that an explanation has one token for each vector."""
    first, second = encoder.query_tokens("honey")
    assert (first.token, first.span) == (WHOLE_TEXT, None)
    assert second.span == (0, 5)
    pooled = encoder.document_tokens("the heron circled above the quiet harbour", 3)
    assert [token.token for token in pooled[0]] == [WHOLE_TEXT]
    assert all(token.span for group in pooled[1:] for token in group)


@pytest.mark.parametrize("setting", [{"pooling_mode": "mean"}, {"pooling_mode_mean_tokens": True}])
def test_both_spellings_of_a_mean_are_read(folder: Path, setting: dict[str, object]) -> None:
    """sentence-transformers has had a key for each mode, and has one for all. A Dense module projects the mean, too."""
    encoder = _encoder(folder, **setting)
    assert encoder.checkpoint.layout.whole == "mean"
    assert encoder.encode_query("honey, harbour").shape == (1 + 2, 16)


def test_the_first_state_may_be_what_stands_for_the_whole(folder: Path) -> None:
    """A model that was trained on its first marker."""
    mean, first = _encoder(folder, pooling_mode="mean"), _encoder(folder, pooling_mode="cls")
    text = "honey, harbour"
    assert first.checkpoint.layout.whole == "cls"
    np.testing.assert_array_equal(first.encode_query(text)[1:], mean.encode_query(text)[1:])
    assert not np.allclose(first.encode_query(text)[0], mean.encode_query(text)[0])


@pytest.mark.parametrize(
    "setting",
    [
        {"pooling_mode": "max"},
        {"pooling_mode": ["mean", "cls"]},
        {"pooling_mode": "mean", "include_prompt": False},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {},
    ],
)
def test_another_kind_of_pooling_leaves_the_tokens_alone(folder: Path, setting: dict[str, object]) -> None:
    """No vector is made up that the model was not trained to give."""
    encoder = _encoder(folder, **setting)
    assert encoder.checkpoint.layout.whole is None
    assert len(encoder.encode_query("honey, harbour")) == 2


def test_how_it_is_made_is_in_the_fingerprint(folder: Path) -> None:
    """An index of other vectors is another index."""
    prints = {_encoder(folder, pooling_mode=one).checkpoint.fingerprint for one in ("mean", "cls", "max")}
    assert len(prints) == 3
