"""Small programs compiled once for the tests of this folder, and the comparison of a call with the interpreter."""

from __future__ import annotations

from functools import cache

import numpy as np

import einfall
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from einfall.runtime.kernel import Kernel

Array = np.ndarray

WINDOWS = [
    (3, 3, (2, 2), (1, 1), (1, 1)),
    (3, 3, (1, 1), (2, 2), (2, 2)),
    (1, 5, (2, 1), (1, 3), (0, 2)),
    (7, 7, (3, 2), (1, 1), (3, 3)),
    (2, 3, (1, 1), (1, 1), (0, 0)),
]
"""Windows of convolutions: their height and width, and down and across the step, the distance of taps, and the padding."""


@cache
def kernel(text: str, **sizes: int) -> Kernel:
    """The compiled program, the same for the same text."""
    return einfall.compile(text, cache=False, **sizes)


def results(returned: object) -> list[Array]:
    """What a call gave, as a list."""
    return [np.asarray(r) for r in (returned if isinstance(returned, tuple) else (returned,))]


def agrees(text: str, *, sizes: dict[str, int] | None = None, **arguments: Array | float) -> list[Array]:
    """Calls the compiled program, compares with the interpreter, and gives the results."""
    found = results(kernel(text)(**arguments, **(sizes or {})))
    outcome = compare(read_program(text).select(None), arguments, found, sizes=sizes)
    assert outcome.passed, f"{outcome}\n{text}"
    return found


def attention_operands(p: int, m: int, e: int = 64, f: int = 64, h: int = 1, *, dtype: type = np.float32) -> dict[str, Array]:
    """Queries, keys and values of attention."""
    return {
        "Q": normal(h, p, e, dtype=dtype),
        "K": normal(h, m, e, seed=1, dtype=dtype),
        "V": normal(h, m, f, seed=2, dtype=dtype),
    }


def spoilt_operands(dtype: type = np.float32) -> dict[str, Array]:
    """Operands of attention with NaN and infinity in a row of each, in blocks and tiles of their own."""
    arguments = attention_operands(70, 700, dtype=dtype)
    arguments["Q"][0, 33, 5] = np.nan
    arguments["K"][0, 650, 1] = np.inf
    arguments["V"][0, 640, 7] = np.nan
    arguments["V"][0, 3, 9] = np.inf
    return arguments


def normal(*shape: int, seed: int = 0, dtype: type = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
