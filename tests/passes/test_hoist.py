"""Costly values that the steps of a recurrence share become Einsums of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from einfall.compiler.program import read_program
from einfall.ir.cascade import Cascade
from einfall.ir.interpreter import interpret
from einfall.ir.printer import to_source
from einfall.ir.verifier import verify
from einfall.passes.tiling.hoist import hoisted

EXAMPLES = Path(__file__).parents[2] / "examples" / "recurrences"


def cascade_of(text: str) -> Cascade:
    (cascade,) = read_program(text).cascades().values()
    return cascade


def made(cascade: Cascade) -> list[str]:
    """The values that became Einsums, as (target, rank variables)."""
    return [f"{e.target}[{', '.join(r.name for r in e.ranks)}]" for e in cascade.einsums if e.origin.made_by == "hoist:value"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gated_linear_attention", ["S_part[h, t, e]"]),
        ("mamba_scan", ["X_part[d, n]"]),  # out of the loop: it has no step
        ("mamba2", ["S_part[h]", "S_part'[t, h]"]),  # the inner part first
        ("retention", []),  # nothing costly
        ("moving_average", ["S_part[d]", "S_part'[d]"]),
    ],
)
def test_values_without_a_rank_of_their_einsum_move(name: str, parts: list[str]) -> None:
    cascade = cascade_of((EXAMPLES / f"{name}.ecs").read_text())
    found = hoisted(cascade)
    verify(found)
    assert sorted(made(found)) == sorted(parts)
    assert cascade_of(to_source(found)) == found
    rng = np.random.default_rng(2)
    sizes = {s: 3 + n for n, s in enumerate(cascade.sizes)}
    given = {p.name: rng.normal(size=[sizes[e.name] for e in p.shape]).astype(np.float32) for p in cascade.parameters}  # type: ignore[attr-defined]
    for got, want in zip(interpret(found, given).values(), interpret(cascade, given).values(), strict=True):
        np.testing.assert_array_equal(got, want)


def test_what_the_loop_carries_and_what_may_be_absent_stays() -> None:
    text = """
    kernel k(X: f32[T, N], G: f32[T]) -> (Y: f32[T, N]) {
        S[0, n]   = 0
        R[0]      = 0
        R[t+1]    = R[t] + G[t]
        S[t+1, n] = exp(R[t]) * S[t, n] + X[t, n] * exp(G[t-1] ?? 0) * sigmoid(G[t+1] ?? 0) + (if t > 0 then exp(G[t-1]) else 0)
        Y[t, n]   = S[t+1, n] * exp(G[t])
    }
    """
    cascade = cascade_of(text)
    found = hoisted(cascade)
    verify(found)
    given = {"X": np.ones((5, 2), np.float32), "G": np.linspace(-1, 1, 5).astype(np.float32)}
    for got, want in zip(interpret(found, given).values(), interpret(cascade, given).values(), strict=True):
        np.testing.assert_array_equal(got, want)
