"""The command test: run the `check` items of programs."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ...ir.diagnostics import EinfallError
from ..testing import Case, Outcome, cases, programs, run
from .output import colored, console, errors_json, log, out, out_json, report
from .parser import Subparsers, add_command, add_target, add_tolerance


def register(commands: Subparsers) -> None:
    """Add the command."""
    test = add_command(
        commands,
        "test",
        _test,
        help="run the check items of programs: compiled kernels against the interpreter",
        examples="einfall test attention.ecs\neinfall test examples/ --quiet\neinfall test examples/ --json",
    )
    test.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".ecs files, or folders of them")
    test.add_argument("--symbolic", action="store_true", help="compile once for all sizes, not for those of each check")
    test.add_argument("-q", "--quiet", action="store_true", help="print only failures and the summary")
    add_target(test)
    add_tolerance(test)


def _test(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    broken: list[tuple[Path, EinfallError]] = []
    found: list[Case] = []
    files = programs(options.files)
    for path in files:
        try:
            found += cases(path, tolerance=options.tolerance)
        except EinfallError as failure:
            broken.append((path, failure))
    outcomes = _run(found, options)
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if options.json:
        out_json(
            {
                "passed": len(outcomes) - len(failed),
                "failed": len(failed),
                "broken_files": [{"file": str(path), "errors": errors_json(e)} for path, e in broken],
                "checks": [_outcome_json(outcome) for outcome in outcomes],
            }
        )
    else:
        for _, each in broken:
            report(each)
            log("")
        for outcome in failed:
            log(outcome.report(colored(sys.stderr)) + "\n")
        seconds = time.perf_counter() - start
        parts = [f"{len(outcomes) - len(failed)} checks passed"]
        parts += [f"{len(failed)} failed"] if failed else []
        parts += [f"{len(broken)} files with errors"] if broken else []
        out(f"{', '.join(parts)} in {len(files)} file{'' if len(files) == 1 else 's'}, {seconds:.1f} s")
    return 1 if failed or broken else 0


def _run(found: list[Case], options: argparse.Namespace) -> list[Outcome]:
    from rich.progress import Progress

    outcomes = []
    shown = console(sys.stderr)
    with Progress(console=shown, transient=True, disable=options.json or not sys.stderr.isatty()) as progress:
        task = progress.add_task("checks", total=len(found))
        for case in found:
            progress.update(task, description=case.name[:60])
            outcome = run(case, target=options.target, symbolic=options.symbolic)
            outcomes.append(outcome)
            progress.advance(task)
            if not options.json and not options.quiet:
                mark = "ok    " if outcome.passed else "FAILED"
                out(f"{mark} {case.program.file}:{case.line} {case.name}")
    return outcomes


def _outcome_json(outcome: Outcome) -> dict[str, object]:
    failure = outcome.failure
    return {
        "file": outcome.case.program.file,
        "line": outcome.case.line,
        "check": outcome.case.name,
        "passed": outcome.passed,
        "comparison": outcome.comparison.to_json() if outcome.comparison else None,
        "errors": errors_json(failure) if failure else [],
        "compile_s": outcome.compile_time,
        "run_s": outcome.run_time,
    }
