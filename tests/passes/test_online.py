"""The table of design page 3: which terms have which correction, and that the derived forms compute the same."""

from __future__ import annotations

import numpy as np
import pytest

from einfall.ir.interpreter import interpret
from einfall.ir.printer import to_source
from einfall.passes.online.closure import Closure
from einfall.passes.online.derive import derive
from einfall.passes.online.ratio import Ratio

from .comparison import chain_of, check_equal, check_form, derived, online, only, passes

rng = np.random.default_rng(11)

HEAD = "kernel k(X: f32[P, N], W: f32[N], Y: f32[P, N]) -> (T: f32[P]) {\n"
MAXIMUM = "    M[p] = X[p, n]    :: max(n)\n"
MEAN = "    MU[p] = X[p, n] / N\n"


def program(first: str, value: str, reduction: str = "+") -> str:
    return f"{HEAD}{first}    T[p] = {value}    :: {reduction}(n)\n}}\n"


def arguments(n: int = 13, scale: float = 1.0) -> dict[str, np.ndarray]:
    return {"X": rng.normal(size=(3, n)) * scale, "W": rng.normal(size=n), "Y": rng.normal(size=(3, n))}


UNDEFERRED = "    M[p] = X[p, n]    :: max(n)\n    E[p, n] = exp(X[p, n] - M[p])\n    S[p] = E[p, n]\n"


@pytest.mark.parametrize(
    ("first", "value", "reduction", "ratio"),
    [
        (MAXIMUM, "exp(X[p, n] - M[p])", "+", "exp(M - M')"),
        (MAXIMUM, "exp2(X[p, n] - M[p])", "+", "2**(M - M')"),
        (MAXIMUM, "exp(X[p, n] - M[p]) * W[n]", "+", "exp(M - M')"),
        (MAXIMUM, "exp((X[p, n] - M[p]) * 0.5)", "+", "exp(0.5*M - 0.5*M')"),
        (UNDEFERRED, "E[p, n] / S[p] * W[n]", "+", "S*exp(M - M')/S'"),
        ("    A[p] = abs(X[p, n])    :: max(n)\n", "448 * X[p, n] / A[p] * W[n]", "+", "A/A'"),
        (MAXIMUM, "X[p, n] - M[p]", "max", "M - M'"),
        (MAXIMUM, "X[p, n] - M[p]", "min", "M - M'"),
        ("    A[p] = abs(X[p, n])    :: max(n)\n", "X[p, n] / A[p]", "max", "A/A'"),
    ],
)
def test_the_ratio_is_found_and_the_form_computes_the_same(first: str, value: str, reduction: str, ratio: str) -> None:
    text = program(first, value, reduction)
    chain, _ = chain_of(text, "n")
    assert chain is not None
    last = chain.members[-1].correction
    assert isinstance(last, Ratio)
    names = {}
    for before, after in zip(last.before, last.after, strict=True):
        tensor = chain.vocabulary.meaning[before].tensor  # type: ignore[attr-defined]
        names |= {before: tensor, after: f"{tensor}'"}
    shown = str(last.term)
    for symbol, tensor in sorted(names.items(), key=lambda item: -len(item[0].name)):
        shown = shown.replace(symbol.name, tensor)
    assert shown == ratio
    for n in (0, 1, 3, 4, 5, 13):
        online(text, "n", arguments(n))


@pytest.mark.parametrize(
    ("first", "value", "states"),
    [
        (MEAN, "(X[p, n] - MU[p]) ** 2", 3),
        (MEAN, "(X[p, n] - MU[p]) ** 2 / N", 3),
        (MEAN, "(X[p, n] - MU[p]) * W[n]", 2),
        (MEAN, "(X[p, n] - MU[p]) ** 3", 4),
        (MAXIMUM, "exp(X[p, n] - M[p]) * (X[p, n] - M[p])", 2),
        (MAXIMUM, "exp(X[p, n] - M[p]) * (X[p, n] - M[p]) ** 2", 3),
        (MEAN + "    NU[p] = Y[p, n] / N\n", "(X[p, n] - MU[p]) * (Y[p, n] - NU[p])", 4),
        (
            MAXIMUM + "    L[p] = Y[p, n]    :: max(n)\n",
            "exp(X[p, n] - M[p]) * ((X[p, n] - M[p]) - (Y[p, n] - L[p]))",
            2,
        ),
    ],
)
def test_the_closure_has_as_many_states_as_the_algebra_needs(first: str, value: str, states: int) -> None:
    text = program(first, value)
    chain, _ = chain_of(text, "n")
    assert chain is not None
    last = chain.members[-1].correction
    assert isinstance(last, Closure)
    assert len(last.states) + 1 == states
    for n in (0, 1, 3, 4, 5, 13):
        online(text, "n", arguments(n))


