"""Random well-formed cascades on a GPU: what the kernel computes is what the interpreter does. Each has a number, its seed."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from einfall.ir.diagnostics import EinfallError
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker
from tests.property.programs import EXTENTS, SIZES, grow

FOUND = (5010, 5025, 5041, 5050, 5069, 5096, 5117, 5123)
"""Programs that once failed to compile, or to run, or went wrong."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*FOUND, *range(7001, 7041)])
def test_equals_interpreted(gpu: Worker, seed: int) -> None:
    program, random = grow(Random(seed), most=3), Random(seed)
    try:
        cascade = read_program(program.text).select(None)
    except EinfallError:
        pytest.skip("no program that the front end accepts")
    sizes = {name: random.choice(EXTENTS) for name in SIZES}
    arguments = program.arguments(sizes, seed, special=random.choice([0.0, 0.0, 0.05]))
    from_arrays = {d for parameter in program.parameters for d in parameter.dims}
    others = {name: sizes[name] for name in cascade.sizes if name not in from_arrays}
    given = {name: np.asarray(value).astype(cascade.by_name[name].value.storage) for name, value in arguments.items()}
    found = gpu.run(kernels.run, program.text, given, others, "cuda:sm_80")
    types = [result.value.storage for result in cascade.results]
    seen = [each.view(t) if each.itemsize == np.dtype(t).itemsize else each for each, t in zip(found, types, strict=True)]
    comparison = compare(cascade, arguments, seen, sizes=others)
    assert comparison.passed, f"{comparison}\nat {sizes}:\n{program.text}"
