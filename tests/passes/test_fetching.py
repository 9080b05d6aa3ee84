"""Which loops ask for inputs ahead of their use."""

from __future__ import annotations

import pytest

from einfall.compiler.specialise import specialise
from einfall.frontend import load
from einfall.ir.target import named, with_features
from einfall.ir.tile import Compute, TileProgram, walk
from einfall.passes.pipeline import lower

TARGET = with_features(named("cpu", "sapphirerapids"), frozenset(), cores=2)
SOFTMAX = """
kernel softmax(X: f32[M, N]) -> (Y: f32[M, N]) {
    GM[m]    = X[m, n]                 :: max(n)
    SN[m, n] = exp(X[m, n] - GM[m])
    SD[m]    = SN[m, n]
    Y[m, n]  = SN[m, n] / SD[m]
}
"""


def lowered(text: str, **sizes: int) -> TileProgram:
    (cascade,) = load(text, "test.ecs").values()
    return lower(specialise(cascade, sizes), target=TARGET, online=False).program


def asking(program: TileProgram) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node in walk(program.body):
        if isinstance(node, Compute) and node.ahead:
            found.setdefault(node.target, []).extend(a.read.tensor for a in node.ahead)
    return found


def test_the_last_reader_of_a_row_asks_for_the_next() -> None:
    assert asking(lowered(SOFTMAX, M=1 << 14, N=1024)) == {"SD": ["X"]}


def test_every_reader_of_a_row_that_leaves_the_cache_asks() -> None:
    assert asking(lowered(SOFTMAX, M=64, N=1 << 20)) == {"GM": ["X"], "SD": ["X"]}


def test_small_inputs_are_not_asked_for() -> None:
    assert asking(lowered(SOFTMAX, M=64, N=64)) == {}


def test_free_sizes_make_it_a_condition() -> None:
    assert set(asking(lowered(SOFTMAX))) == {"GM", "SD"}


@pytest.mark.parametrize(
    "text",
    [
        "kernel k(X: f32[N], W: f32[M, N]) -> (Y: f32[M, N]) { Y[m, n] = X[n] * W[m, n] }",  # X is read again for each m
        "kernel k(X: f32[N], i: i32[M, N], W: f32[M, N]) -> (Y: f32[M, N]) { Y[m, n] = X[i[m, n]] * W[m, n] }",
        "kernel k(X: f32[N, M], W: f32[M, N]) -> (Y: f32[M, N]) { Y[m, n] = X[n, m] * W[m, n] }",  # against the memory
    ],
)
def test_what_is_not_read_once_in_the_order_of_the_memory_is_left_alone(text: str) -> None:
    found = asking(lowered(text, M=4096, N=1 << 16))
    assert "X" not in {name for names in found.values() for name in names}
