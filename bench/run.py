"""einfall beside PyTorch, torch.compile and NumPy: one table of times, medians of interleaved calls in one process.

    python bench/run.py                         everything: several minutes
    python bench/run.py --quick                 the small workloads
    python bench/run.py --filter softmax --json softmax.json --markdown softmax.md

Both sides use the same threads and write into memory that exists already: results are preallocated (`out=`), and where
PyTorch has no such form, freed memory is kept and used again. Every result is compared with einfall's before anything
is timed. A speed above 1 says how many times faster einfall is than the best of the others.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from einfall.ir.diagnostics import EinfallError
from einfall.runtime.threads import default_threads

if TYPE_CHECKING:
    from cases import Case
    from report import Row

    from einfall.ir.target import Target

_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the workloads that the options choose. Exit code 1 where a result differs from a peer's."""
    options = _options(arguments)
    os.environ.update(dict.fromkeys(_LIBRARIES, str(default_threads())))  # read when NumPy and PyTorch are loaded
    if options.no_compile or options.quick:
        os.environ["EINFALL_BENCH_NO_COMPILE"] = "1"
    from cases import torch
    from report import markdown, record, table

    from einfall.compiler.host import host_target

    console = Console(stderr=True)
    chosen = [case for case in _cases() if case.quick or not options.quick]
    chosen = [case for case in chosen if options.filter.casefold() in case.name.casefold()]
    if not chosen:
        console.print(f"no workload has {options.filter!r} in its name; --list shows all", style="red")
        return 2
    if options.list:
        print(*(case.name for case in chosen), sep="\n")
        return 0
    _keep_freed_memory()
    if torch is not None:
        torch.set_num_threads(default_threads())
        torch.set_grad_enabled(False)
    machine = host_target()
    facts = _facts(machine)
    found: list[Row] = []
    failed = False
    for i, case in enumerate(chosen, 1):
        try:
            with console.status(f"{case.name} ({i} of {len(chosen)})"):
                found.append(_measure(case, machine, options.seconds))
        except EinfallError as failure:
            failed = True
            console.print(f"{case.name}: {failure}", style="red", markup=False)
        gc.collect()
    Console(width=None if sys.stdout.isatty() else 140).print(table(found, facts))
    for row in found:
        for name in row.wrong:
            console.print(f"{row.case.name}: differs from {name} by {row.difference[name]:.1e}", style="red")
    if busy := _others(float(str(facts["load"]))):
        console.print(busy, style="red", soft_wrap=True)
    if machine.measured is None:
        console.print("`einfall doctor --measure` adds the share of the machine's limits", style="dim")
    if options.json:
        options.json.write_text(json.dumps({**facts, "rows": [record(row) for row in found]}, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(found, facts), "utf-8")
    return 1 if failed or any(row.wrong for row in found) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the small workloads only")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only workloads with this in their name")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each contestant of a workload (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes a minute per workload")
    parser.add_argument("--list", action="store_true", help="print the names of the workloads")
    return parser.parse_args(arguments)


def _cases() -> list[Case]:
    from cpu import attention, matmul, recurrences, rows

    return [case for group in (matmul, attention, rows, recurrences) for case in group.cases()]


def _keep_freed_memory() -> None:
    """Let glibc keep what PyTorch frees: results of 32 MB and more would otherwise be mapped, and zeroed, anew."""
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_max = -1, -4
        allocator = ctypes.CDLL(None)
        allocator.mallopt(mmap_max, 0)
        allocator.mallopt(trim_threshold, -1)


def _others(load: float) -> str:
    """A warning where other work kept the cores from us; ``load`` is the load average before the first workload."""
    if load <= 0.3 * default_threads():
        return ""
    return f"other work was running (load average {load}): threads waited for one another, these times mean little"


def _measure(case: Case, machine: Target, seconds: float) -> Row:
    from cases import difference
    from interleaved import interleave
    from report import Row

    contestants = dict(case.make())
    reference = contestants["einfall"]()
    differences = {name: difference(call(), reference) for name, call in contestants.items() if name != "einfall"}
    limit = None
    if machine.measured is not None:
        bandwidth = machine.bandwidth(machine.level_of(int(case.traffic)))
        limit = max(case.flops / machine.peak_ops(case.dtype), case.traffic / bandwidth)
    timings = interleave(contestants, seconds=seconds)
    return Row(case=case, timings=timings, difference=differences, limit=limit)


def _facts(machine: Target) -> dict[str, object]:
    """On what, with what and when this was measured."""
    import numpy as np
    from cases import torch

    import einfall as ef
    from einfall.compiler.host import host_info

    return {
        "processor": host_info().model,
        "target": str(machine),
        "threads": default_threads(),
        "einfall": ef.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": None if torch is None else torch.__version__,
        "load": round(os.getloadavg()[0], 1),
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
    }


if __name__ == "__main__":
    sys.exit(main())
