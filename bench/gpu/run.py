"""einfall beside PyTorch (cuBLAS, fused attention, torch.compile) on an NVIDIA GPU: correctness first, then one table.

    python bench/gpu/run.py                                       everything, a quarter of an hour
    python bench/gpu/run.py --filter attention --json a.json --markdown a.md
    python bench/gpu/run.py --rehearse                            small sizes on the CPU: whether the script itself works
    python bench/gpu/run.py --dry-run --arch sm_90                compiles every kernel, without a GPU

Needs a GPU, its driver, nvcc or NVRTC, and for the table a PyTorch with CUDA; without it only the checks are run. Contestants
of a row run in turn on the same stream and are timed with CUDA events; ratios are of medians, above 1 where einfall is faster.
The limit of a row is what this device was measured to do just before: products by cuBLAS at 8192³ for each type, and a copy of
1 GB.
Exit code 0, 1 where a result is wrong or a kernel fails, 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from rich.table import Table
from suite import correctness
from timing import Clock, DeviceClock, HostClock, Timing, launch_seconds, timings
from workloads import Machine, Work, Workload, least, workloads

import einfall as ef
from einfall.compiler.host import resolve_target
from einfall.ir.diagnostics import EinfallError
from einfall.runtime.devices import missing_driver
from einfall.runtime.driver import driver

TINY = "kernel tiny(X: f32[M], Z: f32[M]) -> (Y: f32[M]) { Y[m] = X[m] + Z[m] }"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was measured. ``share`` is of the device's limit, ``error`` of what is allowed, ``absent`` why peers did not run."""

    name: str
    own: Timing
    peers: Mapping[str, Timing]
    absent: Mapping[str, str]
    best: str
    ratio: float
    goal: float
    share: float
    tflops: float
    gbytes: float
    error: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    console = Console(stderr=True)
    chosen = [each for each in workloads() if any(text in each.name for text in options.filter)]
    if options.dry_run:
        return _dry_run(chosen, f"cuda:{options.arch}", console)
    if not options.rehearse and (reason := _no_gpu()) is not None:
        console.print(reason, style="red", markup=False)
        return 2
    target = "cpu" if options.rehearse else str(resolve_target("cuda"))
    failed = False
    if not options.no_suite:
        passed, problems = correctness(target, options.filter if options.rehearse else [""], console)
        console.print(f"{passed} checks of examples passed, {len(problems)} failed")
        for problem in problems:
            console.print(problem, style="red", markup=False, soft_wrap=True)
        failed = bool(problems)
    if importlib.util.find_spec("torch") is None:
        console.print("PyTorch is not installed: nothing is timed (pip install torch)", style="yellow")
        return 1 if failed else 0
    import torch

    if not options.rehearse and not torch.cuda.is_available():
        console.print("this PyTorch cannot use the GPU: nothing is timed", style="yellow")
        return 1 if failed else 0
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    if options.rehearse:
        machine, clock = Machine(torch=torch, device="cpu", target=target, shrink=64), HostClock()
        name = "rehearsal on the CPU"
    else:
        machine, clock = Machine(torch=torch, device="cuda", target=target), DeviceClock(torch)
        name = torch.cuda.get_device_name()
    peak, bandwidth = _limits(machine, clock)
    facts: dict[str, object] = {
        "device": name, "target": target, "torch": torch.__version__, "cuda": getattr(torch.version, "cuda", None),
        "driver": ".".join(map(str, driver().version)), "einfall": ef.__version__,
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M}",
        "tflops": {dtype: rate / 1e12 for dtype, rate in peak.items()}, "gbytes": bandwidth / 1e9,
        "launch_us": _launch(machine, clock) * 1e6,
    }  # fmt: skip
    rates = ", ".join(f"{rate / 1e12:.3g} T/s {dtype}" for dtype, rate in peak.items())
    console.print(f"{name}: {rates}, {bandwidth / 1e9:.0f} GB/s; a call takes {facts['launch_us']:.1f} µs to launch")
    rows: list[Row] = []
    for each in chosen:
        try:
            row = _measured(each, machine, clock, peak, bandwidth, options.samples)
        except KeyboardInterrupt:
            break
        except Exception as failure:  # out of memory, a kernel that the device refuses: the other rows still count
            console.print(f"{each.name}: {type(failure).__name__}: {failure}"[:2000], style="red", markup=False)
            failed = True
        else:
            rows.append(row)
            console.print(f"{row.name}: {row.ratio:.2f} × {row.best}, error {row.error:.2g} of what is allowed", markup=False)
        gc.collect()
        if not options.rehearse:
            torch.cuda.empty_cache()
    Console(width=None if sys.stdout.isatty() else 180).print(_table(name, rows))
    if options.json:
        options.json.write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n", "utf-8")
    if options.markdown:
        options.markdown.write_text(_markdown(facts, rows), "utf-8")
    return 1 if failed or any(not row.error <= 1 for row in rows) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--filter", nargs="+", default=[""], metavar="TEXT", help="only workloads with these in the name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    parser.add_argument("--samples", type=int, default=30, metavar="N", help="of each contestant (default: 30)")
    parser.add_argument("--no-suite", action="store_true", help="do not run the checks of the examples first")
    parser.add_argument("--rehearse", action="store_true", help="small sizes on the CPU, to see whether everything works")
    parser.add_argument("--dry-run", action="store_true", help="compile the kernels, run nothing; needs no GPU")
    parser.add_argument("--arch", default="sm_90", help="for --dry-run (default: sm_90)")
    return parser.parse_args(arguments)


