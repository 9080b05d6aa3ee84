"""exp, exp2 and sigmoid: Cody and Waite's reduction to |r| <= ln2/2, a polynomial, and an addition to the exponent.

x = n*ln2 + r with n the nearest integer, e^x = 2^n * e^r (Cody and Waite, *Software Manual for the Elementary
Functions*, 1980, chapter 6). n is rounded and made an integer by one addition of 1.5 * 2^mantissa, so that its bits
need no conversion. Subnormal results, at which arithmetic stalls for a hundred cycles, are never formed by arithmetic:
2^(1-bias) times y < 1 has the bits of 1 + y, minus those of 1. So masks of -inf cost nothing. AVX-512 has one instruction
for all of that.
Coefficients: `tools/minimax.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import tirx

from .lanes import (
    Bind,
    at_least,
    at_most,
    bits,
    fma,
    format_of,
    fraction,
    from_bits,
    horner,
    integer,
    looked_up,
    magnitude,
    number,
    scaled,
)

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

EXP_STEP = (1.0000149011611938, 0.5000049471855164)  # e^r = 1 + r * polynomial within 5.43e-08, |r| <= ln2/64
POWERS = tuple(2.0 ** (j / 32) for j in range(32))
"""What is left of 2^n between whole n."""

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

EXP2_FRACTION = (0.6951166391372681, 0.22764497995376587, 0.07706724107265472)
"""2^f = 1 + f * polynomial within 8.6e-05 of itself for 0 <= f < 1: a fiftieth of the spacing of bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Arguments of an exponential: `low` and below give 0, those below `normal` subnormals, above `high` inf.

    `normal` is the least number of the format whose result is not subnormal, `high` the greatest with a finite one.
    """

    low: float
    normal: float
    high: float


EXP_RANGE = {
    "float32": Range(low=-104.0, normal=-87.33654022216797, high=88.7228317),
    "float64": Range(low=-746.0, normal=-708.3964185322641, high=709.782712893384),
}
EXP2_RANGE = {
    "float32": Range(low=-151.0, normal=-126.0, high=127.99999),
    "float64": Range(low=-1076.0, normal=-1022.0, high=1023.9999999999999),
}

LN2 = {
    "float32": (0.693359375, -2.1219444005469057e-4),
    "float64": (float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")),
}
"""ln2 as a sum; products of an exponent and the first part are exact."""


def nearest(x: tirx.Expr, factor: float, bind: Bind, *, biased: bool = False) -> tuple[tirx.Expr, tirx.Expr]:
    """The integer n nearest to x * factor as (a float whose low bits hold n, plus the exponent bias if asked; n)."""
    binary = format_of(x)
    shifter = number(binary.shifter + (binary.bias if biased else 0), x)
    shifted = bind(fma(x, number(factor, x), shifter) if factor != 1.0 else x + shifter)
    return shifted, bind(shifted - shifter)


def remainder(x: tirx.Expr, n: tirx.Expr, bind: Bind) -> tirx.Expr:
    """x - n*ln2, in two parts, the first exact."""
    high, low = LN2[format_of(x).name]
    return bind(fma(n, number(-low, x), fma(n, number(-high, x), x)))


def _scale(p: tirx.Expr, shifted: tirx.Expr, n: tirx.Expr, x: tirx.Expr, limits: Range, bind: Bind) -> tirx.Expr:
    """p * 2^n, p near 1 and n in the low bits of `shifted`, rounded once; inf above the range, NaN where x is NaN."""
    binary = format_of(x)
    whole = scaled(p, n)
    if whole is not None:
        return whole
    one = integer(binary.bias << binary.mantissa, x)
    subnormal = x < number(limits.normal, x)
    exponent = bits(shifted) << integer(binary.mantissa, x)
    # For subnormal results 2^(bias-1) times too much, so that y = p * 2^(n + bias - 1) < 1 is normal.
    raised = tirx.Select(subnormal, exponent + integer((binary.bias - 1) << binary.mantissa, x), exponent)
    y = bind(from_bits(bits(p) + raised, x))
    z = bind(tirx.Select(subnormal, y + number(1.0, x), y))
    result = from_bits(tirx.Select(subnormal, bits(z) - one, bits(z)), x)
    return tirx.Select(x <= number(limits.high, x), result, x + number(math.inf, x))


def _bounded(x: tirx.Expr, limits: Range) -> tirx.Expr:
    """x, not so far outside the range that rounding to a whole number fails. NaN stays."""
    below = at_least(x, limits.low)
    return below if scaled(x, x) is None else at_most(below, limits.high + 1.0)


def exp(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """e^x. exp(-inf) = 0, exp(inf) = inf, NaN stays; subnormal results are correct."""
    x = bind(_bounded(x, EXP_RANGE[format_of(x).name]))
    by_table = _by_table(x, bind)
    return _by_polynomial(x, bind) if by_table is None else by_table


def _by_polynomial(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """e^x of bounded x."""
    shifted, n = nearest(x, LOG2E, bind)
    r = remainder(x, n, bind)
    p = bind(fma(fma(horner(EXP[format_of(x).name], r), r, number(1.0, x)), r, number(1.0, x)))
    return _scale(p, shifted, n, x, EXP_RANGE[format_of(x).name], bind)


def _by_table(x: tirx.Expr, bind: Bind) -> tirx.Expr | None:
    """e^x of bounded x, None where no instruction reads the table: 4 of 14 instructions less, within 1.8 ulp.

    x = (n + j/32)*ln2 + r, e^x = 2^n * 2^(j/32) * e^r (Tang, ACM TOMS 15(2), 1989). The number nearest to x/ln2 in steps of
    1/32 has j in the low bits of its mantissa, and the scaling takes its floor.
    """
    if format_of(x).name != "float32" or scaled(x, x) is None:
        return None
    shifter = number(format_of(x).shifter / len(POWERS), x)
    shifted = bind(fma(x, number(LOG2E, x), shifter))
    power = looked_up(POWERS, bits(shifted))
    if power is None:
        return None
    n = bind(shifted - shifter)
    r = remainder(x, n, bind)
    power = bind(power)
    return scaled(fma(power, horner(EXP_STEP, r) * r, power), n)


def exp_bf16(x: tirx.Expr, bind: Bind) -> tirx.Expr | None:
    """e^x as a float32 that bfloat16 holds exactly (but for subnormal results), within 0.53 of its spacing; exact for 0,
    ±inf and NaN. None where the machine has no instructions for it.

    2^f with f = t - floor(t) is in [1, 2): adding 2^16 rounds it to the seven bits of bfloat16's fraction.
    """
    t = bind(x * number(LOG2E, x))
    f = fraction(t)
    if f is None:
        return None
    f = bind(f)
    shifter = 2.0**16
    p = bind(fma(horner(EXP2_FRACTION, f), f, number(1.0 + shifter, x)) - number(shifter, x))
    return scaled(p, t)


def exp2(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """2^x, exact for integers. Limits and NaN as in `exp`."""
    limits = EXP2_RANGE[format_of(x).name]
    x = bind(_bounded(x, limits))
    shifted, n = nearest(x, 1.0, bind)
    r = bind(x - n)
    p = bind(fma(horner(EXP2[format_of(x).name], r), r, number(1.0, x)))
    return _scale(p, shifted, n, x, limits, bind)


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
    argument = bind(_bounded(-magnitude(x), EXP_RANGE[format_of(x).name]))
    z = bind(_by_polynomial(argument, bind))  # what follows adds to the error
    one = number(1.0, x)
    return tirx.Select(x < number(0.0, x), z, one) / (one + z)
