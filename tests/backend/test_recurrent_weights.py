"""Recurrences whose weights every step reads: threads divide the columns, and the steps wait for one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import einfall
from einfall.compiler.checking import compare
from einfall.compiler.host import host_target
from einfall.compiler.program import read_program_file
from einfall.ir.expr import Size
from einfall.ir.tile import Compute, Loop, Method, walk
from einfall.passes.pipeline import lower

from .kernels import results

EXAMPLES = Path(einfall.__file__).parent / "examples" / "recurrences"


def arguments(name: str, sizes: dict[str, int], scale: float = 0.1) -> dict[str, np.ndarray]:
    """Small values for the inputs of a kernel, so that its states stay away from where they saturate."""
    rng = np.random.default_rng(7)
    cascade = read_program_file(EXAMPLES / f"{name}.ecs").select(None)
    made = {}
    for tensor in cascade.parameters:
        shape = tuple(sizes[e.name] if isinstance(e, Size) else int(e.value) for e in tensor.shape)
        made[tensor.name] = (rng.standard_normal(shape) * scale).astype(np.float32)
    return made


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("lstm", {"T": 4, "B": 1, "D": 5, "N": 373}),
        ("lstm", {"T": 3, "B": 7, "D": 33, "N": 190}),
        ("gru", {"T": 4, "B": 2, "D": 17, "N": 401}),
        ("elman", {"T": 5, "B": 3, "D": 9, "N": 520}),
        ("elman", {"T": 0, "B": 3, "D": 9, "N": 520}),
    ],
)
def test_states_are_those_of_the_interpreter(name: str, sizes: dict[str, int], fixed: bool) -> None:
    given = arguments(name, sizes)
    kernel = einfall.compile(EXAMPLES / f"{name}.ecs", **(sizes if fixed else {}))
    found = results(kernel(**given))
    outcome = compare(read_program_file(EXAMPLES / f"{name}.ecs").select(None), given, found)
    assert outcome.passed, str(outcome)
    for a, b in zip(found, results(kernel(**given, threads=1)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_loop_over_the_steps_is_outside_and_its_products_have_an_epilogue() -> None:
    program = lower(read_program_file(EXAMPLES / "lstm.ecs").select(None), target=host_target()).program
    loops = [n for n in program.body if isinstance(n, Loop) and any(_product(inner) for inner in n.body)]
    assert len(loops) == 1 and not loops[0].parallel
    (product,) = [n for n in walk(loops[0].body) if _product(n)]
    assert isinstance(product, Compute) and product.product is not None and product.product.epilogue is not None
    assert "HU" not in {b.name for b in program.buffers}


def _product(node: object) -> bool:
    return isinstance(node, Compute) and node.method is Method.CONTRACTION
