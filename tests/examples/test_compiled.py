"""Every example compiles, once for all sizes, and computes what the interpreter does at the sizes of its check items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import einfall as ef
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program

from .cases import cases, example_files, inputs, sizes_no_array_determines

CASES = list(cases())
FILES = example_files()


def check(path: Path) -> None:
    kernel = ef.compile(path, cache=False)
    cascade = read_program(path).select(None)
    for case in CASES:
        if case.path != path:
            continue
        arguments, sizes = inputs(case), sizes_no_array_determines(case)
        for tensor in cascade.parameters:
            arguments[tensor.name] = np.asarray(arguments[tensor.name]).astype(tensor.value.storage)
        found = kernel(**arguments, **sizes)
        results = found if isinstance(found, tuple) else (found,)
        comparison = compare(cascade, arguments, results, sizes=sizes)
        assert comparison.passed, f"{case.name}: {comparison}"


@pytest.mark.parametrize("path", FILES[::3], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_compiled_equals_interpreted(path: Path) -> None:
    check(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", [f for f in FILES if f not in FILES[::3]], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_others_too(path: Path) -> None:
    check(path)
