"""Map, reduce, populate: reduced ranks, conditions, scatter, and the sums that are refused."""

from __future__ import annotations

import pytest

from .lowered import codes, extents, lower, only, refused, texts

LINEAR = "X: f32[M, K], W: f32[K, N], B: f32[N]) -> (Y: f32[M, N]"


def test_canonical_form() -> None:
    einsum = only(lower(LINEAR, "Y[m, n] = X[m, k] * W[k, n]"), "Y")
    assert (einsum.reduction, einsum.reduced, einsum.output_ranks) == ("+", ("k",), ("m", "n"))
    assert list(extents(einsum)) == ["m", "n", "k"]
    assert not einsum.scatter
    assert einsum.origin.span is not None and einsum.origin.span.line == 3


def test_output_ranks_come_first_in_the_order_of_the_coordinates() -> None:
    einsum = only(lower("X: f32[A, B, C, D]) -> (Y: f32[D, B]", "Y[d, b] = X[a, b, c, d] :: max(c, a)"), "Y")
    assert list(extents(einsum)) == ["d", "b", "a", "c"]
    assert einsum.reduced == ("a", "c")


@pytest.mark.parametrize("operator", ["+", "*", "max", "min", "argmax", "argmin"])
def test_explicit_reductions(operator: str) -> None:
    einsum = only(lower("X: i32[M, K]) -> (Y: i32[M]", f"Y[m] = X[m, k] :: {operator}(k)"), "Y")
    assert (einsum.reduction, einsum.reduced) == (operator, ("k",))


@pytest.mark.parametrize("operator", ["and", "or", "max", "min"])
def test_reductions_of_conditions(operator: str) -> None:
    einsum = only(lower("X: f32[M, K]) -> (Y: bool[M]", f"Y[m] = X[m, k] > 0 :: {operator}(k)"), "Y")
    assert str(einsum.value.dtype) == "bool"


def test_conditions_are_split_by_what_they_mention() -> None:
    einsum = only(
        lower(
            "X: f32[M, K]) -> (Y: f32[M]",
            "Y[m] = X[m, k]  where m < 3 and (k < 5 and X[m, 0] > 0) and (m > 1 or k > 1) and X[m, k] != 0",
        ),
        "Y",
    )
    assert texts(einsum.output_filter) == ["m < 3", "X[m, 0] > 0.0"]
    assert texts(einsum.point_filter) == ["k < 5", "m > 1 or k > 1", "X[m, k] != 0.0"]


def test_the_causal_mask_decides_output_points() -> None:
    einsum = only(
        lower(
            "Q: f32[H, P, E], K: f32[H, M, E]) -> (QK: f32[H, P, M]",
            "QK[h, p, m] = Q[h, p, e] * K[h, m, e]  where m <= p",
        ),
        "QK",
    )
    assert (texts(einsum.output_filter), einsum.point_filter) == (["m <= p"], ())


def test_conditions_in_functions_are_split_too() -> None:
    items = "def inside(i, n) = 0 <= i and i < n\n"
    einsum = only(lower("X: f32[M, K]) -> (Y: f32[M]", "Y[m] = X[m, k] where inside(k, 5)", items=items), "Y")
    assert texts(einsum.point_filter) == ["0 <= k", "k < 5"]


def test_scatter() -> None:
    einsum = only(lower("X: f32[V, F], src: i32[E], dst: i32[E]) -> (Y: f32[V, F]", "Y[dst[e], f] = X[src[e], f] :: +(e)"), "Y")
    assert einsum.scatter
    assert (einsum.reduced, einsum.output_ranks) == (("e",), ("f",))


def test_histogram_by_scatter() -> None:
    einsum = only(lower("bin: i32[N]) -> (Y: i32[B]", "Y[bin[n]] = 1 :: +(n)"), "Y")
    assert (einsum.scatter, einsum.reduced, str(einsum.value.dtype)) == (True, ("n",), "i32")


