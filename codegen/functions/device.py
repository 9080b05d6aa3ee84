"""The language's real functions on a GPU: CUDA's mathematical library, in f32 and f64.

Its errors are at most 2 ulp for each function used here (CUDA C++ Programming Guide, section Mathematical Functions, tables of
maximum ulp errors; without ``--use_fast_math``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm import tirx

from .lanes import device_function, number


def _sigmoid(x: tirx.Expr) -> tirx.Expr:
    one = number(1.0, x)
    return tirx.Div(one, tirx.Add(one, device_function("exp", tirx.Sub(number(-0.0, x), x))))


REAL: dict[str, Callable[[tirx.Expr], tirx.Expr]] = {
    **{name: partial(device_function, name) for name in ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "erf")},
    "sigmoid": _sigmoid,
}
"""By the language's names."""
