"""States lie along the results of the sums that read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import einfall
from einfall.compiler.program import read_program
from einfall.ir.cascade import Cascade
from einfall.ir.expr import ranks_of
from einfall.ir.interpreter import interpret
from einfall.ir.verifier import verify
from einfall.passes.tiling.hoist import hoisted
from einfall.passes.tiling.transpose import transposed

EXAMPLES = Path(__file__).parents[2] / "examples" / "recurrences"


def cascade_of(text: str) -> Cascade:
    (cascade,) = read_program(text).cascades().values()
    return cascade


def coordinates(cascade: Cascade, tensor: str) -> list[str]:
    """The rank variables of a tensor's last writer, in the order of its dimensions."""
    return [n for c in cascade.writers(tensor)[-1].coords for n in ranks_of(c)]


def test_the_state_of_mamba_and_its_decay_turn() -> None:
    cascade = cascade_of((EXAMPLES / "mamba_scan.ecs").read_text())
    found = transposed(hoisted(cascade))
    verify(found)
    assert coordinates(found, "X") == ["l", "n", "d"]
    assert coordinates(found, "X_part") == ["n", "d"]
    rng = np.random.default_rng(2)
    sizes = {"L": 9, "D": 7, "N": 5}
    given = {p.name: rng.normal(size=[sizes[e.name] for e in p.shape]).astype(np.float32) for p in cascade.parameters}  # type: ignore[attr-defined]
    np.testing.assert_allclose(interpret(found, given)["Y"], interpret(cascade, given)["Y"], rtol=1e-12)


@pytest.mark.parametrize("name", ["gated_linear_attention", "mamba2", "prefix_sum", "lstm", "s4d_convolution"])
def test_others_stay(name: str) -> None:
    cascade = hoisted(cascade_of((EXAMPLES / f"{name}.ecs").read_text()))
    assert transposed(cascade) == cascade


def test_an_input_that_lies_the_other_way_keeps_the_state_as_it_is() -> None:
    text = """
    kernel k(A: f32[T, D, N], C: f32[T, N]) -> (Y: f32[T, D]) {
        S[0, d, n]   = 0
        S[t+1, d, n] = 0.5 * S[t, d, n] + A[t, d, n]
        Y[t, d]      = S[t+1, d, n] * C[t, n]
    }
    """
    cascade = cascade_of(text)
    assert transposed(cascade) == cascade


@pytest.mark.parametrize(("d", "n"), [(33, 16), (64, 5), (16, 1), (3, 40)])
def test_turned_states_compile(d: int, n: int) -> None:
    cascade = cascade_of((EXAMPLES / "mamba_scan.ecs").read_text())
    rng = np.random.default_rng(3)
    sizes = {"L": 11, "D": d, "N": n}
    given = {p.name: rng.normal(size=[sizes[e.name] for e in p.shape]).astype(np.float32) for p in cascade.parameters}  # type: ignore[attr-defined]
    want = interpret(cascade, given)["Y"]
    for kernel in (
        einfall.compile(EXAMPLES / "mamba_scan.ecs", cache=False),
        einfall.compile(EXAMPLES / "mamba_scan.ecs", D=d, N=n, cache=False),
    ):
        np.testing.assert_allclose(kernel(**given), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
