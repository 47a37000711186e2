"""Text to token vectors: what the vectors are, which tokens have one, and that batches change nothing.

The first vector of the embedded default is that of the whole text: `test_whole_vector.py`.
"""

from __future__ import annotations

import string

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from encoding.encoder import BATCH_TOKENS, Encoder
from tests.encoding.encoded import encode_all

DIM = 384
TEXTS = [
    "Where do herons nest?",
    "Copper",
    "The lantern in the harbour burned all night, and nobody came.",
    "Ein Reiher kreist über dem Hafen; 中文 and emoji 😀 too!",
    "violin " * 40,
    "A glacier moves a metre a day. " * 6,
    "saffron and ember " * 86,  # more than the encoder takes
]


@pytest.fixture(scope="module")
def encoded(encoder: Encoder) -> list[NDArray[np.float32]]:
    """The vectors of TEXTS, encoded together."""
    return encode_all(encoder, TEXTS)


def test_token_vectors_are_float32_of_length_one(encoded: list[NDArray[np.float32]]) -> None:
    """So that a product of two is their cosine."""
    for vectors in encoded:
        assert vectors.dtype == np.float32
        assert vectors.shape[1] == DIM
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_every_position_comes_exactly_once(encoder: Encoder) -> None:
    """Texts are encoded shortest first, over several batches, and each carries its position."""
    words = ["copper " * (1 + 37 * number % 60) for number in range(64)]
    batches = [[position for position, _ in batch] for batch in encoder.encode(words)]
    assert len(batches) > 1
    assert sorted(position for batch in batches for position in batch) == list(range(64))
    lengths = [len(words[position]) for batch in batches for position in batch]
    assert lengths == sorted(lengths)


def test_the_vectors_of_a_position_are_those_of_its_text(encoder: Encoder) -> None:
    """A text of n words has n vectors and one for the whole, wherever it stood among the others."""
    counts = [5, 1, 9, 3, 7, 2]
    assert [len(vectors) - 1 for vectors in encode_all(encoder, ["copper " * count for count in counts])] == counts


def test_a_text_has_the_same_vectors_alone_and_in_any_batch(
    encoder: Encoder, encoded: list[NDArray[np.float32]]
) -> None:
    """Padding and neighbours are not attended to."""
    backwards = encode_all(encoder, TEXTS[::-1])[::-1]
    for text, together, reversed_ in zip(TEXTS, encoded, backwards, strict=True):
        (alone,) = encode_all(encoder, [text])
        np.testing.assert_allclose(alone, together, atol=1e-5)
        np.testing.assert_allclose(reversed_, together, atol=1e-5)


def test_vectors_are_the_last_hidden_states_of_the_model(encoder: Encoder, encoded: list[NDArray[np.float32]]) -> None:
    """Equal to plain transformers: its tokenizer, its model, normalised, without markers and punctuation."""
    folder = encoder.checkpoint.folder
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32)
    for text, vectors in zip(TEXTS, encoded, strict=True):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state[0]
        tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        kept = [token not in {"[CLS]", "[SEP]", *string.punctuation} for token in tokens]
        expected = torch.nn.functional.normalize(states, dim=-1).numpy()[kept]
        np.testing.assert_allclose(vectors[1:], expected, atol=1e-5)


def test_markers_and_punctuation_are_not_kept(encoder: Encoder) -> None:
    """Three words have three vectors, whatever stands between them."""
    assert len(encoder.encode_query("harbour lantern copper")) == 1 + 3
    assert len(encoder.encode_query('"harbour", (lantern)... copper?!')) == 1 + 3


def test_punctuation_is_still_attended_to(encoder: Encoder) -> None:
    """A question is not its statement."""
    question, statement = encoder.encode_query("bees make honey?"), encoder.encode_query("bees make honey")
    assert np.abs(question - statement).max() > 1e-3


