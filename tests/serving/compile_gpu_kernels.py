"""Compile every kernel of `serving/gpu` for an H200, on a machine without one, and print what became of it as JSON.

A process of its own: kernels are either interpreted or compiled, and the tests beside this have them interpreted.
"""

from __future__ import annotations

import json
import re
import sys

from encoding.pooling_kernel import EXACT
from serving.gpu import kernels
from serving.gpu.launches import chunk_bytes
from tests.gpu_compiler import ptx_of

POINTERS = {
    "chosen": "*i64",
    "edges": "*i32",
    "found": "*u8",
    "segments": "*i64",
    "segment_of": "*i32",
    "query": "*i8",
    "corrections": "*i32",
    "codes": "*u8",
    "scales": "*fp16",
    "outlier_segment_of": "*i32",
    "table": "*u8",
    "outliers": "*u8",
    "sums": "*i32",
    "histograms": "*i32",
}
TILE = {"VECTORS": 32, "TOKENS": 16, "ROWS": 32, "PASSAGES": 256, "RUN": 8, "BINS": 8161, "COPIES": 32}


def compiled(name: str, **constants: object) -> dict[str, int]:
    """How often a kernel's PTX has some instructions."""
    kernel = getattr(kernels, name)
    constants = {key: value for key, value in {**TILE, **constants}.items() if key in kernel.arg_names}
    kinds = {key: POINTERS.get(key, "i32" if key in kernels.SIZES else "*fp32") for key in kernel.arg_names}
    ptx = ptx_of(kernel, kinds, constants, num_warps=1, **EXACT)
    return {
        "fused": len(re.findall(r"\bfma\.", ptx)),
        "products": len(re.findall(r"wgmma\.mma_async|\bmma\.sync", ptx)),
        "pieces_of_words": len(re.findall(r"\bprmt\.|\bcvt\.u16|\bbfe\.", ptx)),
        "copies_of_16_bytes": len(re.findall(r"cp\.async\.cg.*, 0x10|cp\.async\.cg.*, 16|ld\.global\.v4\.b32", ptx)),
    }


if __name__ == "__main__":
    found = {
        f"maxsim {bits}": compiled(
            "maxsim", LISTED=bits == 8, ADDED=False, SEVERAL=bits == 2, BITS=bits, DIM=128, BYTES=chunk_bytes(16 * bits)
        )
        for bits in (1, 2, 4, 8)
    }
    found["centroid_bytes"] = compiled("centroid_bytes", DIM=128, BYTES=64)
    found["outlier_bytes"] = compiled("outlier_bytes", BITS=4, DIM=128, BYTES=chunk_bytes(64))
    found["scan"] = compiled("scan", ADDED=True, WIDE=True, PASSAGES=8, ROWS=4)
    found["count_sums"] = compiled("count_sums")
    sys.stdout.write(json.dumps(found))
