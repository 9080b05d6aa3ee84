"""Roots, rounding, signs and extremes: what machines do in one to three instructions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from tvm import tirx

from ..microkernels.vector import splat
from .lanes import Binary, Bind, format_of, lanes_of, larger, magnitude, number, pure, smaller


def sqrt(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """The square root, correctly rounded; NaN below 0, sqrt(-0) = -0."""
    return pure("llvm.sqrt", x)


def rsqrt(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """1 / sqrt(x), two roundings; rsqrt(0) = inf, rsqrt(inf) = 0, NaN below 0."""
    return number(1.0, x) / pure("llvm.sqrt", x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inverse:
    """What divides many numbers by one: the inverse of ``scalar``, which is the divisor times ``factor``, a power of two."""

    scalar: tirx.Expr
    factor: tirx.Expr
    inverse: tirx.Expr
    exact: bool = True  # quotients are rounded correctly, else within 2 ulp

    @staticmethod
    def of(divisor: tirx.Expr, bind: Bind, *, exact: bool = True) -> Inverse:
        """That of a scalar."""
        binary = format_of(divisor)
        tiny = magnitude(divisor) < number(2.0 ** (2 * binary.mantissa - binary.bias), divisor)
        factor = bind(tirx.Select(tiny, number(2.0 ** (2 * binary.mantissa), divisor), number(1.0, divisor)))
        scalar = bind(divisor * factor)
        return Inverse(scalar=scalar, factor=factor, inverse=bind(number(1.0, divisor) / scalar), exact=exact)


def divide_all(x: tirx.Expr, divisor: tirx.Expr, bind: Bind) -> tirx.Expr:
    """The vector x over one scalar: :func:`divide_with` its inverse."""
    return divide_with(x, Inverse.of(divisor, bind), bind)


def divide_with(x: tirx.Expr, divisor: Inverse, bind: Bind) -> tirx.Expr:
    """x over a scalar: correctly rounded like a division, to 1 ulp where x or the quotient is near the smallest numbers.

    Needs a fused multiply-add, but where the inverse is not exact.

    With r = 1 / s correctly rounded and q = x * r, q + (x - q * s) * r is x / s (Markstein, *Computation of elementary
    functions on the IBM RISC System/6000 processor*, 1990, theorem 7) unless r overflows: a tiny s, and x with it, is scaled
    first. Where an operand or the quotient is infinite or zero the correction is NaN, and q is right by itself.
    """
    lanes = lanes_of(x)
    inverse = splat(divisor.inverse, lanes)
    value = bind(x * splat(divisor.factor, lanes))
    first = bind(value * inverse)
    if not divisor.exact:
        return first
    rest = pure("llvm.fma", negate(first), splat(divisor.scalar, lanes), value)
    corrected = bind(pure("llvm.fma", rest, inverse, first))
    return tirx.Select(tirx.isnan(corrected), first, corrected)


def divide_by(x: tirx.Expr, divisor: float) -> tirx.Expr | None:
    """The vector x over a number that is known when the code is made, in two operations; None where its inverse is no normal
    number. Needs a fused multiply-add.

    The inverse is the sum of two numbers of the format, high and low, and x * high + x * low is x / divisor for all but a few
    x, for which the last place may differ (Brisebarre, Muller and Raina, *Accelerating correctly rounded floating-point
    division when the divisor is known in advance*, 2004, section 3). Quotients that the format holds are exact. `high` is
    rounded towards 0, so that both parts have one sign and an infinite x meets no infinity of the other.
    """
    parts = _inverse(divisor, format_of(x))
    if parts is None:
        return None
    high, low = (number(part, x) for part in parts)
    return x * high if parts[1] == 0 else pure("llvm.fma", x, high, x * low)


def _inverse(divisor: float, binary: Binary) -> tuple[float, float] | None:
    """1 / divisor as a sum of two numbers of the format, the first nearer to 0."""
    if not math.isfinite(divisor) or divisor == 0:
        return None
    exact = 1 / Fraction(divisor)
    _, exponent = math.frexp(exact)  # 2^(exponent - 1) <= |exact| < 2^exponent, or one more where it rounds up
    if not 2 * binary.mantissa + 4 - binary.bias < exponent < binary.bias:
        return None
    unit = Fraction(2) ** (exponent - 1 - binary.mantissa)
    high = int(exact / unit) * unit
    return float(high), float(exact - high)


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
    return tirx.Select(tirx.isnan(a), a, larger(a, b))


def minimum(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """The smaller of two; NaN where either is NaN."""
    return tirx.Select(tirx.isnan(a), a, smaller(a, b))
