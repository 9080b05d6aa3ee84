"""Scalars and vectors alike: constants, fused operations and bit patterns in the type of an operand.

Values are float32 or float64, scalar or with any number of lanes. Multiply-adds are written as `llvm.fmuladd`, which is
one instruction where the machine has it and two where it has not; no formula here depends on the single rounding.
TVM's simplifier must not run over the result: it takes x - x for 0 and (x + c) - c for x (see `codegen/pipeline.py`).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import tvm_ffi
from tvm import tirx

from ..microkernels.vector import lane_type, shuffle, splat

Bind = Callable[[tirx.Expr], tirx.Expr]
"""Names a value that is used more than once, so that it is written and computed once."""

_FEATURES: ContextVar[frozenset[str]] = ContextVar("features", default=frozenset())


_DEVICE: ContextVar[bool] = ContextVar("device", default=False)


@contextmanager
def using(features: frozenset[str], *, device: bool = False) -> Iterator[None]:
    """Functions made inside may use the instructions of these features (LLVM's names), beside those of every machine;
    ``device``: they are CUDA code, of scalars, with CUDA's names of functions in the place of LLVM's intrinsics."""
    tokens = _FEATURES.set(features), _DEVICE.set(device)
    try:
        yield
    finally:
        _FEATURES.reset(tokens[0])
        _DEVICE.reset(tokens[1])


def on_device() -> bool:
    """Whether CUDA code is being made."""
    return _DEVICE.get()


_ON_DEVICE = {
    "llvm.fma": "fma",
    "llvm.fmuladd": "fma",
    "llvm.fabs": "fabs",
    "llvm.copysign": "copysign",
    "llvm.floor": "floor",
    "llvm.ceil": "ceil",
    "llvm.roundeven": "rint",
    "llvm.sqrt": "sqrt",
}
"""CUDA's double-precision functions (CUDA C++ Programming Guide, mathematical functions); those of f32 end in f."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """An IEEE 754 binary format: its TIR name, the integers of its width, and the layout of its bits."""

    name: str
    integer: str
    mantissa: int
    bias: int

    @property
    def shifter(self) -> float:
        """1.5 * 2^mantissa: adding it rounds to an integer (ties to even) and leaves that in the low bits."""
        return 1.5 * 2.0**self.mantissa


_FORMATS = {
    f.name: f
    for f in (
        Binary(name="float32", integer="int32", mantissa=23, bias=127),
        Binary(name="float64", integer="int64", mantissa=52, bias=1023),
    )
}


def lanes_of(x: tirx.Expr) -> int:
    """The number of lanes of a TIR value, 1 for a scalar."""
    return int(tvm_ffi.dtype(str(x.ty.dtype)).lanes)


def format_of(x: tirx.Expr) -> Binary:
    """The format of a float32 or float64 value; raises `TypeError` for another type."""
    name = str(x.ty.dtype).split("x")[0]
    if name not in _FORMATS:
        raise TypeError(f"functions are computed in float32 or float64, not {name}")
    return _FORMATS[name]


def float_constant(dtype: str, value: float) -> tirx.Expr:
    """A scalar constant. TVM writes doubles to CUDA with 15 places behind the point: those that need more go by their bits."""
    if dtype == "float64" and on_device() and math.isfinite(value) and float(f"{value:.15f}") != value:
        (bits,) = struct.unpack("<q", struct.pack("<d", value))
        return tirx.reinterpret(dtype, tirx.IntImm("int64", bits))
    return tirx.FloatImm(dtype, value)


def number(value: float, like: tirx.Expr) -> tirx.Expr:
    """A float constant in every lane of the type of `like`."""
    return splat(float_constant(format_of(like).name, value), lanes_of(like))


def integer(value: int, like: tirx.Expr) -> tirx.Expr:
    """An integer constant of the width of `like`, in as many lanes."""
    return splat(tirx.IntImm(format_of(like).integer, value), lanes_of(like))


def reinterpreted(value: tirx.Expr, dtype: str) -> tirx.Expr:
    """The bits of a value as another type of the same width; of a literal a literal, whose address CUDA C++ would not take."""
    if not isinstance(value, tirx.FloatImm | tirx.IntImm):
        return tirx.reinterpret(dtype, value)
    held = np.array(value.value, str(value.ty.dtype)).view(dtype)
    if dtype == "uint64" and held >> np.uint64(63):
        return tirx.reinterpret(dtype, tirx.IntImm("int64", int(held.view("int64"))))  # TVM holds no greater ones
    return tirx.FloatImm(dtype, float(held)) if dtype.startswith("float") else tirx.IntImm(dtype, int(held))


def bits(x: tirx.Expr) -> tirx.Expr:
    """The bit pattern of a float as a signed integer."""
    return reinterpreted(x, lane_type(format_of(x).integer, lanes_of(x)))


def from_bits(pattern: tirx.Expr, like: tirx.Expr) -> tirx.Expr:
    """The float of the type of `like` with this bit pattern."""
    return reinterpreted(pattern, str(like.ty.dtype))


def pure(name: str, *args: tirx.Expr) -> tirx.Expr:
    """An LLVM intrinsic whose result has the type of its first argument."""
    if _DEVICE.get():
        return device_function(_ON_DEVICE[name], *args)
    return tirx.call_llvm_pure_intrin(str(args[0].ty.dtype), name, *args)


def device_function(name: str, *args: tirx.Expr) -> tirx.Expr:
    """A function of CUDA's mathematical library for doubles, or its form for floats."""
    dtype = str(args[0].ty.dtype)
    return tirx.call_pure_extern(dtype, name if dtype == "float64" else f"{name}f", *args)


def fma(a: tirx.Expr, b: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
    """a * b + c."""
    return pure("llvm.fmuladd", a, b, c)


def horner(coefficients: Sequence[float], x: tirx.Expr) -> tirx.Expr:
    """The polynomial with these coefficients, lowest power first; `x` must be bound."""
    *rest, result = [number(c, x) for c in coefficients]
    for coefficient in reversed(rest):
        result = fma(result, x, coefficient)
    return result


def magnitude(x: tirx.Expr) -> tirx.Expr:
    """|x|, the sign bit cleared."""
    return pure("llvm.fabs", x)


def with_sign(x: tirx.Expr, sign: tirx.Expr) -> tirx.Expr:
    """`x` with the sign bit of `sign`."""
    return pure("llvm.copysign", x, sign)


def larger(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """The greater of two floats; b where one is NaN. (CUDA's own maximum gives the number.)"""
    return tirx.Select(a > b, a, b) if _DEVICE.get() else tirx.Max(a, b)


def smaller(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """The smaller of two floats; b where one is NaN."""
    return tirx.Select(a < b, a, b) if _DEVICE.get() else tirx.Min(a, b)


def at_least(x: tirx.Expr, bound: float) -> tirx.Expr:
    """max(x, bound); NaN stays NaN. (TIR's Max gives its second operand where a comparison fails.)"""
    return larger(number(bound, x), x)


def at_most(x: tirx.Expr, bound: float) -> tirx.Expr:
    """min(x, bound); NaN stays NaN."""
    return smaller(number(bound, x), x)


def scaled(p: tirx.Expr, n: tirx.Expr) -> tirx.Expr | None:
    """p * 2^floor(n) for n of any size, rounded once, subnormals included; None where the machine has no such instruction
    for vectors of this type (`vscalefps`, `vscalefpd`)."""
    binary, lanes = format_of(p), lanes_of(p)
    bits = lanes * (32 if binary.name == "float32" else 64)
    needed = {512: {"avx512f"}, 256: {"avx512f", "avx512vl"}, 128: {"avx512f", "avx512vl"}}.get(bits)
    if needed is None or lanes == 1 or not needed <= _FEATURES.get():
        return None
    mask = tirx.IntImm("uint8" if lanes <= 8 else "uint16", (1 << max(8, lanes)) - 1)
    nearest = [tirx.IntImm("int32", 4)] if bits == 512 else []  # the rounding mode that is set
    name = f"llvm.x86.avx512.mask.scalef.{'ps' if binary.name == 'float32' else 'pd'}.{bits}"
    return pure(name, p, n, p, mask, *nearest)


def fraction(t: tirx.Expr) -> tirx.Expr | None:
    """t - floor(t), exact, 0 for ±inf; None where the machine has no such instruction for vectors of this type (`vreduceps`).
    :func:`scaled` takes the floor itself."""
    if format_of(t).name != "float32" or lanes_of(t) != 16 or not {"avx512f", "avx512dq"} <= _FEATURES.get():
        return None
    downwards, everywhere, nearest = (
        tirx.IntImm(dtype, value) for dtype, value in (("int32", 9), ("uint16", 0xFFFF), ("int32", 4))
    )
    name = "llvm.x86.avx512.mask.reduce.ps.512"
    return tirx.call_llvm_pure_intrin(str(t.ty.dtype), name, t, downwards, t, everywhere, nearest)


def looked_up(table: Sequence[float], place: tirx.Expr) -> tirx.Expr | None:
    """The float32 of a table of 16 or 32 that the low bits of each lane of `place` name; None where the machine has no such
    instruction for this many lanes (`vpermps`, `vpermt2ps`)."""
    if lanes_of(place) != 16 or "avx512f" not in _FEATURES.get() or not str(place.ty.dtype).startswith("int32"):
        return None
    halves = [shuffle([tirx.FloatImm("float32", v) for v in table[k : k + 16]], range(16)) for k in range(0, len(table), 16)]
    if len(halves) == 1:
        return pure("llvm.x86.avx512.permvar.sf.512", *halves, place)
    return pure("llvm.x86.avx512.vpermi2var.ps.512", halves[0], place, halves[1])
