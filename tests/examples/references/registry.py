"""The table of independent references, one NumPy function per example kernel, in float64.

A reference is written from the definition of the operation, never from our cascade. Its parameters carry the names of
the kernel's arrays and scalars, and of those sizes that it needs; it returns one array, or a tuple in the order of the
kernel's results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Sizes: TypeAlias = Mapping[str, int]
Draw: TypeAlias = Callable[[np.random.Generator, Sizes, tuple[int, ...]], Array]
"""Makes an input of the given shape where random values of its type would be pointless (lengths, symbols)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An oracle of a kernel, and how to draw those inputs that need more than random values of their type."""

    function: Callable[..., Any]
    draws: Mapping[str, Draw]


REFERENCES: dict[str, Reference] = {}


def reference(**draws: Draw) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enters a function as the reference of the kernel with its name."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        assert function.__name__ not in REFERENCES, f"two references for {function.__name__}"
        REFERENCES[function.__name__] = Reference(function=function, draws=draws)
        return function

    return enter


def symbols(count: int) -> Draw:
    """Integers below `count`: letters, document numbers."""
    return lambda rng, sizes, shape: rng.integers(0, count, shape)


def up_to(size: str) -> Draw:
    """Integers from 0 to a size, inclusive: how much of a rank is in use."""
    return lambda rng, sizes, shape: rng.integers(0, sizes[size] + 1, shape)
