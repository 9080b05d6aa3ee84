"""Convolutions as implicit matrix products: edges, padding, strides, groups, epilogues, weights that are not finite, types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import einfall as ef
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker

EXAMPLES = Path(ef.__file__).parent / "examples/convolution"


TYPED = """\
{tolerance}kernel typed(I: {t}[N, {image}], W: {t}[{weights}]) -> (O: {result}[N, {out}]) {{
    O[n, {o}] = I[n, {i}] * W[{w}]
}}
"""
ORDERS = {
    "NCHW": {
        "image": "C, P, Q",
        "weights": "K, C, 3, 3",
        "out": "K, P, Q",
        "o": "k, p, q",
        "i": "c, {y}, {x}",
        "w": "k, c, r, s",
    },
    "NHWC": {
        "image": "P, Q, C",
        "weights": "K, 3, 3, C",
        "out": "P, Q, K",
        "o": "p, q, k",
        "i": "{y}, {x}, c",
        "w": "k, r, s, c",
    },
    "HWCK": {
        "image": "P, Q, C",
        "weights": "3, 3, C, K",
        "out": "P, Q, K",
        "o": "p, q, k",
        "i": "{y}, {x}, c",
        "w": "r, s, c, k",
    },
}


def typed(dtype: str, order: str) -> str:
    """A padded convolution of a type, with its channels at the place that ``order`` tells; of tf32 under a tolerance."""
    parts = {name: text.format(y="p + r - 1", x="q + s - 1") for name, text in ORDERS[order].items()}
    exact = dtype.replace("tf32", "f32")
    tolerance = "@tolerance(0.01)\n" if dtype == "tf32" else ""
    return TYPED.format(t=exact, result="i32" if dtype == "i8" else "f32", tolerance=tolerance, **parts)


def run(gpu: Worker, source: Path | str, *, every_order: bool = False, fixed: bool = False, target: str = "cuda:sm_80",
        harm: Mapping[str, tuple[int, float]] | None = None, **sizes: int) -> None:  # fmt: skip
    """In whole numbers, exact in every type; ``harm`` puts a value into an argument, at a place."""
    cascade = read_program(source).select(None)
    rng = np.random.default_rng(7)
    arguments = {}
    for tensor in cascade.parameters:
        shape = tuple(int(e.value) if hasattr(e, "value") else sizes[e.name] for e in tensor.shape)
        arguments[tensor.name] = rng.integers(-3, 4, shape).astype(tensor.value.storage)
    for name, (at, value) in (harm or {}).items():
        arguments[name].reshape(-1)[at] = value
    found = gpu.run(kernels.run, source, arguments, {}, target, fixed=sizes if fixed else None, every_order=every_order)
    comparison = compare(cascade, arguments, found, sizes={})
    assert comparison.passed, f"{sizes}: {comparison}"


def test_a_padded_one_with_an_epilogue(gpu: Worker) -> None:
    run(gpu, EXAMPLES / "conv2d_bias_relu.ecs", every_order=True, N=2, C=19, K=70, P=9, Q=13)


def test_weights_that_are_not_finite(gpu: Worker) -> None:
    run(gpu, EXAMPLES / "conv2d.ecs", harm={"W": (0, np.inf)}, N=1, C=2, K=3, P=5, Q=4)


SIZES = [(1, 1, 1, 1, 1), (2, 3, 5, 7, 6), (1, 0, 2, 3, 3), (3, 16, 128, 4, 12), (0, 2, 2, 3, 3), (5, 33, 17, 8, 8)]


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("name", ["conv2d", "conv2d_bias_relu", "conv2d_im2col", "conv2d_dilated"])
def test_edges(gpu: Worker, name: str, fixed: bool) -> None:
    for n, c, k, p, q in SIZES:
        run(gpu, EXAMPLES / f"{name}.ecs", fixed=fixed, N=n, C=c, K=k, P=p, Q=q)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["f32", "f64", "tf32", "bf16", "f16", "i8"])
def test_types_and_orders_of_storage(gpu: Worker, dtype: str, order: str, target: str) -> None:
    # Copied in chunks, with a tile's edge inside an image; element by element; one point.
    for n, c, k, p, q in [(2, 72, 136, 9, 13), (2, 19, 70, 5, 6), (1, 8, 16, 1, 1)]:
        run(gpu, typed(dtype, order), target=target, N=n, C=c, K=k, P=p, Q=q)


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("dtype", ["f64", "tf32", "bf16"])
def test_weights_of_other_types_that_are_not_finite(gpu: Worker, dtype: str, value: float) -> None:
    run(gpu, typed(dtype, "NCHW"), harm={"W": (2, value)}, N=2, C=9, K=5, P=4, Q=3)
