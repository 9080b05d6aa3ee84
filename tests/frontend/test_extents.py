"""Extents of rank variables, shapes of intermediates, and what is said where they do not fit."""

from __future__ import annotations

import pytest

from .lowered import codes, extents, lower, only, refused, shape


def test_dimensions_that_are_indexed_directly_bind() -> None:
    cascade = lower("X: f32[M, K]) -> (S: f32[M, M]", "S[i, j] = X[i, k] * X[j, k]")
    assert extents(only(cascade, "S")) == {"i": "M", "j": "M", "k": "K"}


def test_left_bound_variables_broadcast() -> None:
    cascade = lower("B: f32[N]) -> (Y: f32[M, N]", "Y[m, n] = B[n]")
    assert extents(only(cascade, "Y")) == {"m": "M", "n": "N"}
    assert only(cascade, "Y").reduction is None


def test_shifted_indices_do_not_bind() -> None:
    cascade = lower(
        "I: f32[C, P, Q], W: f32[K, C, R, S]) -> (O: f32[K, P2, Q2]",
        "O[k, p, q] = I[c, p + r - 1, 2*q + s] * W[k, c, r, s]",
    )
    assert extents(only(cascade, "O")) == {"k": "K", "p": "P2", "q": "Q2", "c": "C", "r": "R", "s": "S"}
    assert cascade.sizes == ("C", "P", "Q", "K", "R", "S", "P2", "Q2")


def test_data_dependent_and_grouped_indices_do_not_bind() -> None:
    cascade = lower(
        "Q: f32[H, P, E], K: f32[G, M, E], eid: i32[P]) -> (S: f32[H, P, M]",
        "S[h, p, m] = Q[h, p, e] * K[h // (H // G), m, e] * Q[h, eid[p], e]",
    )
    assert extents(only(cascade, "S")) == {"h": "H", "p": "P", "m": "M", "e": "E"}


def test_indices_of_tables_bind() -> None:
    cascade = lower("X: f32[V, F], src: i32[E]) -> (Y: f32[E, F]", "Y[e, f] = X[src[e], f]")
    assert extents(only(cascade, "Y")) == {"e": "E", "f": "F"}


def test_conditions_bind_through_what_they_index() -> None:
    cascade = lower("X: f32[M], B: bool[K]) -> (Y: f32[M]", "Y[m] = X[m] where B[k]")
    einsum = only(cascade, "Y")
    assert (einsum.reduction, einsum.reduced, extents(einsum)) == ("+", ("k",), {"m": "M", "k": "K"})


def test_shapes_of_intermediates_follow_in_any_order() -> None:
    cascade = lower(
        "X: f32[M, K]) -> (Y: f32[M]",
        "Y[m] = C[m, k]",
        "C[m, k] = B[k, m]",
        "B[k, m] = X[m, k]",
    )
    assert shape(cascade, "B") == ["K", "M"]
    assert [t.name for t in cascade.tensors] == ["X", "Y", "C", "B"]


def test_constant_coordinates_and_sizes() -> None:
    cascade = lower("X: f32[N]) -> (Y: i32[1]", "Z[0, n] = X[n]", "Y[0] = cast(i32, Z[0, n])")
    assert shape(cascade, "Z") == ["1", "N"]
    assert only(cascade, "Y").reduced == ("n",)


def test_diagonals_bind_both_dimensions() -> None:
    cascade = lower("X: f32[N]) -> (Y: f32[N, N]", "Z[i, i] = X[i]", "Y[i, j] = Z[i, j] ?? 0")
    assert shape(cascade, "Z") == ["N", "N"]
    assert not only(cascade, "Z").scatter


def test_equal_sizes_may_be_written_differently() -> None:
    signature = "X: f32[2*(N+1)], W: f32[N + N + 2]) -> (Y: f32[2*N+2]"
    assert extents(only(lower(signature, "Y[i] = X[i] * W[i]"), "Y")) == {"i": "2 * (N + 1)"}


def test_constants_are_expanded_where_extents_meet() -> None:
    cascade = lower(
        "X: f32[ceildiv(M, 64)], W: f32[M1]) -> (Y: f32[M1]",
        "let M1 = ceildiv(M, B)",
        "let B = 64",
        "Y[i] = X[i] * W[i]",
    )
    assert [let.name for let in cascade.lets] == ["B", "M1"]
    assert cascade.sizes == ("M",)


def test_required_equalities_are_used() -> None:
    signature = "X: f32[M, N]) -> (Y: f32[M]"
    assert codes(signature, "Y[m] = X[m, m]") == ["E0301"]
    assert codes(signature, "require N == M", "Y[m] = X[m, m]") == []
    assert codes(signature, "require N <= M", "Y[m] = X[m, m]") == ["E0301"]


def test_tiles_are_declared() -> None:
    cascade = lower(
        "K: f32[M, E]) -> (S: f32[M1]",
        "let M0 = 64",
        "let M1 = ceildiv(M, M0)",
        "BK: f32[M1, M0, E]",
        "BK[m1, m0, e] = K[m1*M0 + m0, e]",
        "S[m1] = BK[m1, m0, e]",
    )
    assert extents(only(cascade, "BK")) == {"m1": "M1", "m0": "M0", "e": "E"}


