"""The language's real functions as TIR expressions that LLVM turns into straight vector code.

Each takes a float32 or float64 value, scalar or vector, and gives one of the same type within 4 ulp, for every argument
including subnormals, infinities and NaN. The functions of `REAL` also take `bind`, which names a shared subexpression.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from . import device
from .error_function import erf
from .exponential import exp, exp2, exp_bf16, sigmoid
from .hyperbolic import tanh
from .lanes import Bind, float_constant, fraction, on_device, pure
from .logarithm import log, log2
from .rounding import (
    Inverse,
    absolute,
    ceil,
    divide_all,
    divide_by,
    divide_with,
    floor,
    negate,
    round_half_even,
    rsqrt,
    sign,
    sqrt,
)
from .rounding import maximum as _maximum
from .rounding import minimum as _minimum

REAL: dict[str, Callable[[tirx.Expr, Bind], tirx.Expr]] = {
    "exp": exp,
    "exp2": exp2,
    "log": log,
    "log2": log2,
    "sqrt": sqrt,
    "rsqrt": rsqrt,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "erf": erf,
}
"""The functions of the language that work on reals only, by name."""


def real(name: str, x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """The function of that name, as the machine has it."""
    return device.REAL[name](x) if on_device() else REAL[name](x, bind)


def maximum(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """The greater of two; NaN where either is NaN."""
    found = device.extreme("max", a, b) if on_device() else None
    return _maximum(a, b) if found is None else found


def minimum(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """The smaller of two; NaN where either is NaN."""
    found = device.extreme("min", a, b) if on_device() else None
    return _minimum(a, b) if found is None else found


def exp_rounded(x: tirx.Expr, bind: Bind) -> tirx.Expr | None:
    """e^x where only what bfloat16 holds of it counts; None where the machine has no cheaper way to that."""
    return device.exp_short(x) if on_device() else exp_bf16(x, bind)


def exp_rounded_apart(x: tirx.Expr, y: tirx.Expr) -> tirx.Expr | None:
    """e^(x - y) as :func:`exp_rounded`, for a y that many x have in common; None where that is no gain."""
    return device.exp_short_apart(x, y) if on_device() else None


__all__ = [
    "REAL",
    "Bind",
    "Inverse",
    "absolute",
    "ceil",
    "divide_all",
    "divide_by",
    "divide_with",
    "erf",
    "exp",
    "exp2",
    "exp_bf16",
    "exp_rounded",
    "exp_rounded_apart",
    "float_constant",
    "floor",
    "fraction",
    "log",
    "log2",
    "maximum",
    "minimum",
    "negate",
    "on_device",
    "pure",
    "real",
    "round_half_even",
    "rsqrt",
    "sigmoid",
    "sign",
    "sqrt",
    "tanh",
]
