"""Convolutions of bytes on matrix tiles and on byte dot products: types, edges, strides, dilations, borders, gaps, threads."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import einfall as ef
from einfall.compiler.host import host_target
from einfall.ir.target import named
from einfall.runtime.kernel import Kernel

from .kernels import WINDOWS

STORAGE = {"i8": np.int8, "u8": np.uint8}
TYPES = [("u8", "i8"), ("i8", "i8"), ("u8", "u8"), ("i8", "u8")]
TARGETS = ["cpu", "cpu:icelake-server"]

PLAIN = """kernel conv(I: {x}[N, C, Y, X], W: {w}[K, C, {R}, {S}]) -> (O: i32[N, K, P, Q]) {{
    O[n, k, p, q] = I[n, c, {sy}*p + {dy}*r - {py}, {sx}*q + {dx}*s - {px}] * W[k, c, r, s]
}}"""


def window(
    types: tuple[str, str], shape: tuple[int, int], step: tuple[int, int], tap: tuple[int, int], pad: tuple[int, int]
) -> str:
    return PLAIN.format(
        x=types[0], w=types[1], R=shape[0], S=shape[1], sy=step[0], sx=step[1], dy=tap[0], dx=tap[1], py=pad[0], px=pad[1]
    )


def same(types: tuple[str, str]) -> str:
    return window(types, (3, 3), (1, 1), (1, 1), (1, 1))


@cache
def compiled(program: str, target: str = "cpu") -> Kernel:
    processor = target.partition(":")[2]
    if processor and not host_target().features >= named("cpu", processor).features:
        pytest.skip(f"this machine cannot run code for {processor}")
    return ef.compile(program, target=target)


def draw(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    """Any bytes, inside of other ones."""
    limits = np.iinfo(STORAGE[dtype])
    around = np.full((*shape[:-2], shape[-2] + 2, shape[-1] + 3), 99, STORAGE[dtype])
    inside = around[..., 1:-1, 1:-2]
    inside[...] = np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape)
    return inside


def direct(
    x: np.ndarray, w: np.ndarray, p: int, q: int, step: tuple[int, int], tap: tuple[int, int], pad: tuple[int, int]
) -> np.ndarray:
    """The convolution tap by tap, in whole numbers."""
    out = np.zeros((x.shape[0], w.shape[0], p, q), np.int64)
    for r in range(w.shape[2]):
        for s in range(w.shape[3]):
            for i in range(p):
                for j in range(q):
                    y, z = step[0] * i + tap[0] * r - pad[0], step[1] * j + tap[1] * s - pad[1]
                    if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                        out[:, :, i, j] += x[:, :, y, z].astype(np.int64) @ w[:, :, r, s].astype(np.int64).T
    return out


SIZES = [
    (1, 1, 1, 1, 1),
    (1, 1, 17, 1, 40),
    (2, 3, 5, 7, 6),
    (3, 17, 33, 5, 29),
    (1, 15, 70, 9, 33),
    (1, 64, 16, 8, 8),
    (1, 950, 3, 2, 5),
    (1, 0, 4, 3, 3),
    (0, 2, 4, 3, 3),
    (1, 2, 4, 0, 3),
]
"""Images, channels of the image and of the result, lines, columns. The depth of 9 · 950 does not fit one block."""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("types", TYPES, ids="·".join)
def test_edges(types: tuple[str, str], target: str) -> None:
    kernel = compiled(same(types), target)
    for n, c, k, y, x in SIZES:
        for dense in (True, False):
            image, weights = draw(types[0], n, c, y, x), draw(types[1], k, c, 3, 3, seed=1)
            if dense:
                image, weights = np.ascontiguousarray(image), np.ascontiguousarray(weights)
            frame = np.full((n, k, y, x + 4), 77, np.int32)
            out = np.full((n, k, y, x), 77, np.int32) if dense else frame[..., 1:-3]
            out = kernel(image, weights, P=y, Q=x, out=out if out.size else None)
            wanted = direct(image, weights, y, x, (1, 1), (1, 1), (1, 1))
            np.testing.assert_array_equal(out, wanted, err_msg=f"{(n, c, k, y, x)} {dense=}")
            assert (np.delete(frame, range(1, x + 1), axis=3) == 77).all()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("r", "s", "step", "tap", "pad"), WINDOWS)
def test_windows(r: int, s: int, step: tuple[int, int], tap: tuple[int, int], pad: tuple[int, int], target: str) -> None:
    kernel = compiled(window(("u8", "i8"), (r, s), step, tap, pad), target)
    for c, k in ((1, 1), (5, 18)):
        image, weights = draw("u8", 1, c, 20, 37), draw("i8", k, c, r, s, seed=1)
        weights = np.ascontiguousarray(weights)
        p, q = (-(-20 // step[0]), -(-37 // step[1]))
        for given in (image, np.ascontiguousarray(image)):
            np.testing.assert_array_equal(kernel(given, weights, P=p, Q=q), direct(given, weights, p, q, step, tap, pad))


def test_sizes_known_when_compiled() -> None:
    image, weights = (np.ascontiguousarray(draw(t, *s)) for t, s in (("u8", (1, 20, 9, 14)), ("i8", (40, 20, 3, 3))))
    kernel = ef.compile(same(("u8", "i8")), N=1, C=20, K=40, Y=9, X=14, P=9, Q=14)
    wanted = direct(image, weights, 9, 14, (1, 1), (1, 1), (1, 1))
    for threads in (1, 2, None):
        np.testing.assert_array_equal(kernel(image, weights, threads=threads), wanted)


def test_one_dimension_and_no_channels() -> None:
    kernel = compiled("kernel f(X: i8[T], W: i8[K, 5]) -> (O: i32[K, T]) {\n O[k, t] = X[t + j - 4] * W[k, j]\n}")
    x, w = draw("i8", 1, 300)[0], np.ascontiguousarray(draw("i8", 7, 5, seed=1))
    padded = np.concatenate([np.zeros(4), x])
    np.testing.assert_array_equal(kernel(x, w), [sum(padded[j : j + 300] * row[j] for j in range(5)) for row in w])


def test_the_micro_kernel_is_named() -> None:
    for target, name in (("cpu:sapphirerapids", "amx i8·u8"), ("cpu:icelake-server", "vnni i8·u8")):
        assert f"by {name}: rows k, columns p, q, depth c, r, s" in ef.compile(same(("u8", "i8")), target=target).source("tile")
