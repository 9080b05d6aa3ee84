"""Every example compiles for a GPU, and computes what the interpreter does, in whatever order its threads run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker
from tests.examples.cases import cases, example_files, inputs, sizes_no_array_determines

CASES = list(cases())
FILES = example_files()
FAST = ("softmax", "gemm_bias", "prefix_sum", "segment_mean", "argmax")


def check(gpu: Worker, path: Path, target: str, *, every_order: bool) -> None:
    cascade = read_program(path).select(None)
    for case in (c for c in CASES if c.path == path):
        arguments, sizes = inputs(case), sizes_no_array_determines(case)
        for tensor in cascade.parameters:
            arguments[tensor.name] = np.asarray(arguments[tensor.name]).astype(tensor.value.storage)
        found = gpu.run(kernels.run, path, arguments, sizes, target, every_order=every_order)
        comparison = compare(cascade, arguments, found, sizes=sizes)
        assert comparison.passed, f"{case.name}: {comparison}"


@pytest.mark.parametrize("path", [f for f in FILES if f.stem in FAST], ids=lambda path: path.stem)
def test_a_few(gpu: Worker, path: Path) -> None:
    # Scattered sums of floats are rounded in the order in which threads come.
    check(gpu, path, "cuda:sm_80", every_order=path.stem != "segment_mean")


@pytest.mark.slow
@pytest.mark.parametrize("path", [f for f in FILES if f.stem not in FAST], ids=lambda path: path.stem)
def test_the_others(gpu: Worker, path: Path) -> None:
    check(gpu, path, "cuda:sm_80", every_order=False)
