"""tanh from expm1, which keeps the relative accuracy near 0 without a second branch."""

from __future__ import annotations

from tvm import tirx

from .exponential import expm1_near
from .lanes import Bind, at_most, format_of, magnitude, number, with_sign

SATURATION = {"float32": 10.0, "float64": 20.0}
"""tanh rounds to 1 well before."""


def tanh(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """(e^2|x| - 1) / (e^2|x| + 1) with the sign of x: odd, -0 kept, NaN stays."""
    x = bind(x)
    a = at_most(magnitude(x), SATURATION[format_of(x).name])
    e = bind(expm1_near(bind(a * number(2.0, x)), bind))
    return with_sign(e / (e + number(2.0, x)), x)
