"""Texts that are hardly texts: each has one result, and none costs the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoding.checkpoint import open_checkpoint
from encoding.chunking import Chunker
from encoding.encoder import Encoder
from tests.encoding.encoded import encode_all

TINY = Path(__file__).parents[1] / "parity" / "golden" / "colbert-bert"
ODD = {
    "empty": "",
    "one character": "a",
    "white space": " \n\t\u3000 ",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "nothing but NUL": "\x00" * 50,
    "a lone surrogate": "honey \ud800 harbour",
    "a surrogate alone": "\udfff",
    "surrogates the wrong way round": "\udc00\ud800",
    "not characters": "\ufffe\uffff\U0010ffff",
    "marks without a letter": "\u0301" * 30,
    "right to left": "\u202eשלום\u202c عربي",
    "spelled like markers": "[CLS] [SEP] [PAD] [MASK] [UNK]",
    "longer than the model": "copper meadow " * 400,
    "a word longer than the model": "a" * 5000,
    "no blank in it": "漢字" * 500,
}


@pytest.mark.parametrize("name", ODD)
def test_each_has_vectors_as_a_query_and_as_a_document(encoder: Encoder, name: str) -> None:
    """At least one and that of the whole text, each finite; in a query the whole weighs half as much as all others."""
    query, document = encoder.encode_query(ODD[name]), encode_all(encoder, [ODD[name]])[0]
    assert len(query) == len(document)
    assert 1 <= len(query) - 1 <= encoder.checkpoint.max_tokens
    np.testing.assert_allclose(np.linalg.norm(document, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(query, axis=1), [(len(query) - 1) / 2] + [1] * (len(query) - 1), rtol=1e-6
    )


def test_none_costs_the_others(encoder: Encoder) -> None:
    """Encoded among them, a good text has the vectors that it has alone."""
    good = "The heron circled above the harbour."
    among = encode_all(encoder, [*ODD.values(), good])
    np.testing.assert_allclose(among[-1], encode_all(encoder, [good])[0], atol=1e-5)


def test_a_lone_surrogate_is_read_as_the_replacement_character(encoder: Encoder) -> None:
    """As decoders of UTF-8 put it for what they cannot read."""
    np.testing.assert_array_equal(encoder.encode_query("a \ud800 b"), encoder.encode_query("a \ufffd b"))


@pytest.mark.parametrize("name", ODD)
def test_each_is_cut_into_passages_that_hold_all_of_it(encoder: Encoder, name: str) -> None:
    """Every character once, in titles too; an empty text has no passage."""
    chunker = Chunker(encoder.tokenizer, passage_tokens=64)
    for title in (None, ODD[name]):
        spans = [(one.start, one.end) for one in chunker.passages(ODD[name], title)]
        assert [start for start, _ in spans] == [0, *(end for _, end in spans)][: len(spans)]
        assert (spans[-1][1] if spans else 0) == len(ODD[name])


@pytest.mark.parametrize(
    ("character", "most"), [("a", 10_000_000), ("word ", 200_000), ("漢", 50_000), ("\x00", 1_000_000)]
)
def test_one_long_line_is_cut_in_time_that_grows_with_its_length(encoder: Encoder, character: str, most: int) -> None:
    """10 MB of one letter are passages of a few thousand characters, not one passage, and take seconds."""
    text = (character * (most // len(character) + 1))[:most]
    chunker = Chunker(encoder.tokenizer, passage_tokens=256)
    passages = chunker.passages(text)
    assert max(one.end - one.start for one in passages) <= 20 * 256
    assert "".join(text[one.start : one.end] for one in passages) == text


def test_a_line_of_ten_megabytes_becomes_passages_that_have_vectors() -> None:
    """The whole road from a document: cut, then encoded beside a good text, which keeps the vectors that it has alone.

    A word of that length is unknown to a tokenizer, and ColBERT keeps no unknown token: the markers stand for each.
    """
    tiny = Encoder(open_checkpoint(str(TINY)), "cpu")
    passage_tokens, length = tiny.checkpoint.max_tokens, 10_000_000
    chunker = Chunker(tiny.tokenizer, passage_tokens=passage_tokens, markers=tiny.document_markers)
    passages = chunker.passages("a" * length)
    assert len(passages) == length // (20 * passage_tokens)
    assert passages[-1].end == length
    good = "The heron circled above the harbour."
    chosen = [one.encoded_text for one in (passages[0], passages[len(passages) // 2], passages[-1])]
    *vectors, beside = encode_all(tiny, [*chosen, good])
    for own in vectors:
        assert own.shape == (3, tiny.checkpoint.dim)
        np.testing.assert_allclose(np.linalg.norm(own, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(own, vectors[0], atol=1e-5)
    np.testing.assert_allclose(beside, encode_all(tiny, [good])[0], atol=1e-5)
