"""Random well-formed cascades, simplified: valid, printable, done, and computing what they did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from einfall.compiler.program import read_program
from einfall.compiler.specialise import specialise
from einfall.frontend import load
from einfall.ir.cascade import Cascade, Einsum
from einfall.ir.diagnostics import EinfallError
from einfall.ir.expr import Cast, Const
from einfall.ir.interpreter import interpret
from einfall.ir.printer import to_source
from einfall.ir.types import F32
from einfall.ir.verifier import verify
from einfall.passes.construct import is_small
from einfall.passes.pipeline import prepare

from .programs import ASSIGNMENTS, Program, programs

SETTINGS = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
RANDOM = (programs(most=4), ASSIGNMENTS, st.integers(0, 2**31), st.sampled_from([0.0, 0.1]), st.booleans())


def survives(cascade: Cascade) -> bool:
    """Whether the text of a cascade means the cascade again."""
    try:
        return load(to_source(cascade), "printed.ecs")[cascade.name] == cascade
    except EinfallError:
        return False


def as_read(cascade: Cascade) -> Cascade:
    """A cascade with numbers of small floats that stand alone as the language has them: ``cast(f16, 0.0)``, a number of f32."""

    def read(einsum: Einsum) -> Einsum:
        value = einsum.value
        if not isinstance(value, Const) or not is_small(value.dtype):
            return einsum
        return replace(einsum, value=Cast(value=replace(value, dtype=F32), dtype=value.dtype))

    return replace(cascade, einsums=tuple(map(read, cascade.einsums)))


def check(program: Program, sizes: dict[str, int], seed: int, special: float, *, fixed: bool) -> None:
    """The simplified program beside the written one in exact mode; with ``fixed`` for those sizes only."""
    try:
        written = read_program(program.text).select(None)
    except EinfallError:
        assume(False)
    from_arrays = {d for p in program.parameters for d in p.dims}
    others = {name: sizes[name] for name in written.sizes if name not in from_arrays}
    if fixed:
        written, others = specialise(written, {name: sizes[name] for name in written.sizes}), {}
    found = prepare(written).cascade
    verify(found)
    assert prepare(found).cascade is found
    if found is not written and survives(written):
        assert survives(as_read(found)), to_source(found)
    arguments = program.arguments(sizes, seed, special=special)
    expected = interpret(written, arguments, sizes=others)
    for name, value in interpret(found, arguments, sizes=others).items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, expected[name], rtol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


@settings(max_examples=50, **SETTINGS)
@given(*RANDOM)
def test_random_programs_compute_what_they_did(program, sizes, seed, special, fixed):
    check(program, sizes, seed, special, fixed=fixed)


@pytest.mark.slow
@settings(max_examples=3000, **SETTINGS)
@given(*RANDOM)
def test_many_more_random_programs(program, sizes, seed, special, fixed):
    check(program, sizes, seed, special, fixed=fixed)
