"""Vector expressions of the CPU micro-kernels: masked memory access, widening, fused multiply-add, transposition.

Memory of a caller is only touched through LLVM's masked intrinsics: they assume no alignment and touch no lane
outside the mask. TVM's own vector `BufferLoad` promises the alignment of the buffer's declaration and is kept for our
packed buffers.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm_ffi
from tvm import tirx

from .statements import as_index, constant, index, maximum, minimum

_NARROW_STORAGE = {"bfloat16": "uint16"}
"""Types that LLVM's intrinsics do not take in TVM 0.27, and the integer that carries their bits."""


def lane_type(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def lanes_of(value: tirx.Expr) -> int:
    return int(tvm_ffi.dtype(str(value.ty.dtype)).lanes)


def splat(value: tirx.Expr, lanes: int) -> tirx.Expr:
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def zeros(dtype: str, lanes: int) -> tirx.Expr:
    scalar = tirx.FloatImm(dtype, 0.0) if "float" in dtype else tirx.IntImm(dtype, 0)
    return splat(scalar, lanes)


def first_lanes(count: tirx.Expr | int, lanes: int) -> tirx.Expr:
    """The mask of the lanes below `count` (any int64: below 0 means none, above `lanes` all)."""
    if (known := constant(count)) is not None:
        known = max(0, min(known, lanes))
        if known in (0, lanes):
            return tirx.Broadcast(tirx.IntImm("bool", int(known == lanes)), lanes)
    clamped = tirx.Cast("int32", maximum(minimum(as_index(count), index(lanes)), index(0)))
    ramp = tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), lanes)
    return ramp < tirx.Broadcast(clamped, lanes)


def widen(value: tirx.Expr, dtype: str) -> tirx.Expr:
    """A scalar or vector of any floating type in `dtype`, which is at least as wide."""
    wanted = lane_type(dtype, lanes_of(value))
    return value if str(value.ty.dtype) == wanted else tirx.Cast(wanted, value)


def load_scalar(buffer: tirx.Buffer, at: tirx.Expr, dtype: str) -> tirx.Expr:
    """The element at `at`, or the elements at a vector of indices, in `dtype`."""
    value = tirx.BufferLoad(buffer, [at])
    if str(buffer.dtype) == "bfloat16":
        value = _from_bfloat16_bits(tirx.call_intrin(lane_type("uint16", lanes_of(value)), "tirx.reinterpret", value))
    return widen(value, dtype)


def _from_bfloat16_bits(bits: tirx.Expr) -> tirx.Expr:
    """float32 from its upper half. TVM 0.27 converts the bits as integers where a cast from bfloat16 is bound."""
    lanes = lanes_of(bits)
    word = tirx.Cast(lane_type("uint32", lanes), bits) << splat(tirx.IntImm("uint32", 16), lanes)
    return tirx.reinterpret(lane_type("float32", lanes), word)


def load_masked(buffer: tirx.Buffer, at: tirx.Expr, mask: tirx.Expr, dtype: str, lanes: int) -> tirx.Expr:
    """`lanes` consecutive elements from `at`, widened to `dtype`; lanes outside the mask are zero and not read."""
    source = str(buffer.dtype)
    storage = _NARROW_STORAGE.get(source, source)
    address = tirx.address_of(tirx.BufferLoad(buffer, [at]))
    value = tirx.call_llvm_pure_intrin(lane_type(storage, lanes), "llvm.masked.load", address, mask, zeros(storage, lanes))
    if source == "bfloat16":
        value = _from_bfloat16_bits(value)
    return widen(value, dtype)


def store_masked(buffer: tirx.Buffer, at: tirx.Expr, mask: tirx.Expr, value: tirx.Expr) -> tirx.Expr:
    """A call that writes the lanes of `value` inside the mask from `at` on; types must agree."""
    address = tirx.address_of(tirx.BufferLoad(buffer, [at]))
    whole = isinstance(mask, tirx.Broadcast)
    return tirx.call_llvm_intrin("void", "llvm.masked.store", value if whole else _settled(value), address, mask)


def _settled(value: tirx.Expr) -> tirx.Expr:
    """The same integers, narrowed before they are stored and not by the store.

    LLVM for AVX-512 joins a truncation and a masked store, and makes of one whose mask is known to have one lane only a
    store of an element as wide as before the truncation: it writes beyond the lane.
    """
    dtype, lanes = tvm_ffi.dtype(str(value.ty.dtype)), lanes_of(value)
    words = dtype.bits * lanes // 32
    if "float" in str(dtype) or words == 0:
        return value
    fenced = lane_type("float32", words)
    value_as_words = tirx.call_intrin(fenced, "tirx.reinterpret", value)
    settled = tirx.call_llvm_pure_intrin(fenced, "llvm.arithmetic.fence", value_as_words)
    return tirx.call_intrin(str(value.ty.dtype), "tirx.reinterpret", settled)


def prefetch(buffer: tirx.Buffer, at: tirx.Expr, *, write: bool = False, level: int = 1) -> tirx.Expr:
    """A call that asks for the cache line of an element, which need not exist, in the caches from L`level` outwards."""
    address = tirx.address_of(tirx.BufferLoad(buffer, [at]))
    intent, locality, data = (tirx.IntImm("int32", value) for value in (int(write), 4 - level, 1))
    return tirx.call_llvm_intrin("void", "llvm.prefetch", address, intent, locality, data)


def load_aligned(buffer: tirx.Buffer, at: tirx.Expr, lanes: int) -> tirx.Expr:
    """A whole vector of one of our own buffers."""
    return tirx.BufferLoad(buffer, [tirx.Ramp(as_index(at), index(1), lanes) if lanes > 1 else at])


def fma(a: tirx.Expr, b: tirx.Expr, c: tirx.Expr, *, fused: bool) -> tirx.Expr:
    """a · b + c, rounded once where the machine can (a software `fma` costs a library call)."""
    return tirx.call_llvm_pure_intrin(str(c.ty.dtype), "llvm.fma", a, b, c) if fused else a * b + c


def shuffle(vectors: Sequence[tirx.Expr], lanes: Sequence[int]) -> tirx.Expr:
    return tirx.Shuffle(list(vectors), [tirx.IntImm("int32", lane) for lane in lanes])
