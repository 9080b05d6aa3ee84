"""Which operands of the products of chunks may be rounded for tensor cores: those of which it is permitted."""

from __future__ import annotations

import numpy as np
import pytest

from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from einfall.compiler.specialise import specialise
from einfall.ir.target import Target
from einfall.ir.tile import Compute, walk
from einfall.passes.pipeline import lower
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker

SOURCE = """
{tolerance} kernel gated(Q: {value}[T, E], K: {value}[T, E], V: {value}[T, F], a: f32[T]) -> (O: {result}[T, F]) {{
    S[0, e, f]   = 0
    S[t+1, e, f] = a[t] * S[t, e, f] + K[t, e] * V[t, f]
    O[t, f]      = Q[t, e] * S[t+1, e, f]
}}
"""


def text(value: str, result: str, tolerance: str = "") -> str:
    return SOURCE.format(value=value, result=result, tolerance=tolerance)


@pytest.mark.parametrize(("value", "result"), [pytest.param("bf16", "f32", marks=pytest.mark.slow), ("f16", "f16")])
def test_results_are_as_exact_as_their_state(gpu: Worker, value: str, result: str) -> None:
    """A state and results of f32; scores beyond the greatest number of f16 by values that make up for it."""
    cascade = read_program(text(value, result)).select(None)
    rng = np.random.default_rng(1)
    shapes = {"Q": (70, 5), "K": (70, 5), "V": (70, 7), "a": (70,)}
    given = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    given = {"Q": given["Q"] * 100, "K": given["K"] * 100, "V": given["V"] / 100, "a": np.tanh(given["a"])}
    arguments = {p.name: given[p.name].astype(p.value.storage) for p in cascade.parameters}
    comparison = compare(cascade, arguments, gpu.run(kernels.run, text(value, result), arguments, {}, "cuda:sm_80"), sizes={})
    assert comparison.passed, str(comparison)


@pytest.mark.parametrize(
    ("source", "rounded"),
    [
        (text("bf16", "bf16"), True),
        (text("bf16", "f32"), False),
        (text("bf16", "f32", "@tolerance(1e-2)"), True),
        (text("bf16", "f32", "@tolerance(1e-3)"), False),
        (text("f16", "f16"), False),
    ],
)
def test_products_of_rounded_operands(source: str, rounded: bool) -> None:
    cascade = specialise(read_program(source).select(None), {"E": 64, "F": 64})
    body = lower(cascade, target=Target.parse("cuda:sm_80")).program.body
    kernels_ = {n.product.kernel for n in walk(body) if isinstance(n, Compute) and n.product is not None}
    assert (kernels_ == {"mma bf16·bf16"}) is rounded


SCAN = """
kernel scan(X: f32[T, D], A: f32[T, D]) -> (Y: f32[T, D]) {
    S[0, d]   = 0
    S[t+1, d] = A[t, d] * S[t, d] + X[t, d]
    Y[t, d]   = S[t+1, d]
}
"""


def test_factors_overflow_beside_a_state_of_0(gpu: Worker) -> None:
    """What is finite as written is finite in chunks of 256 steps, and what is no number is not hidden."""
    x, a = np.zeros((1030, 2), np.float32), np.full((1030, 2), 3, np.float32)
    x[1020:], a[700, 1] = 1, np.nan
    arguments = {"X": x, "A": a}
    comparison = compare(
        read_program(SCAN).select(None), arguments, gpu.run(kernels.run, SCAN, arguments, {}, "cuda:sm_80"), sizes={}
    )
    assert comparison.passed, str(comparison)
