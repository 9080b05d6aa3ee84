"""log and log2: x = 2^e * (1 + f) with 1 + f in [2/3, 4/3), and a polynomial in f (Muller, section 11.4).

Subnormal arguments are scaled to normal ones first. Coefficients: `tools/minimax.py`.
"""

from __future__ import annotations

import math
import struct

from tvm import tirx

from ..microkernels.vector import lane_type
from .exponential import LN2, LOG2E
from .lanes import Binary, Bind, bits, fma, format_of, from_bits, horner, integer, lanes_of, number

LOG = {
    "float32": (  # log(1 + f) = f + f^2 * polynomial within 4.86e-09
        -0.5,
        0.3333320915699005,
        -0.24999822676181793,
        0.20010723173618317,
        -0.1667945683002472,
        0.14001362025737762,
        -0.12197534739971161,
        0.14004497230052948,
        -0.12837351858615875,
    ),
    "float64": (  # log(1 + f) = f + f^2 * polynomial within 4.96e-17
        -0.4999999999999997,
        0.3333333333333888,
        -0.25000000000023564,
        0.19999999998013515,
        -0.16666666661647525,
        0.14285714530251184,
        -0.1250000046762972,
        0.11111096385555236,
        -0.09999976573191077,
        0.09091408994320453,
        -0.08334029038137429,
        0.07682114511557382,
        -0.07130060464591852,
        0.06793482679820552,
        -0.06396572479858639,
        0.049497063136378076,
        -0.04549224971118796,
        0.08873570233597486,
        -0.08669051768783902,
    ),
}

LOG2 = {
    "float32": (  # log2(1 + f) = f * log2(e) + f^2 * polynomial within 5.21e-09
        -0.7213475108146667,
        0.480896532535553,
        -0.3606719970703125,
        0.2886947691440582,
        -0.24061287939548492,
        0.20198218524456024,
        -0.1761903017759323,
        0.20210646092891693,
        -0.18441857397556305,
    ),
    "float64": (  # log2(1 + f) = f * log2(e) + f^2 * polynomial within 4.99e-17
        -0.7213475204444812,
        0.4808983469630678,
        -0.3606737602225963,
        0.2885390081491457,
        -0.24044917340755728,
        0.2060992950822414,
        -0.18033688693041586,
        0.16029923660465534,
        -0.14426916419113153,
        0.13116130502616657,
        -0.12023465303490752,
        0.11082951159086683,
        -0.10286477000270915,
        0.09800899643126836,
        -0.09228422985551542,
        0.07141034603476147,
        -0.06562937551760241,
        0.12801616837600488,
        -0.12506681731922015,
    ),
}

_LOG2E_HIGH = {"float32": struct.unpack("f", struct.pack("f", LOG2E))[0], "float64": LOG2E}
_LOG2E_LOW = {"float32": LOG2E - _LOG2E_HIGH["float32"], "float64": 2.0355273740931033e-17}


def _two_thirds(binary: Binary) -> int:
    """The bits of 2/3, the least 1 + f."""
    code = {"float32": "fi", "float64": "dq"}[binary.name]
    return int(struct.unpack(code[1], struct.pack(code[0], 2 / 3))[0])


def _split(x: tirx.Expr, bind: Bind) -> tuple[tirx.Expr, tirx.Expr]:
    """(e, f) with x = 2^e * (1 + f), both floats, for x > 0 and finite."""
    binary = format_of(x)
    subnormal = x < number(2.0 ** (1 - binary.bias), x)
    normal = bind(tirx.Select(subnormal, x * number(2.0**binary.mantissa, x), x))
    adjust = tirx.Select(subnormal, number(-float(binary.mantissa), x), number(0.0, x))
    width = integer(binary.mantissa, x)
    exponent = (bits(normal) - integer(_two_thirds(binary), x)) >> width
    e = bind(tirx.Cast(lane_type(binary.name, lanes_of(x)), exponent) + adjust)
    f = bind(from_bits(bits(normal) - (exponent << width), x) - number(1.0, x))
    return e, f


def _limits(x: tirx.Expr, result: tirx.Expr) -> tirx.Expr:
    """`result` for 0 < x < inf; -inf at 0, NaN below, inf and NaN as they are."""
    below = tirx.Select(tirx.EQ(x, number(0.0, x)), number(-math.inf, x), number(math.nan, x))
    return tirx.Select(x < number(math.inf, x), tirx.Select(x > number(0.0, x), result, below), x)


def log(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """The natural logarithm. log(0) = -inf, log(x < 0) = NaN, log(inf) = inf, NaN stays; subnormals are correct."""
    x = bind(x)
    name = format_of(x).name
    e, f = _split(x, bind)
    tail = fma(f * f, horner(LOG[name], f), e * number(LN2[name][1], x))
    return _limits(x, fma(e, number(LN2[name][0], x), f + tail))


def log2(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """The logarithm to base 2, exact for powers of 2. Limits and NaN as in `log`."""
    x = bind(x)
    name = format_of(x).name
    e, f = _split(x, bind)
    tail = f * fma(horner(LOG2[name], f), f, number(_LOG2E_LOW[name], x))
    return _limits(x, e + fma(f, number(_LOG2E_HIGH[name], x), tail))
