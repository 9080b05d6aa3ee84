"""einfall beside PyTorch, torch.compile, ONNX Runtime and NumPy: one table, medians of interleaved calls in one process.

    python bench/run.py                         everything: a quarter of an hour
    python bench/run.py --quick                 the small workloads
    python bench/run.py --filter softmax --json softmax.json --markdown softmax.md --roofline softmax.svg

Every side uses the same threads, writes into memory that exists already (`out=`; where PyTorch has no such form, freed
memory is kept and used again) and packs constant weights beforehand, where it can. Every result is compared with
einfall's before anything is timed; one that differs does not count.
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
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from einfall.compiler.paths import cache_dir
from einfall.ir.diagnostics import EinfallError
from einfall.runtime.threads import default_threads

if TYPE_CHECKING:
    from cases import Case
    from report import Results, Row

    from einfall.ir.target import Target

_BLAS_PATIENCE = "20"
"""Logarithm of the cycles for which NumPy's idle threads hold their cores: by default 26, longer than our idle time."""

_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PACKAGES = ("numpy", "torch", "onnxruntime")
_WIDTH = 220


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the workloads that the options choose. Exit code 1 where einfall fails or a result differs from a peer's."""
    options = _options(arguments)
    _prepare_libraries()  # before they are loaded
    from cases import all_cases
    from report import latency_table, notes, table

    console = Console(stderr=True)
    chosen = [case for case in all_cases() if case.quick or not options.quick]
    chosen = [case for case in chosen if options.filter.casefold() in case.name.casefold()]
    if not chosen:
        console.print(f"no workload has {options.filter!r} in its name; --list shows all", style="red")
        return 2
    if options.list:
        print(*(case.name for case in chosen), sep="\n")
        return 0
    if options.roofline:
        import roofline  # a missing library is noticed at once, not after the run
    results, machine = _run(chosen, options, console)
    out = Console(width=None if sys.stdout.isatty() else _WIDTH)
    out.print(table(results))
    if results.latencies:
        out.print(latency_table(results.latencies))
    for line in notes(results):
        console.print(line, style="red", markup=False, soft_wrap=True)
    if options.roofline:
        roofline.draw(results, machine, options.roofline)
    _write(results, options)
    return 1 if results.failures or any(row.wrong for row in results.rows) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the small workloads only, without torch.compile")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only workloads with this in their name")
    parser.add_argument("--seconds", type=float, default=0.5, help="timed for each contestant of a workload (default: 0.5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    parser.add_argument("--roofline", type=Path, metavar="FILE", help="draw where each kernel stands (.svg, .png)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: its first run takes minutes")
    parser.add_argument("--no-limits", action="store_true", help="use the limits that `einfall doctor --measure` stored")
    parser.add_argument("--control", action="store_true", help="let einfall take part twice, to see what is noise")
    parser.add_argument("--list", action="store_true", help="print the names of the workloads")
    return parser.parse_args(arguments)


def _prepare_libraries() -> None:
    """Threads, kept compilations and kept memory of the peers: read, or best set, before they are loaded.

    glibc keeps what PyTorch frees: results of 32 MB and more would otherwise be mapped, and zeroed, anew.
    """
    os.environ.update(dict.fromkeys(_LIBRARIES, str(default_threads())))
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", _BLAS_PATIENCE)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "torchinductor"))
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_max = -1, -4
        allocator = ctypes.CDLL(None)
        allocator.mallopt(mmap_max, 0)
        allocator.mallopt(trim_threshold, -1)


def _run(chosen: Sequence[Case], options: argparse.Namespace, console: Console) -> tuple[Results, Target]:
    """All rows, between two measurements of the machine's limits."""
    from cpu.latency import latencies
    from limits import faster, measured
    from report import Results
    from torch_peer import torch

    from einfall.compiler.host import host_target

    if torch is not None:
        torch.set_num_threads(default_threads())
        torch.set_grad_enabled(False)
    machine = host_target()
    facts = _facts(machine)
    if not options.no_limits:
        with console.status("measuring the machine's limits"):
            machine = measured(machine)
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for i, case in enumerate(chosen, 1):
        now = f"{case.name} ({i} of {len(chosen)})"
        if not console.is_terminal:
            console.print(now, markup=False, highlight=False)
        try:
            with console.status(now):
                rows.append(_measure(case, options))
        except EinfallError as failure:
            failures[case.name] = failure.diagnostics[0].message
        except KeyboardInterrupt:
            console.print(f"interrupted: {len(rows)} of {len(chosen)} workloads were measured", style="yellow")
            break
        _free_memory()
    waited = []
    if not options.filter:
        with console.status("latencies"):
            waited = latencies()
    if not options.no_limits:
        with console.status("measuring the machine's limits again"):
            machine = faster(machine, measured(machine))
    facts["limits"] = _limits(machine)
    return Results(facts=facts, rows=[_with_limit(row, machine) for row in rows], latencies=waited, failures=failures), machine


def _free_memory() -> None:
    """Gives back what a workload used, and the memory that was kept for it."""
    from torch_peer import forget

    forget()
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _measure(case: Case, options: argparse.Namespace) -> Row:
    from field import OURS, Field, difference, reason
    from interleaved import interleave
    from report import AGAIN, Row

    field = Field({"torch.compile"} if options.no_compile or options.quick else ())
    case.make(field)
    reference = field.calls[OURS]()
    found: dict[str, float] = {}
    for name in [name for name in field.calls if name != OURS]:
        try:
            found[name] = difference(field.calls[name](), reference)
        except EinfallError:
            raise
        except Exception as failure:  # a peer fails in any way it likes
            field.absent[name] = reason(failure)
            del field.calls[name]
    if options.control:
        field.calls[AGAIN] = field.calls[OURS]
    timings = interleave(field.calls, seconds=options.seconds)
    return Row(case=case, timings=timings, difference=found, absent=field.absent, limit=None)


def _with_limit(row: Row, machine: Target) -> Row:
    from dataclasses import replace

    from limits import limit

    return replace(row, limit=limit(row.case, machine))


def _limits(machine: Target) -> dict[str, str]:
    """The rates of all cores, to be read by people."""
    if machine.measured is None:
        return {}
    chip = machine.measured.chip
    operations = {dtype: f"{rate / 1e9:.0f} Gop/s" for dtype, rate in chip.ops.items()}
    read = {f"read {level.upper()}": f"{rate / 1e9:.1f} GB/s" for level, rate in chip.read.items()}
    return operations | read | {f"copy {level.upper()}": f"{rate / 1e9:.1f} GB/s" for level, rate in chip.copy.items()}


def _facts(machine: Target) -> dict[str, object]:
    """On what, with what and when this was measured."""
    import einfall as ef
    from einfall.compiler.host import host_info

    load = os.getloadavg()[0]
    return {
        "processor": host_info().model,
        "target": str(machine),
        "threads": default_threads(),
        "einfall": ef.__version__,
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "load before": f"{load:.1f}" + (" (other work was running)" if load > 0.3 * default_threads() else ""),
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write(results: Results, options: argparse.Namespace) -> None:
    from report import markdown, record

    if options.json:
        everything = {
            **results.facts,
            "score": results.score,
            "rows": [record(row) for row in results.rows],
            "latencies": [asdict(each) for each in results.latencies],
            "failures": dict(results.failures),
        }
        options.json.write_text(json.dumps(everything, indent=2) + "\n")
    if options.markdown:
        picture = options.roofline.name if options.roofline else None
        options.markdown.write_text(markdown(results, picture), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
