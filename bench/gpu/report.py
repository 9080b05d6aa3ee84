"""What nvcc and arithmetic say of the GPU kernels of every example, without a GPU: one table.

    python bench/gpu/report.py --markdown bench/results/cuda-13.0.md        all examples for all architectures: half an hour
    python bench/gpu/report.py --filter attention --arch sm_90

Registers of a thread, shared memory of a block, spilled bytes and occupancy are of the kernel of the example that is worst in
each; bank conflicts (--conflicts) are counted by the emulator of tests/cuda_emulation at the sizes of the largest check; the
least times are those of a roofline: operations over the rate of the device, or bytes of inputs and results over its bandwidth.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from subjects import Cost, Subject, cost, subjects

from einfall.codegen.cuda import toolkit
from einfall.codegen.cuda.build import build
from einfall.compiler.device_figures import KernelFigures, figures
from einfall.compiler.paths import atomic_write, cache_dir
from einfall.ir.diagnostics import EinfallError
from einfall.ir.target import Target, named
from einfall.ir.types import value_type
from einfall.ir.usage import Usage
from einfall.passes.pipeline import lower

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90")
_PREFACE = """\
Made by `python bench/gpu/report.py` on {date}; no kernel ran on a device. An example becomes one or several kernels:
each figure is that of the kernel in which it is worst. *Spilled* are the bytes of a thread that are stored to and
loaded from local memory for want of registers; *occupancy* is the share of the warps of a multiprocessor that its
registers, shared memory and blocks allow; *mma* counts instructions of tensor cores in the PTX; *conflicts* are the
cycles of shared memory over those without bank conflicts, as the emulator counts them at the sizes of the largest check
(sm_80). The last three columns are a roofline where a call moves 64 MiB or more (the sizes of the largest check, doubled
together): operations for each byte, and what a device needs at least, with what bounds it (`ir/targets`). A text that
is the same for several architectures is compiled once, and its PTX assembled for each."""
_OPERAND = re.compile(r"\.(?:f32|s32)\.(bf16|f16|s8|u8|tf32)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Of the kernels of an example for one architecture: how many there are, and the worst of each figure."""

    kernels: int
    registers: int
    shared: int
    spills: int
    occupancy: float
    blocks: int
    limit: str
    mma: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is told of one example. ``least`` are seconds by device, with what bounds them; ``conflicts`` are cycles of shared
    memory over those without conflicts."""

    name: str
    taken: Mapping[str, Taken] = field(default_factory=dict)
    cost: Cost | None = None
    least: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    conflicts: float | None = None
    failure: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 where an example does not compile, 2 without nvcc."""
    options = _options(arguments)
    console = Console(stderr=True)
    if toolkit.nvcc() is None:
        console.print("there is no nvcc: set CUDA_HOME to the folder of a CUDA toolkit", style="red")
        return 2
    chosen = [each for each in subjects() if any(text in each.name for text in options.filter)]
    rows = _all_rows(chosen, options, console)
    shown = _table(rows, options.arch)
    Console(width=None if sys.stdout.isatty() else 240).print(shown)
    _write(rows, options)
    for row in rows:
        if row.failure:
            console.print(f"{row.name}: {row.failure}", style="red", markup=False, soft_wrap=True)
    return 1 if any(row.failure for row in rows) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--filter", nargs="+", default=[""], metavar="TEXT", help="only examples with one of these in their name"
    )
    parser.add_argument("--arch", nargs="+", default=list(ARCHITECTURES), choices=ARCHITECTURES, help="default: all")
    parser.add_argument(
        "--conflicts", action="store_true", help="count bank conflicts on the emulator (needs g++, takes longer)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that compile (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    return parser.parse_args(arguments)


def _all_rows(chosen: Sequence[Subject], options: argparse.Namespace, console: Console) -> list[Row]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    context = multiprocessing.get_context("spawn")
    found: dict[str, Row] = {}
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ProcessPoolExecutor(max_workers=options.jobs, mp_context=context) as pool,
    ):
        task = progress.add_task("examples", total=len(chosen))
        waiting = {pool.submit(row_of, each, tuple(options.arch)): each for each in chosen}
        for done in as_completed(waiting):
            found[waiting[done].name] = done.result()
            _write([found[each.name] for each in chosen if each.name in found], options)  # whoever interrupts it has these
            progress.update(task, advance=1, description=waiting[done].name)
    rows = [found[each.name] for each in chosen]
    if options.conflicts:
        from conflicts import with_conflicts

        rows = with_conflicts(rows, chosen, console)
    return rows


def _write(rows: Sequence[Row], options: argparse.Namespace) -> None:
    if options.markdown:
        options.markdown.write_text(_markdown(rows, options.arch), "utf-8")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8")


def row_of(subject: Subject, architectures: Sequence[str]) -> Row:
    """Compiles a subject for all architectures. What fails is told in the row."""
    taken: dict[str, Taken] = {}
    found: Cost | None = None
    ptx: dict[str, str] = {}
    operand = ""
    try:
        for arch in architectures:
            target = Target.parse(f"cuda:{arch}")
            form = lower(subject.cascade, target=target)
            built = build(form.program, target)
            # One text is compiled once, for the first architecture; for the others its PTX is assembled.
            text = built.source
            made = _kept(text, built.arch, ptx.get(text))
            ptx.setdefault(text, made.ptx)
            assert target.gpu is not None
            kernels = figures(tuple(map(built.with_launch, made.usage)), target.gpu, ptx=made.ptx, cuda=text)
            taken[arch] = _worst(kernels)
            operand = operand or _operand(kernels)
            found = found or cost(subject, form)
    except (EinfallError, RuntimeError, NotImplementedError, AssertionError) as failure:
        first = str(failure).strip().partition("\n")[0]
        return Row(name=subject.name, taken=taken, failure=first or type(failure).__name__)
    result = value_type(subject.cascade.results[0].dtype).name
    dtype = operand or ("f64" if result == "f64" else "f32")
    least = {} if found is None else {arch: _least(named("cuda", arch), dtype, found) for arch in ("sm_80", "sm_90")}
    return Row(name=subject.name, taken=taken, cost=found, least=least)


