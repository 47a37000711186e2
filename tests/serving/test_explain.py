"""What a hit matched: weights that add up to the score, and characters that are the words they claim to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoding.encoder import Encoder, load_encoder
from flows.build_index import build_index
from flows.parameters import BuildParameters
from index_format.codec import Codec
from index_format.index import Index
from serving.explain import HitExplanation, explain, match_weights
from serving.oracle import coded_maxsim
from serving.query import SearchQuery
from serving.scoring import prepare_query
from serving.search import Hit, rank, read_hits
from serving.searcher import Answer, Searcher
from serving.snapshot import open_snapshot
from tasks.rows import Source
from tests.serving.vectors import add_texts

PARITY = Path(__file__).parents[1] / "parity" / "golden"
TEXT = "  The bee, a small insect, makes HONEY from nectar 🐝. Café owners buy it!"
QUESTION = " Which insect makes honey? "


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Documents with and without title, one of several passages, one that is not quite text."""
    path = tmp_path_factory.mktemp("source") / "docs.jsonl"
    long = " ".join(f"Sentence {number} tells how bees make honey in hive {number}." for number in range(40))
    rows = [
        f'{{"id": "bees", "title": "On bees", "text": "{TEXT}"}}',
        f'{{"id": "long", "title": "A long one", "text": "{long}"}}',
        '{"id": "plain", "text": "Cats sleep \\u0000 all\\u200bday."}',
        '{"id": "dots", "title": "...", "text": "..."}',
    ]
    path.write_text("\n".join(rows) + "\n")
    return Source(location=str(path))


def _answer(source: Source, index: Path, encoder: str, pool_factor: int = 1) -> Answer:
    settings = {"passage_tokens": 40, "encoder": encoder, "pool_factor": pool_factor}
    build_index(BuildParameters(source=source, index=str(index), **settings))
    searcher = Searcher(Index.at(index), load_encoder(encoder))
    return searcher.search(SearchQuery(QUESTION, k=100, explain=True))


def _summed(explained: HitExplanation) -> float:
    total = np.float32(0)
    for match in explained.matches:
        total += np.float32(match.weight)
    return float(total)


def _words(hit: Hit, explained: HitExplanation) -> list[list[str]]:
    """What each query token matched, as text."""
    fields = {"title": hit.title or "", "text": hit.text}
    return [[fields[span.field][span.start : span.end] for span in match.spans] for match in explained.matches]


@pytest.mark.parametrize("encoder", ["embedded", *(str(PARITY / name) for name in ("colbert-bert", "pylate-bert"))])
def test_every_hit_is_explained_to_the_last_bit(prefect_here, source: Source, tmp_path: Path, encoder: str) -> None:
    """In every layout: one match a query token, weights that add up to the score, and places that are known."""
    answer = _answer(source, tmp_path / "index", encoder)
    assert answer.explanation is not None
    assert len(answer.hits) == len(answer.explanation.hits) > 4
    for hit, explained in zip(answer.hits, answer.explanation.hits, strict=True):
        assert _summed(explained) == hit.score
        assert explained.note is None
        assert len(explained.matches) == len(answer.explanation.query)
        assert all(len(match.spans) <= 1 for match in explained.matches)


def test_words_match_words(prefect_here, source: Source, tmp_path: Path) -> None:
    """The embedded encoder's "honey" finds HONEY and "insect" insect, at their places in passage and question."""
    answer = _answer(source, tmp_path / "index", "embedded")
    assert answer.explanation is not None
    hit, explained = next(
        (hit, one) for hit, one in zip(answer.hits, answer.explanation.hits, strict=True) if hit.document_id == "bees"
    )
    whole, *tokens = answer.explanation.query
    assert (whole.token, whole.start, whole.end) == ("[whole text]", None, None)
    asked = [QUESTION[one.start : one.end] for one in tokens]
    assert asked == ["Which", "insect", "makes", "honey"]
    found = dict(zip(asked, _words(hit, explained)[1:], strict=True))
    assert (found["honey"], found["insect"], found["makes"]) == (["HONEY"], ["insect"], ["makes"])


def test_pooled_vectors_name_all_the_words_that_share_them(prefect_here, source: Source, tmp_path: Path) -> None:
    """Weights still add up, and a vector of several words has as many spans."""
    answer = _answer(source, tmp_path / "index", "embedded", pool_factor=2)
    assert answer.explanation is not None
    spans = []
    for hit, explained in zip(answer.hits, answer.explanation.hits, strict=True):
        assert (_summed(explained), explained.note, explained.pooled) == (hit.score, None, True)
        spans += [len(match.spans) for match in explained.matches]
    assert max(spans) > 1


def test_a_passage_that_was_encoded_otherwise_has_weights_but_no_places(encoder: Encoder, tmp_path: Path) -> None:
    """Here of a text with a word more than the index has vectors for."""
    index = Index.at(tmp_path / "index")
    add_texts(index, encoder, {"a": "Bees make honey."})
    snapshot = open_snapshot(index)
    vectors = encoder.encode_query("honey")
    ranking = rank(snapshot, vectors, 1)
    (hit,) = read_hits(snapshot, ranking)
    other = Hit(**{name: getattr(hit, name) for name in Hit.__slots__} | {"text": "Bees make some honey."})
    (explained,) = explain(snapshot, encoder, vectors, ranking, [other]).hits
    assert _summed(explained) == hit.score
    assert explained.note is not None
    assert "4 vectors of this passage, and its text gives 5" in explained.note
    assert all(match.spans == [] for match in explained.matches)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_weights_are_those_of_the_oracle(bits: int) -> None:
    """On random codes of every width."""
    rng = np.random.default_rng(bits)
    codec = Codec(rng.normal(size=16).astype(np.float32) / 10, bits)
    for tokens in (1, 2, 33):
        codes, scales = codec.compress(rng.normal(size=(tokens, 16)).astype(np.float32))
        vectors = rng.normal(size=(5, 16)).astype(np.float32)
        weights, best = match_weights(prepare_query(vectors, codec), codes, scales)
        total = np.float32(0)
        for weight in weights:
            total += weight
        assert total == coded_maxsim(vectors, codec, codes, scales)
        assert (best < tokens).all()
