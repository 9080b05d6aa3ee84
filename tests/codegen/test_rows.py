"""Kernels of rows with values that are no numbers, at lengths beside whole vectors, on one thread and on two."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import einfall

EXAMPLES = Path(__file__).parents[2] / "examples"
SHAPES = ((0, 5), (3, 0), (2, 1), (5, 15), (9, 17), (130, 100), (33, 4099), (3, 20001), (2, 300003))


def matrix(rows: int, columns: int) -> np.ndarray:
    x = np.random.default_rng(rows).standard_normal((rows, columns)).astype(np.float32) * 3
    if rows > 2 and columns > 3:
        x[0, columns // 2], x[1], x[2, 1] = np.nan, -np.inf, np.inf
    if rows > 4 and columns > 3:
        x[3, : columns // 2], x[4] = -np.inf, 1e30
    return x


def test_softmax_of_what_is_no_number() -> None:
    kernel = einfall.compile(EXAMPLES / "norms/softmax.ecs")
    for rows, columns in SHAPES:
        x = matrix(rows, columns)
        one, two = (kernel(x, threads=threads) for threads in (1, 2))
        np.testing.assert_array_equal(one.view(np.int32), two.view(np.int32))
        with np.errstate(all="ignore"):
            e = np.exp(x.astype(float) - x.max(1, keepdims=True, initial=-np.inf))
            np.testing.assert_allclose(one, e / e.sum(1, keepdims=True), rtol=2e-5, atol=1e-12)


def test_variance_on_one_thread_and_on_two() -> None:
    kernel = einfall.compile(EXAMPLES / "others/variance.ecs")
    for rows, columns in SHAPES[2:]:
        x = np.nan_to_num(matrix(rows, columns), posinf=1, neginf=-1).clip(-9, 9)
        one, two = (kernel(x, threads=threads) for threads in (1, 2))
        for a, b, right in zip(one, two, (x.astype(float).mean(1), x.astype(float).var(1)), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_allclose(a, right, rtol=1e-4, atol=1e-5)
