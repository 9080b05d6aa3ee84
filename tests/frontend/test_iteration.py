"""Iterative ranks: steps, generations, initialisers, backward recurrences and their neighbours."""

from __future__ import annotations

import pytest

from einfall.ir.dependence import Loop, schedule

from .lowered import codes, extents, lower, only, refused, shape, steps

SCAN = "X: f32[T, K]) -> (Y: f32[T, K]"


def test_steps_and_extent() -> None:
    cascade = lower(SCAN, "S[0, k] = 0", "S[t+1, k] = S[t, k] + X[t, k]", "Y[t, k] = S[t+1, k]")
    assert (shape(cascade, "S"), steps(cascade, "S")) == (["T + 1", "K"], ["T", None])
    assert [e.initialiser for e in cascade.writers("S")] == [True, False]
    assert extents(only(cascade, "S")) == {"t": "T", "k": "K"}
    assert steps(cascade, "Y") == []


def test_reading_a_generation_binds_its_variable_to_the_steps() -> None:
    cascade = lower(
        SCAN,
        "S[0, k] = 1",
        "S[t+1, k] = S[t, k] * X[t, k]",
        "P[t, k] = S[t, k]",
        "N[t, k] = S[t+1, k]",
        "Y[t, k] = P[t, k] + N[t, k] + S[T, k]",
    )
    assert shape(cascade, "P") == shape(cascade, "N") == ["T", "K"]


def test_variables_of_iterative_dimensions_alone_take_the_steps_of_the_writer() -> None:
    """PRM of FuseMax's one-pass cascade: nothing but RM says how long m1 is."""
    cascade = lower(
        "L: f32[M1, P]) -> (AV: f32[P]",
        "RM[0, p] = -inf",
        "RM[m1+1, p] = max(RM[m1, p], L[m1, p])",
        "PRM[m1, p] = exp(RM[m1, p] - RM[m1+1, p])",
        "RD[0, p] = 0",
        "RD[m1+1, p] = RD[m1, p] * PRM[m1, p]",
        "AV[p] = RD[M1, p]",
    )
    assert extents(only(cascade, "PRM")) == {"m1": "M1", "p": "P"}
    assert shape(cascade, "PRM") == ["M1", "P"]


def test_initialisers_range_over_the_full_extent() -> None:
    cascade = lower(
        "C: f32[N, M]) -> (cost: f32",
        "D[i, 0] = i",
        "D[0, j] = j",
        "D[i+1, j+1] = C[i, j] + min(D[i, j+1], min(D[i+1, j], D[i, j]))",
        "cost = D[N, M]",
    )
    assert (shape(cascade, "D"), steps(cascade, "D")) == (["N + 1", "M + 1"], ["N", "M"])
    assert [extents(e) for e in cascade.writers("D")] == [{"i": "N + 1"}, {"j": "M + 1"}, {"i": "N", "j": "M"}]


def test_initialisers_may_themselves_be_recurrences() -> None:
    cascade = lower(
        "C: f32[N, M]) -> (Y: f32",
        "D[0, 0] = 0",
        "D[0, j+1] = D[0, j] + C[0, j]",
        "D[i+1, 0] = D[i, 0] + C[i, 0]",
        "D[i+1, j+1] = C[i, j] + min(D[i, j+1], D[i+1, j])",
        "Y = D[N, M]",
    )
    assert [e.initialiser for e in cascade.writers("D")] == [True, True, True, False]


def test_iterative_tensors_that_depend_on_one_another_are_one_loop() -> None:
    cascade = lower(
        "X: f32[T, N], W: f32[N, N]) -> (Y: f32[T, N]",
        "H[0, n] = 0",
        "C[0, n] = 0",
        "G[t, n] = H[t, m] * W[m, n]",
        "C[t+1, n] = C[t, n] * G[t, n] + X[t, n]",
        "H[t+1, n] = tanh(C[t+1, n])",
        "Y[t, n] = H[t+1, n]",
    )
    assert steps(cascade, "H") == steps(cascade, "C") == ["T", None]
    assert shape(cascade, "G") == ["T", "N"]
    assert sum(isinstance(step, Loop) for step in schedule(cascade)) == 1


def test_two_generations_back() -> None:
    cascade = lower("X: f32[T]) -> (F: f32[T + 2]", "F[0] = 0", "F[1] = 1", "F[t+2] = F[t+1] + F[t] + X[t]")
    assert steps(cascade, "F") == ["T"]
    assert codes("X: f32[T]) -> (F: f32[T + 2]", "F[0] = 0", "F[t+2] = F[t+1] + F[t] + X[t]") == ["E0611"]


def test_a_declared_result_gives_the_steps() -> None:
    cascade = lower("s: f32) -> (F: f32[N + 1]", "F[0] = 1", "F[t+1] = F[t] * s")
    assert (steps(cascade, "F"), extents(only(cascade, "F"))) == (["N"], {"t": "N"})


def test_a_dimension_that_is_only_read_at_its_own_generation_is_ordinary() -> None:
    cascade = lower(
        "X: f32[T, N]) -> (Y: f32[N + 1]",
        "D: f32[T + 1, N + 1]",
        "D[0, j] = 0",
        "D[t+1, j+1] = D[t, j+1] + X[t, j]",
        "Y[j] = D[T, j]",
    )
    assert steps(cascade, "D") == ["T", None]


