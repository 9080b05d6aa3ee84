"""Random well-formed cascades: what the compiled kernel computes is what the interpreter does."""

from __future__ import annotations

from random import Random

import pytest

import einfall as ef
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from einfall.ir.diagnostics import EinfallError

from .programs import EXTENTS, KINDS, SIZES, grow

NORMAL = 16
ALL = 1000


def check(case: int) -> bool:
    """Whether the program of this number is accepted; asserts that it then computes the same at three sets of sizes."""
    random = Random(case)
    program = grow(random, KINDS, 3)
    try:
        cascade = read_program(program.text).select(None)
    except EinfallError:
        return False
    kernel = ef.compile(program.text, cache=False)
    for _ in range(3):
        sizes = {name: random.choice(EXTENTS) for name in SIZES}
        arguments = program.arguments(sizes, random.randrange(2**31), special=random.choice([0.0, 0.0, 0.05]))
        inferred = {d for p in program.parameters for d in p.dims}
        given = {k: v for k, v in sizes.items() if k in cascade.sizes and k not in inferred}
        found = kernel(**arguments, **given)
        results = found if isinstance(found, tuple) else (found,)
        comparison = compare(cascade, arguments, results, sizes=given)
        assert comparison.passed, f"case {case} at {sizes}:\n{program.text}\n{comparison}"
    return True


@pytest.mark.parametrize("case", range(NORMAL))
def test_compiled_equals_interpreted(case: int) -> None:
    if not check(case):
        pytest.skip("this program is refused")


@pytest.mark.slow
@pytest.mark.parametrize("block", range(NORMAL, ALL, 50))
def test_a_thousand_programs(block: int) -> None:
    accepted = sum(check(case) for case in range(block, min(block + 50, ALL)))
    assert accepted > 25
