"""How documents become passages: which characters each one holds, and what is encoded for it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from encoding.checkpoint import EMBEDDED, open_checkpoint
from encoding.chunking import Chunker, Passage, _splitter
from encoding.encoder import Encoder, load_encoder
from index_format.errors import InputError

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
LIMIT = 32  # tokens; small, so that short texts make several passages
SENTENCES = [
    f"The {bird} {deed} above the {place} until the evening came."
    for bird, deed in [("heron", "circled"), ("swift", "screamed"), ("owl", "waited"), ("crane", "called")]
    for place in ["harbour", "meadow", "old mill", "river"]
]
EVERY_SCRIPT = "ab Z09 .,!?\n\t\r\x00\x1f\u00a0\u2028\u200b\ufeffé\u0301ßЖعא中文字ไทยहि한😀👩\u200d👩\u200d👧🇨🇭"

LONG = 20 * LIMIT  # characters: the chunker sees no more at once
SCRIPTS = [
    "a",
    "Ж",
    "ع",
    "א",
    "अ",
    "ไ",
    "中",
    "あ",
    "한",
    "ა",
    "አ",
    "😀",
    "\u0301",
    "👩\u200d",
    " ",
    "\n",
    ".",
    "。",
    "-",
    "7",
]

any_text = st.one_of(
    st.text(max_size=300),
    # One script for longer than a window, with and without ends of sentences in it.
    st.lists(st.tuples(st.sampled_from(SCRIPTS), st.integers(1, LONG)), max_size=5).map(
        lambda runs: "".join(character * times for character, times in runs)
    ),
    st.text(alphabet=EVERY_SCRIPT, max_size=400),
    st.builds(
        lambda character, times: character * times, st.characters(exclude_categories=["Cs"]), st.integers(1, 400)
    ),
)
titles = st.one_of(st.none(), st.text(max_size=20), st.text(alphabet=EVERY_SCRIPT, max_size=120))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_encoder(EMBEDDED).tokenizer


@pytest.fixture(scope="module")
def chunker(tokenizer: Tokenizer) -> Chunker:
    return Chunker(tokenizer, passage_tokens=LIMIT)


def _tokens(tokenizer: Tokenizer, text: str) -> int:
    """Tokens of a text without markers."""
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def _cut(text: str, passages: list[Passage]) -> list[str]:
    return [text[passage.start : passage.end] for passage in passages]


@given(text=any_text, title=titles)
@example(text="a" * 3000, title=None)
@example(text=" \n\t " * 300, title="Title")
@example(text="\x00" * 300, title=None)
@example(text="漢字" * 100, title="漢" * 100)
@example(text="👩\u200d👩\u200d👧" * 60, title=None)
@example(text="é" * 100 + "e\u0301" * 100, title="\u0301")
@settings(max_examples=50)
def test_passages_without_overlap_concatenate_to_the_document(
    chunker: Chunker, tokenizer: Tokenizer, text: str, title: str | None
) -> None:
    """Whatever the text: no character is lost or comes twice, no passage is empty, and each fits the encoder."""
    passages = chunker.passages(text, title)
    assert "".join(_cut(text, passages)) == text
    assert all(passage.start < passage.end for passage in passages)
    assert all(len(tokenizer.encode(passage.encoded_text).ids) <= LIMIT for passage in passages)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(any_text, titles), max_size=6))
def test_documents_that_are_cut_together_are_cut_as_each_alone(
    chunker: Chunker, documents: list[tuple[str, str | None]]
) -> None:
    """Whatever their lengths and titles: the windows of all of them are cut at once."""
    assert chunker.passages_of(documents) == [chunker.passages(text, title) for text, title in documents]


def test_an_empty_text_has_no_passages(chunker: Chunker) -> None:
    """Nothing comes of nothing, with or without a title."""
    assert chunker.passages("") == []
    assert chunker.passages("", "Title") == []


def test_a_text_that_fits_is_one_passage(chunker: Chunker) -> None:
    """The span is the whole text, and the encoded text is it without the white space around it."""
    text = "\n  A heron circled above the harbour.  \n"
    assert chunker.passages(text) == [Passage(0, len(text), "A heron circled above the harbour.")]


def test_a_passage_longer_than_the_model_is_cut_at_sentence_ends(chunker: Chunker) -> None:
    """Where sentences fit, each passage holds whole sentences only."""
    text = " ".join(SENTENCES)
    passages = chunker.passages(text)
    assert len(passages) > 1
    for piece in _cut(text, passages):
        assert piece.strip().startswith("The ")
        assert piece.strip().endswith("came.")


def test_a_passage_holds_as_many_sentences_as_fit(chunker: Chunker, tokenizer: Tokenizer) -> None:
    """The first sentence of the next passage would have been too much."""
    text = " ".join(SENTENCES)
    pieces = [piece.strip() for piece in _cut(text, chunker.passages(text))]
    for piece, following in itertools.pairwise(pieces):
        next_sentence = following.partition(". ")[0] + "."
        assert _tokens(tokenizer, f"{piece} {next_sentence}") > LIMIT - 2


def test_a_sentence_longer_than_the_model_is_cut_between_words(chunker: Chunker) -> None:
    """No word is torn as long as words fit."""
    text = "and then the heron circled above the harbour " * 20
    pieces = _cut(text, chunker.passages(text))
    assert len(pieces) > 1
    assert [word for piece in pieces for word in piece.split()] == text.split()


def test_windows_do_not_show(chunker: Chunker) -> None:
    """A document of many windows is cut where its sentences end, as if it were seen whole."""
    text = " ".join(SENTENCES * 20)
    assert len(text) > 10 * LONG
    pieces = [piece.strip() for piece in _cut(text, chunker.passages(text))]
    assert all(piece.startswith("The ") and piece.endswith("came.") for piece in pieces)
    assert len({piece.count("came.") for piece in pieces}) == 1


def test_what_the_encoder_adds_is_left_room_for(tokenizer: Tokenizer) -> None:
    """Markers beyond the usual two, and a prompt, make passages shorter."""
    text = " ".join(SENTENCES)
    passages = Chunker(tokenizer, passage_tokens=LIMIT, markers=10).passages(text)
    assert all(_tokens(tokenizer, passage.encoded_text) <= LIMIT - 10 for passage in passages)
    with pytest.raises(InputError, match="of 32 the encoder's prompt and markers take 20, which leaves 12 for text"):
        Chunker(tokenizer, passage_tokens=LIMIT, markers=20)


def test_spans_count_code_points(chunker: Chunker) -> None:
    """Emoji and combining characters before a passage shift it by their code points, not by their bytes."""
    text = "".join(f"Harbour {number} 👩\u200d👩\u200d👧 cafe\u0301 lantern. " for number in range(20))
    passages = chunker.passages(text)
    assert len(passages) > 1
    assert all(passage.encoded_text == text[passage.start : passage.end].strip() for passage in passages)


def test_overlapping_passages_share_text_and_leave_nothing_out(tokenizer: Tokenizer) -> None:
    """Each passage begins before the last one ends, by no more than the overlap, and all advance."""
    text = " ".join(f"Lantern number {number} burns." for number in range(60))
    passages = Chunker(tokenizer, passage_tokens=64, overlap_tokens=16).passages(text)
    assert (passages[0].start, passages[-1].end) == (0, len(text))
    for one, following in itertools.pairwise(passages):
        assert one.start < following.start < one.end < following.end
        assert _tokens(tokenizer, text[following.start : one.end]) <= 16


@given(text=any_text, title=titles)
@settings(max_examples=20)
def test_overlapping_passages_fit_the_encoder(tokenizer: Tokenizer, text: str, title: str | None) -> None:
    """The greatest overlap together with a title still leaves room, and the spans cover the text without a gap."""
    passages = Chunker(tokenizer, passage_tokens=LIMIT, overlap_tokens=LIMIT // 4).passages(text, title)
    assert all(len(tokenizer.encode(passage.encoded_text).ids) <= LIMIT for passage in passages)
    covered = 0
    for passage in passages:
        assert passage.start <= covered < passage.end
        covered = passage.end
    assert covered == len(text)


@pytest.fixture(scope="module")
def byte_level() -> Encoder:
    """ModernBERT's kind of tokenizer: a space belongs to the token behind it, so a text joined is not its parts."""
    return Encoder(open_checkpoint(str(GOLDEN / "pylate-modernbert")), "cpu")


