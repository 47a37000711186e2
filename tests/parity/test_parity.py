"""Our vectors are those of the packages that the checkpoints come from: ColBERT, PyLate, sentence-transformers 6.

The golden files hold what those packages made of tiny random checkpoints (`make_golden.py` writes both).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from encoding.checkpoint import open_checkpoint
from encoding.encoder import Encoder

GOLDEN = Path(__file__).parent / "golden"
TEXTS = json.loads((GOLDEN / "texts.json").read_text(encoding="utf-8"))
CASES = sorted(GOLDEN.glob("*/golden-*.npz"))
KINDS = {"colbert": "ColBERT", "pylate": "PyLate", "multi-vector": "MultiVectorEncoder"}

Vectors = list[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Case:
    """What a peer made of the texts, and our encoder on the same files."""

    encoder: Encoder
    our_queries: Vectors
    our_documents: Vectors
    queries: Vectors
    documents: Vectors
    scores: NDArray[np.float32]


@pytest.fixture(scope="module", params=CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A checkpoint with the settings of one variant."""
    path: Path = request.param
    golden = np.load(path)
    folder = tmp_path_factory.mktemp("checkpoint") / path.parent.name
    shutil.copytree(path.parent, folder, ignore=shutil.ignore_patterns("golden-*"))
    for name, changes in json.loads(golden["settings"].tobytes()).items():
        settings = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(settings | changes), encoding="utf-8")
    queries = np.split(golden["queries"], np.cumsum(golden["query_lengths"])[:-1])
    documents = np.split(golden["documents"], np.cumsum(golden["document_lengths"])[:-1])
    encoder = Encoder(open_checkpoint(str(folder)), "cpu")
    found = dict(pair for batch in encoder.encode(TEXTS["documents"]) for pair in batch)
    our_documents = [found[position] for position in range(len(found))]
    our_queries = [encoder.encode_query(text) for text in TEXTS["queries"]]
    return Case(encoder, our_queries, our_documents, queries, documents, golden["scores"])


def test_the_layout_is_seen_from_the_files(case: Case) -> None:
    """Nobody says which it is."""
    folder = case.encoder.checkpoint.folder.name
    assert case.encoder.checkpoint.layout.kind == KINDS[folder.rpartition("-")[0]]


def test_query_vectors_are_the_peers(case: Case) -> None:
    """The same tokens are kept, in the same order, and each vector is within 1e-4."""
    _same(case.our_queries, case.queries)


def test_document_vectors_are_the_peers(case: Case) -> None:
    """Encoded together, as a build encodes them."""
    _same(case.our_documents, case.documents)


def test_scores_are_the_peers(case: Case) -> None:
    """MaxSim of every query with every document."""
    scores = [[(q @ d.T).max(axis=1).sum() for d in case.our_documents] for q in case.our_queries]
    np.testing.assert_allclose(np.array(scores), case.scores.reshape(len(scores), -1), atol=1e-3)


def test_there_is_a_case_for_each_layout_and_architecture() -> None:
    """A golden folder that got lost would not be missed otherwise."""
    assert {path.parent.name for path in CASES} == {
        "colbert-bert", "pylate-bert", "pylate-modernbert", "multi-vector-bert", "multi-vector-modernbert",
    }  # fmt: skip


def _same(found: Vectors, wanted: Vectors) -> None:
    assert [len(one) for one in found] == [len(one) for one in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
