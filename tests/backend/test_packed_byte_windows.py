"""Convolutions of bytes whose weights are constants: packed when they are bound, and then multiplied another way."""

from __future__ import annotations

import numpy as np
import pytest

import einfall as ef

from .test_byte_windows import STORAGE, TARGETS, compiled, direct, draw

SLOW = pytest.mark.slow
TYPES = [("u8", "i8"), *(pytest.param(*types, marks=SLOW) for types in (("i8", "i8"), ("u8", "u8"), ("i8", "u8")))]

PLAIN = """kernel conv(I: {x}[N, {C}, Y, X], const W: {w}[{K}, {C}, {R}, {S}]) -> (O: i32[N, {K}, P, Q]) {{
    O[n, k, p, q] = I[n, c, p + {dy}*r - {py}, q + {dx}*s - {px}] * W[k, c, r, s]
}}"""


def check(program: str, target: str, image: np.ndarray, weights: np.ndarray, wanted: np.ndarray, **sizes: int) -> None:
    """Bound or not, for any number of threads, into a result with gaps between its rows or none."""
    kernel = compiled(program, target)
    assert "rows from W.window.dot" in kernel.source("tile")
    bound = kernel.bind(W=weights)
    for threads in (1, 2, 3, None):
        np.testing.assert_array_equal(bound(image, threads=threads, **sizes), wanted)
    np.testing.assert_array_equal(kernel(image, weights, **sizes), wanted)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("x", "w"), TYPES)
def test_edges(x: str, w: str, target: str) -> None:
    """The last channels fill no chunk; points that fill no block, few of them, many, none."""
    program = PLAIN.format(x=x, w=w, C=50, K=81, R=3, S=3, dy=1, dx=1, py=1, px=1)
    weights = np.ascontiguousarray(draw(w, 81, 50, 3, 3, seed=1))
    for n, height, width in ((1, 1, 1), (2, 7, 6), (1, 5, 29), (1, 23, 33), (0, 3, 3), (1, 0, 3)):
        image = draw(x, n, 50, height, width)
        wanted = direct(image, weights, height, width, (1, 1), (1, 1), (1, 1))
        check(program, target, image, weights, wanted, P=height, Q=width)


@pytest.mark.parametrize("target", [TARGETS[0], pytest.param(TARGETS[1], marks=SLOW)])
@pytest.mark.parametrize(
    ("r", "s", "tap", "pad"),
    [
        (2, 3, (2, 1), (0, 2)),
        pytest.param(3, 3, (1, 1), (0, 0), marks=SLOW),
        pytest.param(1, 5, (1, 1), (3, 2), marks=SLOW),
        pytest.param(3, 1, (1, 2), (1, -2), marks=SLOW),
    ],
)
def test_windows(r: int, s: int, tap: tuple[int, int], pad: tuple[int, int], target: str) -> None:
    program = PLAIN.format(x="i8", w="i8", C=64, K=32, R=r, S=s, dy=tap[0], dx=tap[1], py=pad[0], px=pad[1])
    image, weights = draw("i8", 1, 64, 13, 18), np.ascontiguousarray(draw("i8", 32, 64, r, s, seed=1))
    check(program, target, image, weights, direct(image, weights, 12, 19, (1, 1), tap, pad), P=12, Q=19)


@pytest.mark.parametrize("side", [7, pytest.param(56, marks=SLOW)])
def test_sizes_known_when_compiled(side: int) -> None:
    program = PLAIN.format(x="u8", w="i8", C=128, K=96, R=3, S=3, dy=1, dx=1, py=1, px=1)
    image, weights = np.ascontiguousarray(draw("u8", 1, 128, side, side)), np.ascontiguousarray(draw("i8", 96, 128, 3, 3))
    bound = ef.compile(program, N=1, Y=side, X=side, P=side, Q=side).bind(W=weights)
    wanted = direct(image, weights, side, side, (1, 1), (1, 1), (1, 1))
    for threads in (1, 2, None):
        np.testing.assert_array_equal(bound(image, threads=threads), wanted)


def test_gaps() -> None:
    """Rows of weights apart; then elements apart, which are multiplied another way."""
    program = PLAIN.format(x="u8", w="i8", C=50, K=81, R=3, S=3, dy=1, dx=1, py=1, px=1)
    image, weights = draw("u8", 1, 50, 4, 9), np.ascontiguousarray(draw("i8", 81, 60, 3, 5, seed=1))
    for given in (np.ascontiguousarray(weights[..., 1:4])[:, 3:53], weights[:, 3:53, :, 1:4]):
        wanted = direct(image, given, 4, 9, (1, 1), (1, 1), (1, 1))
        np.testing.assert_array_equal(compiled(program).bind(W=given)(image, P=4, Q=9), wanted)


@pytest.mark.slow
def test_channels_last() -> None:
    program = """kernel f(I: u8[Y, X, 64], const W: i8[33, 64, 3, 3]) -> (O: i32[33, Y, X]) {
        O[k, p, q] = I[p + r - 1, q + s - 1, c] * W[k, c, r, s]
    }"""
    random = np.random.default_rng(3)
    image = random.integers(0, 256, (9, 21, 64)).astype(STORAGE["u8"])
    weights = random.integers(-128, 128, (33, 64, 3, 3)).astype(STORAGE["i8"])
    wanted = direct(image.transpose(2, 0, 1)[None], weights, 9, 21, (1, 1), (1, 1), (1, 1))[0]
    check(program, "cpu", image, weights, wanted)


@pytest.mark.slow
def test_three_dimensions() -> None:
    program = """kernel f(I: u8[64, Z, Y, X], const W: i8[32, 64, 2, 3, 3]) -> (O: i32[32, Z, Y, X]) {
        O[k, z, y, x] = I[c, z + a - 1, y + b - 1, x + d - 1] * W[k, c, a, b, d]
    }"""
    random = np.random.default_rng(3)
    image = random.integers(0, 256, (64, 3, 4, 5)).astype(STORAGE["u8"])
    weights = random.integers(-128, 128, (32, 64, 2, 3, 3)).astype(STORAGE["i8"])
    check(program, "cpu", image, weights, ef.interpret(program, I=image, W=weights))