@pytest.mark.parametrize(
    ("coordinates", "scatter"),
    [
        ("[2*i + 1, j]", False),
        ("[i + j, j]", False),
        ("[i + j, 0]", True),
        ("[i // 2, j]", True),
        ("[3 - i, j]", False),
        ("[N*j + i, 0]", False),
        ("[j*i, j]", True),
    ],
)
def test_which_computed_coordinates_scatter(coordinates: str, scatter: bool) -> None:
    signature = "X: f32[N, M]) -> (Y: f32[P, M]"
    if scatter:
        assert codes(signature, f"Y{coordinates} = X[i, j]") == ["E0504"]
        return
    einsum = only(lower(signature, f"Y{coordinates} = X[i, j]"), "Y")
    assert (einsum.scatter, einsum.reduction) == (False, None)


def test_implicit_sum_of_a_term_that_lacks_a_reduced_rank() -> None:
    problem = refused(LINEAR, "Y[m, n] = X[m, k] * W[k, n] + B[n]")
    assert problem.code == "E0501"
    assert problem.message == "`B[n]` does not depend on `k`, so summing over k would add it K times"
    assert problem.help == (
        "write two Einsums, `Y_sum[m, n] = X[m, k] * W[k, n]` and `Y[m, n] = Y_sum[m, n] + B[n]`; "
        "`:: +(k)` states that summing all of it is meant"
    )


def test_the_advice_is_a_program() -> None:
    assert codes(LINEAR, "Y_sum[m, n] = X[m, k] * W[k, n]", "Y[m, n] = Y_sum[m, n] + B[n]") == []
    assert codes(LINEAR, "Y[m, n] = X[m, k] * W[k, n] + B[n]  :: +(k)") == []


@pytest.mark.parametrize(
    ("expression", "refusal"),
    [
        ("X[m, k] * W[k, n] - W[k, n]", False),
        ("(X[m, k] + B[n]) * W[k, n]", False),
        ("X[m, k] - 1", True),
        ("B[n] - X[m, k] * W[k, n]", True),
        ("-(X[m, k] - B[n])", True),
        ("add(X[m, k], B[n])", True),
        ("add(X[m, k], W[k, n])", False),
        ("if k > 0 then X[m, k] else 0", False),
        ("X[m, k] + k", False),
        ("X[m, k] + m", True),
    ],
)
def test_which_sums_are_refused(expression: str, refusal: bool) -> None:
    found = codes(LINEAR, f"Y[m, n] = {expression}", items="def add(a, b) = a + b\n")
    assert found == (["E0501"] if refusal else [])


def test_several_missing_ranks_multiply() -> None:
    problem = refused("X: f32[M, K, L]) -> (Y: f32[M]", "Y[m] = X[m, k, l] + 1")
    assert problem.message == "`1` does not depend on `k` and `l`, so summing over k and l would add it K*L times"


def test_every_reduced_rank_is_listed() -> None:
    signature = "X: f32[M, K, L]) -> (Y: f32[M]"
    missing = refused(signature, "Y[m] = X[m, k, l] :: max(k)")
    assert missing.message == "`l` is reduced too: on the right and not on the left"
    assert missing.help == "list every reduced rank: `:: max(k, l)`"
    extra = refused(signature, "Y[m] = X[m, k, l] :: max(k, l, m)")
    assert extra.message == "`m` is a rank of the output, on the left, and cannot be reduced"
    assert codes(signature, "Y[m] = X[m, k, l] :: max(l, k)") == []


def test_ranks_of_conditions_alone_are_reduced_too() -> None:
    signature = "X: f32[M], B: bool[K]) -> (Y: f32[M]"
    assert codes(signature, "Y[m] = X[m] :: max(k) where B[k]") == []
    assert codes(signature, "Y[m] = X[m] :: max() where B[k]") == ["E0502"]
