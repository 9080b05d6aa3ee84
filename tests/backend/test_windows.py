"""Convolutions on the matrix-product micro-kernel: strides, dilations, padding, groups, gaps, what is not finite."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import einfall as ef

from .kernels import WINDOWS

PLAIN = """kernel conv(I: f32[N, C, Y, X], W: f32[K, C, {R}, {S}]) -> (O: f32[N, K, P, Q]) {{
    O[n, k, p, q] = I[n, c, {sy}*p + {dy}*r - {py}, {sx}*q + {dx}*s - {px}] * W[k, c, r, s]
}}"""

SAME = PLAIN.format(R=3, S=3, sy=1, sx=1, dy=1, dx=1, py=1, px=1)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def direct(
    x: np.ndarray, w: np.ndarray, p: int, q: int, step: tuple[int, int], tap: tuple[int, int], pad: tuple[int, int]
) -> np.ndarray:
    """The convolution tap by tap, in f64."""
    n, _, height, width = x.shape
    out = np.zeros((n, w.shape[0], p, q))
    for r in range(w.shape[2]):
        for s in range(w.shape[3]):
            for i in range(p):
                for j in range(q):
                    y, z = step[0] * i + tap[0] * r - pad[0], step[1] * j + tap[1] * s - pad[1]
                    if 0 <= y < height and 0 <= z < width:
                        out[:, :, i, j] += np.einsum("nc,kc->nk", x[:, :, y, z].astype("f8"), w[:, :, r, s].astype("f8"))
    return out


@pytest.mark.parametrize(
    ("n", "c", "k", "y", "x"),
    [
        (1, 1, 1, 1, 1),
        (2, 3, 5, 7, 6),
        (3, 17, 13, 5, 29),
        (1, 15, 70, 9, 33),
        (1, 0, 4, 3, 3),
    ],
)
def test_same(n: int, c: int, k: int, y: int, x: int) -> None:
    free = ef.compile(SAME)
    fixed = ef.compile(SAME, N=n, C=c, K=k, Y=y, X=x, P=y, Q=x)
    image, weights = draw(n, c, y, x), draw(k, c, 3, 3, seed=1)
    expected = direct(image, weights, y, x, (1, 1), (1, 1), (1, 1))
    for kernel in (free, fixed):
        sizes = {name: size for name, size in (("P", y), ("Q", x)) if name in kernel.sizes}
        found = kernel(image, weights, **sizes)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("r", "s", "step", "tap", "pad"), WINDOWS)
def test_windows(r: int, s: int, step: tuple[int, int], tap: tuple[int, int], pad: tuple[int, int]) -> None:
    program = PLAIN.format(R=r, S=s, sy=step[0], sx=step[1], dy=tap[0], dx=tap[1], py=pad[0], px=pad[1])
    image, weights = draw(1, 4, 20, 37), draw(9, 4, r, s, seed=1)
    p, q = (-(-20 // step[0]), -(-37 // step[1]))
    found = ef.compile(program)(image, weights, P=p, Q=q)
    np.testing.assert_allclose(found, direct(image, weights, p, q, step, tap, pad), rtol=1e-4, atol=1e-4)


NARROW = [
    ("bf16", "bf16", "bf16"),
    ("f16", "f16", "f16"),
    ("bf16", "bf16", "f32"),
    ("f32", "bf16", "f32"),
    ("f16", "f32", "f16"),
]


@pytest.mark.parametrize("types", NARROW, ids="·".join)
def test_narrow_floats(types: tuple[str, str, str]) -> None:
    """Whole numbers, whose sum is exact, so that only the result is rounded, and once."""
    storage = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
    text = SAME
    for name, dtype in zip("IWO", types, strict=True):
        text = text.replace(f"{name}: f32", f"{name}: {dtype}")
    kernel = ef.compile(text)
    assert "rows k, columns p, q, depth c, r, s" in kernel.source("tile")
    random = np.random.default_rng(2)
    for n, c, k, y, x in ((1, 1, 1, 1, 1), (2, 3, 5, 7, 6), (1, 40, 33, 9, 33), (1, 500, 3, 2, 5), (1, 0, 4, 3, 3)):
        image, weights = (
            random.integers(-7, 8, s).astype(storage[t]) for s, t in (((n, c, y, x), types[0]), ((k, c, 3, 3), types[1]))
        )
        wanted = direct(image.astype("f4"), weights.astype("f4"), y, x, (1, 1), (1, 1), (1, 1)).astype(storage[types[2]])
        np.testing.assert_array_equal(kernel(image, weights, P=y, Q=x), wanted)
    image, weights = random.standard_normal((1, 3, 6, 7)).astype(storage[types[0]]), np.ones((4, 3, 3, 3), storage[types[1]])
    weights[2, 1, 0, 0] = np.inf
    found, expected = kernel(image, weights, P=6, Q=7), ef.interpret(text, I=image, W=weights, P=6, Q=7)
    np.testing.assert_array_equal(np.isfinite(found.astype("f4")), np.isfinite(expected.astype("f4")))
    assert np.isfinite(found[0, 2, 0].astype("f4")).all()  # its tap lies outside of the image there


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("scale", [1.0, 2.0**-130, 2.0**-20], ids=["normal", "subnormal bf16", "subnormal f16"])
def test_narrow_floats_from_anywhere(dtype: type, scale: float) -> None:
    """Every second column; numbers that matrix tiles would take for zero."""
    text = PLAIN.format(R=3, S=3, sy=1, sx=2, dy=1, dx=1, py=1, px=1)
    text = text.replace("f32", "bf16" if dtype is ml_dtypes.bfloat16 else "f16", 2)
    random = np.random.default_rng(4)
    image, weights = random.integers(-7, 8, (2, 5, 9, 37)), random.integers(-7, 8, (35, 5, 3, 3)).astype(dtype)
    image = (image * scale).astype(dtype)
    wanted = direct(image.astype("f4"), weights.astype("f4"), 9, 19, (1, 2), (1, 1), (1, 1)).astype("f4")
    np.testing.assert_array_equal(ef.compile(text)(image, weights, P=9, Q=19), wanted)


def test_any_threads_give_the_same_bits() -> None:
    kernel = ef.compile(SAME)
    image, weights = draw(2, 20, 15, 31), draw(33, 20, 3, 3, seed=1)
    first = kernel(image, weights, P=15, Q=31, threads=1)
    for threads in (2, None):
        np.testing.assert_array_equal(kernel(image, weights, P=15, Q=31, threads=threads), first)


def test_the_micro_kernel_is_used() -> None:
    assert "packed_b" in ef.compile(SAME, N=1, C=8, K=8, Y=9, X=9, P=9, Q=9).source("tir")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_meets_no_padding(value: float) -> None:
    image, weights = draw(1, 3, 6, 7), draw(4, 3, 3, 3, seed=1)
    weights[2, 1, 0, 0] = value
    found = ef.compile(SAME)(image, weights, P=6, Q=7)
    expected = ef.interpret(SAME, I=image, W=weights, P=6, Q=7)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    assert np.isfinite(found[0, 2, 0]).all()  # its tap lies outside of the image there
    whole = np.isfinite(expected)
    np.testing.assert_allclose(found[whole], expected[whole], rtol=1e-4, atol=1e-4)


def test_gaps() -> None:
    kernel = ef.compile(SAME)
    image, weights = draw(1, 6, 9, 40)[:, ::2, :, :11], draw(10, 7, 3, 3, seed=1)[::2, 2:5]
    out = np.zeros((1, 5, 9, 30), np.float32)
    expected = direct(image, weights, 9, 11, (1, 1), (1, 1), (1, 1))
    kernel(image, weights, P=9, Q=11, out=out[..., :11])
    np.testing.assert_allclose(out[..., :11], expected, rtol=1e-4, atol=1e-4)
    assert not out[..., 11:].any()


def test_one_dimension_and_no_channels() -> None:
    program = "kernel f(X: f32[T], W: f32[K, 5]) -> (O: f32[K, T]) {\n O[k, t] = X[t + j - 4] * W[k, j]\n}"
    x, w = draw(300), draw(7, 5, seed=1)
    padded = np.concatenate([np.zeros(4), x])
    expected = np.stack([sum(padded[j : j + 300] * w[k, j] for j in range(5)) for k in range(7)])
    np.testing.assert_allclose(ef.compile(program)(x, w), expected, rtol=1e-4, atol=1e-4)


def test_three_dimensions() -> None:
    program = """kernel f(I: f32[C, Z, Y, X], W: f32[K, C, 3, 3, 3]) -> (O: f32[K, Z, Y, X]) {
        O[k, z, y, x] = I[c, z + a - 1, y + b - 1, x + d - 1] * W[k, c, a, b, d]
    }"""
    image, weights = draw(3, 5, 6, 7), draw(4, 3, 3, 3, 3, seed=1)
    found, expected = ef.compile(program)(image, weights), ef.interpret(program, I=image, W=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_condition_of_the_user_is_no_border() -> None:
    program = """kernel f(I: f32[C, Y, X], W: f32[K, C, 3, 3]) -> (O: f32[K, Y, X]) {
        O[k, p, q] = I[c, p + r - 1, q + s - 1] * W[k, c, r, s] :: +(c, r, s) where q + s - 1 < 4
    }"""
    image, weights = draw(3, 6, 9), draw(4, 3, 3, 3, seed=1)
    found, expected = ef.compile(program)(image, weights), ef.interpret(program, I=image, W=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
