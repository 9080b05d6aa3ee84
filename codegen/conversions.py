"""Conversions between element types: small floats as codes, rounding, saturating casts to integers, bit patterns.

TVM 0.27 gets FP8 codes wrong (zero, subnormals, NaN), cannot bind or load bfloat16 vectors, and leaves a cast of a
float outside an integer's range undefined; here every bit pattern has a defined result, scalar or vector. Roundings
are to nearest, ties to even. Finite values beyond the largest of an 8-, 6- or 4-bit float saturate, and so do
infinities where the format has none (OCP Microscaling Formats 1.0, section 5.3); bf16 and f16 overflow to infinity.

A value is used several times in its result: callers pass leaves (a variable, a load), or a `bind`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from ..ir.types import DType, Kind
from .functions import device
from .functions.lanes import (
    Bind,
    at_most,
    bits,
    format_of,
    integer,
    lanes_of,
    magnitude,
    number,
    on_device,
    reinterpreted,
    with_sign,
)
from .functions.lanes import (
    from_bits as float_from_bits,
)
from .microkernels.vector import lane_type, splat


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallFloat:
    """A float of at most 8 bits: sign, `exponent` and `mantissa` bits; value 2^(e - bias) * 1.m, subnormal for e = 0.

    `largest` is the greatest finite value, `infinity` and `nan` the codes without sign, None where there is none.
    """

    exponent: int
    mantissa: int
    bias: int
    largest: float
    infinity: int | None = None
    nan: int | None = None

    @property
    def sign(self) -> int:
        """The sign bit."""
        return 1 << (self.exponent + self.mantissa)

    @property
    def smallest_normal(self) -> float:
        return 2.0 ** (1 - self.bias)


SMALL_FLOATS = {
    "f8_e4m3": SmallFloat(exponent=4, mantissa=3, bias=7, largest=448.0, nan=0x7F),
    "f8_e5m2": SmallFloat(exponent=5, mantissa=2, bias=15, largest=57344.0, infinity=0x7C, nan=0x7E),
    "f6_e3m2": SmallFloat(exponent=3, mantissa=2, bias=3, largest=28.0),
    "f6_e2m3": SmallFloat(exponent=2, mantissa=3, bias=1, largest=7.5),
    "f4_e2m1": SmallFloat(exponent=2, mantissa=1, bias=1, largest=6.0),
}
"""The formats by their name in the language (OCP 8-bit Floating Point 1.0; OCP Microscaling Formats 1.0)."""


def _same(value: tirx.Expr) -> tirx.Expr:
    return value


def _cast(value: tirx.Expr, dtype: str) -> tirx.Expr:
    return tirx.Cast(lane_type(dtype, lanes_of(value)), value)


def _constant(value: int, like: tirx.Expr) -> tirx.Expr:
    """An integer in every lane of the type of `like`."""
    return splat(tirx.IntImm(str(like.ty.dtype).split("x")[0], value), lanes_of(like))


def decode(value: tirx.Expr, name: str, bind: Bind = _same) -> tirx.Expr:
    """Stored elements as float32: `f16` from float16, `bf16` from uint16, the others from uint8 codes."""
    if name == "f16":
        return _cast(value, "float32")
    wide = _cast(value, "uint32")
    if name == "bf16":
        wide = wide << _constant(16, wide)
        return reinterpreted(wide, lane_type("float32", lanes_of(value)))
    return _decode_small(tirx.Cast(lane_type("int32", lanes_of(value)), wide), SMALL_FLOATS[name])


def _decode_small(code: tirx.Expr, form: SmallFloat) -> tirx.Expr:
    shift = 23 - form.mantissa
    size = code & _constant(form.sign - 1, code)
    like = _cast(size, "float32")
    subnormal = like * number(form.smallest_normal * 2.0**-form.mantissa, like)
    rebias = _constant((127 - form.bias) << 23, code)
    result = tirx.Select(
        size < _constant(1 << form.mantissa, code),
        subnormal,
        float_from_bits((size << _constant(shift, code)) + rebias, like),
    )
    if form.nan is not None:
        top = form.nan if form.infinity is None else form.infinity
        special = number(math.nan, like)
        if form.infinity is not None:
            special = tirx.Select(size > _constant(form.infinity, code), special, number(math.inf, like))
        result = tirx.Select(size >= _constant(top, code), special, result)
    sign = (code & _constant(form.sign, code)) << _constant(31 - form.exponent - form.mantissa, code)
    return float_from_bits(bits(result) | sign, like)


def encode(value: tirx.Expr, name: str, bind: Bind = _same) -> tirx.Expr:
    """float32 rounded to storage: `f16` to float16, `bf16` to uint16, the others to uint8 codes."""
    if name == "f16":
        return _cast(value, "float16")
    if name == "bf16" and isinstance(value, tirx.FloatImm):  # a literal has no bits that CUDA C++ could look at
        return tirx.IntImm("uint16", _bf16_of(value.value))
    if name == "bf16":
        if on_device():
            return device.to_bf16(value)
        pattern = _bf16_pattern(value)
        return _cast(pattern >> _constant(16, pattern), "uint16")
    return _cast(_encode_small(value, SMALL_FLOATS[name], bind), "uint8")


def upper_half(value: tirx.Expr) -> tirx.Expr:
    """float32 that is a bf16 number, to uint16."""
    pattern = reinterpreted(value, lane_type("uint32", lanes_of(value)))
    return _cast(pattern >> _constant(16, pattern), "uint16")


def _bf16_pattern(x: tirx.Expr) -> tirx.Expr:
    """The bits of x rounded to bf16, as uint32 whose lower half is to be dropped. NaN becomes a quiet NaN."""
    pattern = reinterpreted(x, lane_type("uint32", lanes_of(x)))
    odd = (pattern >> _constant(16, pattern)) & _constant(1, pattern)
    rounded = pattern + (odd + _constant(0x7FFF, pattern))
    return tirx.Select(tirx.isnan(x), pattern | _constant(0x400000, pattern), rounded)


def _bf16_of(value: float) -> int:
    """The bits of a number rounded to bf16."""
    with np.errstate(over="ignore"):
        pattern = int(np.float32(value).view(np.uint32))
    if math.isnan(value):
        return pattern >> 16 | 0x40
    return pattern + (pattern >> 16 & 1) + 0x7FFF >> 16


def _round_small(x: tirx.Expr, form: SmallFloat, bind: Bind) -> tirx.Expr:
    """|x| rounded to the format, as float32; NaN stays.

    The spacing at |x| is the power of two below it (at least the smallest normal) over 2^mantissa. Adding and
    subtracting 1.5 * 2^23 times that rounds to a multiple of it.
    """
    a = bind(at_most(magnitude(x), form.largest))
    power = tirx.Max(float_from_bits(bits(a) & integer(0x7F800000, x), x), number(form.smallest_normal, x))
    shifter = bind(power * number(1.5 * 2.0 ** (23 - form.mantissa), x))
    return (a + shifter) - shifter


def _encode_small(x: tirx.Expr, form: SmallFloat, bind: Bind) -> tirx.Expr:
    q = bind(_round_small(x, form, bind))
    spacing = form.smallest_normal * 2.0**-form.mantissa
    rebias = integer((127 - form.bias) << form.mantissa, x)
    code = tirx.Select(
        q < number(form.smallest_normal, x),
        tirx.Cast(lane_type("int32", lanes_of(x)), q * number(1.0 / spacing, x)),
        (bits(q) >> integer(23 - form.mantissa, x)) - rebias,
    )
    if form.infinity is not None:
        code = tirx.Select(tirx.EQ(magnitude(x), number(math.inf, x)), integer(form.infinity, x), code)
    code = tirx.Select(tirx.isnan(x), integer(form.nan or 0, x), code)
    negative = bits(x) < integer(0, x)
    if form.nan is None:  # NaN is 0: without its sign
        negative = tirx.And(negative, tirx.Not(tirx.isnan(x)))
    return tirx.Select(negative, code + integer(form.sign, x), code)


def round_to(value: tirx.Expr, name: str, bind: Bind = _same) -> tirx.Expr:
    """float32 rounded to a smaller float type, still float32: what storing and loading would give."""
    if name == "f16":
        return _cast(_cast(value, "float16"), "float32")
    if name == "bf16":
        if on_device():
            return decode(device.to_bf16(value), name)
        pattern = _bf16_pattern(value)
        return reinterpreted(pattern & _constant(0xFFFF0000, pattern), str(value.ty.dtype))
    form = SMALL_FLOATS[name]
    rounded = with_sign(_round_small(value, form, bind), value)
    if form.infinity is not None:
        infinite = tirx.EQ(magnitude(value), number(math.inf, value))
        rounded = tirx.Select(infinite, value, rounded)
    if form.nan is None:
        rounded = tirx.Select(tirx.isnan(value), number(0.0, value), rounded)
    return rounded


def float_to_int(value: tirx.Expr, target: DType) -> tirx.Expr:
    """Truncation toward zero, saturating; NaN gives 0. `value` is float32 or float64; sub-byte types come in a byte.

    The cast itself only ever sees values that fit, because anything else is undefined in LLVM. `i1` takes the sign of
    the truncated value, 0 going to +1.
    """
    binary = format_of(value)
    least, most = int(target.minimum), int(target.maximum)
    clean = tirx.Select(tirx.isnan(value), number(0.0, value), value)
    below = float(np.dtype(binary.name).type(most))
    if int(below) > most:  # rounded up to a power of two
        below -= below * 2.0 ** -(binary.mantissa + 1)
    inside = tirx.Min(tirx.Max(clean, number(float(least), value)), number(below, value))
    width = max(8, target.bits)
    held = ("uint" if target.kind is Kind.UNSIGNED else "int") + str(width)
    whole = _cast(_cast(inside, "int32"), held) if width < 32 else _cast(inside, held)
    if below < most:
        whole = tirx.Select(value >= number(float(most), value), _largest(whole, most), whole)
    if target.kind is Kind.BIPOLAR:
        whole = tirx.Select(whole < _constant(0, whole), _constant(-1, whole), _constant(1, whole))
    return whole


def _largest(like: tirx.Expr, most: int) -> tirx.Expr:
    if most >= 1 << 63:
        return ~_constant(0, like)
    return _constant(most, like)


def to_bits(value: tirx.Expr, dtype: DType, bind: Bind = _same) -> tirx.Expr:
    """The bits of a computed value of `dtype` as uint8, uint16, uint32 or uint64; +1 of `i1` is 1."""
    if dtype.is_float:
        if dtype.bits < 32:
            stored = encode(value, dtype.name, bind)
            return reinterpreted(stored, lane_type("uint16", lanes_of(value))) if dtype.name == "f16" else stored
        return reinterpreted(value, lane_type(f"uint{dtype.bits}", lanes_of(value)))
    if dtype.is_bool:
        return _cast(value, "uint8")
    if dtype.kind is Kind.BIPOLAR:
        return _cast(value > _constant(0, value), "uint8")
    pattern = _cast(value, f"uint{max(8, dtype.bits)}")
    return pattern & _constant((1 << dtype.bits) - 1, pattern) if dtype.bits < 8 else pattern


def from_bits(pattern: tirx.Expr, dtype: DType, bind: Bind = _same) -> tirx.Expr:
    """The value of `dtype`, as computed, with these bits (as `to_bits` gives them)."""
    if dtype.is_float:
        if dtype.bits < 32:
            if dtype.name == "f16":
                pattern = reinterpreted(pattern, lane_type("float16", lanes_of(pattern)))
            return decode(pattern, dtype.name, bind)
        return reinterpreted(pattern, lane_type(f"float{dtype.bits}", lanes_of(pattern)))
    zero = _constant(0, pattern)
    if dtype.is_bool:
        return tirx.NE(pattern, zero)
    if dtype.kind is Kind.BIPOLAR:
        one = _constant(1, pattern)
        return _cast(tirx.Select(tirx.NE(pattern, zero), one, ~zero), "int8")
    if dtype.kind is Kind.UNSIGNED:
        return pattern
    signed = _cast(pattern, f"int{max(8, dtype.bits)}")
    if dtype.bits >= 8:
        return signed
    cut = _constant(8 - dtype.bits, signed)
    return (signed << cut) >> cut