@pytest.mark.parametrize(
    ("first", "value", "reduction", "condition", "reason"),
    [
        (MEAN, "abs(X[p, n] - MU[p])", "+", "C2", "`T` = Σ abs(X[p, n] - MU[p]): the ratio F(x, MU')/F(x, MU) depends"),
        (MAXIMUM, "sigmoid(X[p, n] - M[p])", "+", "C2", "no finite basis closes it"),
        (
            MEAN + "    V[p] = (X[p, n] - MU[p]) ** 2 / N\n",
            "exp((X[p, n] - MU[p]) / sqrt(V[p]))",
            "+",
            "C2",
            "no finite basis closes it",
        ),
        (MEAN, "exp(X[p, n] - MU[p])", "+", "C6", "not bounded on every prefix"),
        (MEAN, "X[p, n] * MU[p] * W[n]", "+", "C6", "forgets the data"),
        (MEAN, "X[p, n] * MU[p]", "*", "C3", "no operator that can be undone distributes"),
        (MAXIMUM, "cast(f32, cast(i32, X[p, n] - M[p]))", "+", "C7", "rounding"),
        (
            "    G[n] = X[p, n]    :: max(p)\n    M[p] = X[p, n] - G[n]    :: max(n)\n",
            "exp(Y[p, n] - M[p]) * X[p, n]",
            "+",
            "C6",
            "not bounded",
        ),
    ],
)
def test_refusals_name_the_condition_that_fails(first: str, value: str, reduction: str, condition: str, reason: str) -> None:
    chain, refusals = chain_of(program(first, value, reduction), "n")
    assert chain is None or "T" not in {chain.target(m) for m in chain.members}
    (refusal,) = refusals
    assert refusal.condition == condition
    assert reason in refusal.reason


def test_what_is_refused_leaves_the_cascade_unchanged() -> None:
    text = program(MEAN, "abs(X[p, n] - MU[p])")
    derivation = derived(text, arguments())
    assert derivation.cascade == only(text)
    (decision,) = derivation.decisions
    assert (decision.made_by, decision.subject) == ("online:C2", "T over n")


def test_a_rank_of_the_result_that_is_reduced_stands_in_the_way() -> None:
    text = """
    kernel k(X: f32[P, N]) -> (T: f32) {
        M[p] = X[p, n]                :: max(n)
        T    = exp(X[p, n] - M[p])    :: +(p, n)
    }
    """
    chain, refusals = chain_of(text, "n")
    assert chain is None
    assert [r.condition for r in refusals] == ["C4"]


def test_softmax_of_a_layernorm_takes_three_passes() -> None:
    text = """
    kernel k(X: f32[P, N]) -> (Y: f32[P, N]) {
        MU[p]   = X[p, n] / N
        V[p]    = (X[p, n] - MU[p]) ** 2 / N
        L[p, n] = (X[p, n] - MU[p]) * rsqrt(V[p] + 1e-5)
        G[p]    = L[p, n]                      :: max(n)
        E[p, n] = exp(L[p, n] - G[p])
        D[p]    = E[p, n]
        Y[p, n] = E[p, n] / D[p]
    }
    """
    derivation = derived(text, {"X": rng.normal(size=(3, 13))})
    assert passes(derivation) == {"n": (5, 3)}
    assert any(d.subject == "G over n" and d.chosen == "takes another pass" for d in derivation.decisions)


SOFTMAX = """
kernel k(X: f32[P, N], V: f32[N]) -> (O: f32[P], LSE: f32[P]) {
    S[p, n] = X[p, n]    where n < 3 * p + 2
    M[p]    = S[p, n]                     :: max(n)
    E[p, n] = exp(S[p, n] - M[p])
    D[p]    = E[p, n]
    A[p, n] = E[p, n] / D[p]
    O[p]    = A[p, n] * V[n]
    LSE[p]  = M[p] + log(D[p])
}
"""


