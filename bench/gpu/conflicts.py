"""Bank conflicts of the examples, counted on the emulator of tests/cuda_emulation while their largest checks run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import track
from subjects import Subject, largest_check

sys.path.append(str(Path(__file__).parents[2]))  # tests/ is no part of the package

if TYPE_CHECKING:
    from report import Row


def with_conflicts(rows: Sequence[Row], chosen: Sequence[Subject], console: Console) -> list[Row]:
    """The rows with what the emulator counts; nothing is said of programs that it cannot run."""
    from tests.cuda_emulation import toolchain
    from tests.cuda_emulation.device import Worker

    if (reason := toolchain.why_not()) is not None:
        console.print(reason, style="yellow")
        return list(rows)
    found = []
    with Worker() as worker:
        pairs = list(zip(rows, chosen, strict=True))
        for row, subject in track(pairs, "conflicts", console=console, disable=not console.is_terminal):
            if row.failure:
                found.append(row)
                continue
            try:
                found.append(replace(row, conflicts=worker.run(excess, subject)))
            except Exception as failure:  # the emulator refuses what it does not model, each time with an error of its own
                console.print(f"{subject.name}: {failure}"[:200], style="yellow", markup=False)
                found.append(row)
    return found


def excess(subject: Subject) -> float:
    """Cycles of shared memory over those without conflicts, in a run of the largest check for sm_80; 1 where none is used."""
    import einfall as ef
    from einfall.compiler.program import read_program
    from einfall.compiler.samples import sample_arguments
    from einfall.compiler.testing import passed_to
    from tests.cuda.kernels import emulate
    from tests.cuda_emulation.device import set_order
    from tests.cuda_emulation.traffic import counted

    emulate()
    check = largest_check(read_program(subject.text).select(None))  # fixed sizes end checks of others
    assert check is not None, "a program without checks"
    sizes = {name: int(value) for name, value in check.values if name in subject.cascade.sizes}
    kernel = ef.compile(subject.text, target="cuda:sm_80", cache=False, **subject.fixed)
    scalars = {name: value for name, value in check.values if name not in subject.cascade.sizes and name not in subject.fixed}
    arguments = sample_arguments(subject.cascade, sizes, 0, scalars=scalars)
    set_order(0, 0)
    given = passed_to(kernel, arguments)
    with np.errstate(all="ignore"):
        traffic = counted(lambda: kernel(**given, **sizes))
    shared = [each for each in traffic if each.space == "shared"]
    return sum(each.moved for each in shared) / max(1, sum(each.least for each in shared)) if shared else 1.0
