"""Constant expressions, evaluated by the interpreter's own arithmetic.

Guarantees: a folded constant is what the interpreter computes, in its exact mode and in its typed mode; where the two differ
(a decimal fraction that f32 rounds on the way), where the result is NaN or absent, the expression stays.
"""

from __future__ import annotations

import math

import numpy as np

from ...ir.arithmetic import Arithmetic
from ...ir.evaluation import Evaluator, Grid
from ...ir.expr import Bitcast, Cast, Const, Expr, Op, Select, children
from ...ir.types import DType

_MODES = (Arithmetic(typed=False), Arithmetic(typed=True))


def folded(node: Expr) -> Const | None:
    """The constant that a node over constants denotes; None where it is not one number in both modes."""
    if not isinstance(node, Op | Select | Cast | Bitcast) or not all(isinstance(c, Const) for c in children(node)):
        return None
    if node.dtype.is_float and node.dtype.bits < 32:
        return None  # a literal has no such type: it would not be read back as one
    results = [_evaluated(node, mode) for mode in _MODES]
    if None in results:
        return None
    return _agreed(node.dtype, results)


def stored(const: Const, dtype: DType) -> Const | None:
    """What a tensor of type ``dtype`` holds where ``const`` is written; None where the modes differ."""
    results: list[int | float | bool | None] = []
    with np.errstate(all="ignore"):
        for mode in _MODES:
            carried = np.asarray(const.value, mode.carrier(const.dtype))
            results.append(mode.round(mode.convert(carried, const.dtype, dtype), dtype)[()].item())
    return _agreed(dtype, results)


def _evaluated(node: Expr, mode: Arithmetic) -> int | float | bool | None:
    with np.errstate(all="ignore"):
        points = Evaluator(grid=Grid(ranges={}), tensors={}, sizes={}, arithmetic=mode).evaluate(node)
    if points.present is not None and not points.present.all():
        return None
    return points.values[()].item()  # type: ignore[no-any-return]


def _agreed(dtype: DType, results: list[int | float | bool | None]) -> Const | None:
    exact, typed = results
    if exact is None or typed is None or (isinstance(exact, float) and math.isnan(exact)):
        return None
    carrier = _MODES[1].carrier(dtype)
    with np.errstate(all="ignore"):
        again = np.asarray(exact, carrier).item()
    return Const(value=exact, dtype=dtype) if repr(again) == repr(typed) else None
