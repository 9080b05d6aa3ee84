"""Pass counts of the published cascades, and what stays live between passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from einfall.frontend import load
from einfall.ir.cascade import Cascade
from einfall.ir.printer import expr_to_source
from einfall.passes.analysis.passcount import analyse, count
from einfall.passes.online.defer import defer
from einfall.passes.online.derive import derive

from .comparison import only

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> Cascade:
    (path,) = EXAMPLES.glob(f"*/{name}.ecs")
    return load(path.read_text(), path.name)[name]


@pytest.mark.parametrize(
    ("name", "rank", "passes"),
    [
        ("fusemax_3pass", "m", 3),
        ("fusemax_2pass", "m1", 2),
        ("fusemax_1pass", "m1", 1),
        ("attention", "m", 3),
        ("layernorm", "k", 3),
        ("rmsnorm_gemm", "k", 2),
        ("softmax", "n", 3),
        ("tensor_attention", "i", 3),
        ("tensor_attention", "j", 3),
        ("cross_entropy", "v", 2),
        ("gemm", "k", 1),
        ("lstm", "t", 1),
        ("edit_distance", "i", 1),
    ],
)
def test_known_answers(name: str, rank: str, passes: int) -> None:
    assert count(example(name))[rank] == passes


@pytest.mark.parametrize(("name", "rank", "passes"), [("attention", "m", 2), ("rmsnorm_gemm", "k", 1)])
def test_deferral_saves_a_pass(name: str, rank: str, passes: int) -> None:
    deferred = defer(example(name))
    assert deferred is not None
    assert count(deferred)[rank] == passes


def test_a_reduction_that_waits_for_another_begins_a_pass() -> None:
    """Cascades 1 to 3 of the FuseMax paper: the same sum, read once more, and carried along."""
    head = "kernel c(A: f32[K], B: f32[K]) -> (Z: f32) {\n"
    waiting = head + "    Y = A[k] * B[k]\n    Z = Y * A[k]\n}\n"
    deferred = head + "    Y = A[k] * B[k]\n    X = A[k]\n    Z = Y * X\n}\n"
    carried = (
        head
        + "    RY[0] = 0\n    RZ[0] = 0\n    RY[k+1] = RY[k] + A[k] * B[k]\n"
        + "    RZ[k+1] = RZ[k] * 2 + RY[k+1] * A[k]\n    Z = RZ[K]\n}\n"
    )
    assert [count(only(text))["k"] for text in (waiting, deferred, carried)] == [2, 1, 1]


def test_reading_a_final_generation_is_a_barrier() -> None:
    text = """
    kernel c(A: f32[K]) -> (Z: f32[K]) {
        S[0]   = 0
        S[k+1] = S[k] + A[k]
        Z[k]   = A[k] / S[K]
    }
    """
    assert count(only(text))["k"] == 2


def test_reading_one_point_is_no_visit() -> None:
    text = """
    kernel c(X: f32[B, V], target: i32[B]) -> (Z: f32[B]) {
        G[b] = X[b, v]    :: max(v)
        Z[b] = G[b] - X[b, target[b]]
    }
    """
    assert count(only(text))["v"] == 1


def test_rows_and_columns_of_one_tensor_are_different_ranks() -> None:
    text = """
    kernel c(X: f32[N, D]) -> (Z: f32[N]) {
        S[i, j] = X[i, d] * X[j, d]
        G[i]    = S[i, j]           :: max(j)
        Z[i]    = exp(S[i, j] - G[i])
    }
    """
    assert count(only(text)) == {"i": 1, "j": 2, "d": 1}


def test_levels_and_live_footprints_of_attention() -> None:
    analysis = analyse(example("attention")).of("m")
    cascade = example("attention")
    assert {cascade.einsums[i].target: level for i, level in analysis.levels.items()} == {
        "QK": 1,
        "GM": 1,
        "SN": 2,
        "SD": 2,
        "A": 3,
        "AV": 3,
    }
    live = {each.tensor: (each.levels, expr_to_source(each.elements)) for each in analysis.live}
    assert live == {"QK": ((1, 2), "M"), "SN": ((2, 3), "M")}


LIVE = {
    "layernorm": ({"k": {"X": "K"}}, {"k": {"X": "K"}, "k0": {"BX": "K0"}}),
    "softmax": ({"n": {"X": "N", "SN": "N"}}, {"n": {"X": "N"}, "n0": {"BX": "N0"}}),
    "rmsnorm": ({"k": {"X": "K"}}, {"k": {"X": "K"}}),
    "layernorm_gemm": ({"k": {"X": "K"}}, {"k0": {"BX": "K0"}}),
    "batchnorm": ({"n": {"X": "L * N"}, "l": {"X": "L * N"}}, {"l": {"X": "L * N"}, "l0": {"BX": "L0"}}),
    "tensor_attention": (
        {"i": {"S": "I * J", "SN": "I * J"}, "j": {"S": "I * J", "SN": "I * J"}},
        {"j0": {"BS": "J0"}},
    ),
}


@pytest.mark.parametrize("name", LIVE)
def test_live_footprints_before_and_after(name: str) -> None:
    """Along every rank: what lies outside the barrier (the rows) does not count, before and after the derivation."""
    written = example(name)
    for cascade, expected in zip((written, derive(written).cascade), LIVE[name], strict=True):
        found = {
            each.rank.name: {live.tensor: expr_to_source(live.elements) for live in each.live}
            for each in analyse(cascade).ranks
            if each.live
        }
        assert found == expected


def test_what_one_pass_writes_for_another_is_live() -> None:
    text = """
    kernel c(X: f32[P, K], W: f32[K]) -> (Z: f32[P, K]) {
        T[p, k] = tanh(X[p, k]) * W[k]
        G[p]    = X[p, k]               :: max(k)
        Z[p, k] = T[p, k] - G[p]
    }
    """
    live = {each.tensor: (each.levels, expr_to_source(each.elements)) for each in analyse(only(text)).of("k").live}
    assert live == {"T": ((1, 2), "K")}


def test_the_one_pass_cascade_keeps_nothing_of_a_whole_rank() -> None:
    assert analyse(example("fusemax_1pass")).of("m1").live == ()
