"""The order of execution: straight steps, loops over iterative ranks, and cycles that no loop satisfies."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from einfall.frontend import load
from einfall.ir.cascade import Cascade
from einfall.ir.dependence import Loop, Step, Straight, einsums_of, live_generations, schedule
from einfall.ir.diagnostics import EinfallError
from einfall.ir.graph import cascade_graph, einsum_graph
from einfall.ir.printer import expr_to_source, index_to_source


def cascade(body: str, signature: str = "(X: f32[N]) -> (Y: f32[N])") -> Cascade:
    (kernel,) = load(f"kernel k{signature} {{\n{body}\n}}\n", "test.ecs").values()
    return kernel


def written(kernel: Cascade, index: int) -> str:
    einsum = kernel.einsums[index]
    return f"{einsum.target}[{', '.join(index_to_source(c) for c in einsum.coords)}]"


def outline(kernel: Cascade, steps: Iterable[Step]) -> list[object]:
    """Steps as nested lists: what is written, and for a loop its variable, direction and extent before its body."""
    lines: list[object] = []
    for step in steps:
        match step:
            case Straight(einsum=index):
                lines.append(written(kernel, index))
            case Loop(variables=variables, extent=extent, reverse=reverse, body=body):
                names = "/".join(dict.fromkeys(variables.values()))
                head = f"{names}{' down from' if reverse else ' <'} {expr_to_source(extent)}"
                lines.append([head, *outline(kernel, body)])
    return lines


def order(body: str, signature: str = "(X: f32[N]) -> (Y: f32[N])") -> list[object]:
    kernel = cascade(body, signature)
    return outline(kernel, schedule(kernel))


def loops(steps: Iterable[Step], outer: tuple[Loop, ...] = ()) -> Iterable[tuple[Loop, tuple[Loop, ...]]]:
    for step in steps:
        if isinstance(step, Loop):
            yield step, outer
            yield from loops(step.body, (*outer, step))


def kept(body: str, signature: str = "(X: f32[N]) -> (Y: f32[N])") -> list[dict[str, tuple[int, int] | None]]:
    """What each loop keeps of each tensor that it writes."""
    kernel = cascade(body, signature)
    return [
        {
            name: live_generations(kernel, loop, name, outer)
            for name in sorted({kernel.einsums[i].target for i in einsums_of(loop)})
        }
        for loop, outer in loops(schedule(kernel))
    ]


def test_einsums_run_after_what_they_read() -> None:
    assert order("Y[n] = B[n] + A[n]\nB[n] = A[n] + 1\nA[n] = X[n]") == ["A[n]", "B[n]", "Y[n]"]


def test_independent_einsums_keep_the_source_order() -> None:
    assert order("B[n] = X[n]\nA[n] = X[n]\nY[n] = A[n] + B[n]") == ["B[n]", "A[n]", "Y[n]"]


SCAN = "Y[n] = S[n+1]\nS[n+1] = S[n] + X[n]\nS[0] = 0"


def test_a_recurrence_is_a_loop_after_its_initialiser() -> None:
    assert order(SCAN) == ["S[0]", ["n < N", "S[n+1]"], "Y[n]"]


def test_a_recurrence_may_run_backwards() -> None:
    assert order("S[N] = 0\nS[n] = S[n+1] + X[n]\nY[n] = S[n]") == ["S[N]", ["n down from N", "S[n]"], "Y[n]"]


LSTM = """
G[t, k]   = H[t, m] * U[m, k]
C[t+1, k] = C[t, k] + G[t, k] * X[t, k]
H[t+1, k] = tanh(C[t+1, k])
H[0, k]   = 0
C[0, k]   = 0
Y[k]      = H[T, k]
"""
LSTM_SIGNATURE = "(X: f32[T, K], U: f32[K, K]) -> (Y: f32[K])"


def test_einsums_that_depend_on_one_another_share_a_loop() -> None:
    assert order(LSTM, LSTM_SIGNATURE) == [
        "H[0, k]",
        "C[0, k]",
        ["t < T", "G[t, k]", "C[t+1, k]", "H[t+1, k]"],
        "Y[k]",
    ]


DTW = """
D[i, 0]     = inf
D[0, j+1]   = D[0, j] + 1
D[i+1, j+1] = X[i, j] + min(D[i, j+1], min(D[i+1, j], D[i, j]))
Y           = D[N, M]
"""
DTW_SIGNATURE = "(X: f32[N, M]) -> (Y: f32)"


def test_two_iterative_ranks_nest_and_an_initialiser_may_recur() -> None:
    assert order(DTW, DTW_SIGNATURE) == [
        "D[i, 0]",
        ["j < M", "D[0, j+1]"],
        ["i < N", ["j < M", "D[i+1, j+1]"]],
        "Y[]",
    ]


def test_a_rank_that_also_indexes_other_dimensions() -> None:
    body = "D[0, i, j] = X[i, j]\nD[k+1, i, j] = min(D[k, i, j], D[k, i, k] + D[k, k, j])\nY[i, j] = D[V, i, j]"
    assert order(body, "(X: f32[V, V]) -> (Y: f32[V, V])") == [
        "D[0, i, j]",
        ["k < V", "D[k+1, i, j]"],
        "Y[i, j]",
    ]


def test_a_one_pass_attention_is_one_loop() -> None:
    body = """
    RM[0] = -inf
    RD[0] = 0
    RM[n+1] = max(RM[n], X[n])
    S[n] = exp(X[n] - RM[n+1])
    P[n] = exp(RM[n] - RM[n+1])
    RD[n+1] = S[n] + RD[n] * P[n]
    Y = RD[N] + RM[N]
    """
    # Only what depends on itself is in a loop: S and P need all of RM but RM does not need them.
    assert order(body, "(X: f32[N]) -> (Y: f32)") == [
        "RM[0]",
        "RD[0]",
        ["n < N", "RM[n+1]"],
        "S[n]",
        "P[n]",
        ["n < N", "RD[n+1]"],
        "Y[]",
    ]


@pytest.mark.parametrize(
    ("body", "loop"),
    [
        ("P[n] = L[n, m] * Y[m]    where m < n\nY[n] = X[n] - P[n]", ["n < N", "P[n]", "Y[n]"]),
        ("Y[n] = X[n] + (Y[I[n]] ?? 0)    where I[n] < n", ["n < N", "Y[n]"]),
        ("S[0] = 1\nS[n+1] = S[n // 2] + X[n]\nY[n] = S[n+1]", ["n < N", "S[n+1]"]),
        ("S[0] = 1\nS[n+1] = S[min(n, I[n])] + X[n]\nY[n] = S[n+1]", ["n < N", "S[n+1]"]),
    ],
)
def test_conditions_bound_what_a_recurrence_reads(body: str, loop: list[object]) -> None:
    # A triangular solve, a tree whose parents come first, a heap, any earlier generation.
    assert loop in order(body, "(X: f32[N], L: f32[N, N], I: i32[N]) -> (Y: f32[N])")


def test_generations_that_a_loop_must_keep() -> None:
    assert kept(LSTM, LSTM_SIGNATURE) == [{"C": (0, 2), "G": (0, 1), "H": (0, 2)}]
    # Y reads every generation of S; the inner loop of a table needs the row before.
    assert kept(SCAN) == [{"S": None}]
    assert kept(DTW, DTW_SIGNATURE) == [{"D": None}, {"D": (0, 2)}, {"D": None}]
    assert kept("S[N] = 0\nS[n] = S[n+1] + X[n]\nY = S[0]", "(X: f32[N]) -> (Y: f32)") == [{"S": (0, 2)}]


@pytest.mark.parametrize(
    ("body", "cycle"),
    [
        ("S[0] = 0\nS[n+1] = S[N] + X[n]\nY[n] = S[n+1]", "S[n+1] → S[n+1]"),
        ("S[0] = 0\nS[n+1] = S[n+1] + S[n] + X[n]\nY[n] = S[n+1]", "S[n+1] → S[n+1]"),
        ("A[n] = B[n+1] + X[n]\nB[0] = 0\nB[n+1] = A[n] + B[n]\nY[n] = A[n]", "A[n] → B[n+1] → A[n]"),
    ],
)
def test_a_cycle_that_no_loop_satisfies_is_shown(body: str, cycle: str) -> None:
    with pytest.raises(EinfallError) as caught:
        schedule(cascade(body))
    assert caught.value.code == "E0601"
    assert cycle in caught.value.diagnostics[0].message


def test_graphs_carry_the_distance_in_generations() -> None:
    kernel = cascade(SCAN)
    reads = cascade_graph(kernel)
    step = next(i for i, e in enumerate(kernel.einsums) if written(kernel, i) == "S[n+1]")
    last = next(i for i, e in enumerate(kernel.einsums) if e.target == "Y")
    assert [data["distance"] for data in reads[("tensor", "S")][("einsum", step)].values()] == [{0: 1}]
    assert [data["distance"] for data in reads[("tensor", "S")][("einsum", last)].values()] == [{0: 0}]
    assert [data["distance"] for data in einsum_graph(kernel)[step][step].values()] == [{0: 1}]
