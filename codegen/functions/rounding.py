"""Roots, rounding, signs and extremes: what machines do in one to three instructions."""

from __future__ import annotations

from tvm import tirx

from ..microkernels.vector import splat
from .lanes import Bind, format_of, lanes_of, magnitude, number, pure


def sqrt(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """The square root, correctly rounded; NaN below 0, sqrt(-0) = -0."""
    return pure("llvm.sqrt", x)


def rsqrt(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """1 / sqrt(x), two roundings; rsqrt(0) = inf, rsqrt(inf) = 0, NaN below 0."""
    return number(1.0, x) / pure("llvm.sqrt", x)


def divide_all(x: tirx.Expr, divisor: tirx.Expr, bind: Bind) -> tirx.Expr:
    """The vector x over one scalar: correctly rounded like a division, to 1 ulp where x or the quotient is near the smallest
    numbers. Needs a fused multiply-add.

    With r = 1 / s correctly rounded and q = x * r, q + (x - q * s) * r is x / s (Markstein, *Computation of elementary
    functions on the IBM RISC System/6000 processor*, 1990, theorem 7) unless r overflows: a tiny s, and x with it, is scaled
    first. Where an operand or the quotient is infinite or zero the correction is NaN, and q is right by itself.
    """
    binary = format_of(x)
    lanes = lanes_of(x)
    tiny = magnitude(divisor) < number(2.0 ** (2 * binary.mantissa - binary.bias), divisor)
    factor = bind(tirx.Select(tiny, number(2.0 ** (2 * binary.mantissa), divisor), number(1.0, divisor)))
    scalar = bind(divisor * factor)
    inverse = splat(bind(number(1.0, divisor) / scalar), lanes)
    value = bind(x * splat(factor, lanes))
    first = bind(value * inverse)
    rest = pure("llvm.fma", negate(first), splat(scalar, lanes), value)
    corrected = bind(pure("llvm.fma", rest, inverse, first))
    return tirx.Select(tirx.isnan(corrected), first, corrected)


def floor(x: tirx.Expr) -> tirx.Expr:
    """The greatest integer not above x."""
    return pure("llvm.floor", x)


def ceil(x: tirx.Expr) -> tirx.Expr:
    """The least integer not below x."""
    return pure("llvm.ceil", x)


def round_half_even(x: tirx.Expr) -> tirx.Expr:
    """The nearest integer, ties to even, whatever the machine's rounding mode."""
    return pure("llvm.roundeven", x)


def absolute(x: tirx.Expr) -> tirx.Expr:
    """|x|; the sign of NaN and of -0 is cleared as well."""
    return magnitude(x)


def negate(x: tirx.Expr) -> tirx.Expr:
    """-x, the sign bit flipped (0 - x would lose the sign of 0)."""
    return number(-0.0, x) - x


def sign(x: tirx.Expr) -> tirx.Expr:
    """-1, 0 or 1; 0 keeps its sign and NaN stays."""
    positive = tirx.Select(x > number(0.0, x), number(1.0, x), x)
    return tirx.Select(x < number(0.0, x), number(-1.0, x), positive)


def maximum(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """The greater of two; NaN where either is NaN. Max gives b where a comparison fails, so only NaN in a is left."""
    return tirx.Select(tirx.isnan(a), a, tirx.Max(a, b))


def minimum(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """The smaller of two; NaN where either is NaN."""
    return tirx.Select(tirx.isnan(a), a, tirx.Min(a, b))
