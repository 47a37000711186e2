"""Compile the kernel that pools on a GPU for an H200, on a machine without one, and print what became of it as JSON.

A process of its own: kernels are either interpreted or compiled, and the tests beside this have them interpreted.
"""

from __future__ import annotations

import json
import re
import sys

from encoding.device_pooling import warps_for
from encoding.pooling_kernel import EXACT, SIZES, join_clusters
from tests.gpu_compiler import ptx_of

POINTERS = {"squares": "*fp32", "counts": "*i64", "joins": "*i64", "clusters": "*i64"}


def compiled(block: int) -> dict[str, int]:
    """How often the kernel's PTX has some instructions, for passages of up to `block` tokens."""
    kinds = {**POINTERS, **dict.fromkeys(SIZES, "i32"), "BLOCK": "constexpr"}
    ptx = ptx_of(join_clusters, kinds, {"BLOCK": block}, num_warps=warps_for(block), **EXACT)
    return {
        "fused": len(re.findall(r"\bfma\.", ptx)),
        "exact_quotients": len(re.findall(r"\bdiv\.rn\.f32", ptx)),
        "other_quotients": len(re.findall(r"\bdiv\.(?!rn\.)\w+\.f32", ptx)),
        "barriers": len(re.findall(r"\bbar(?:rier)?\.", ptx)),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps({block: compiled(block) for block in (32, 256, 1024)}))
