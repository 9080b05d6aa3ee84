"""What lies behind a result in memory stays as it is, where its sizes are known and its last vector has few lanes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import einfall as ef

SUM = "kernel f(A: bf16[N], B: bf16[N]) -> (C: bf16[N]) { C[n] = A[n] + B[n] }"
PRODUCT = "kernel f(A: bf16[M, K], B: bf16[K, N]) -> (C: bf16[M, N]) { C[m, n] = A[m, k] * B[k, n] }"


def bordered(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """(a result, what lies behind it)."""
    count = int(np.prod(shape))
    memory = np.full(count + 64, 3, ml_dtypes.bfloat16)
    return memory[:count].reshape(shape), memory[count:]


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_one_lane_of_bf16_is_two_bytes(lanes: int) -> None:
    """LLVM made four of a masked store of one lane, whose mask it knew."""
    a = np.arange(32 + lanes).astype(ml_dtypes.bfloat16)
    out, behind = bordered(32 + lanes)
    ef.compile(SUM, N=32 + lanes)(a, a, out=out)
    assert (out == a + a).all()
    assert (behind == 3).all()


def test_one_column_of_a_product() -> None:
    a, b = np.ones((17, 27), ml_dtypes.bfloat16), np.ones((27, 33), ml_dtypes.bfloat16)
    out, behind = bordered(17, 33)
    ef.compile(PRODUCT, M=17, K=27, N=33)(a, b, out=out)
    assert (out == 27).all()
    assert (behind == 3).all()


@pytest.mark.parametrize("index", ["1048576*p + r", "p + r - 4294967296"])
def test_windows_that_move_far_beyond_the_image(index: str) -> None:
    """Positions of 2^32 are not those of 0."""
    text = "kernel f(X: f32[C, Y], W: f32[K, C, 3]) -> (O: f32[K, P]) { O[k, p] = X[c, INDEX] * W[k, c, r] }"
    x, w = np.ones((2, 100), np.float32), np.ones((4, 2, 3), np.float32)
    wanted = np.zeros((4, 4100), np.float32)
    wanted[:, 0] = 6 if index.startswith("1048576") else 0
    np.testing.assert_array_equal(ef.compile(text.replace("INDEX", index))(x, w, P=4100), wanted)