def test_extents_that_are_never_equal_need_another_fix_than_a_requirement() -> None:
    signature = "X: f32[N], ptr: i32[R + 1]) -> (Y: f32[R]"
    problem = refused(signature, "Y[r] = X[n]  where ptr[r] <= n and n < ptr[r + 1]")
    assert problem.code == "E0301"
    assert "write `r % R` in its place" in problem.help
    assert codes(signature, "Y[r] = X[n]  where ptr[r % R] <= n and n < ptr[r + 1]") == []
    assert "never equal" in refused("X: f32[N]) -> (Y: f32[N + 1]", "Y[n] = X[n]").help


def test_the_declaration_that_is_asked_for_has_the_extents_of_the_readers() -> None:
    shifted = refused("X: f32[T], W: f32[K]) -> (Y: f32[T]", "A[t] = X[t + k - K + 1] * W[k]", "Y[t] = exp(A[t])")
    assert (shifted.code, shifted.help) == ("E0304", "declare the tensor: `A: f32[T]`")
    scan = refused("X: f32[N]) -> (Y: f32[N]", "S[0] = 0", "S[n+1] = S[n] + X[N - 1 - n]", "Y[n] = S[n+1]")
    assert (scan.code, scan.help) == ("E0304", "declare the tensor: `S: f32[N + 1]`")


def test_all_generations_are_a_result_of_their_own() -> None:
    problem = refused("X: f32[N]) -> (Y: f32[N + 1]", "S[0] = 0", "S[n+1] = S[n] + X[n]", "Y[n] = S[n]")
    assert "all generations are had by making `S` itself the result" in problem.help
    assert codes("X: f32[N]) -> (S: f32[N + 1]", "S[0] = 0", "S[n+1] = S[n] + X[n]") == []


def test_both_dimensions_of_a_conflict_are_shown() -> None:
    problem = refused("X: f32[M, K], W: f32[N, K]) -> (Y: f32[M, N]", "Y[m, n] = X[m, k] * W[k, n]")
    assert problem.code == "E0301"
    assert problem.message == "`k` ranges over `K` (X's dimension 2) and `N` (W's dimension 1)"
    assert problem.help == "use one size for both, or state `require K == N`"


def test_results_must_fit_too() -> None:
    problem = refused("X: f32[M]) -> (Y: f32[N]", "Y[m] = X[m]")
    assert problem.message == "`m` ranges over `M` (X's dimension 1) and `N` (Y's dimension 1)"


@pytest.mark.parametrize(
    ("einsum", "advice"),
    [
        ("Z[2*i + 1] = X[i]", "Z: f32[2 * N]"),
        ("Z[i + j] = X[i] * W[j]  :: +(i, j)", "Z: f32[N + R - 1]"),
        ("Z[dst[i]] = X[i]  :: +(i)", "Z: f32[V]"),
        ("Z[i + 2] = X[i]", "Z: f32[N + 2]"),
        ("Z[i] = 2 * i", "Z: i32[V]"),
    ],
)
def test_the_missing_declaration_is_spelt_out(einsum: str, advice: str) -> None:
    signature = "X: f32[N], W: f32[R], dst: i32[N]) -> (Y: f32[N]"
    problem = refused(signature, einsum, "Y[n] = X[n] + Z[0]")
    assert (problem.code, problem.help) == ("E0304", f"declare the tensor: `{advice}`")
    assert codes(signature, advice, einsum, "Y[n] = X[n] + Z[0]") == []


@pytest.mark.parametrize(
    ("read", "code"),
    [("X[n, N]", []), ("X[n, M]", ["E0307"]), ("X[-1, m]", ["E0307"]), ("X[n, 7]", []), ("T[n, 3]", ["E0307"])],
)
def test_constant_indices_must_be_able_to_be_inside(read: str, code: list[str]) -> None:
    assert codes("X: f32[N, M], T: f32[N, 3]) -> (Y: f32[N, M]", f"Y[n, m] = X[n, m] + {read}") == code


def test_a_size_in_a_rank_variables_place() -> None:
    problem = refused("X: f32[M]) -> (Y: f32[M]", "Y[M] = X[m]")
    assert problem.help == "rank variables are written in lower case: `m`"


def test_sizes_of_results_alone_are_free() -> None:
    cascade = lower("X: f32[N]) -> (Y: f32[P]", "Y[p] = X[2*p]")
    assert cascade.sizes == ("N", "P")


def test_circular_shapes() -> None:
    assert codes("X: f32[M]) -> (Z: f32[M]", "A[m] = B[m]", "B[m] = A[m]", "Z[m] = A[m] + X[m]") == ["E0304"]


def test_an_extent_that_a_declaration_would_give() -> None:
    steps = ("p[0, b] = 1", "pp[b, t] = p[t, b] + r", "p[t+1, b] = pp[b, t] * r", "P[b, t] = p[t+1, b]")
    problem = refused("r: f32) -> (P: f32[B, T]", *steps)
    assert problem.code == "E0303" and problem.help is not None and "`p: f32[…]`" in problem.help
    problem = refused("X: f32[N]) -> (Y: f32[N]", "Y[n] = X[n + r]")
    assert problem.code == "E0303" and problem.help is not None and "declaration" not in problem.help


def test_what_may_be_reduced_is_named() -> None:
    problem = refused("X: f32[N]) -> (Y: f32", "Y = X[n] :: max(z)")
    assert (problem.code, problem.help) == ("E0502", "it has n")
