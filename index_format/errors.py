"""Every error a user of Colonnade can meet.

The kinds follow what the caller does next, not what went wrong inside:

    ColonnadeError
    ├── InputError            fix what you gave us, then run again
    │   ├── SourceError       the documents to read
    │   ├── NothingToIndex    every row of the source was set aside
    │   ├── EncoderMismatch   this index was written with another encoder
    │   └── WorseAnswers      the new version would answer worse than the current one
    ├── IndexNotFound         there is no index at that place
    ├── IndexCorrupt          bytes are not what the manifest says: restore or rebuild
    ├── UnsupportedFormat     written by a newer Colonnade: upgrade
    ├── CommitConflict        another writer was first: run again
    │   ├── CodebookChanged   only the centroid ids are to be made again
    │   └── NotCaughtUp       documents came that are not in the new segments yet
    ├── CommitUnknown         the store did not say whether the commit landed: look, then run again
    └── StorageError          the store failed: free space, permissions, network
        ├── ObjectMissing     no object has that key
        └── ObjectExists      an object already has that key (objects are never overwritten)

Messages say what, where, expected, got and what to do next; they are for people and not part of the API.
"""

from __future__ import annotations

import errno
from typing import Any

import msgspec

NOT_DECODED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for stored bytes that are not what they should be; text that is no UTF-8 and what nests too
deep have errors of Python's own."""


class ColonnadeError(Exception):
    """Root of all errors that Colonnade raises on purpose.

    >>> from colonnade import Collection, ColonnadeError
    >>> try:
    ...     Collection("nowhere").search("Who makes honey?")
    ... except ColonnadeError as error:
    ...     print(type(error).__name__)
    IndexNotFound
    """


class InputError(ColonnadeError):
    """The caller's input is wrong."""


class SourceError(InputError):
    """The source of documents cannot be read at all."""


class NothingToIndex(InputError):
    """A new index would be empty. `reasons` are the rows of the source that were set aside, one dictionary each."""

    def __init__(self, message: str, reasons: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.reasons = reasons


class EncoderMismatch(InputError):
    """The encoder at hand is not the one the index was written with."""


class WorseAnswers(InputError):
    """A version that would answer worse than the current one was not published."""


class IndexNotFound(ColonnadeError):
    """There is no index at the given place."""


class IndexCorrupt(ColonnadeError):
    """Stored bytes contradict the manifest or the format."""


class UnsupportedFormat(ColonnadeError):
    """The index needs a feature that this release does not know."""


class CommitConflict(ColonnadeError):
    """Other writers kept winning, or changed what this change was computed from."""


class CodebookChanged(CommitConflict):
    """The index got another codebook while segments were made for it."""


class NotCaughtUp(CommitConflict):
    """The index has live documents that the new segments do not hold."""


class CommitUnknown(ColonnadeError):
    """The store failed in a way that hides whether the commit landed. Nothing was deleted."""


class StorageError(ColonnadeError):
    """The object store failed. `refused` is true when it is certain that nothing was written."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class ObjectMissing(StorageError):
    """No object has that key."""


class ObjectExists(StorageError):
    """An object already has that key."""


def storage_error(action: str, where: str, cause: OSError) -> StorageError:
    """Turn an operating system error into one that says what to do."""
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "The disk is full: free some space and run again. The index is as it was."
    elif cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "Permission was refused: check the owner and mode of that place."
    elif cause.errno in (errno.EMFILE, errno.ENFILE):
        advice = "Too many files are open: raise the limit (ulimit -n) and run again."
    else:
        advice = "Check the disk or the connection, then run again."
    return StorageError(f"Could not {action} {where}: {cause.strerror or cause}. {advice}", refused=True)