def _no_gpu() -> str | None:
    found = driver()
    return found.reason or missing_driver()


def _dry_run(chosen: Sequence[Workload], target: str, console: Console) -> int:
    failed = False
    for each in chosen:
        try:
            ef.compile(each.program, target=target, **each.fixed)
        except EinfallError as failure:
            console.print(f"{each.name}: {failure}", style="red", markup=False)
            failed = True
        else:
            print(f"{each.name}: compiles for {target}")
    return int(failed)


def _limits(machine: Machine, clock: Clock) -> tuple[dict[str, float], float]:
    """(operations a second by type, bytes a second of a copy, those read and those written)."""
    torch, n = machine.torch, machine.size(8192)
    calls = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        a = torch.randn(n, n, device=machine.device).to(dtype)
        calls.append(lambda a=a: torch.matmul(a, a))
    b = torch.randint(-128, 128, (n, n), device=machine.device, dtype=torch.int8)
    calls.append(lambda: torch._int_mm(b, b.T))
    x = torch.empty((1 << 28) // machine.shrink, device=machine.device)
    y = torch.empty_like(x)
    *products, copy = timings(clock, [*calls, lambda: y.copy_(x)], samples=10)
    names = ("bf16", "f16", "f32", "i8")
    rates = {name: 2 * n**3 / each.median for name, each in zip(names, products, strict=True)}
    return rates, 2 * x.numel() * 4 / copy.median


def _launch(machine: Machine, clock: Clock) -> float:
    """Seconds of the calling thread for a call with three small tensors."""
    kernel = ef.compile(TINY, target=machine.target)
    x, z, out = (machine.torch.zeros(64, device=machine.device) for _ in range(3))
    return launch_seconds(clock, lambda: kernel(x, z, out=out))


def _measured(each: Workload, machine: Machine, clock: Clock, peak: Mapping[str, float], bandwidth: float, samples: int) -> Row:
    work = each.make(machine, ef.compile(each.program, target=machine.target, **each.fixed))
    absent: dict[str, str] = {}
    peers = {}
    expected = None
    for name, call in work.peers.items():
        try:
            result = call().float()  # type: ignore[attr-defined]
            clock.finish()
        except Exception as failure:  # a peer fails in any way it likes
            absent[name] = f"{type(failure).__name__}: {failure}".partition("\n")[0]
            continue
        expected = result if expected is None else expected
        peers[name] = call
    if expected is None:
        raise RuntimeError(f"no peer computes it: {absent}")
    error = _error(work, work.own().float(), expected)  # type: ignore[attr-defined]
    own, *others = timings(clock, [work.own, *peers.values()], samples)
    found = dict(zip(peers, others, strict=True))
    best = min(found, key=lambda name: found[name].median)
    return Row(
        name=each.name, own=own, peers=found, absent=absent, best=best, ratio=found[best].median / own.median, goal=work.goal,
        share=least(work, peak, bandwidth) / own.median, tflops=work.flops / own.median / 1e12,
        gbytes=work.traffic / own.median / 1e9, error=error,
    )  # fmt: skip


def _error(work: Work, found, expected) -> float:
    """The largest difference over the one that is allowed; 0 where nothing may differ and nothing does."""
    difference = float((found - expected).abs().max())
    allowed = work.tolerance * float(expected.abs().max())
    if difference == 0:
        return 0.0
    return difference / allowed if allowed > 0 else float("inf")


_COLUMNS = ("workload", "ms", "p10 – p90", "TFLOP/s", "GB/s", "of limit", "best peer", "its ms", "ratio", "goal", "error")


def _cells(row: Row) -> list[str]:
    spread = f"{row.own.p10 * 1e3:.4g} – {row.own.p90 * 1e3:.4g}"
    return [
        row.name, f"{row.own.median * 1e3:.4g}", spread, f"{row.tflops:.3g}", f"{row.gbytes:.4g}", f"{row.share:.0%}", row.best,
        f"{row.peers[row.best].median * 1e3:.4g}", f"{row.ratio:.2f}", f"{row.goal:.2f}", f"{row.error:.2g}",
    ]  # fmt: skip


def _table(device: str, rows: Sequence[Row]) -> Table:
    table = Table(title=device)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("workload", "best peer") else "right")
    for row in rows:
        style = "red" if not row.error <= 1 else None if row.ratio >= row.goal else "yellow"
        table.add_row(*_cells(row), style=style)
    return table


def _markdown(facts: Mapping[str, object], rows: Sequence[Row]) -> str:
    lines = [f"# einfall on {facts['device']}", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items() if name != "device"]
    lines += ["", f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    absent = [f"- {row.name}: {name} is absent, {why}" for row in rows for name, why in row.absent.items()]
    return "\n".join([*lines, "", *absent, *([""] if absent else [])])


if __name__ == "__main__":
    sys.exit(main())
