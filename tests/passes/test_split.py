"""The split form: parts of a long rank with states of their own, merged at the end, compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from einfall.compiler.samples import sample_arguments
from einfall.frontend import load
from einfall.ir.cascade import Cascade
from einfall.ir.interpreter import interpret
from einfall.ir.printer import to_source
from einfall.passes.online.derive import derive
from einfall.passes.online.split import Splitting, split

from .comparison import check_equal, check_form, only

ROOT = Path(__file__).parents[2]
KERNELS = {
    f"{path.parent.name}/{name}": kernel
    for path in sorted((ROOT / "examples").glob("*/*.ecs"))
    for name, kernel in load(path.read_text(), path.name).items()
}
ONLINE = [name for name, kernel in KERNELS.items() if derive(kernel).chains]

rng = np.random.default_rng(5)


def split_of(cascade: Cascade, *, most: int = 3, tile: int = 3, least: int = 3) -> Splitting:
    found = split(derive(cascade), most=most, least=least, tile=tile)
    assert found is not None
    check_form(found.cascade)
    return found


@pytest.mark.parametrize("name", ONLINE)
def test_every_derived_form_of_the_examples_computes_the_same_in_parts(name: str) -> None:
    kernel = KERNELS[name]
    form = split_of(kernel)
    for check in kernel.checks:
        values = dict(check.values)
        sizes = {n: int(v) for n, v in values.items() if n in kernel.sizes}
        scalars = {n: v for n, v in values.items() if n not in kernel.sizes}
        check_equal(kernel, form.cascade, sample_arguments(kernel, sizes, scalars=scalars), sizes, rtol=1e-8)


HEAD = "kernel k(X: f64[P, N], Y: f64[P, N], W: f64[N], keep: bool[P, N]) -> (T: f64[P]) {\n"
FIRST = "    S[p, n] = X[p, n]{mask}\n"
MAXIMUM = FIRST + "    M[p] = S[p, n]    :: max(n)\n    E[p, n] = exp(S[p, n] - M[p])\n"
MEAN = FIRST + "    M[p] = S[p, n] / N\n"
FORMS = {
    "softmax": MAXIMUM + "    D[p] = E[p, n]\n    T[p] = E[p, n] / D[p] * Y[p, n]    :: +(n)\n",
    "logsumexp": MAXIMUM + "    D[p] = E[p, n]\n    T[p] = M[p] + log(D[p])\n",
    "entropy": MAXIMUM + "    T[p] = E[p, n] * (S[p, n] - M[p])    :: +(n)\n",
    "variance": MEAN + "    T[p] = (S[p, n] - M[p]) ** 2 / N\n",
    "third moment": MEAN + "    T[p] = (S[p, n] - M[p]) ** 3\n",
    "covariance": MEAN + "    O[p] = Y[p, n] / N\n    T[p] = (S[p, n] - M[p]) * (Y[p, n] - O[p])\n",
    "largest distance": FIRST + "    M[p] = S[p, n]    :: max(n)\n    T[p] = M[p] - S[p, n]    :: max(n)\n",
    "quantised": FIRST + "    M[p] = abs(S[p, n])    :: max(n)\n    T[p] = S[p, n] / M[p] * W[n]    :: +(n)\n",
    "sum": "    T[p] = X[p, n] * W[n]    :: +(n){mask}\n",
    "minimum": "    T[p] = X[p, n]    :: min(n){mask}\n",
}
MASKS = ["", "    where keep[p, n]", "    where n <= 4 * p", "    where n < 5 and n > 2", "    where n < 0"]


def values(n: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    return {
        "X": rng.normal(size=(3, n)) * scale,
        "Y": rng.normal(size=(3, n)),
        "W": rng.normal(size=n),
        "keep": rng.random((3, n)) < np.array([[0.5], [0.1], [0.0]]),
    }


def program(form: str, mask: str = "") -> Cascade:
    return only(HEAD + FORMS[form].replace("{mask}", mask) + "}\n")


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("form", FORMS)
def test_parts_of_every_kind_of_reduction_merge_to_the_same(form: str, mask: str) -> None:
    written = program(form, mask)
    if (form, mask) == ("quantised", MASKS[-1]):
        assert not any(e.reduction for e in derive(written).cascade.einsums)  # no term is present: 0 without a pass
        return
    for most, tile, least in ((3, 2, 2), (8, 4, 1)):
        parts = split_of(written, most=most, tile=tile, least=least)
        for n in (0, 1, 5, 13, 32):
            check_equal(written, parts.cascade, values(n))


@pytest.mark.parametrize("form", ["softmax", "logsumexp", "entropy"])
def test_parts_neither_overflow_nor_meet_infinity_minus_infinity(form: str) -> None:
    written = program(form)
    parts = split_of(written, most=4, tile=2, least=2)
    check_equal(written, parts.cascade, values(23, scale=1e4))
    start, end = values(23), values(23)
    start["X"][:, :9] = -np.inf
    end["X"][:, 9:] = -np.inf
    for given in (start, end):
        found = check_equal(written, parts.cascade, given)
        assert np.isfinite(found["T"]).all() or form == "entropy"


def test_a_row_without_a_point_stays_as_written() -> None:
    written = program("softmax", "    where n < 0")
    found = interpret(split_of(written).cascade, values(13))
    assert np.array_equal(found["T"], np.zeros(3))


@pytest.mark.parametrize("reduction", ["argmax", "argmin"])
def test_parts_keep_the_first_coordinate_of_an_extreme(reduction: str) -> None:
    head = "kernel k(X: f64[P, N], keep: bool[P, N]) -> (A: i32[P], B: i32[P]) {\n"
    body = f"    A[p] = X[p, n]    :: {reduction}(n)\n    B[p] = X[p, n]    :: {reduction}(n) where keep[p, n]\n}}\n"
    written = only(head + body)
    parts = split_of(written, most=4, tile=2, least=2)
    for n in (0, 1, 7, 16):
        x = rng.integers(-2, 3, size=(4, n)).astype(float)
        x[1, n // 2 :] = np.nan
        x[2] = np.inf if reduction == "argmin" else -np.inf
        given = {"X": x, "keep": rng.random((4, n)) < 0.3}
        expected, found = interpret(written, given), interpret(parts.cascade, given)
        for name in ("A", "B"):
            np.testing.assert_array_equal(found[name], expected[name])


def test_the_parts_are_counted_by_the_sizes_alone() -> None:
    text = to_source(split_of(program("logsumexp"), most=6, tile=16, least=100).cascade)
    assert "let N2 = min(ceildiv(N, 100), 6)" in text
    assert "let N1 = ceildiv(N, max(N2, 1) * N0)" in text


def test_what_is_given_in_parts_is_not_cut_again() -> None:
    form = split_of(program("softmax"), most=4, tile=64, least=64)
    derivation = derive(form.cascade)
    assert derivation.cascade == form.cascade
