"""exp, exp2 and sigmoid: Cody and Waite's reduction to |r| <= ln2/2, a polynomial, and scaling in two steps.

x = n*ln2 + r with n the nearest integer, e^x = 2^n * e^r (Cody and Waite, *Software Manual for the Elementary
Functions*, 1980, chapter 6). n is rounded and made an integer by one addition of 1.5 * 2^mantissa, so that its bits
need no conversion. 2^n is applied as two factors: one alone overflows for n = 128 and cannot reach the subnormals.
Coefficients: `tools/minimax.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from .lanes import Bind, at_least, at_most, bits, fma, format_of, from_bits, horner, integer, magnitude, number

LOG2E = 1.4426950408889634

EXP = {
    "float32": (  # e^r = 1 + r + r^2 * polynomial within 1.42e-08
        0.4999999701976776,
        0.16666541993618011,
        0.04166749492287636,
        0.008366725407540798,
        0.0013865488581359386,
    ),
    "float64": (  # e^r = 1 + r + r^2 * polynomial within 1.94e-17
        0.5000000000000006,
        0.1666666666666659,
        0.041666666666572996,
        0.00833333333338807,
        0.0013888888932699162,
        0.00019841269723470478,
        2.480150396264194e-05,
        2.755740234342612e-06,
        2.7626549466149137e-07,
        2.505582312197432e-08,
    ),
}

EXP2 = {
    "float32": (  # 2^r = 1 + r * polynomial within 3.63e-09
        0.6931471824645996,
        0.24022644758224487,
        0.055503588169813156,
        0.009618834592401981,
        0.00133913301397115,
        0.00015241123037412763,
    ),
    "float64": (  # 2^r = 1 + r * polynomial within 1.25e-18
        0.6931471805599453,
        0.2402265069591007,
        0.05550410866482295,
        0.0096181291076296,
        0.0013333558146160047,
        0.0001540353039122378,
        1.5252734041418109e-05,
        1.3215488576469858e-06,
        1.0177983644016478e-07,
        7.054242077562535e-09,
        4.4658428941303347e-10,
        2.6628356552303073e-11,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Arguments below `low` give 0 and above `high` inf; ln2 = `ln2_high` + `ln2_low`, n * `ln2_high` exact."""

    low: float
    high: float
    low2: float
    high2: float
    ln2_high: float
    ln2_low: float


RANGE = {
    "float32": Range(
        low=-104.0, high=89.0, low2=-151.0, high2=129.0, ln2_high=0.693359375, ln2_low=-2.1219444005469057e-4
    ),
    "float64": Range(
        low=-746.0,
        high=710.0,
        low2=-1076.0,
        high2=1025.0,
        ln2_high=float.fromhex("0x1.62e42feep-1"),
        ln2_low=float.fromhex("0x1.a39ef35793c76p-33"),
    ),
}


def nearest(x: tirx.Expr, factor: float, bind: Bind, *, biased: bool = False) -> tuple[tirx.Expr, tirx.Expr]:
    """The integer n nearest to x * factor as (a float whose low bits hold n, plus the exponent bias if asked; n)."""
    binary = format_of(x)
    shifter = number(binary.shifter + (binary.bias if biased else 0), x)
    shifted = bind(fma(x, number(factor, x), shifter) if factor != 1.0 else x + shifter)
    return shifted, bind(shifted - shifter)


def remainder(x: tirx.Expr, n: tirx.Expr, bind: Bind) -> tirx.Expr:
    """x - n*ln2, in two parts, the first exact."""
    limits = RANGE[format_of(x).name]
    return bind(fma(n, number(-limits.ln2_low, x), fma(n, number(-limits.ln2_high, x), x)))


def scale(p: tirx.Expr, n: tirx.Expr, shifted: tirx.Expr, bind: Bind) -> tirx.Expr:
    """p * 2^n as p * 2^h * 2^(n-h), h near n/2; `shifted` holds n in its low bits. Rounds at most once."""
    binary = format_of(p)
    # The low bits of `half` are h + bias; those of `shifted` n. Only the lowest bits of either survive the shift.
    half = bind(fma(n, number(0.5, p), number(binary.shifter + binary.bias, p)))
    left = integer(binary.mantissa, p)
    other = bits(shifted) - bits(half) + integer(2 * binary.bias, p)
    return p * from_bits(bits(half) << left, p) * from_bits(other << left, p)


def _exp_in_range(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    shifted, n = nearest(x, LOG2E, bind)
    r = remainder(x, n, bind)
    p = fma(fma(horner(EXP[format_of(x).name], r), r, number(1.0, x)), r, number(1.0, x))
    return scale(p, n, shifted, bind)


def exp(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """e^x. exp(-inf) = 0, exp(inf) = inf, NaN stays; subnormal results are correct."""
    x = bind(x)
    limits = RANGE[format_of(x).name]
    return _exp_in_range(bind(at_least(at_most(x, limits.high), limits.low)), bind)


def exp2(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """2^x, exact for integers. Limits and NaN as in `exp`."""
    x = bind(x)
    limits = RANGE[format_of(x).name]
    x = bind(at_least(at_most(x, limits.high2), limits.low2))
    shifted, n = nearest(x, 1.0, bind)
    r = bind(x - n)
    return scale(fma(horner(EXP2[format_of(x).name], r), r, number(1.0, x)), n, shifted, bind)


def expm1_near(t: tirx.Expr, bind: Bind) -> tirx.Expr:
    """e^t - 1 with a small *relative* error, for |t| < 80. With s = 2^n: s * (e^r - 1) + (s - 1)."""
    binary = format_of(t)
    shifted, n = nearest(t, LOG2E, bind, biased=True)
    r = remainder(t, n, bind)
    p = fma(horner(EXP[binary.name], r), r * r, r)
    power = bind(from_bits(bits(shifted) << integer(binary.mantissa, t), t))
    return fma(power, p, power - number(1.0, t))


def sigmoid(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """1 / (1 + e^-x), written with e^-|x| so that neither end overflows and small results keep their accuracy."""
    x = bind(x)
    low = RANGE[format_of(x).name].low
    z = bind(_exp_in_range(bind(at_least(-magnitude(x), low)), bind))
    one = number(1.0, x)
    return tirx.Select(x < number(0.0, x), z, one) / (one + z)