def test_neighbours_are_no_generations() -> None:
    cascade = lower(
        "U0: f32[N], X: f32[T, N]) -> (Y: f32[N]",
        "U[0, i] = U0[i]",
        "U[t+1, i] = U[t, i] + (U[t, i-1] ?? 0) + (U[t, i+1] ?? 0) + X[t, i]",
        "Y[i] = U[T, i]",
    )
    assert (shape(cascade, "U"), steps(cascade, "U")) == (["T + 1", "N"], ["T", None])


@pytest.mark.parametrize("offset", ["t-1", "t+1"])
def test_recurrences_without_an_initialiser(offset: str) -> None:
    cascade = lower(SCAN, f"S[t, k] = (S[{offset}, k] ?? 0) + X[t, k]", "Y[t, k] = S[t, k]")
    assert (shape(cascade, "S"), steps(cascade, "S")) == (["T", "K"], [])
    assert any(isinstance(step, Loop) for step in schedule(cascade))


def test_backward_recurrence_with_an_initialiser() -> None:
    cascade = lower(SCAN, "B[T, k] = 1", "B[t, k] = B[t+1, k] * X[t, k]", "Y[t, k] = B[t, k]")
    assert (shape(cascade, "B"), steps(cascade, "B")) == (["T + 1", "K"], ["T", None])


def test_an_iterative_rank_may_also_index_something_else() -> None:
    """Floyd and Warshall: k is a generation and a vertex."""
    cascade = lower(
        "W: f32[V, V]) -> (Y: f32[V, V]",
        "D[0, i, j] = W[i, j]",
        "D[k+1, i, j] = min(D[k, i, j], D[k, i, k] + D[k, k, j])",
        "Y[i, j] = D[V, i, j]",
    )
    assert (shape(cascade, "D"), steps(cascade, "D")) == (["V + 1", "V", "V"], ["V", None, None])


@pytest.mark.parametrize(
    "recurrence",
    [
        "S[t+1, k] = (S[t, k] ?? 0) + X[t, k]",
        "S[t+1, k] = if t > 0 then S[t, k] + X[t, k] else X[t, k]",
    ],
)
def test_what_stands_in_for_the_first_generation(recurrence: str) -> None:
    cascade = lower(SCAN, recurrence, "Y[t, k] = S[t+1, k]")
    assert steps(cascade, "S") == ["T", None]


def test_a_first_generation_that_nothing_gives() -> None:
    problem = refused(SCAN, "S[t+1, k] = S[t, k] + X[t, k]", "Y[t, k] = S[t+1, k]")
    assert problem.code == "E0611"
    assert problem.message == "nothing gives `S[0, k]`, which the first step of `S` reads"
    assert problem.help is not None and "`S[0, k] = …`" in problem.help and "`(S[t, k] ?? 0)`" in problem.help


def test_a_first_generation_read_through_another_tensor() -> None:
    writers = ["H[t+1, k] = G[t, k] + X[t, k]", "G[t, k] = 2 * H[t, k]", "Y[t, k] = H[t+1, k]"]
    assert codes(SCAN, *writers) == ["E0611"]
    assert codes(SCAN, "H[0, k] = 0", *writers) == []


def test_the_last_generation_is_not_the_last_step() -> None:
    problem = refused("X: f32[T]) -> (Y: f32[T + 1]", "S[0] = 0", "S[t+1] = S[t] + X[t]", "Y[t] = S[t]")
    assert problem.code == "E0301"
    assert "the steps of S's dimension 1" in problem.message
    assert problem.help is not None and "one generation more than steps" in problem.help


def test_initialisers_and_steps_do_not_overlap() -> None:
    assert codes(SCAN, "S[0, k] = 0", "S[2, k] = 0", "S[t+1, k] = S[t, k] + X[t, k]", "Y[t, k] = S[t, k]") == ["E0612"]
    problem = refused(SCAN, "S[0, k] = X[0, k]", "S[t, k] = S[t-1, k] + X[t, k]", "Y[t, k] = S[t, k]")
    assert problem.code == "E0203"


def test_a_cycle_that_no_order_satisfies_is_shown() -> None:
    problem = refused(SCAN, "S[0, k] = 0", "S[t+1, k] = S[t, k] + R[t, k]", "R[t, k] = S[T, k] * X[t, k]", "Y[t, k] = S[t, k]")
    assert problem.code == "E0601"
    assert "→" in problem.message


@pytest.mark.parametrize(
    "statements",
    [
        # The types of a long cycle take several rounds, and one of its tensors never has one.
        (
            "L[t] = H[t] >> log(X[t])",
            "H[0] = 0",
            "M[0] = 0",
            "M[t+1] = max(L[t] + M[t], X[t])",
            "C[0] = 0",
            "C[t+1] = exp(L[t] + M[t] - M[t+1]) * C[t]",
            "H[t+1] = C[t+1] * X[t]",
            "Y[t] = H[t+1]",
        ),
        ("H[0] = 0", "H[t+1] = L[t]", "L[t] = H[t] >> 0.5", "Y[t] = H[t+1]"),
        ("H[0] = L[0]", "H[t+1] = L[t] + X[t]", "L[t] = H[t] & 0.5", "Y[t] = H[t+1]"),
    ],
)
def test_a_mistake_within_a_cycle_is_the_one_that_is_reported(statements: tuple[str, ...]) -> None:
    assert codes("X: f32[T]) -> (Y: f32[T]", *statements) == ["E0401"]
