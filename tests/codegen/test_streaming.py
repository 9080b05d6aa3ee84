"""Results that go past the caches: the same values at any alignment, stride, length and type, and nothing beside them."""

from __future__ import annotations

import platform

import numpy as np
import pytest

import einfall
from einfall.compiler.host import host_target

SCALE = """kernel scale(X: {type}[M, N]) -> (Y: {type}[M, N]) {{
    Y[m, n] = X[m, n] * 2.0
}}
"""
ROWS, COLUMNS = 2, (5 << 19) + 37
x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="streaming stores are made for x86")


def placed(shape: tuple[int, int], dtype: type, offset: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix whose rows are ``stride`` elements apart, ``offset`` elements behind a line; and its memory."""
    memory = np.zeros(shape[0] * stride + 2 * 64, dtype)
    start = (-memory.ctypes.data % 64) // memory.itemsize + offset
    return memory[start : start + shape[0] * stride].reshape(-1, stride)[:, : shape[1]], memory


@x86
@pytest.mark.parametrize(("name", "dtype"), [("f32", np.float32), ("f64", np.float64), ("f16", np.float16)])
@pytest.mark.parametrize("sizes", [{}, {"M": ROWS, "N": COLUMNS}])
def test_every_alignment_gives_the_same_values(name: str, dtype: type, sizes: dict[str, int]) -> None:
    kernel = einfall.compile(SCALE.format(type=name), **sizes)
    assert "vmovntp" in kernel.source("asm") or "movntp" in kernel.source("asm") or name == "f16"
    x = np.random.default_rng(1).standard_normal((ROWS, COLUMNS)).astype(dtype)
    for offset, gap in ((0, 0), (1, 0), (5, 11), (15, 64)):
        y, memory = placed((ROWS, COLUMNS), dtype, offset, COLUMNS + gap)
        memory[:] = 7
        kernel(x, out=y)
        np.testing.assert_array_equal(y, x * dtype(2))
        y[:] = 7
        np.testing.assert_array_equal(memory, np.full_like(memory, 7))


@x86
@pytest.mark.skipif("avx2" not in host_target().features, reason="needs AVX2")
def test_vectors_shorter_than_a_line() -> None:
    kernel = einfall.compile(SCALE.format(type="f32"), target={"cpu": "haswell"})
    x = np.random.default_rng(3).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    for offset in (0, 1, 7, 8, 11, 15):
        y, _ = placed((ROWS, COLUMNS), np.float32, offset, COLUMNS + 3)
        y[:] = 7
        kernel(x, out=y)
        np.testing.assert_array_equal(y, x * 2)


@x86
@pytest.mark.parametrize("columns", [1, 15, 16, 127, 128, 255, 256, 300])
def test_short_rows_of_a_large_result(columns: int) -> None:
    rows = (9 << 20) // (4 * columns)
    kernel = einfall.compile(SCALE.format(type="f32"))
    x = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns) % 1013
    y, _ = placed((rows, columns), np.float32, 3, columns)
    kernel(x, out=y)
    np.testing.assert_array_equal(y, x * 2)


@x86
def test_addresses_between_elements_take_common_stores() -> None:
    shape = (ROWS, COLUMNS)
    memory = np.zeros(4 * ROWS * COLUMNS + 8, np.uint8)
    start = (-memory.ctypes.data) % 4 + 2
    y = memory[start : start + 4 * ROWS * COLUMNS].view(np.float32).reshape(shape)
    x = np.random.default_rng(2).standard_normal(shape, np.float32)
    try:
        einfall.compile(SCALE.format(type="f32"))(x, out=y)
    except einfall.EinfallError:
        return  # refused at the call
    np.testing.assert_array_equal(y, x * 2)


def test_a_result_that_the_kernel_reads_and_small_ones_stay_in_the_caches() -> None:
    softmax = """kernel twice(X: f32[M, N]) -> (Y: f32[M, N], Z: f32[M]) {
        Y[m, n] = exp(X[m, n])
        Z[m] = Y[m, n]
    }
    """
    kernel = einfall.compile(softmax, M=4096, N=4096)
    assert "movnt" not in kernel.source("asm")
    assert "movnt" not in einfall.compile(SCALE.format(type="f32"), M=64, N=4096).source("asm")
    x = np.random.default_rng(3).standard_normal((64, 300), np.float32)
    y, z = einfall.compile(softmax)(x)
    np.testing.assert_allclose(y, np.exp(x), rtol=1e-6)
    np.testing.assert_allclose(z, np.exp(x).sum(1), rtol=1e-5)


@x86
def test_the_decision_is_told() -> None:
    found = einfall.compile(SCALE.format(type="f32"), M=4096, N=4096).explain()
    assert "stored past the caches" in str(found)
