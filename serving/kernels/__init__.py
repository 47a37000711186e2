"""Native code for the inner loops of search, written as LLVM IR and compiled in the process when first used.

llvmlite brings LLVM, so no compiler is needed where Colonnade runs. Every kernel is called through ctypes,
which releases the GIL. `native.py` is the door; the rest writes IR.
"""
