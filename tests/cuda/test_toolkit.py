"""What nvcc makes of the kernels: they compile for every architecture, and registers do not run out."""

from __future__ import annotations

from pathlib import Path

import pytest

from einfall.codegen.cuda import toolkit
from einfall.codegen.cuda.build import build
from einfall.compiler.program import read_program
from einfall.ir.target import Target
from einfall.passes.pipeline import lower
from tests.examples.cases import example_files

pytestmark = pytest.mark.skipif(toolkit.nvcc() is None, reason="there is no nvcc")

FILES = example_files()
SPILLS = 64
"""Bytes of a thread that may be spilled."""


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("path", FILES[::5], ids=lambda path: path.stem)
def test_an_example_compiles(path: Path, arch: str) -> None:
    target = Target.parse(f"cuda:{arch}")
    built = build(lower(read_program(path).select(None), target=target).program, target)
    assert built.code.cubin.startswith(b"\x7fELF")
    assert all(usage.spill_stores <= SPILLS for usage in built.code.usage), built.code.usage
