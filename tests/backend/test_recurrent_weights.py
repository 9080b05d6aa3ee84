"""Recurrences whose weights every step reads: threads divide the columns, and the steps wait for one another."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import einfall
from einfall.compiler.checking import compare
from einfall.compiler.host import host_target
from einfall.compiler.program import read_program, read_program_file
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


@pytest.mark.parametrize(("batch", "width"), [(7, 270), (17, 256), (2, 272)])
def test_weights_that_are_packed_when_they_are_bound(batch: int, width: int) -> None:
    """bf16: on machines with matrix tiles a task reads its panels of a stack of matrices; from five rows on."""
    text = (EXAMPLES / "lstm.ecs").read_text("utf-8").replace("f32", "bf16").partition("check")[0]
    for name in ("W", "U"):
        text = text.replace(f" {name}: ", f" const {name}: ", 1)
    sizes = {"T": 3, "B": batch, "D": 33, "N": width}
    given = {k: v.astype(ml_dtypes.bfloat16) for k, v in arguments("lstm", sizes).items()}
    kernel = einfall.compile(text, **sizes)
    assert len(kernel._compiled.signature.packed) == (2 if batch > 4 and host_target().has("amx-bf16") else 0)
    found = results(kernel(**given))
    outcome = compare(read_program(text).select(None), given, found)
    assert outcome.passed, str(outcome)
    weights = {name: given.pop(name) for name in ("W", "U")}
    for threads in (1, 2):
        for a, b in zip(found, results(kernel.bind(**weights)(**given, threads=threads)), strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(("name", "kept"), [("lstm", {"H", "C"}), ("gru", {"H"}), ("elman", {"H"})])
def test_a_step_is_one_parallel_loop_over_columns(name: str, kept: set[str]) -> None:
    """All of a step is in it: what passes between its Einsums is a tile, and the product has an epilogue."""
    program = lower(read_program_file(EXAMPLES / f"{name}.ecs").select(None), target=host_target()).program
    steps = [n for n in program.body if isinstance(n, Loop) and not n.parallel]
    assert len(steps) == 1
    (columns,) = steps[0].body
    assert isinstance(columns, Loop) and columns.parallel
    (product,) = [n for n in walk(columns.body) if _product(n)]
    assert isinstance(product, Compute) and product.product is not None
    assert (product.product.epilogue is not None) == (name != "elman")
    assert product.product.plan is not None and product.product.plan.again and product.product.plan.skinny
    written = {n.target for n in walk(columns.body) if isinstance(n, Compute)}
    assert written - {b.name for b in columns.buffers} == kept


def test_small_weights_leave_the_steps_to_the_rows() -> None:
    text = (EXAMPLES / "elman.ecs").read_text("utf-8").partition("check")[0].replace("N]", "64]").replace("N,", "64,")
    program = lower(read_program(text).select(None), target=host_target()).program
    assert not any(isinstance(n, Loop) and not n.parallel for n in program.body)


def _product(node: object) -> bool:
    return isinstance(node, Compute) and node.method is Method.CONTRACTION
