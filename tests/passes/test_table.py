"""Every row of the table of design page 3 on the inputs that break careless forms: what would overflow without the guard,
-inf, tiles that a mask empties, rows that it empties, ragged and missing last tiles."""

from __future__ import annotations

import numpy as np
import pytest

from einfall.passes.online.derive import derive

from .comparison import check_equal, check_form, only, passes

HEAD = "kernel k(X: f32[P, N], W: f32[N], Y: f32[P, N], keep: bool[P, N]) -> (T: f32[P]) {\n"
MAXIMUM = "    M[p] = S[p, n]    :: max(n)\n"
MEAN = "    U[p] = S[p, n] / N\n"
ABSMAX = "    A[p] = abs(S[p, n])    :: max(n)\n"

ROWS = {
    "exp": (MAXIMUM, "exp(S[p, n] - M[p])", "+", 1),
    "exp times v": (MAXIMUM, "exp(S[p, n] - M[p]) * W[n]", "+", 1),
    "softmax not deferred": (
        MAXIMUM + "    D[p] = exp(S[p, n] - M[p])\n",
        "exp(S[p, n] - M[p]) / D[p] * W[n]",
        "+",
        1,
    ),
    "quantise": (ABSMAX, "127 * S[p, n] / A[p] * W[n]", "+", 1),
    "rmsnorm gemm": ("    Q[p] = S[p, n] * S[p, n]\n", "S[p, n] * W[n] * rsqrt(Q[p] / N + 0.001)", "+", 1),
    "shifted max": (MAXIMUM, "S[p, n] - M[p]", "max", 1),
    "scaled max": (ABSMAX, "S[p, n] / A[p]", "max", 1),
    "variance": (MEAN, "(S[p, n] - U[p]) ** 2", "+", 1),
    "centred product": (MEAN, "(S[p, n] - U[p]) * W[n]", "+", 1),
    "entropy": (MAXIMUM, "exp(S[p, n] - M[p]) * (S[p, n] - M[p])", "+", 1),
    "absolute deviation": (MEAN, "abs(S[p, n] - U[p])", "+", 2),
    "sigmoid": (MAXIMUM, "sigmoid(S[p, n] - M[p])", "+", 2),
    "exp of a normal score": (
        MEAN + "    V[p] = (S[p, n] - U[p]) ** 2 / N\n",
        "exp((S[p, n] - U[p]) * rsqrt(V[p] + 0.01))",
        "+",
        2,
    ),
}
MASKS = ["", "where n < 3 * p + 1", "where keep[p, n]", "where n >= 6 and p > 0", "where n < 0"]


def inputs(kind: str, n: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(n)
    X = random.normal(size=(4, n))
    match kind:
        case "large":
            X *= 3e4  # exp(x) overflows in f64 too
        case "far":
            X += np.linspace(-1e3, 1e3, 4)[:, None]
        case "rising":
            X = np.sort(X * 500)  # every tile moves the maximum by hundreds
        case "infinite":
            X[0, :4] = -np.inf  # a first tile of nothing finite
            X[1, 4:8] = -np.inf  # a tile in between
            X[2] = -np.inf
    return {"X": X, "W": random.normal(size=n), "Y": random.normal(size=(4, n)), "keep": random.random((4, n)) < 0.4}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("row", ROWS)
def test_the_table(row: str, mask: str) -> None:
    first, value, reduction, after = ROWS[row]
    written = only(f"{HEAD}    S[p, n] = X[p, n] * 1.5    {mask}\n{first}    T[p] = {value}    :: {reduction}(n)\n}}\n")
    derivation = derive(written, tile=4)
    check_form(derivation.cascade)
    if mask != "where n < 0":  # nothing is present: how many passes that takes does not matter
        assert passes(derivation)["n"][1] == after
    for kind in ("plain", "large", "far", "rising", "infinite"):
        for n in (0, 1, 3, 4, 5, 11, 12):
            # Far from zero, both the written and the derived variance lose digits: of what they add up, 1e6.
            check_equal(written, derivation.cascade, inputs(kind, n), rtol=1e-8)


def test_a_condition_on_the_outer_of_two_joined_ranks_leaves_out_its_tiles_only() -> None:
    """It decides whole tiles. What is absent in one of them is not absent in the running result."""
    written = only(
        """
        kernel k(X: f32[P, J, N], keep: bool[P, J], V: f32[J, N]) -> (M: f32[P], O: f32[P], at: bool[P]) {
            M[p]       = X[p, j, n]                  :: max(j, n)   where keep[p, j]
            E[p, j, n] = exp(X[p, j, n] - M[p])
            D[p]       = E[p, j, n]                  :: +(j, n)     where keep[p, j]
            O[p]       = E[p, j, n] / D[p] * V[j, n] :: +(j, n)     where keep[p, j]
            at[p]      = X[p, j, n] > M[p] - 0.5     :: or(j, n)    where keep[p, j]
        }
        """
    )
    random = np.random.default_rng(5)
    derivation = derive(written, tile=2)
    check_form(derivation.cascade)
    assert passes(derivation)["n"][1] < passes(derivation)["n"][0]
    for keep in (random.random((4, 5)) < 0.5, np.zeros((4, 5), bool), np.eye(4, 5, dtype=bool)):
        arguments = {"X": random.normal(size=(4, 5, 3)), "keep": keep, "V": random.normal(size=(5, 3))}
        check_equal(written, derivation.cascade, arguments)
