"""Arguments as they lie in the caller's memory: strided, transposed, sliced, misaligned, reversed, broadcast."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from .kernels import agrees, kernel, normal

SUM = """
kernel k(X: f32[M, N], Y: f32[M, N]) -> (Z: f32[M, N], rows: f32[M], columns: f32[N]) {
    Z[m, n]    = X[m, n] + 2 * Y[m, n]
    rows[m]    = X[m, n]
    columns[n] = Y[m, n]     :: max(m)
}
"""
PRODUCT = """
kernel k(A: f32[M, K], B: f32[K, N]) -> (C: f32[M, N]) {
    C[m, n] = A[m, k] * B[k, n]
}
"""


def _misaligned(x: np.ndarray) -> np.ndarray:
    """The same values, starting one byte after an aligned address."""
    raw = np.zeros(x.nbytes + 64 + 1, np.uint8)
    start = -raw.ctypes.data % 64 + 1
    view = raw[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "dense": lambda x: x,
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "inside a larger array": lambda x: np.pad(x, ((1, 2), (3, 5)), mode="reflect" if x.size > 99 else "edge")[1:-2, 3:-5],
    "reversed rows": lambda x: x[::-1].copy()[::-1],
    "reversed columns": lambda x: x[:, ::-1].copy()[:, ::-1],
    "misaligned": _misaligned,
    "column-major": np.asfortranarray,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (20, 33), (5, 1)], ids=str)
def test_elementwise_and_reductions_of_any_layout(layout: str, shape: tuple[int, int]) -> None:
    x, y = normal(*shape), normal(*shape, seed=1)
    expected = kernel(SUM)(x, y)
    for given in [(LAYOUTS[layout](x), y), (x, LAYOUTS[layout](y))]:
        for found, wanted in zip(kernel(SUM)(*given), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    agrees(SUM, X=LAYOUTS[layout](x), Y=y)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("extents", [(1, 1, 1), (1, 40, 33), (33, 40, 1), (17, 5, 70), (40, 130, 40)], ids=str)
def test_products_of_any_layout(layout: str, extents: tuple[int, int, int]) -> None:
    m, k, n = extents
    a, b = normal(m, k), normal(k, n, seed=1)
    agrees(PRODUCT, A=LAYOUTS[layout](a), B=b)
    agrees(PRODUCT, A=a, B=LAYOUTS[layout](b))


def test_broadcast_arguments_have_stride_zero() -> None:
    row, column = normal(1, 19), normal(7, 1)
    agrees(SUM, X=np.broadcast_to(row, (7, 19)), Y=np.broadcast_to(column, (7, 19)))
    agrees(SUM, X=np.broadcast_to(np.float32(3), (7, 19)), Y=normal(7, 19))
    agrees(PRODUCT, A=np.broadcast_to(row, (7, 19)), B=np.broadcast_to(normal(19, 1), (19, 40)))


def test_one_array_may_be_two_arguments_and_overlapping_views() -> None:
    x = normal(9, 24)
    agrees(SUM, X=x, Y=x)
    agrees(SUM, X=x[:8], Y=x[1:])
    agrees(PRODUCT, A=x, B=x.T)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8, np.float64, np.uint16])
def test_narrow_and_wide_elements_of_any_layout(dtype: type) -> None:
    name = {"float16": "f16", "bfloat16": "bf16", "int8": "i8", "float64": "f64", "uint16": "u16"}[np.dtype(dtype).name]
    text = f"kernel k(X: {name}[M, N]) -> (Y: {name}[N, M], S: f32[M]) {{\n Y[n, m] = X[m, n]\n S[m] = cast(f32, X[m, n])\n}}\n"
    x = (np.arange(5 * 37) % 23).reshape(5, 37).astype(dtype)
    for layout in LAYOUTS.values():
        found = agrees(text, X=layout(x))
        np.testing.assert_array_equal(found[0], x.T)


@pytest.mark.parametrize("layout", ["dense", "every second row", "inside a larger array", "reversed rows"])
def test_results_go_into_views_of_the_callers_arrays(layout: str) -> None:
    x, y = normal(6, 21), normal(6, 21, seed=1)
    outs = (LAYOUTS[layout](np.zeros((6, 21), np.float32)), np.zeros(6, np.float32), np.zeros(21, np.float32))
    kernel(SUM)(x, y, out=outs)
    for found, wanted in zip(outs, kernel(SUM)(x, y), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_nothing_beyond_a_result_is_written() -> None:
    frame = np.full((8, 40), 7.0, np.float32)
    inside = frame[1:-1, 3:-4]
    kernel(PRODUCT)(normal(6, 11), normal(11, 33), out=inside)
    np.testing.assert_allclose(inside, normal(6, 11) @ normal(11, 33), rtol=1e-4, atol=1e-4)
    inside[...] = 7
    assert (frame == 7).all()