@pytest.mark.parametrize("tile", [1, 2, 4, 5, 64])
def test_infinities_and_large_magnitudes(tile: int) -> None:
    X = rng.normal(size=(7, 11))
    X[1] = 3e4 * X[1]  # exp(x) alone would overflow
    X[2, :4] = -np.inf  # a first tile of nothing finite
    X[3, 4:8] = -np.inf  # a tile in between
    X[4] -= 1e5  # exp(-m) alone would overflow
    X[5] = -np.inf  # 0 / 0 as written
    X[6, 3] = np.inf
    derivation = derived(SOFTMAX, {"X": X, "V": rng.normal(size=11)}, tile=tile)
    assert passes(derivation) == {"n": (3, 1)}


def test_results_are_finite_where_the_program_as_written_is() -> None:
    written = only(SOFTMAX)
    X = np.linspace(-3e38, 3e38, 22).reshape(2, 11)
    derivation = derived(SOFTMAX, {"X": X, "V": np.ones(11)})
    assert np.isfinite(check_equal(written, derivation.cascade, {"X": X, "V": np.ones(11)})["O"]).all()


def test_the_running_mean_keeps_what_the_final_count_would_lose() -> None:
    """Data far from zero: with Σx/N over the final N as the base, float32 would lose three digits."""
    text = program(MEAN, "(X[p, n] - MU[p]) ** 2 / N")
    result = online(text, "n", arguments(), tile=16)
    X = (rng.normal(size=(3, 4096)) + 1000).astype(np.float32)
    inputs = {"X": X, "W": np.zeros(4096, np.float32), "Y": np.zeros_like(X)}
    found = interpret(result, inputs, mode="typed")["T"]
    np.testing.assert_allclose(found, X.astype(np.float64).var(axis=1), rtol=2e-4)


def test_absent_points_count_in_no_state() -> None:
    text = """
    kernel k(X: f32[P, N], length: i32[P]) -> (V: f32[P]) {
        B[p, n] = X[p, n]    where n < length[p]
        MU[p]   = B[p, n] / max(length[p], 1)
        V[p]    = (B[p, n] - MU[p]) ** 2
    }
    """
    X = rng.normal(size=(4, 11)) + 50
    derivation = derived(text, {"X": X, "length": np.array([0, 1, 7, 11])})
    assert passes(derivation) == {"n": (2, 1)}


def test_several_consumers_share_one_correction() -> None:
    text = """
    kernel k(X: f32[P, N], V: f32[N, F]) -> (D: f32[P], O: f32[P, F], Q: f32[P]) {
        M[p]    = X[p, n]                        :: max(n)
        D[p]    = exp(X[p, n] - M[p])
        O[p, f] = exp(X[p, n] - M[p]) * V[n, f]
        Q[p]    = exp(X[p, n] - M[p]) ** 2
    }
    """
    inputs = {"X": rng.normal(size=(3, 9)), "V": rng.normal(size=(9, 2))}
    source = to_source(derived(text, inputs).cascade)
    assert source.count("exp(RM[n1, p] - RM[n1+1, p])") == 1  # D and O; Q has the square of it


def test_an_intermediate_with_other_readers_is_read_tile_by_tile() -> None:
    text = """
    kernel k(Q: f32[P, E], K: f32[N, E], V: f32[N]) -> (A: f32[P, N], O: f32[P]) {
        S[p, n] = Q[p, e] * K[n, e]
        M[p]    = S[p, n]              :: max(n)
        E1[p, n] = exp(S[p, n] - M[p])
        D[p]    = E1[p, n]
        A[p, n] = E1[p, n] / D[p]
        O[p]    = A[p, n] * V[n]
    }
    """
    inputs = {"Q": rng.normal(size=(3, 4)), "K": rng.normal(size=(9, 4)), "V": rng.normal(size=9)}
    derivation = derived(text, inputs)
    assert passes(derivation) == {"n": (3, 2)}
    source = to_source(derivation.cascade)
    assert "S[p, n]" in source and "= S[p, n1*N0 + n0]" in source


def test_the_first_of_equal_maxima_is_carried() -> None:
    text = """
    kernel k(X: f32[P, N]) -> (at: i32[P], D: f32[P]) {
        M[p]  = X[p, n]                 :: max(n)
        at[p] = X[p, n]                 :: argmax(n)
        D[p]  = exp(X[p, n] - M[p])
    }
    """
    X = rng.integers(0, 3, size=(6, 11)).astype(float)
    X[4] = -np.inf
    X[5, 6] = np.nan
    derivation = derived(text, {"X": X})
    assert passes(derivation) == {"n": (2, 1)}
    assert ":: argmax(n0)" in to_source(derivation.cascade)
    derived(text, {"X": np.zeros((2, 0))})


