"""Colonnade: late-interaction search that is small, quick and never stale."""

from importlib.metadata import version

__version__ = version("colonnade")
