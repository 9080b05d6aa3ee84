"""Roots, rounding, signs and extremes: what machines do in one to three instructions."""

from __future__ import annotations

from tvm import tirx

from .lanes import Bind, magnitude, number, pure


def sqrt(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """The square root, correctly rounded; NaN below 0, sqrt(-0) = -0."""
    return pure("llvm.sqrt", x)


def rsqrt(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """1 / sqrt(x), two roundings; rsqrt(0) = inf, rsqrt(inf) = 0, NaN below 0."""
    return number(1.0, x) / pure("llvm.sqrt", x)


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
