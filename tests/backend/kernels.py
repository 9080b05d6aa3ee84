"""Small programs compiled once for the tests of this folder, and the comparison of a call with the interpreter."""

from __future__ import annotations

from functools import cache

import numpy as np

import einfall
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from einfall.runtime.kernel import Kernel

Array = np.ndarray


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


def normal(*shape: int, seed: int = 0, dtype: type = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
