"""Write the golden index of the current format: `python -m tests.golden.make_golden`.

The index of a released format is never made again: it stands for the indexes that people have.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from index_format.index import Index
from index_format.manifest import EncoderRecord
from serving.search import Hit, search
from serving.snapshot import open_snapshot
from tests.serving.vectors import Document, Vectors, make_recipe, random_vectors, write_documents
from tests.strategies import delete, publish

HERE = Path(__file__).parent
QUERIES = 3
DIM = 16


def on_a_grid(vectors: Vectors) -> Vectors:
    """Vectors in 64ths: their products with each other are exact, so scores do not depend on the processor."""
    return np.round(vectors * 64) / np.float32(64)


def query_vectors() -> list[Vectors]:
    """What the golden index is asked; the same numbers in every release."""
    rng = np.random.default_rng(11)
    return [on_a_grid(random_vectors(rng, 4, DIM)) for _ in range(QUERIES)]


def as_record(hit: Hit) -> dict[str, object]:
    """A hit as JSON, its score as the bytes of a float32."""
    place = {"document_id": hit.document_id, "passage": hit.passage, "start": hit.start, "end": hit.end}
    said = {"title": hit.title, "text": hit.text, "metadata": hit.metadata}
    return {**place, "score": np.float32(hit.score).tobytes().hex(), **said}


def answers(index: Index) -> dict[str, list[list[dict[str, object]]]]:
    """All hits for each query, by version."""
    return {
        str(version): [
            [as_record(hit) for hit in search(open_snapshot(index, index.version(version)), vectors, 100)]
            for vectors in query_vectors()
        ]
        for version in index.versions()
    }


def write_index(root: Path, bits: int) -> Index:
    """Four versions: documents, more of them, one replaced and one deleted."""
    rng = np.random.default_rng(7)
    names = ["bees", "cats", "dogs", "é/ü", "with space"]
    documents = [
        Document(
            id=name,
            passages=[random_vectors(rng, int(tokens), DIM) for tokens in rng.integers(1, 7, 1 + number % 3)],
            title=name.title() if number % 2 else None,
            metadata={"number": number, "tags": [name, "animal"]},
        )
        for number, name in enumerate(names)
    ]
    index = Index.at(root)
    sample = on_a_grid(random_vectors(rng, 16, DIM))
    encoder = EncoderRecord(name="golden", fingerprint="0" * 64, dim=DIM)
    recipe = make_recipe(index, sample, bits=bits, centroids=8, encoder=encoder)
    publish(index, recipe, write_documents(index, recipe, documents[:3]))
    publish(index, recipe, write_documents(index, recipe, documents[3:]))
    changed = Document(id="cats", passages=[random_vectors(rng, 5, DIM)], title="Cats", metadata={"number": 9})
    publish(index, recipe, write_documents(index, recipe, [changed]))
    delete(index, "bees")
    return index


def main() -> None:
    """Write v1/BITS and v1/BITS.json for 1, 2, 4 and 8 bits."""
    folder = HERE / "v1"
    shutil.rmtree(folder, ignore_errors=True)
    for bits in (1, 2, 4, 8):
        index = write_index(folder / f"{bits}-bits", bits)
        text = json.dumps(answers(index), indent=1, ensure_ascii=False)
        (folder / f"{bits}-bits.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
