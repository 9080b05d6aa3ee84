"""Buffers as flat, strided memory, and the loads and stores of scalars and vectors from them.

Vectors in a caller's memory go through LLVM's masked intrinsics, which assume no alignment and touch no lane outside the
mask; with a mask that is all ones they are plain unaligned moves.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from ..ir.expr import Const, Read, reads_of
from ..ir.index import affine_in
from ..ir.types import DType
from . import conversions
from .arithmetic import convert, literal
from .element import computed, stored
from .microkernels.statements import as_index, constant
from .microkernels.vector import lane_type, splat, store_masked


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A buffer as the code generator sees it: ``flat`` memory, one stride (in elements) for each dimension."""

    flat: tirx.Buffer
    strides: tuple[tirx.Expr, ...]
    extents: tuple[tirx.Expr, ...]
    dtype: DType
    dense: bool = True  # one block without gaps: ours are, an argument's rows may be strided
    slack: int = 0  # points of the last dimension but one that may be read beyond the end
    base: tirx.Expr | None = None  # where it begins in the memory
    typed: tirx.Buffer | None = None  # the same memory under its own type, where ``flat`` holds raw bits

    def offset(self, indices: list[tirx.Expr]) -> tirx.Expr:
        """The flat position of an element."""
        total = self.base
        for index, stride in zip(indices, self.strides, strict=True):
            if constant(index) == 0:
                continue
            step = index if constant(stride) == 1 else index * stride
            total = step if total is None else total + step
        return as_index(0) if total is None else total


def decode(value: tirx.Expr, dtype: DType, lanes: int) -> tirx.Expr:
    """Storage to computation."""
    if dtype.is_bool:
        return tirx.NE(value, literal(0, "uint8", lanes))
    if dtype.is_float and dtype.bits < 32:
        return conversions.decode(value, dtype.name)
    return value


def encode(value: tirx.Expr, dtype: DType, lanes: int) -> tirx.Expr:
    """Computation to storage; floats are rounded to nearest, ties to even."""
    if dtype.is_bool:
        return select_bool(value, lanes)
    if dtype.is_float and dtype.bits < 32:
        return conversions.encode(value, dtype.name)
    return value


def select_bool(value: tirx.Expr, lanes: int) -> tirx.Expr:
    """A truth value as the bytes 0 and 1."""
    return tirx.Select(value, literal(1, "uint8", lanes), literal(0, "uint8", lanes))


def zero(dtype: DType, lanes: int) -> tirx.Expr:
    """0 (false) as computed."""
    return literal(0, computed(dtype), lanes)


def full_mask(lanes: int) -> tirx.Expr:
    return tirx.Broadcast(tirx.IntImm("bool", 1), lanes)


def load_scalar(view: View, at: tirx.Expr, guard: tirx.Expr | None) -> tirx.Expr:
    """One element; with a guard that is false, 0, and the memory is not touched."""
    raw = tirx.BufferLoad(view.flat, [at])
    if guard is not None:
        raw = tirx.if_then_else(guard, raw, literal(0, stored(view.dtype)))
    return decode(raw, view.dtype, 1)


def load_vector(view: View, at: tirx.Expr, lanes: int, mask: tirx.Expr | None) -> tirx.Expr:
    """``lanes`` consecutive elements from ``at``; lanes outside the mask are 0 and not touched."""
    held = stored(view.dtype)
    address = tirx.address_of(tirx.BufferLoad(view.flat, [at]))
    raw = tirx.call_llvm_pure_intrin(
        lane_type(held, lanes),
        "llvm.masked.load",
        address,
        full_mask(lanes) if mask is None else mask,
        literal(0, held, lanes),
    )
    return decode(raw, view.dtype, lanes)


def store_scalar(view: View, at: tirx.Expr, value: tirx.Expr) -> tirx.Stmt:
    return tirx.BufferStore(view.flat, encode(value, view.dtype, 1), [at])


def store_vector(
    view: View, at: tirx.Expr, value: tirx.Expr, lanes: int, mask: tirx.Expr | None, *, rounded: bool = False
) -> tirx.Stmt:
    """Writes ``lanes`` consecutive elements, those of the mask only; ``rounded``: they are bf16 numbers already."""
    raw = conversions.upper_half(value) if rounded else encode(value, view.dtype, lanes)
    return tirx.Evaluate(store_masked(view.flat, at, full_mask(lanes) if mask is None else mask, raw))


def broadcast(value: tirx.Expr, lanes: int, have: int) -> tirx.Expr:
    """A scalar in every lane; a vector as it is."""
    return splat(value, lanes) if have == 1 and lanes > 1 else value


def to_stored(value: tirx.Expr, dtype: DType) -> tirx.Expr:
    """Converts a computed value of any type to that in which ``dtype`` is computed."""
    return convert(value, computed(dtype))


def is_matrix(read: Read) -> bool:
    """Whether the micro-kernel can read the elements of a tensor itself."""
    return read.dtype.name in ("f64", "f32", "f16", "bf16") and not any(reads_of(i) for i in read.indices)


def moves_along(read: Read, rank: str | None) -> bool:
    """Whether neighbours along ``rank`` are neighbours in memory."""
    form = affine_in(read.indices[-1], (rank,)) if read.indices and rank is not None else None
    factor = None if form is None or rank is None or rank not in form.ranks else form.coefficient(rank)
    return isinstance(factor, Const) and factor.value == 1
