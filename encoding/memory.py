"""Memory that encoding on a CPU has done with, so that a long build needs no more than a short one.

Every batch has another shape. torch's tensors of all sizes leave holes between them that the C library keeps, and
oneDNN keeps a plan for each shape of a product: together half a gigabyte after ten thousand passages.
"""

from __future__ import annotations

import ctypes
import os

_PLANS = "32"  # shapes of one batch are met again in its next layer, and hardly ever in another batch


def bound_plans() -> None:
    """Let oneDNN keep few plans; of any use only before the first product. What the user has set stays."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _PLANS)


def give_back() -> None:
    """Hand what is free back to the system, where the C library (glibc) can; takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
