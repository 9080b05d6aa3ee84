"""Real functions of arrays that stay in the second-level caches: what exp, erf and their like cost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from cases import Case
from field import Field, empty
from scipy import special
from torch_peer import tensors, torch

SIZE = 1 << 18
NAMES = ("exp", "log", "tanh", "sigmoid", "erf")
NUMPY = {"exp": np.exp, "log": np.log, "tanh": np.tanh, "sigmoid": special.expit, "erf": special.erf}
PROGRAM = """
kernel elementary(X: f32[N]) -> (Y: f32[N]) {
    Y[n] = FUNCTION(X[n])
}
"""


def cases() -> Iterator[Case]:
    """One function each."""
    for name in NAMES:
        yield Case(
            name=f"{name} 2¹⁸",
            family="elementary",
            make=partial(_make, name),
            flops=SIZE,
            reads=4.0 * SIZE,
            writes=4.0 * SIZE,
            quick=name == "exp",
        )


def _make(name: str, field: Field) -> None:
    low, high = (0.1, 9.0) if name == "log" else (-5.0, 5.0)
    x = np.random.default_rng(1).uniform(low, high, SIZE).astype(np.float32)

    field.kernel(PROGRAM.replace("FUNCTION", name), x, results=[empty(SIZE)], N=SIZE)

    @field.peer("torch")
    def eager():
        a, b = tensors(x, empty(SIZE))
        return lambda: getattr(torch, name)(a, out=b)

    @field.peer("numpy")
    def numpy():
        z = empty(SIZE)
        return lambda: NUMPY[name](x, out=z)
