"""Compiles, runs and compares mutants, given by their seeds; prints which, so that a crash tells where it happened."""

from __future__ import annotations

import signal
import sys

import numpy as np

import einfall
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from einfall.compiler.samples import sample_arguments
from einfall.ir.diagnostics import EinfallError

from .mutations import mutant

SECONDS = 20


def run(text: str) -> str | None:
    """What is wrong with the compiled kernels of a program, if anything."""
    program = read_program(text)
    for name, cascade in program.cascades().items():
        sizes = {size: 3 + i % 3 for i, size in enumerate(cascade.sizes)}
        try:
            kernel = einfall.compile(text, kernel=name, cache=False)
            arguments = sample_arguments(cascade, sizes)
            found = kernel(**arguments, **sizes)
            results = [np.asarray(r) for r in (found if isinstance(found, tuple) else (found,))]
            comparison = compare(cascade, arguments, results, sizes=sizes)
        except MemoryError:  # a size of the program became a large number
            continue
        except EinfallError as refusal:
            if any(d.code.startswith("E9") for d in refusal.diagnostics):
                return str(refusal)
            continue
        if not comparison.passed:
            return str(comparison)
    return None


if __name__ == "__main__":
    for seed in map(int, sys.argv[1:]):
        print("start", seed, flush=True)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # ends the process
        with np.errstate(all="ignore"):
            problem = run(mutant(seed))
        signal.setitimer(signal.ITIMER_PROF, 0)
        if problem is not None:
            print("wrong", seed, " | ".join(problem.splitlines()), " | ".join(mutant(seed).splitlines()), flush=True)
