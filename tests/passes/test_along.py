"""The update of a state and the sum that reads it run together, and compute what they computed apart."""

from __future__ import annotations

import numpy as np
import pytest

import einfall
from einfall.compiler.program import read_program
from einfall.ir.interpreter import interpret
from einfall.ir.tile import Compute, walk
from einfall.passes.pipeline import lower

PROGRAM = """
kernel k(Q: f32[T, E], K: f32[T, E], V: f32[T, F], g: f32[T, E]) -> (O: f32[T, F], last: f32[E, F]) {{
    S[0, e, f]   = 0
    S[t+1, e, f] = sigmoid(g[t, e]) * S[t, e, f] + K[t, e] * V[t, f]
    O[t, f]      = {query}
    last[e, f]   = S[T, e, f]
}}
"""

AFTER = "Q[t, e] * S[t+1, e, f] / sqrt(E)"


def fused(text: str, **sizes: int) -> list[Compute]:
    from einfall.compiler.specialise import specialise

    (cascade,) = read_program(text).cascades().values()
    return [n for n in walk(lower(specialise(cascade, sizes)).program.body) if isinstance(n, Compute) and n.along]


def test_an_update_runs_along_the_sum_that_reads_it() -> None:
    (found,) = fused(PROGRAM.format(query=AFTER), E=8, F=64)
    assert [inner.target for inner in found.along] == ["S"]
    assert found.target == "O"


@pytest.mark.parametrize(
    "query",
    [
        "Q[t, e] * S[t, e, f]",  # the generation before: it is read before it is replaced
        "Q[t, e] * S[t+1, e, f]    :: max(e)  where e > 1",  # some points only, but all are updated
    ],
)
def test_other_readers_are_left_alone(query: str) -> None:
    assert not fused(PROGRAM.format(query=query), E=8, F=64)


@pytest.mark.parametrize(
    "query",
    [
        AFTER,
        "Q[t, e] * S[t+1, e, f]",
        "Q[t, e] * S[t+1, e, f]    :: max(e)",
        "Q[t, e] * S[t, e, f]",
        "Q[t, e] * S[t+1, e, f] * S[t, e, f]",
    ],
)
@pytest.mark.parametrize("f", [64, 48, 32, 40, 5, 1])
def test_they_compute_the_same_together(query: str, f: int) -> None:
    text = PROGRAM.format(query=query)
    rng = np.random.default_rng(4)
    t, e = 13, 19
    given = {n: rng.normal(size=s).astype(np.float32) for n, s in (("Q", (t, e)), ("K", (t, e)), ("V", (t, f)), ("g", (t, e)))}
    want = interpret(next(iter(read_program(text).cascades().values())), given)
    for kernel in (einfall.compile(text, E=e, F=f, cache=False), einfall.compile(text, cache=False)):
        for got, value in zip(kernel(**given), want.values(), strict=True):
            np.testing.assert_allclose(got, value, rtol=2e-5, atol=2e-5)


def test_a_diagonal_state_is_added_up_across_its_vectors() -> None:
    text = """
    kernel k(A: f32[D, N], B: f32[T, N], X: f32[T, D]) -> (Y: f32[T, D]) {
        S[0, d, n]   = 0
        S[t+1, d, n] = exp(-abs(A[d, n] * X[t, d])) * S[t, d, n] + X[t, d] * B[t, n]
        Y[t, d]      = S[t+1, d, n] * B[t, n]
    }
    """
    rng = np.random.default_rng(5)
    for n in (16, 5, 21):
        given = {"A": rng.normal(size=(7, n)), "B": rng.normal(size=(9, n)), "X": rng.normal(size=(9, 7))}
        given = {name: value.astype(np.float32) for name, value in given.items()}
        want = interpret(next(iter(read_program(text).cascades().values())), given)["Y"]
        for kernel in (einfall.compile(text, N=n, cache=False), einfall.compile(text, cache=False)):
            np.testing.assert_allclose(kernel(**given), want, rtol=2e-5, atol=2e-5)