def test_ranks_that_are_reduced_together_are_passed_over_together() -> None:
    text = """
    kernel k(X: f32[P, I, J, K], V: f32[I, K]) -> (O: f32[P]) {
        M[p]          = X[p, i, j, k]                        :: max(i, j, k)
        E[p, i, j, k] = exp(X[p, i, j, k] - M[p])
        D[p]          = E[p, i, j, k]
        O[p]          = E[p, i, j, k] / D[p] * V[i, k]
    }
    """
    inputs = {"X": rng.normal(size=(2, 3, 2, 9)), "V": rng.normal(size=(3, 9))}
    assert passes(derived(text, inputs)) == {"i": (3, 1), "j": (3, 1), "k": (3, 1)}


def test_a_size_known_to_be_a_multiple_needs_no_bound() -> None:
    text = "kernel k(X: f32[P, 16]) -> (D: f32[P]) {\n    M[p] = X[p, n]    :: max(n)\n    D[p] = exp(X[p, n] - M[p])\n}\n"
    derivation = derived(text, {"X": rng.normal(size=(2, 16))})
    assert "where" not in to_source(derivation.cascade)


def test_names_of_the_program_are_left_alone() -> None:
    text = """
    kernel k(X: f32[N1, N], LM: f32[N1, N], n0: f32) -> (D: f32[N1]) {
        M[n1] = X[n1, n] * n0                            :: max(n)
        D[n1] = exp(X[n1, n] * n0 - M[n1]) * LM[n1, n]
    }
    """
    inputs = {"X": rng.normal(size=(2, 9)), "LM": rng.normal(size=(2, 9)), "n0": np.float32(1.5)}
    assert passes(derived(text, inputs)) == {"n": (2, 1)}


def test_only_the_ranks_asked_for_are_cut() -> None:
    written = only(program(MAXIMUM, "exp(X[p, n] - M[p])"))
    assert derive(written, only=["p"]).cascade == written
    cut = derive(written, only=["n"])
    check_form(cut.cascade)
    assert passes(cut) == {"n": (2, 1)}


def test_small_floats_are_carried_in_f32() -> None:
    text = """
    kernel k(X: bf16[P, N], V: bf16[N]) -> (O: bf16[P]) {
        M[p]    = X[p, n]                      :: max(n)
        E[p, n] = exp(X[p, n] - M[p])
        D[p]    = E[p, n]
        O[p]    = E[p, n] / D[p] * V[n]
    }
    """
    inputs = {"X": rng.normal(size=(3, 200)), "V": rng.normal(size=200)}
    derivation = derived(text, inputs)
    states = {t.name: t.value for t in derivation.cascade.tensors if t.iterative_dims}
    assert {t.name for t in states.values()} == {"f32"}
    exact = interpret(only(text), inputs)["O"]
    rounded = [interpret(c, inputs, mode="typed")["O"] for c in (only(text), derivation.cascade)]
    errors = [np.abs(each.astype(float) - exact).max() for each in rounded]
    assert errors[1] <= errors[0] + 1e-3


def test_an_annotated_rounding_of_a_sum_ends_the_chain() -> None:
    text = """
    kernel k(X: f32[P, N], Y: f32[P, N]) -> (T: f32[P]) {
        S: f16[p] = X[p, n] * X[p, n]
        T[p]      = X[p, n] / S[p]       :: max(n)
    }
    """
    chain, refusals = chain_of(text, "n")
    assert chain is None
    assert [r.condition for r in refusals] == ["C7"]


def test_a_later_maximum_does_not_tell_whether_a_sum_is_empty():
    text = """
    kernel k(X: f32[P, N], Y: f32[P, N]) -> (D0: f32[P], D1: f32[P], D2: f32[P]) {
        S[p, n] = X[p, n]    where n <= p
        D0[p] = S[p, n] / N
        E[p, n] = exp(S[p, n] - D0[p])
        D1[p] = S[p, n] / (D0[p] + 1) * Y[p, n]    :: +(n)
        D2[p] = E[p, n] / (1 + D1[p] * D1[p]) * Y[p, n]    :: max(n)
    }
    """
    for n in (0, 1, 5):
        derived(text, {"X": rng.normal(size=(3, n)), "Y": rng.normal(size=(3, n))})
