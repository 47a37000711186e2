"""The benchmark that a GPU is measured by: it counts as torch counts, and runs where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from benchmarks.encoding_share import BERT_BASE, DIM, Shape, measure_share, texts_of, write_checkpoint
from encoding.checkpoint import open_checkpoint
from encoding.encoder import Encoder

TINY = Shape(layers=2, hidden=64, heads=2, intermediate=96, tokens=20, passages=24, matrix=64)


def test_flops_are_those_that_torch_counts(tmp_path: Path) -> None:
    """Every product of a real pass through the model, and the projection."""
    folder = write_checkpoint(tmp_path, TINY)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=torch.ones(3, TINY.tokens, dtype=torch.long))
    counted = counter.get_total_flops() / 3 + 2 * TINY.tokens * TINY.hidden * DIM
    assert counted == TINY.flops_a_passage


def test_each_text_has_as_many_tokens_as_were_asked_for(tmp_path: Path) -> None:
    """So that none is padded, and each costs what was counted."""
    encoder = Encoder(open_checkpoint(write_checkpoint(tmp_path, TINY)), "cpu")
    texts = texts_of(encoder, TINY)
    assert [len(one.ids) for one in encoder.tokenizer.encode_batch(texts)] == [TINY.tokens] * TINY.passages


def test_the_share_is_what_was_encoded_by_what_the_device_does() -> None:
    """On a processor in a tiny shape; a passage of BERT-base has 31 billion FLOPs and a few."""
    measured = measure_share(TINY, "cpu", rounds=1, pool_factors=[2], command="test")
    assert measured.passages_per_second == pytest.approx(TINY.passages / measured.seconds[0])
    done = measured.passages_per_second * TINY.flops_a_passage
    assert measured.share == pytest.approx(done / measured.ceiling_flops_per_second)
    assert measured.pooled_passages_per_second["2"] > 0
    assert BERT_BASE.flops_a_passage == pytest.approx(31.8e9, rel=0.01)
