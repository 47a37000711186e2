"""The demo's documents: docstrings of the standard library and of the packages Colonnade stands on.

Sources are parsed, never imported. Each documented module, class and function that is public is one
document, but for manuals of many pages. There are far more than a demo can index in a minute, so the ones nearest to
the top are taken: modules first, then what they hold; 60 % from the standard library, the rest in equal parts from the
packages.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_REVISION = 2  # part of the fingerprint: raise it when the same machine would give other documents
_STANDARD_LIBRARY_SHARE = 0.6
_LONGEST = 4_000  # characters: one docstring in seventy is longer, and those would take a quarter of the time
_DEEPEST_FILE = 2  # parts of a path: deeper files are many, and few of their names are near the top
_LEFT_OUT = {"test", "tests", "testing", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
_KINDS = {ast.Module: "module", ast.ClassDef: "class", ast.FunctionDef: "function", ast.AsyncFunctionDef: "function"}


@dataclass(frozen=True, slots=True)
class Docstring:
    """One document of the demo. `id` is the qualified name."""

    id: str
    title: str
    text: str
    module: str
    kind: str
    package: str


def fingerprint(documents: int) -> str:
    """What decides the corpus on this machine: equal fingerprints mean an equal corpus."""
    versions = {name: importlib.metadata.version(name) for name in sorted(set(_packages().values()))}
    parts = [_REVISION, platform.python_version(), versions, documents]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write_corpus(path: Path, documents: int) -> int:
    """Write the corpus as Parquet and return how many documents it has, at most `documents`."""
    chosen = collect(documents)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([asdict(one) for one in chosen]), path)
    return len(chosen)


def collect(documents: int) -> list[Docstring]:
    """The docstrings nearest to the top, by package and name."""
    packages = _packages()
    own = int(documents * _STANDARD_LIBRARY_SHARE)
    chosen = _nearest_to_top(_docstrings(Path(sysconfig.get_path("stdlib")), "", "python"), own)
    site = Path(sysconfig.get_path("purelib"))
    for left, (name, distribution) in zip(range(len(packages), 0, -1), sorted(packages.items()), strict=True):
        quota = (documents - len(chosen)) // left
        chosen += _nearest_to_top(_docstrings(site / name, name, distribution), quota)
    return sorted(chosen, key=lambda one: (one.package, one.id))


def _packages() -> dict[str, str]:
    """Import names of Colonnade's own requirements, each with its distribution."""
    required = importlib.metadata.requires("colonnade") or []
    names = {_normal(re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0]) for one in required if "extra ==" not in one}
    site = Path(sysconfig.get_path("purelib"))
    found = importlib.metadata.packages_distributions().items()
    return {
        name: distributions[0]
        for name, distributions in found
        if _normal(distributions[0]) in names and (site / name).is_dir() and not name.startswith("_")
    }


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


def _nearest_to_top(found: Iterator[Docstring], most: int) -> list[Docstring]:
    unique = {one.id: one for one in found}
    # Among names of one depth the order is that of a hash, so that the cut falls evenly over the alphabet.
    return sorted(unique.values(), key=lambda one: (one.id.count("."), _shuffled(one.id)))[:most]


def _shuffled(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _docstrings(root: Path, package: str, distribution: str) -> Iterator[Docstring]:
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        private = any(part.startswith("_") and part != "__init__.py" for part in inside.parts)
        if private or len(inside.parts) > _DEEPEST_FILE or _LEFT_OUT & set(inside.parts):
            continue
        parts = [package, *inside.with_suffix("").parts] if package else [*inside.with_suffix("").parts]
        module = ".".join(part for part in parts if part != "__init__")
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue  # a package may carry files for another Python
        yield from _walk(tree, module, module, distribution)


def _walk(node: ast.AST, name: str, module: str, distribution: str) -> Iterator[Docstring]:
    kind = _KINDS.get(type(node))
    if kind is None:
        return
    text = ast.get_docstring(node)  # type: ignore[arg-type]  # the kinds above are those it takes
    if text and text.strip() and len(text) <= _LONGEST:
        yield Docstring(name, name, text, module, kind, distribution)
    for child in ast.iter_child_nodes(node):
        if not str(getattr(child, "name", "_")).startswith("_"):
            yield from _walk(child, f"{name}.{getattr(child, 'name', '')}", module, distribution)