def _kept(source: str, arch: str, ptx: str | None) -> toolkit.DeviceCode:
    """Machine code of a source, or of its PTX; kept for the next report, the code itself aside."""
    key = hashlib.sha256("\0".join((source, arch, "ptx" if ptx else "", toolkit.identity())).encode()).hexdigest()
    path = cache_dir() / "gpu-report" / f"{key}.json"
    if path.is_file():
        kept = json.loads(path.read_text("utf-8"))
        return toolkit.DeviceCode(arch=arch, ptx=kept["ptx"], cubin=b"", usage=tuple(Usage(**each) for each in kept["usage"]))
    made = toolkit.assembled(ptx, arch) if ptx else toolkit.compile_source(source, arch)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps({"ptx": made.ptx, "usage": [asdict(each) for each in made.usage]}).encode())
    return made


def _worst(kernels: Sequence[KernelFigures]) -> Taken:
    if not kernels:
        return Taken(kernels=0, registers=0, shared=0, spills=0, occupancy=1.0, blocks=0, limit="", mma=0)
    held = [each.occupancy for each in kernels if each.occupancy is not None]
    least = min(held, key=lambda each: each.share)
    return Taken(
        kernels=len(kernels),
        registers=max(each.usage.registers for each in kernels),
        shared=max(each.usage.shared + each.usage.dynamic for each in kernels),
        spills=max(each.spills for each in kernels),
        occupancy=least.share,
        blocks=least.blocks,
        limit=least.limit,
        mma=sum(sum(each.tensor_cores.values()) for each in kernels),
    )


def _operand(kernels: Sequence[KernelFigures]) -> str:
    """The type of what tensor cores multiply; empty where none do."""
    found = [match[1] for each in kernels for name in each.tensor_cores if (match := _OPERAND.search(name))]
    return {"s8": "i8", "u8": "i8"}.get(found[0], found[0]) if found else ""


def _least(device: Target, dtype: str, found: Cost) -> tuple[float, str]:
    """(seconds that a device needs at least, what for)."""
    arithmetic, memory = found.flops / device.peak_ops(dtype), found.traffic / device.bandwidth("dram")
    return max(arithmetic, memory), dtype if arithmetic > memory else "memory"


def _columns(architectures: Sequence[str]) -> list[str]:
    figures_of = [f"{arch}: registers, shared KB, spilled B, occupancy" for arch in architectures]
    return ["example", "kernels", "mma", *figures_of, "conflicts", "FLOP/B", "at least on an A100", "on an H100"]


def _cells(row: Row, architectures: Sequence[str]) -> list[str]:
    first = next(iter(row.taken.values()), None)
    cells = [row.name, str(first.kernels) if first else "–", str(first.mma or "") if first else ""]
    for arch in architectures:
        each = row.taken.get(arch)
        if each is None:
            cells.append("does not compile")
            continue
        cells.append(f"{each.registers} · {each.shared / 1024:.3g} · {each.spills} · {each.occupancy:.0%}")
    cells.append("" if row.conflicts is None else f"{row.conflicts:.2f}")
    cells.append("" if row.cost is None else f"{row.cost.flops / max(1, row.cost.traffic):.3g}")
    for arch in ("sm_80", "sm_90"):
        seconds, bound = row.least.get(arch, (0.0, ""))
        cells.append(f"{seconds * 1e6:.3g} µs, {bound}" if bound else "")
    return cells


def _table(rows: Sequence[Row], architectures: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in _columns(architectures):
        table.add_column(name, justify="left" if name == "example" else "right", overflow="fold")
    for row in rows:
        table.add_row(*_cells(row, architectures), style="yellow" if any(each.spills for each in row.taken.values()) else None)
    return table


def _markdown(rows: Sequence[Row], architectures: Sequence[str]) -> str:
    columns = _columns(architectures)
    lines = [
        f"# GPU kernels of the examples, as nvcc {nvcc_version()} and arithmetic see them",
        "",
        _PREFACE.format(date=f"{datetime.now(timezone.utc):%Y-%m-%d}"),
        "",
        *_summary(rows, architectures),
        "",
        f"| {' | '.join(columns)} |",
        f"|---{'|---:' * (len(columns) - 1)}|",
        *(f"| {' | '.join(_cells(row, architectures))} |" for row in rows),
        "",
    ]
    failed = [row for row in rows if row.failure]
    lines += [f"- `{row.name}`: {row.failure}" for row in failed] + ([""] if failed else [])
    return "\n".join(lines)


def _summary(rows: Sequence[Row], architectures: Sequence[str]) -> list[str]:
    lines = []
    for arch in architectures:
        found = [row.taken[arch] for row in rows if arch in row.taken]
        spilling = [each for each in found if each.spills]
        most = max((each.spills for each in found), default=0)
        kernels = sum(each.kernels for each in found)
        text = f"- **{arch}**: {len(found)} of {len(rows)} compile, to {kernels} kernels; "
        lines.append(text + (f"{len(spilling)} examples spill, {most} bytes at most" if spilling else "nothing is spilled"))
    return lines


def nvcc_version() -> str:
    """``"13.0"``"""
    said = subprocess.run([toolkit.nvcc() or "nvcc", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"release ([\d.]+)", said)
    return found[1] if found else "?"


if __name__ == "__main__":
    sys.exit(main())
