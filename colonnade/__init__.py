"""Colonnade: late-interaction search that is small, quick and never stale.

    from colonnade import Collection

    animals = Collection("animals-index")
    animals.add([{"id": "bees", "text": "Bees make honey."}])
    animals.search("Who produces something sweet?")[0].text

Names are imported when they are first used: the command line starts with this module.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from colonnade.collection import Collection
    from colonnade.records import Answer, Change, Match, Records, Settings, Version
    from index_format.errors import ColonnadeError
    from serving.documents import Document
    from serving.search import Hit

__version__ = version("colonnade")

__all__ = [
    "Answer",
    "Change",
    "Collection",
    "ColonnadeError",
    "Document",
    "Hit",
    "Match",
    "Records",
    "Settings",
    "Version",
]

_MODULES = {
    "Collection": "colonnade.collection",
    "ColonnadeError": "index_format.errors",
    "Document": "serving.documents",
    "Hit": "serving.search",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "colonnade.records")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
