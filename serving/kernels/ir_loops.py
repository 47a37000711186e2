"""What plain LLVM IR lacks to be read by people: loops, and variables that change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from llvmlite import ir

from serving.kernels.calls import CACHE_LINE

i8, i16, i32, i64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
f32 = ir.FloatType()
pointer = ir.PointerType()


def function(
    module: ir.Module, name: str, arguments: Mapping[str, ir.Type]
) -> tuple[ir.IRBuilder, dict[str, ir.Value]]:
    """Begin a function without a result: a builder at its start, and its arguments by name."""
    made = ir.Function(module, ir.FunctionType(ir.VoidType(), list(arguments.values())), name)
    builder = ir.IRBuilder(made.append_basic_block("entry"))
    builder.position_at_end(made.append_basic_block("begin"))
    with builder.goto_block(made.entry_basic_block):
        builder.branch(made.basic_blocks[1])
    return builder, dict(zip(arguments, made.args, strict=True))


def intrinsic(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """LLVM's own function of that name."""
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, list(arguments)), name)


def prefetch(builder: ir.IRBuilder, place: ir.Value, lines: int) -> None:
    """Ask for some cache lines from an address on; one that is not mapped is passed over."""
    ask = intrinsic(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, i32, i32, i32])
    for line in range(lines):
        at = builder.gep(place, [i64(CACHE_LINE * line)], source_etype=i8)
        builder.call(ask, [at, i32(0), i32(3), i32(1)])  # to read, keep it near, data


class Variable:
    """A value that changes. LLVM's mem2reg pass turns it into registers."""

    def __init__(self, builder: ir.IRBuilder, initial: ir.Value) -> None:
        self._builder = builder
        with builder.goto_entry_block():
            self._place = builder.alloca(initial.type)
        self.set(initial)

    def get(self) -> ir.Value:
        return self._builder.load(self._place, typ=self._place.allocated_type)

    def set(self, value: ir.Value) -> None:
        self._builder.store(value, self._place)


@contextlib.contextmanager
def count(builder: ir.IRBuilder, start: ir.Value, stop: ir.Value, step: int = 1) -> Iterator[ir.Value]:
    """`for value in range(start, stop, step)` over i64; the body is what is built inside the `with`."""
    at = Variable(builder, start)
    head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    value = at.get()
    builder.cbranch(builder.icmp_signed("<", value, stop), body, after)
    builder.position_at_end(body)
    yield value
    at.set(builder.add(value, i64(step)))
    builder.branch(head)
    builder.position_at_end(after)


def element(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, kind: ir.Type, align: int = 1) -> ir.Value:
    """Load `base[index]`, where `base` points to values of `kind`."""
    return builder.load(builder.gep(base, [index], source_etype=kind), typ=kind, align=align)


def splat(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """A vector with `value` in every lane."""
    vector = ir.VectorType(value.type, lanes)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, i32(0))
    return builder.shuffle_vector(
        single, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(i32, lanes), [0] * lanes)
    )


def repeated(value: ir.Constant, lanes: int) -> ir.Constant:
    """A vector with a constant in every lane."""
    return ir.Constant(ir.VectorType(value.type, lanes), [value.constant] * lanes)


def first_lanes(builder: ir.IRBuilder, vector: ir.Value, lanes: int) -> ir.Value:
    """The first lanes of a vector; what lies beyond its own is undefined."""
    if lanes == vector.type.count:
        return vector
    return builder.shuffle_vector(
        vector, ir.Constant(vector.type, ir.Undefined), ir.Constant(ir.VectorType(i32, lanes), list(range(lanes)))
    )


def smaller(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """The smaller of two signed integers."""
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def larger_float(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """The larger of two floats, or of each lane of two vectors of them."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)
