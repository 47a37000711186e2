"""What may be told of an unexpected error: its kind and where it was, never its message, which may quote a text."""

from __future__ import annotations

import traceback

from encoding.batches import is_out_of_memory


def places_of(error: BaseException) -> str:
    """The kind of an error and the functions it went through, innermost first; then those of what caused it."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.name}:{frame.lineno} of {frame.filename.rpartition('/')[2]}" for frame in frames[::-1])
    told = f"{type(error).__name__} at {places or 'no place'}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return told if cause is None else f"{told}; caused by {places_of(cause)}"


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the processor or of a GPU, however it was told."""
    found = isinstance(error, Exception) and is_out_of_memory(error)
    return found or (error.__cause__ is not None and ran_out_of_memory(error.__cause__))
