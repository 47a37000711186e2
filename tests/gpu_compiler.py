"""Compile a kernel of Triton for an H200, on a machine without one: Triton brings the assembler along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_H200 = GPUTarget("cuda", 90, 32)


def ptx_of(kernel: Any, kinds: Mapping[str, str], constants: Mapping[str, object], **options: object) -> str:
    """A kernel as PTX. kinds: the type of each argument in order. What a pointer points to begins at 16 bytes."""
    signature = {name: "constexpr" if name in constants else kind for name, kind in kinds.items()}
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, kind in enumerate(signature.values()) if kind.startswith("*")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=dict(constants), attrs=aligned)
    compiled: str = triton.compile(source, target=_H200, options=options).asm["ptx"]
    return compiled
