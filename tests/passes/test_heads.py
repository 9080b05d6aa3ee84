"""Ranks that are divided by a size: cut into groups where they come out even, left alone elsewhere, the same results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import einfall
from einfall.compiler.program import read_program
from einfall.compiler.specialise import specialise
from einfall.ir.cascade import Cascade
from einfall.ir.expr import Op, walk
from einfall.ir.interpreter import interpret
from einfall.ir.tile import Compute, Method
from einfall.ir.tile import walk as nodes
from einfall.passes.pipeline import lower, prepare
from einfall.passes.simplification.heads import in_groups

EXAMPLES = Path(__file__).parents[2] / "examples" / "attention"


def cascade(name: str, **sizes: int) -> Cascade:
    text = EXAMPLES / f"{name}.ecs" if "{" not in name else name
    return prepare(specialise(read_program(text).select(None), sizes)).cascade


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def divides(c: Cascade) -> bool:
    return any(isinstance(n, Op) and n.op in ("floordiv", "mod") for e in c.einsums for x in e.expressions() for n in walk(x))


@pytest.mark.parametrize("name", ["decode_attention", "grouped_query_attention"])
@pytest.mark.parametrize("sizes", [{}, {"H": 8, "G": 2}, {"H": 4, "G": 4}, {"H": 4, "G": 1}, {"G": 2}])
def test_groups_of_heads(name: str, sizes: dict[str, int]) -> None:
    written = cascade(name, **sizes)
    made = in_groups(written)
    assert divides(written) and not divides(made.cascade)
    assert any(d.made_by == "groups" for d in made.decisions)
    assert {t.name: t.parts for t in made.cascade.tensors if t.parts}.keys() == {"Q", "AV"}


@pytest.mark.parametrize("name", ["decode_attention", "grouped_query_attention"])
def test_products_of_free_sizes_are_on_the_micro_kernel(name: str) -> None:
    program = lower(read_program(EXAMPLES / f"{name}.ecs").select(None)).program
    sums = [n for n in nodes(program.body) if isinstance(n, Compute) and n.reduction == "+" and len(n.ranks) > 2]
    products = [n for n in sums if n.method is Method.CONTRACTION]
    assert len(products) >= 2
    assert not any(n.filter for n in products)


REFUSED = [
    # not known to come out even
    "kernel k(X: f32[H, N], K: f32[G, N]) -> (Y: f32[H, N]) {\n    Y[h, n] = X[h, n] * K[h // (H // G), n]\n}\n",
    # a neighbour of another group is read
    """kernel k(X: f32[H], K: f32[G]) -> (Y: f32[H]) {
    require H % G == 0
    T[h] = X[h] * K[h // (H // G)]
    Y[h] = T[h] + (T[h - 1] ?? 0)
}
""",
]


@pytest.mark.parametrize("text", REFUSED)
def test_left_alone(text: str) -> None:
    made = in_groups(cascade(text))
    assert divides(made.cascade) and not made.decisions


SLOPES = """kernel k(X: f32[H, N], K: f32[G, N]) -> (Y: f32[N, H], S: f32[N]) {
    require H % G == 0
    T[h, n] = X[h, n] * K[h // (H // G), n] + h + 10 * (h % (H // G))
    Y[n, h] = T[h, n]
    S[n]    = T[h, n]
}
"""


@pytest.mark.parametrize(("h", "g"), [(6, 3), (6, 6), (6, 1), (4, 2)])
@pytest.mark.parametrize("fixed", [False, True])
def test_the_coordinate_itself_last_dimensions_and_sums_over_it(h: int, g: int, fixed: bool) -> None:
    arguments = {"X": normal(h, 19), "K": normal(g, 19, seed=1)}
    compiled = einfall.compile(SLOPES, cache=False, **({"H": h, "G": g} if fixed else {}))
    found = compiled(**arguments)
    expected = interpret(read_program(SLOPES).select(None), arguments)
    np.testing.assert_allclose(found[0], expected["Y"], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected["S"], rtol=1e-5)


@pytest.mark.parametrize(("h", "g", "m", "filled"), [(8, 2, 300, 300), (8, 2, 300, 131), (4, 4, 40, 0), (4, 1, 257, 1)])
def test_decoding_up_to_a_length(h: int, g: int, m: int, filled: int) -> None:
    """What lies beyond the length may be anything: it is not read."""
    arguments = {
        "Q": normal(2, h, 16),
        "K": normal(2, g, m, 16, seed=1),
        "V": normal(2, g, m, 24, seed=2),
        "length": np.array([filled, max(0, filled - 3)], np.int32),
    }
    arguments["K"][0, :, filled:] = np.nan
    arguments["V"][0, :, filled:] = np.nan
    found = einfall.compile(EXAMPLES / "decode_attention.ecs", cache=False, E=16, F=24, H=h, G=g)(**arguments)
    with np.errstate(all="ignore"):
        expected = interpret(read_program(EXAMPLES / "decode_attention.ecs").select(None), arguments)["AV"]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
