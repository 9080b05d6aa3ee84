"""Attention on bf16 operands: edges of tiles and blocks, numbers at the limits, threads."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import einfall
from einfall.codegen.microkernels.dot_inside import PackedPanels
from einfall.codegen.overlap import Overlap
from einfall.compiler.host import host_target
from einfall.compiler.program import read_program
from einfall.compiler.specialise import specialise
from einfall.ir.expr import Const, Read, op, rank
from einfall.ir.interpreter import interpret
from einfall.ir.tile import Compute, Loop, Node, When, packed_before, walk
from einfall.ir.types import F32
from einfall.passes.pipeline import lower
from einfall.runtime.kernel import Kernel
from einfall.runtime.tiles import request_tiles

from .kernels import attention_operands, spoilt_operands

EXAMPLES = Path(__file__).parents[2] / "examples" / "attention"
BF16 = ml_dtypes.bfloat16


def text(name: str) -> str:
    return (EXAMPLES / f"{name}.ecs").read_text("utf-8").replace("f32", "bf16")


@cache
def compiled(name: str, **sizes: int) -> Kernel:
    return einfall.compile(text(name), cache=False, **sizes)


operands = partial(attention_operands, dtype=BF16)


def check(name: str, arguments: dict[str, np.ndarray], threads: int | None = None, **sizes: int) -> np.ndarray:
    """Calls the kernel; its scores and weights may be rounded to bf16, the result is."""
    found = np.asarray(compiled(name, **(sizes or {"E": 64, "F": 64}))(**arguments, threads=threads))
    with np.errstate(all="ignore"):
        expected = interpret(read_program(text(name)).select(None), arguments)["AV"]
    found = found.astype(np.float64)
    np.testing.assert_allclose(found, expected.astype(np.float64), rtol=2e-2, atol=2e-2)
    finite = np.isfinite(expected)
    difference = found[finite] - expected[finite]
    assert np.linalg.norm(difference) <= 6e-3 * max(np.linalg.norm(expected[finite]), 1e-30)
    return found


@pytest.mark.parametrize("name", ["attention", "causal_attention"])
@pytest.mark.parametrize("p", [1, 31, 33, 128, 129, 530])
@pytest.mark.parametrize("m", [1, 127, 129, 300, 600])
def test_edges(name: str, p: int, m: int) -> None:
    check(name, operands(p, m))


@pytest.mark.parametrize("name", ["attention", "causal_attention"])
def test_odd_widths(name: str) -> None:
    check(name, operands(70, 150, 40, 24), E=40, F=24)
    check(name, operands(70, 150, 128, 128), E=128, F=128)


@pytest.mark.parametrize("name", ["attention", "causal_attention"])
def test_not_a_number_stays_in_its_row_or_column(name: str) -> None:
    check(name, spoilt_operands(BF16))


@pytest.mark.parametrize("name", ["attention", "causal_attention"])
def test_subnormal_weights_and_values_count(name: str) -> None:
    """exp(-88) and values of 2⁻¹³⁰ are subnormal in bf16; the values that they meet make up for it."""
    p = m = 64
    arguments = operands(p, m)
    arguments["K"][0, :32] = 0
    arguments["Q"][0] = 0
    arguments["Q"][0, :, 0] = 8
    arguments["K"][0, 32:] = 0
    arguments["K"][0, 32:, 0] = -88  # scores of -88 beside those of 0
    arguments["V"][0, :32] = 0
    arguments["V"][0, 32:] = np.asarray(2.0**126, BF16)
    check(name, arguments)
    arguments["Q"][0] = 0
    arguments["V"][0] = np.asarray(2.0**-130, BF16)
    found = check(name, arguments)
    assert (found[0, :p] > 0).all()


def test_the_same_bits_for_every_number_of_threads() -> None:
    arguments = operands(300, 520, h=3)
    first = check("causal_attention", arguments, threads=1)
    for threads in (2, 3):
        np.testing.assert_array_equal(first, check("causal_attention", arguments, threads=threads))


def test_rows_with_gaps() -> None:
    arguments = {n: np.concatenate([a, a], axis=-1)[..., :64] for n, a in operands(60, 530).items()}
    assert not arguments["K"].flags.c_contiguous
    check("attention", arguments)


@pytest.mark.parametrize("name", ["sliding_window_attention", "prefix_lm_attention", "softcap_attention", "alibi_attention"])
@pytest.mark.parametrize("width", [64, 128])
def test_variants(name: str, width: int) -> None:
    """Masks that leave out blocks in the middle of the others, and vector work of other forms; 1/√128 is no power of two."""
    arguments: dict[str, object] = dict(operands(300, 300, width, width, h=2))
    cascade = read_program(text(name)).select(None)
    wanted = {t.name for t in cascade.parameters} | set(cascade.sizes)
    extra = {"slope": np.asarray([0.5, 0.01], BF16), "prefix": np.asarray([100, 7], np.int32)}
    arguments = {n: v for n, v in (arguments | extra).items() if n in wanted}
    found = np.asarray(compiled(name, E=width, F=width)(**arguments)).astype(np.float64)
    expected = interpret(cascade, arguments)["AV"]
    np.testing.assert_allclose(found, expected.astype(np.float64), rtol=2e-2, atol=2e-2)


@pytest.mark.skipif(not (host_target().has("amx-bf16") and request_tiles()), reason="needs AMX tiles")
def test_products_are_done_between_rows_of_vector_work() -> None:
    cascade = specialise(read_program(text("causal_attention")).select(None), {"E": 64, "F": 64})
    program = lower(cascade, target=host_target()).program
    (block,) = [n for n in walk(program.body) if isinstance(n, Loop) and n.variable.startswith("block")]
    products = packed_before(block)
    assert len(products) == 2
    panels = PackedPanels(buffer=None, pitch=0, flag=None)  # type: ignore[arg-type]
    plan = Overlap.of(block, {id(p): panels for p in products})
    assert plan is not None
    assert [plan.body[i].target for i in plan.hosts] == ["LGM", "LSD"]
    assert (plan.first.target, plan.last.target) == ("BQK", "RSAV")
    changed = replace(block, body=tuple(_reading_the_result(n) for n in block.body))
    assert Overlap.of(changed, {id(p): panels for p in packed_before(changed)}) is None


def _reading_the_result(node: Node) -> Node:
    """The maximum of a block, made to depend on the sums of the block before."""
    if isinstance(node, When):
        return replace(node, body=tuple(_reading_the_result(n) for n in node.body))
    if isinstance(node, Compute) and node.target == "LGM":
        zero = op("mul", Read(tensor="RSAV", indices=(rank("p"), rank("p")), dtype=F32), Const(value=0.0, dtype=F32))
        return replace(node, value=op("add", node.value, zero))
    return node