@given(text=any_text, title=titles, overlap=st.sampled_from([0, LIMIT // 4]))
@example(text=",." * 200, title="G", overlap=0)
@example(text=" , a, b , c" * 60, title="Copper meadow", overlap=8)
@settings(max_examples=50, deadline=None)
def test_no_token_of_a_passage_is_beyond_the_room(
    byte_level: Encoder, text: str, title: str | None, overlap: int
) -> None:
    """Counted joined, title and markers with the text, as the encoder reads it, which would cut off the rest."""
    passages = byte_level.chunker(LIMIT, overlap).passages(text, title)
    own = Tokenizer.from_file(str(GOLDEN / "pylate-modernbert" / "tokenizer.json"))
    own.no_padding()
    own.no_truncation()
    for passage in passages:
        alone = passage.end - passage.start == 1  # a character may be several tokens, and cannot be cut
        assert alone or len(own.encode(passage.encoded_text.strip()).ids) + 1 <= LIMIT
    assert {place for one in passages for place in range(one.start, one.end)} == set(range(len(text)))


def test_titles_of_many_lengths_share_few_splitters(tokenizer: Tokenizer) -> None:
    """Each is a copy of the tokenizer; and a second chunker takes those of the first."""
    _splitter.cache_clear()
    Chunker(tokenizer, passage_tokens=256).passages_of([(SENTENCES[0], "copper " * words) for words in range(120)])
    assert _splitter.cache_info().misses <= 20
    assert _splitter.cache_info().currsize <= 6
    _splitter.cache_clear()
    for _ in range(3):
        Chunker(tokenizer, passage_tokens=256).passages(SENTENCES[0], "copper")
    assert _splitter.cache_info().misses == 1


def test_the_title_goes_before_every_passage(chunker: Chunker) -> None:
    """It is encoded with each passage and is no part of its span."""
    text = " ".join(SENTENCES)
    passages = chunker.passages(text, "Birds")
    assert len(passages) > 1
    assert all(passage.encoded_text == f"Birds {text[passage.start : passage.end].strip()}" for passage in passages)


def test_a_long_title_takes_half_of_the_room_at_most(chunker: Chunker, tokenizer: Tokenizer) -> None:
    """It is cut after the last token that fits, and the text has the other half."""
    title = "harbour lantern copper meadow violin ember glacier saffron " * 5
    passages = chunker.passages("The heron circled above the water.", title)
    kept = passages[0].encoded_text.removesuffix(" The heron circled above the water.")
    assert title.startswith(kept)
    assert _tokens(tokenizer, kept) == (LIMIT - 2) // 2


@pytest.mark.parametrize("title", [None, ""])
def test_a_document_without_title_is_encoded_as_it_is(chunker: Chunker, title: str | None) -> None:
    """No title and an empty one are the same."""
    assert chunker.passages("Cats sleep.", title)[0].encoded_text == "Cats sleep."


@pytest.mark.parametrize("passage_tokens", [-1, 0, 1, 31])
def test_passages_too_small_for_a_sentence_are_refused(tokenizer: Tokenizer, passage_tokens: int) -> None:
    """The error names the setting, the least that it may be, and what it was."""
    with pytest.raises(InputError, match=rf"^passage_tokens: expected at least 32, got {passage_tokens}\."):
        Chunker(tokenizer, passage_tokens=passage_tokens)


@pytest.mark.parametrize("overlap_tokens", [-1, 17, 64, 1000])
def test_an_overlap_of_more_than_a_quarter_is_refused(tokenizer: Tokenizer, overlap_tokens: int) -> None:
    """The error names the setting, its range, and what it was."""
    with pytest.raises(InputError, match=rf"^overlap_tokens: expected 0 to 16, got {overlap_tokens}\."):
        Chunker(tokenizer, passage_tokens=64, overlap_tokens=overlap_tokens)
