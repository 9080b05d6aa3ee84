"""Numbers of every type on a GPU: as parameters, as constants that are stored, and as integers below 32 bits that wrap."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import pytest

from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker

PARAMETERS = """\
kernel k(X: f32[M], a: u8, b: i8, c: u16, d: i16, e: bool, f: f16, g: bf16, h: u4, i: u64, j: f64, l: u32, q: f8_e4m3)
    -> (Y: f32[M], Z: u8[M], P: f64[M]) {
    Y[m] = if e then X[m] * f + g + cast(f32, b) + cast(f32, d) + q else X[m]
    Z[m] = a + cast(u8, h) + cast(u8, c) + (-cast(u8, 1))
    P[m] = j + cast(f64, l) + cast(f64, i)
}
"""
WRAPPED = """\
kernel k(X: {t}[N], Z: {t}[N]) -> (A: i32[N], B: i32[N], C: i32[N], D: bool[N], E: {t}[N], F: i32[N], G: i32[N]) {{
    A[n] = cast(i32, (X[n] + Z[n]) // 2)
    B[n] = cast(i32, X[n] * Z[n])
    C[n] = cast(i32, (X[n] << 3) >> 1)
    D[n] = X[n] + 1 > X[n]
    E[n] = -X[n] - Z[n]
    F[n] = cast(i32, abs(X[n]) // Z[n]) ?? 77
    G[n] = cast(i32, max(-X[n], X[n] - Z[n]) ** 3)
}}
"""
CONSTANTS = """\
kernel k(X: f8_e4m3[N], Z: f64[N]) -> (T: f8_e4m3, Y: f8_e5m2[N], B: bf16[N], H: f16[N], W: u64[N], V: f64[N], I: u64) {
    T    = erf(3)
    Y[n] = cast(f8_e5m2, X[n])  where X[n] > 0.5
    B[n] = cast(bf16, -2.5)     where n > 1
    H[n] = cast(f16, -0.1)
    W[n] = bitcast(u64, Z[n]) + bitcast(u64, cast(f64, -1.5))
    V[n] = bitcast(f64, bitcast(u64, Z[n]) + 1)
    I    = bitcast(u64, cast(f64, -2))
}
"""


def check(gpu: Worker, text: str, given: Mapping[str, object]) -> None:
    cascade = read_program(text).select(None)
    found = gpu.run(kernels.run, text, {name: np.asarray(value) for name, value in given.items()}, {}, "cuda:sm_80")
    types = [result.value.storage for result in cascade.results]
    seen = [each.view(t) if each.itemsize == np.dtype(t).itemsize else each for each, t in zip(found, types, strict=True)]
    comparison = compare(cascade, given, seen, sizes={})
    assert comparison.passed, comparison


@pytest.mark.parametrize("e", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_parameters_that_are_numbers(gpu: Worker, e: bool) -> None:
    numbers = {"a": 200, "b": -3, "c": 70, "d": -5, "e": e, "h": 9, "i": 2**40, "l": 2**31 + 1}
    given = {"X": np.arange(5, dtype=np.float32), **numbers, "f": 1.5, "g": 2.5, "j": 0.1, "q": 1.5}
    check(gpu, PARAMETERS, given)


@pytest.mark.parametrize(
    "dtype", ["i8", *(pytest.param(t, marks=pytest.mark.slow) for t in ("u8", "i16", "u16", "i4", "u4", "i32"))]
)
def test_integers_wrap_at_their_type(gpu: Worker, dtype: str) -> None:
    text = WRAPPED.format(t=dtype)
    kind = read_program(text).select(None).by_name["X"].value
    least, most = int(kind.minimum), int(kind.maximum)
    edges = [least, least + 1, 0, 1, 3, most // 2 + 1, most - 1, most]
    x, z = (each.ravel().astype(kind.storage) for each in np.meshgrid(edges, edges))
    check(gpu, text, {"X": x, "Z": z})


@pytest.mark.slow
def test_constants(gpu: Worker) -> None:
    check(gpu, CONSTANTS, {"X": np.arange(-3, 5).astype(ml_dtypes.float8_e4m3fn), "Z": np.arange(8.0)})
