"""Convolutions whose weights are constants: packed when they are bound, or in the call, with the same bits."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import einfall as ef
from einfall.runtime.kernel import Kernel

from .kernels import WINDOWS
from .test_windows import direct, draw

PLAIN = """kernel conv(I: f32[N, {C}, Y, X], const W: f32[{K}, {C}, {R}, {S}]) -> (O: f32[N, {K}, P, Q]) {{
    O[n, k, p, q] = I[n, c, {sy}*p + {dy}*r - {py}, {sx}*q + {dx}*s - {px}] * W[k, c, r, s]
}}"""

SAME = PLAIN.format(K="K", C="C", R=3, S=3, sy=1, sx=1, dy=1, dx=1, py=1, px=1)


@cache
def compiled(program: str, **sizes: int) -> Kernel:
    return ef.compile(program, target="cpu", cache=False, **sizes)


def all_ways(kernel: Kernel, image: np.ndarray, weights: np.ndarray, **sizes: int) -> np.ndarray:
    """What a kernel gives, for any number of threads, bound or not: always the same bits."""
    sizes = {name: size for name, size in sizes.items() if name in kernel.sizes}
    found = kernel(image, weights, threads=1, **sizes)
    bound = kernel.bind(W=weights)
    for threads in (1, 2, 3, None):
        assert bound(image, threads=threads, **sizes).tobytes() == found.tobytes()
    assert kernel(image, weights, **sizes).tobytes() == found.tobytes()
    return found


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(("c", "k"), [(17, 103), pytest.param(64, 64, marks=SLOW), pytest.param(33, 197, marks=SLOW)])
def test_channels(c: int, k: int) -> None:
    """Points that whole tiles do not cover, few of them, none."""
    free = compiled(SAME, C=c, K=k)
    assert "rows from W.window.fma" in free.source("tile")
    weights = draw(k, c, 3, 3, seed=1)
    for n, y, x in ((1, 1, 1), (2, 7, 6), (1, 5, 29), (1, 40, 33), (0, 3, 3), (1, 0, 3)):
        image = draw(n, c, y, x)
        close(all_ways(free, image, weights, P=y, Q=x), direct(image, weights, y, x, (1, 1), (1, 1), (1, 1)))


@pytest.mark.parametrize("side", [7, pytest.param(14, marks=pytest.mark.slow), pytest.param(61, marks=pytest.mark.slow)])
def test_all_sizes_known(side: int) -> None:
    kernel = compiled(SAME, N=1, C=40, K=100, Y=side, X=side, P=side, Q=side)
    image, weights = draw(1, 40, side, side), draw(100, 40, 3, 3, seed=1)
    close(all_ways(kernel, image, weights), direct(image, weights, side, side, (1, 1), (1, 1), (1, 1)))


@pytest.mark.parametrize(
    ("r", "s", "step", "tap", "pad"), [WINDOWS[0], *(pytest.param(*w, marks=pytest.mark.slow) for w in WINDOWS[1:])]
)
def test_windows(r: int, s: int, step: tuple[int, int], tap: tuple[int, int], pad: tuple[int, int]) -> None:
    c = -(-140 // (r * s))
    program = PLAIN.format(K=64, C=c, R=r, S=s, sy=step[0], sx=step[1], dy=tap[0], dx=tap[1], py=pad[0], px=pad[1])
    image, weights = draw(1, c, 20, 37), draw(64, c, r, s, seed=1)
    p, q = (-(-20 // step[0]), -(-37 // step[1]))
    kernel = compiled(program)
    assert "rows from W.window.fma" in kernel.source("tile")
    close(all_ways(kernel, image, weights, P=p, Q=q), direct(image, weights, p, q, step, tap, pad))


def test_what_is_not_finite_meets_no_padding() -> None:
    kernel = compiled(SAME, C=17, K=103)
    image, weights = draw(1, 17, 6, 7), draw(103, 17, 3, 3, seed=1)
    for value in (np.inf, np.nan):
        weights[66, 1, 0, 0] = value
        found = all_ways(kernel, image, weights, P=6, Q=7)
        expected = ef.interpret(SAME, I=image, W=weights, P=6, Q=7)
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
        assert np.isfinite(found[0, 66, 0]).all()  # its tap lies outside of the image there
        whole = np.isfinite(expected)
        close(found[whole], expected[whole])


def test_gaps() -> None:
    kernel = compiled(SAME, C=17, K=103)
    image, weights = draw(1, 34, 9, 40)[:, ::2, :, :11], draw(103, 20, 3, 3, seed=1)
    expected = direct(image, weights[:, 2:19], 9, 11, (1, 1), (1, 1), (1, 1))
    close(kernel(image, weights[:, 2:19], P=9, Q=11), expected)  # rows with gaps between them
    close(kernel.bind(W=weights[:, 2:19])(image, P=9, Q=11), expected)
    apart = draw(103, 17, 3, 5, seed=1)[..., 1:4]  # gaps inside of a row: another way
    expected = direct(image, apart, 9, 11, (1, 1), (1, 1), (1, 1))
    close(kernel(image, apart, P=9, Q=11), expected)
    close(kernel.bind(W=apart)(image, P=9, Q=11), expected)


def test_channels_last() -> None:
    program = """kernel f(I: f32[Y, X, 20], const W: f32[100, 20, 3, 3]) -> (O: f32[100, Y, X]) {
        O[k, p, q] = I[p + r - 1, q + s - 1, c] * W[k, c, r, s]
    }"""
    image, weights = draw(1, 20, 9, 19), draw(100, 20, 3, 3, seed=1)
    kernel = compiled(program)
    assert "rows from W.window.fma" in kernel.source("tile")
    found = all_ways(kernel, np.ascontiguousarray(image[0].transpose(1, 2, 0)), weights)
    close(found[None], direct(image, weights, 9, 19, (1, 1), (1, 1), (1, 1)))


def test_one_dimension_and_three() -> None:
    program = (
        "kernel f(X: f32[16, T], const W: f32[101, 16, 9]) -> (O: f32[101, T]) {\n O[k, t] = X[c, t + j - 4] * W[k, c, j]\n}"
    )
    x, w = draw(16, 3000), draw(101, 16, 9, seed=1)
    padded = np.pad(x, ((0, 0), (4, 4)))
    expected = sum(w[:, :, j] @ padded[:, j : j + 3000] for j in range(9))
    close(all_ways(compiled(program), x, w), expected)
    program = """kernel f(I: f32[5, Z, Y, X], const W: f32[98, 5, 3, 3, 3]) -> (O: f32[98, Z, Y, X]) {
        O[k, z, y, x] = I[c, z + a - 1, y + b - 1, x + d - 1] * W[k, c, a, b, d]
    }"""
    image, weights = draw(5, 4, 6, 7), draw(98, 5, 3, 3, 3, seed=1)
    close(all_ways(compiled(program), image, weights), ef.interpret(program, I=image, W=weights))


@pytest.mark.parametrize(
    ("i", "w", "o"),
    [("f32", "bf16", "bf16"), pytest.param("f16", "f16", "f16", marks=SLOW), pytest.param("bf16", "f32", "f32", marks=SLOW)],
)
def test_narrow_floats(i: str, w: str, o: str) -> None:
    """Widened where they are packed or copied, rounded once: whole numbers, whose sums are exact."""
    storage = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
    program = SAME.replace("I: f32", f"I: {i}").replace("W: f32", f"W: {w}").replace("O: f32", f"O: {o}")
    kernel = compiled(program, C=17, K=103)
    assert "rows from W.window.fma" in kernel.source("tile")
    random = np.random.default_rng(2)
    image, weights = random.integers(-7, 8, (1, 17, 9, 10)), random.integers(-7, 8, (103, 17, 3, 3))
    wanted = direct(image.astype("f4"), weights.astype("f4"), 9, 10, (1, 1), (1, 1), (1, 1)).astype(storage[o])
    found = all_ways(kernel, image.astype(storage[i]), weights.astype(storage[w]), P=9, Q=10)
    np.testing.assert_array_equal(found, wanted)


def test_saved(tmp_path: Path) -> None:
    image, weights = draw(1, 17, 6, 7), draw(103, 17, 3, 3, seed=1)
    kernel = compiled(SAME, C=17, K=103)
    file = tmp_path / "conv.efk"
    kernel.save(file)
    found = ef.load(file).bind(W=weights)(image, P=6, Q=7)
    assert found.tobytes() == kernel(image, weights, P=6, Q=7).tobytes()
