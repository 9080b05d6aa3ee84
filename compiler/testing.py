"""The `check` items of programs: compile for the sizes, run on random inputs, compare with the interpreter."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..ir.cascade import Cascade, Check
from ..ir.diagnostics import Diagnostic, EinfallError, error
from ..ir.target import TargetLike
from ..ir.types import value_type
from ..runtime.device_arrays import downloaded, uploaded
from ..runtime.kernel import Kernel
from .checking import Comparison, compare
from .driver import compile
from .internal import reporting_defects
from .program import Program, read_program_file
from .samples import sample_arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One `check` item of a program."""

    program: Program
    cascade: Cascade
    check: Check

    @property
    def name(self) -> str:
        """As it is written: ``attention(H = 2, P = 33)``."""
        return f"{self.cascade.name}({', '.join(f'{n} = {v}' for n, v in self.check.values)})"

    @property
    def line(self) -> int:
        span = self.check.origin.span
        return 1 if span is None else span.line

    @property
    def sizes(self) -> dict[str, int]:
        return {name: int(value) for name, value in self.check.values if name in self.cascade.sizes}

    @property
    def scalars(self) -> dict[str, int | float]:
        return {name: value for name, value in self.check.values if name not in self.cascade.sizes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case. ``failure`` is set when it could not be run at all; times are seconds."""

    case: Case
    comparison: Comparison | None
    failure: EinfallError | None
    compile_time: float
    run_time: float

    @property
    def passed(self) -> bool:
        return self.comparison is not None and self.comparison.passed

    def report(self, color: bool = False) -> str:
        """Why it failed, as diagnostics are printed."""
        if self.failure is not None:
            return self.failure.render(color)
        problem = self.error()
        return problem.render(color) if problem is not None else f"{self.case.name} passed"

    def error(self) -> EinfallError | None:
        """The failure as an error (E1304 for wrong results); None where the case passed."""
        if self.failure is not None or self.comparison is None:
            return self.failure
        if self.comparison.passed:
            return None
        wrong = [str(each) for each in self.comparison.results if not each.passed]
        return EinfallError(
            [
                Diagnostic(
                    code="E1304",
                    message=f"the compiled kernel is wrong for {self.case.name}",
                    span=self.case.check.origin.span,
                    notes=tuple(wrong),
                )
            ],
            {self.case.program.file: self.case.program.text},
        )


def programs(paths: Iterable[Path]) -> list[Path]:
    """The `.ecs` files among and inside ``paths``, sorted inside folders. Raises EinfallError E1101, E1303."""
    found: list[Path] = []
    names = []
    for path in paths:
        names.append(str(path))
        if path.is_dir():
            found += sorted(each for each in path.rglob("*.ecs") if each.is_file())
        elif path.exists():
            found.append(path)
        else:
            read_program_file(path)  # raises, with the name of a neighbour that may be meant
    if not found:
        raise error("E1303", f"there is no .ecs file in {', '.join(names)}")
    return list(dict.fromkeys(found))


def cases(path: Path, *, tolerance: float | None = None) -> list[Case]:
    """The checks of a file, in its order. Raises EinfallError as :meth:`Program.cascades` and :meth:`Program.permitting` do."""
    program = read_program_file(path).permitting(tolerance)
    found = [
        Case(program=program, cascade=cascade, check=check)
        for cascade in program.cascades().values()
        for check in cascade.checks
    ]
    return sorted(found, key=lambda case: case.line)


def run(case: Case, *, target: TargetLike = "cpu", symbolic: bool = False, seed: int = 0) -> Outcome:
    """Compile and compare. ``symbolic`` compiles once for all sizes instead of for those of the check."""
    fixed: Mapping[str, int] = {} if symbolic else case.sizes
    start = time.perf_counter()
    middle = start
    try:
        program, name = case.program, case.cascade.name
        kernel = compile(program.text, kernel=name, target=target, tolerance=program.tolerance, **fixed)
        middle = time.perf_counter()
        arguments = sample_arguments(case.cascade, case.sizes, seed, scalars=case.scalars)
        found = results_of(kernel, kernel(**passed_to(kernel, arguments), **case.sizes))
        end = time.perf_counter()
        with reporting_defects(f"checking {case.name}"):
            comparison = compare(case.cascade, arguments, found, sizes=case.sizes)
    except EinfallError as failure:
        shown = failure.with_source(case.program.file, case.program.text)
        return Outcome(case=case, comparison=None, failure=shown, compile_time=middle - start, run_time=0.0)
    return Outcome(case=case, comparison=comparison, failure=None, compile_time=middle - start, run_time=end - middle)


Arguments: TypeAlias = "Mapping[str, np.ndarray | int | float | bool]"


def passed_to(kernel: Kernel, arguments: Arguments) -> dict[str, object]:
    """The arguments where the kernel runs: as they are, or copies on a GPU."""
    if not kernel.on_gpu:
        return dict(arguments)
    scalars = {p.name for p in kernel.signature.parameters if p.is_scalar}
    return {name: value if name in scalars else uploaded(np.asarray(value)) for name, value in arguments.items()}


def results_of(kernel: Kernel, returned: object) -> list[np.ndarray]:
    """What a call gave, as a list of NumPy arrays."""
    found = returned if isinstance(returned, tuple) else (returned,)
    if not kernel.on_gpu:
        return [np.asarray(each) for each in found]
    kinds = [value_type(r.dtype).storage for r in kernel.signature.results]
    return [downloaded(each, kind) for each, kind in zip(found, kinds, strict=True)]


def run_all(found: Iterable[Case], *, target: TargetLike = "cpu", symbolic: bool = False) -> Iterator[Outcome]:
    for case in found:
        yield run(case, target=target, symbolic=symbolic)
