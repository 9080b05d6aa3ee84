"""Tile programs as text: every buffer, loop and knob of every example has its line."""

from pathlib import Path

import pytest

import einfall as ef
from einfall.compiler.program import read_program_file
from einfall.ir.target import Target
from einfall.ir.tile import Compute, Loop, all_buffers, walk
from einfall.ir.tile_printer import tile_to_source
from einfall.passes.pipeline import lower

EXAMPLES = Path(__file__).parents[2] / "examples"
TARGET = Target.parse("cpu:sapphirerapids")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/*.ecs")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_everything_has_a_line(path):
    for cascade in read_program_file(path).cascades().values():
        program = lower(cascade, target=TARGET).program
        lines = [line.strip() for line in tile_to_source(program).splitlines()]
        for buffer in all_buffers(program):
            assert sum(line.split(": ")[0].endswith(f" {buffer.name}") for line in lines) >= 1
        loops = [node for node in walk(program.body) if isinstance(node, Loop)]
        assert sum(line.startswith(("for ", "in parallel for ")) and line.endswith(":") for line in lines) == len(loops)
        computes = [node for node in walk(program.body) if isinstance(node, Compute)]
        along = sum(len(node.along) for node in computes)
        assert sum(line.startswith("by ") for line in lines) == len(computes) + along


def test_the_knobs_of_products():
    path = EXAMPLES / "attention/attention.ecs"
    text = tile_to_source(lower(read_program_file(path).select(None), target=TARGET).program)
    assert "by fma: rows p, columns m0, depth e" in text
    assert "with mr = 6, nr = 64, " in text
    assert "in parallel for h" in text


def test_it_is_a_source_of_a_kernel():
    kernel = ef.compile("kernel scale(X: f32[M]) -> (Y: f32[M]) { Y[m] = 2 * X[m] }")
    assert "tile" in kernel.source_kinds
    assert "Y[m] = 2.0 * X[m]" in kernel.source("tile")
    assert "for m < M" in kernel.source("tile")