@pytest.mark.parametrize("text", ["?", "!?...", "()", "-- ; --"])
def test_a_text_of_nothing_but_punctuation_keeps_its_tokens(encoder: Encoder, text: str) -> None:
    """Markers too: something must stand for it."""
    expected = len(encoder.tokenizer.encode(text).ids)
    assert len(encoder.encode_query(text)) - 1 == expected == 2 + len(text.replace(" ", ""))


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\x00"])
def test_a_text_without_tokens_has_at_least_one_vector(encoder: Encoder, text: str) -> None:
    """A passage needs one."""
    vectors = encoder.encode_query(text)
    assert len(vectors) >= 1 + 1
    np.testing.assert_allclose(np.linalg.norm(vectors[1:], axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("pool_factor", [1, 3])
def test_a_batch_ahead_changes_no_vector(encoder: Encoder, monkeypatch: pytest.MonkeyPatch, pool_factor: int) -> None:
    """As on a GPU: the model has the next batch while the caller is busy with one, and pools where the vectors are."""
    alone = {at: vectors for batch in encoder.encode(TEXTS, pool_factor) for at, vectors in batch}
    monkeypatch.setattr(encoder, "device", torch.device("cuda"))  # its model stays where it is
    monkeypatch.setitem(BATCH_TOKENS, "cuda", 512)
    batches = list(encoder.encode(TEXTS, pool_factor))
    assert len(batches) > 1
    ahead = {at: vectors for batch in batches for at, vectors in batch}
    assert list(ahead) == list(alone)
    for at, vectors in alone.items():
        np.testing.assert_allclose(ahead[at], vectors, atol=1e-5)


def test_only_the_last_batch_has_room_for_another_text(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are tokenised some at a time, and a batch that begins with the last of them is filled from the next."""
    monkeypatch.setitem(BATCH_TOKENS, "cpu", 64)
    texts = [f"one{' more' * (number % 9)}" for number in range(400)]
    batches = list(encoder.batches(texts))
    assert sorted(position for positions, _ in batches for position in positions) == list(range(400))
    longest = [max(len(one.ids) for one in tokens) for _, tokens in batches]
    full = [(len(tokens) + 1) * longest[place + 1] > 64 for place, (_, tokens) in enumerate(batches[:-1])]
    assert len(full) > 20
    assert all(full)


def test_what_goes_wrong_a_batch_ahead_reaches_the_caller(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another batch is under way before it."""
    monkeypatch.setattr(encoder, "device", torch.device("cuda"))
    monkeypatch.setitem(BATCH_TOKENS, "cuda", 16)
    given = iter([True, False])
    start = encoder._model.start
    monkeypatch.setattr(encoder._model, "start", lambda *some: start(*some) if next(given) else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(encoder.encode(TEXTS[:3]))
    assert not list(given)


def test_no_texts_make_no_batches(encoder: Encoder) -> None:
    """Nothing in, nothing out."""
    assert list(encoder.encode([])) == []


def test_a_text_longer_than_the_model_is_cut_at_its_last_token(encoder: Encoder) -> None:
    """256 tokens with both markers: the rest changes nothing."""
    words = ["copper", "meadow"] * 200
    cut = encoder.encode_query(" ".join(words))
    assert len(cut) - 1 == encoder.checkpoint.max_tokens - 2 == 254
    np.testing.assert_allclose(cut, encoder.encode_query(" ".join(words[:254])), atol=1e-4)


def test_a_query_and_a_document_of_the_same_text_have_the_same_vectors(encoder: Encoder) -> None:
    """There is one road from text to vectors."""
    for text in TEXTS[:2]:
        np.testing.assert_array_equal(encoder.encode_query(text)[1:], encode_all(encoder, [text])[0][1:])


def test_the_record_of_an_encoder_is_that_of_its_checkpoint(encoder: Encoder) -> None:
    """Name, fingerprint and dimensions are what an index keeps."""
    record, checkpoint = encoder.record, encoder.checkpoint
    assert (record.name, record.fingerprint, record.dim) == (checkpoint.name, checkpoint.fingerprint, DIM)


def test_a_batch_fits_at_least_some_passages_of_full_length(encoder: Encoder) -> None:
    """The limits of both devices are several passages of the longest kind."""
    assert all(limit >= 4 * encoder.checkpoint.max_tokens for limit in BATCH_TOKENS.values())
