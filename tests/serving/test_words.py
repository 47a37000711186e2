"""Words of texts in any script: what is the same word, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import words
from serving.words import query_words, words_of


def _found(text: str) -> set[int]:
    return set(words_of([text]).numbers.tolist())


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("bees making", "A bee makes honey"),
        ("HONEY", "honey"),
        ("ﬁne", "fine"),
        ("ÜBER", "über"),
        ("東京", "東京都に住む"),
        ("猫", "猫は眠る"),
        ("ｶﾀｶﾅ", "カタカナ"),
        ("कित", "किताब किति कित"),
        ("the who", "Who is it?"),
        ("to be or not to be", "To be, or not to be"),
        ("(To be, or not to be?)", "to be or not to be"),
        ("v2.5", "Version v2.5"),
    ],
)
def test_every_word_of_the_query_is_found(query: str, text: str) -> None:
    """Endings, case, ligatures, widths, scripts without blanks; and words that are everywhere, if all are."""
    asked = query_words(query)
    assert asked
    assert set(asked) <= _found(text)


@pytest.mark.parametrize(
    ("query", "text"), [("京都", "東の京と都"), ("कि", "किताब"), ("bee", "been beer"), ("..., !", "a b")]
)
def test_other_words_are_not(query: str, text: str) -> None:
    """Two characters are a word where they are neighbours, and a mark belongs to its letter."""
    assert not set(query_words(query)) & _found(text)


@given(st.text(st.characters(max_codepoint=127)))
def test_plain_text_is_cut_alike_by_both_patterns(text: str) -> None:
    """A letter elsewhere in the batch changes no word of a text."""
    alone, beside = words_of([text]), words_of([text, "é"])
    ends = beside.offsets[1]
    assert alone.numbers[alone.places].tolist() == beside.numbers[beside.places[:ends]].tolist()


@settings(max_examples=30)
@given(st.lists(st.text(), max_size=5))
def test_words_of_several_texts_are_those_of_each(texts: list[str]) -> None:
    """In their order, whatever the characters."""
    texts = [words.well_formed(text) for text in texts]
    found = words_of(texts)
    for text, start, end in zip(texts, found.offsets[:-1], found.offsets[1:], strict=True):
        alone = words_of([text])
        assert found.numbers[found.places[start:end]].tolist() == alone.numbers[alone.places].tolist()
