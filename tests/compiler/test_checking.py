"""Random arguments, and the comparison of compiled results with the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from einfall.compiler.checking import compare, is_discontinuous
from einfall.compiler.samples import sample_arguments
from einfall.frontend import load
from einfall.ir.cascade import Cascade
from einfall.ir.interpreter import interpret


def cascade(text: str) -> Cascade:
    return next(iter(load(text).values()))


SUM = "kernel total(X: f32[M, K]) -> (Y: f32[M]) {\n    Y[m] = X[m, k]\n}\n"
GATHER = """
kernel gather(W: f32[V, N], id: i32[T], to: i32[T], keep: bool[T], b: i1[T], t: t2[T], u: u4[T], s: f32, n: i32)
        -> (Y: f32[U, N]) {
    Y[to[t'], n'] = W[id[t'], n'] * s + b[t'] + t[t'] + u[t'] + n :: +(t') where keep[t']
}
"""


def test_samples() -> None:
    kernel = cascade(GATHER)
    sizes = {"V": 3, "N": 4, "T": 500, "U": 7}
    found = sample_arguments(kernel, sizes, seed=1)
    again = sample_arguments(kernel, sizes, seed=1)
    assert all(np.array_equal(found[name], again[name]) for name in found)
    assert not np.array_equal(found["W"], sample_arguments(kernel, sizes, seed=2)["W"])
    assert set(np.unique(found["id"])) == {0, 1, 2}
    assert set(np.unique(found["to"])) == set(range(7))
    assert set(np.unique(found["b"])) == {-1, 1}
    assert set(np.unique(found["t"])) == {-1, 0, 1}
    assert set(np.unique(found["u"])) == set(range(16))
    assert found["keep"].dtype == np.bool_  # type: ignore[union-attr]
    assert isinstance(found["s"], float) and isinstance(found["n"], int)
    assert sample_arguments(kernel, sizes, scalars={"s": 0.125})["s"] == 0.125


def test_indices_into_nothing() -> None:
    found = sample_arguments(cascade(GATHER), {"V": 0, "N": 4, "T": 3, "U": 0})
    np.testing.assert_array_equal(found["id"], 0)


def test_what_the_typed_interpreter_gives_passes() -> None:
    kernel, x = cascade(SUM), np.random.default_rng(0).standard_normal((5, 1000), np.float32)
    typed = interpret(kernel, {"X": x}, mode="typed")["Y"]
    assert compare(kernel, {"X": x}, [typed]).passed
    reordered = x[:, ::-1].cumsum(axis=1, dtype=np.float32)[:, -1]
    assert compare(kernel, {"X": x}, [reordered]).passed


@pytest.mark.parametrize("error", [1e-3, np.nan, np.inf])
def test_what_is_wrong_fails(error: float) -> None:
    kernel, x = cascade(SUM), np.random.default_rng(0).standard_normal((5, 1000), np.float32)
    wrong = x.sum(axis=1)
    wrong[3] += error
    found = compare(kernel, {"X": x}, [wrong])
    assert not found.passed
    assert "1 of 5 elements are wrong; the first at [3]" in str(found)
    assert not compare(kernel, {"X": x}, [x.sum(axis=1)[:4]]).passed


def test_infinities_and_nan_must_agree() -> None:
    kernel = cascade("kernel f(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = 1 / X[m]\n}\n")
    x = np.array([0.0, -0.0, np.nan, 2.0], np.float32)
    with np.errstate(divide="ignore"):
        good = 1 / x
    assert compare(kernel, {"X": x}, [good]).passed
    assert not compare(kernel, {"X": x}, [np.array([np.inf, np.inf, np.nan, 0.5], np.float32)]).passed
    assert not compare(kernel, {"X": x}, [np.array([np.inf, -np.inf, 0, 0.5], np.float32)]).passed


def test_integers_are_exact() -> None:
    kernel = cascade("kernel f(X: i32[M, K]) -> (Y: i32[M]) {\n    Y[m] = X[m, k]\n}\n")
    x = np.arange(12, dtype=np.int32).reshape(3, 4)
    assert compare(kernel, {"X": x}, [x.sum(axis=1)]).passed
    assert not compare(kernel, {"X": x}, [x.sum(axis=1) + 1]).passed


def test_either_side_of_a_jump() -> None:
    kernel = cascade("kernel f(X: f32[M, K]) -> (Y: i32[M]) {\n    Y[m] = X[m, k] :: argmax(k)\n}\n")
    assert is_discontinuous(kernel) and not is_discontinuous(cascade(SUM))
    x = np.array([[1.0, 2.0, 2.0]], np.float32)
    assert compare(kernel, {"X": x}, [np.array([1])]).passed
    assert not compare(kernel, {"X": x}, [np.array([2])]).passed


def test_tolerance() -> None:
    text = "@tolerance(1e-2)\n" + SUM
    x = np.ones((5, 100), np.float32)
    assert compare(cascade(text), {"X": x}, [np.full(5, 100.5)]).passed
    assert not compare(cascade(text), {"X": x}, [np.full(5, 110.0)]).passed
    assert not compare(cascade(SUM), {"X": x}, [np.full(5, 100.5)]).passed


def test_sums_in_f64_that_cancel_may_be_added_up_in_any_order() -> None:
    kernel = cascade("kernel f(X: f64[K]) -> (Y: f64) {\n    Y = X[k]\n}\n")
    x = np.random.default_rng(0).standard_normal(1000)
    x[-1] -= x.sum()
    assert compare(kernel, {"X": x}, [np.asarray(x[::-1].sum())]).passed
    assert not compare(kernel, {"X": x}, [np.asarray(x.sum() + 1e-11)]).passed
