"""Search on a GPU: the same scores as on a processor, bit for bit (docs/decisions/0016-gpu.md).

Nothing here is imported until a GPU is asked for, because it needs Triton.
"""
