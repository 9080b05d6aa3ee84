"""Attention whose rows go through the loop over keys in blocks: edges of blocks and tiles, masks, NaN, threads, strides."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import einfall
from einfall.compiler.host import host_target
from einfall.compiler.program import read_program
from einfall.compiler.specialise import specialise
from einfall.ir.expr import integer
from einfall.ir.interpreter import interpret
from einfall.ir.tile import Compute, Loop, Method, packed_before, walk
from einfall.passes.pipeline import lower
from einfall.passes.tiling.blocking import rows_of_block
from einfall.runtime.kernel import Kernel

from .kernels import attention_operands as operands
from .kernels import normal, spoilt_operands

EXAMPLES = Path(__file__).parents[2] / "examples" / "attention"
ROWS = rows_of_block(host_target())


@cache
def compiled(name: str, **sizes: int) -> Kernel:
    return einfall.compile(EXAMPLES / f"{name}.ecs", cache=False, **sizes)


def check(name: str, arguments: dict[str, np.ndarray], threads: int | None = None) -> np.ndarray:
    found = compiled(name, E=64, F=64)(**arguments, threads=threads) if threads else compiled(name, E=64, F=64)(**arguments)
    with np.errstate(all="ignore"):
        expected = interpret(read_program(EXAMPLES / f"{name}.ecs").select(None), arguments)["AV"]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    return np.asarray(found)


@pytest.mark.parametrize("name", ["attention", "causal_attention"])
@pytest.mark.parametrize("p", [1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 3, 530])
@pytest.mark.parametrize("m", [1, 127, 128, 129, 600])
def test_edges_of_blocks(name: str, p: int, m: int) -> None:
    check(name, operands(p, m))


@pytest.mark.parametrize("name", ["attention", "causal_attention"])
def test_not_a_number_stays_in_its_row_or_column(name: str) -> None:
    check(name, spoilt_operands())


def test_the_same_bits_for_every_number_of_threads() -> None:
    arguments = operands(300, 520, h=3)
    first = check("causal_attention", arguments, threads=1)
    for threads in (2, 3):
        np.testing.assert_array_equal(first, check("causal_attention", arguments, threads=threads))


def test_rows_with_gaps() -> None:
    arguments = {n: np.concatenate([a, a * np.nan], axis=-1)[..., :64] for n, a in operands(60, 530).items()}
    assert not arguments["K"].flags.c_contiguous
    check("attention", arguments)


def test_what_a_step_leaves_for_the_next_is_a_block() -> None:
    cascade = specialise(read_program(EXAMPLES / "causal_attention.ecs").select(None), {"E": 64, "F": 64})
    program = lower(cascade, target=host_target()).program
    blocks = [n for n in walk(program.body) if isinstance(n, Loop) and n.variable.startswith("block")]
    assert len(blocks) == 1
    (block,) = blocks
    contractions = [n for n in walk(block.body) if isinstance(n, Compute) and n.method is Method.CONTRACTION]
    assert len(packed_before(block)) == len(contractions) == 2
    rows = {b.name: b.shape[0] for n in walk(program.body) if isinstance(n, Loop) for b in n.buffers}
    assert rows["BQK"] == rows["BSN"] == integer(ROWS) != rows["RSAV"]


@pytest.mark.parametrize("name", ["alibi_attention", "sink_attention"])
def test_tiles_beyond_a_mask_of_later_steps_are_left_out(name: str) -> None:
    """The mask is not the first product's, or a step of one tile stands between the maximum and what it corrects."""
    cascade = specialise(read_program(EXAMPLES / f"{name}.ecs").select(None), {"E": 64, "F": 64})
    program = lower(cascade, target=host_target()).program
    assert any("beyond the mask are skipped" in d.chosen for d in program.decisions)
    arguments = operands(300, 300, h=2) | {"slope" if name == "alibi_attention" else "sink": np.abs(normal(2, seed=5)) / 10}
    check(name, arguments)
