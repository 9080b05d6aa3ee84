"""The checks of all examples on the device, before anything is timed: compiled kernels against the interpreter."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

import einfall as ef
from einfall.compiler.testing import Case, cases, run
from einfall.ir.diagnostics import EinfallError

EXAMPLES = Path(ef.__file__).parent / "examples"


def correctness(target: str, wanted: Sequence[str], console: Console) -> tuple[int, list[str]]:
    """(checks that passed, what is wrong with the others) of the examples with one of these texts in their names."""
    paths = [path for path in sorted(EXAMPLES.glob("*/*.ecs")) if any(text in str(path) for text in wanted)]
    found = [case for path in paths for case in cases(path)]
    programs = sorted({(case.program.text, case.cascade.name) for case in found})
    failures: list[str] = []
    passed = 0
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("compiling the examples", total=len(programs))
        # nvcc takes most of the time: in as many processes as there are cores, which leave what they make in the cache.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=context) as pool:
            for _ in pool.map(compiled, programs, [target] * len(programs)):
                progress.advance(task)
        task = progress.add_task("checking the examples", total=len(found))
        for case in found:
            problem = _problem(case, target)
            passed += problem is None
            if problem is not None:
                failures.append(problem)
            progress.advance(task)
    return passed, failures


def compiled(program: tuple[str, str], target: str) -> None:
    """Compiles a kernel for the cache; what goes wrong is told when it is run."""
    text, kernel = program
    try:
        ef.compile(text, kernel=kernel, target=target)
    except EinfallError:
        return


def _problem(case: Case, target: str) -> str | None:
    try:
        outcome = run(case, target=target, symbolic=True)
    except Exception as failure:  # a device fails in ways that nobody has seen yet; the others are still run
        return f"{case.name}: {type(failure).__name__}: {failure}".partition("\n")[0]
    return None if outcome.passed else f"{case.name}: {outcome.report()}"
