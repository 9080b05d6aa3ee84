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


def run(gpu: Worker, source: Path | str, *, every_order: bool = False, fixed: bool = False, target: str = "cuda:sm_80",
        harm: Mapping[str, tuple[int, float]] | None = None, **sizes: int) -> None:  # fmt: skip
    """In whole numbers, exact in every type; ``harm`` puts a value into an argument."""
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
