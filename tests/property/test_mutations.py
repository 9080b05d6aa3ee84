"""Whatever is done to a program, the compiler answers: with an error of the catalogue, or with a kernel that is right.

Nothing else escapes, nothing hangs, nothing crashes. The front end and the passes run here; machine code is made and run
in a process of its own, so that a crash is a failure and not the end of the tests.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from einfall.compiler.program import read_program
from einfall.ir.diagnostics import EinfallError
from einfall.passes.pipeline import lower

from .mutations import mutant

FEW, MANY, BLOCK = 200, 10_000, 500
COMPILED = 400
"""Accepted mutants that are compiled, run and compared."""
SECONDS = 20
"""Of processor time, so that other work on the machine does not count."""


class HangError(Exception):
    """A program took too long."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raises HangError where the body takes longer than these seconds of processor time."""

    def ring(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def accepted(text: str) -> bool:
    """Whether the front end and the passes take the program. Fails for anything but an ordinary refusal."""
    try:
        with at_most(SECONDS):
            for cascade in read_program(text).cascades().values():
                lower(cascade)
    except EinfallError as refusal:
        codes = [d.code for d in refusal.diagnostics]
        assert not any(code.startswith("E9") for code in codes), f"{refusal}\n{text}"
        assert refusal.render(False)
        return False
    except Exception as escaped:
        raise AssertionError(f"{escaped!r} escapes for\n{text}") from escaped
    return True


@pytest.mark.parametrize("start", range(0, FEW, 100))
def test_mutants_are_refused_or_understood(start):
    assert any(accepted(mutant(seed)) for seed in range(start, start + 100))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(FEW, MANY, BLOCK))
def test_ten_thousand_mutants(start):
    assert any(accepted(mutant(seed)) for seed in range(start, min(start + BLOCK, MANY)))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 8000, 1000))
def test_accepted_mutants_compile_and_run(start):
    """A child compiles them one after the other; it is started again behind one that ends it."""
    seeds = [seed for seed in range(20_000 + start, 21_000 + start) if accepted(mutant(seed))][: COMPILED // 8]
    assert len(seeds) > 10
    failures = []
    while seeds:
        command = [sys.executable, "-m", "tests.property.run_mutants", *map(str, seeds)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * len(seeds) + 600)
        started = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("start ")]
        failures += [line for line in done.stdout.splitlines() if line.startswith("wrong ")]
        if done.returncode == 0:
            break
        assert started, done.stderr
        failures.append(
            f"seed {started[-1]} ended the process with {done.returncode}: {done.stderr[-500:]}\n{mutant(started[-1])}"
        )
        seeds = seeds[seeds.index(started[-1]) + 1 :]
    assert not failures, "\n".join(failures)


HUGE_POWER = """
kernel moments(X: f32[C, L]) -> (Y: f32[C]) {
    MU[c] = X[c, l] / L
    Y[c]  = (X[c, l] - MU[c]) ** 1e38 / L
}
"""

DIAGONAL = """
kernel hadamard(X: f32[M, 2, 2, 2, 2]) -> (Y: f32[M, 2, 2, 2, 2]) {
    H: f32[2, 2]
    H[i, j]           = if i == 1 and j == 1 then -1 else 1
    P[m, a', b, c, d] = X[m, a, b, c, d] * H[a', a]
    Q[m, d, b', c, d] = P[m, a, b, c, d] * H[b', b]
    R[m, a, b, c', d] = Q[m, a, b, c, d] * H[c', c]
    Y[m, a, b, c, d'] = R[m, a, b, c, a] * H[d', d] / 4
}
"""


@pytest.mark.parametrize("text", [HUGE_POWER, DIAGONAL], ids=["power", "diagonal"])
def test_programs_that_mutants_were_refused_for_once(text):
    assert accepted(text)
