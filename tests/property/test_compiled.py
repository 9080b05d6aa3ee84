"""Random well-formed cascades: what the compiled kernel computes is what the interpreter does.

A failing case prints the program, the sizes and the seed of its arguments; hypothesis makes it smaller first.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import einfall
from einfall.compiler.checking import compare
from einfall.compiler.host import host_target
from einfall.compiler.program import read_program
from einfall.ir.diagnostics import EinfallError
from einfall.ir.target import Target
from einfall.passes import either, select
from einfall.passes.online.split import split

from .programs import ASSIGNMENTS, KINDS, Program, programs

CALLS = st.lists(st.tuples(ASSIGNMENTS, st.integers(0, 2**31), st.sampled_from([0.0, 0.0, 0.05])), min_size=3, max_size=3)
"""Sizes, the seed of the arguments, and the share of NaN and infinities among their floats."""


def ours(examples: int) -> settings:
    """The same programs every time: a pipeline must not fail by chance."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def check(
    program: Program, calls: list[tuple[dict[str, int], int, float]], *, fixed: bool = False, target: Target | None = None
) -> None:
    """Compiled and interpreted results agree for all calls; ``fixed`` compiles for the sizes of the first one only."""
    try:
        cascade = read_program(program.text).select(None)
    except EinfallError:
        assume(False)
    from_arrays = {d for p in program.parameters for d in p.dims}
    known = {name: value for name, value in calls[0][0].items() if fixed and name in cascade.sizes}
    kernel = einfall.compile(program.text, cache=False, target=target or "cpu", **known)
    for sizes, seed, special in calls[:1] if fixed else calls:
        arguments = program.arguments(sizes, seed, special=special)
        others = {name: sizes[name] for name in cascade.sizes if name not in from_arrays}
        found = kernel(**arguments, **{name: n for name, n in others.items() if name not in known})
        results = [np.asarray(r) for r in (found if isinstance(found, tuple) else (found,))]
        comparison = compare(cascade, arguments, results, sizes=others)
        assert comparison.passed, f"{comparison}\nat {sizes}, seed {seed}, special {special}:\n{program.text}"


@given(programs(most=3), CALLS)
@ours(12)
def test_compiled_equals_interpreted(program, calls):
    check(program, calls)


@given(programs(), CALLS)
@ours(10)
def test_compiled_for_fixed_sizes(program, calls):
    check(program, calls, fixed=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_programs(kind):
    """With the mixtures below, a thousand: of every kind of statement, alone and with others."""

    @given(programs(kinds=(kind, kind, *KINDS), most=3), CALLS)
    @ours(100)
    def test(program, calls):
        check(program, calls)

    test()


@pytest.mark.slow
@given(programs(most=6), CALLS)
@ours(150)
def test_long_programs(program, calls):
    check(program, calls)


@pytest.mark.slow
@given(programs(most=3), CALLS)
@ours(150)
def test_fixed_sizes(program, calls):
    check(program, calls, fixed=True)


ROWS = programs(kinds=("softmax", "softmax", "product", "reduce"), most=2)


@pytest.mark.slow
@given(ROWS, CALLS)
@ours(60)
def test_one_pass_forms_of_short_rows(program, calls):
    """Rows that would be left as written, because they fit the cache, in the form that reads them once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "GAIN", math.inf)
        check(program, calls)


@pytest.mark.slow
@given(ROWS, CALLS)
@ours(60)
def test_short_rows_in_parts(program, calls):
    """Rows of six and more elements, dealt out to parts of three in tiles of two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(either, "split", partial(split, least=3, tile=2))
        patch.setattr(either, "LEAST_PART", 3)
        check(program, calls, target=replace(host_target(), cores=16))


@pytest.mark.slow
@given(ROWS, CALLS)
@ours(60)
def test_short_rows_without_a_maximum(program, calls):
    """Rows of four and more elements without a maximum; those with infinities fall back on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "LONG_ROW", 4)
        check(replace(program, text=f"@tolerance(1e-6)\n{program.text}"), calls)
