"""The f32 matrix-product micro-kernel by itself, beside PyTorch, NumPy and the machine's multiply-add peak.

    python bench/cpu/gemm.py [--seconds S] [--quick]

One kernel, compiled once, with sizes as arguments, takes every shape. The peak is measured in turns with the contestants.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import tvm
from rich.console import Console
from rich.table import Table
from tvm import tirx

sys.path.insert(0, str(Path(__file__).parents[1]))

from interleaved import Timing, interleave

from einfall.codegen import pipeline
from einfall.codegen.machine import Machine
from einfall.codegen.microkernels import Operand, emit_gemm, plan_gemm
from einfall.codegen.probes import compute_probes
from einfall.compiler.host import host_target
from einfall.runtime.threads import default_threads

SQUARES = (128, 256, 512, 1024, 2048)
SHAPES = [(s, s, s) for s in SQUARES] + [(128, 4096, 4096), (512, 4096, 4096), (4, 4096, 4096), (1, 4096, 4096)]
PEAK_STEPS = 100_000

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Callable[[], object]]


def compiled(machine: Machine) -> Product:
    """Row-major f32 products of any size; prints what building it costs."""
    started = time.perf_counter()
    m, n, k = (tirx.Var(name, "int64") for name in "mnk")
    sizes = {"A": (m, k), "B": (k, n), "C": (m, n)}
    buffers = {name: tirx.decl_buffer((rows * cols,), "float32", name=name) for name, (rows, cols) in sizes.items()}
    a, b, c = (Operand(buffer=buffers[x], row_stride=sizes[x][1], col_stride=1) for x in "ABC")
    plan = plan_gemm(machine, "float32")
    body = emit_gemm(a=a, b=b, c=c, m=m, n=n, k=k, dtype="float32", accumulate=False, plan=plan, parallel=True)
    function = tirx.PrimFunc([m, n, k, *buffers.values()], body)
    function = function.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)
    module = tvm.compile(tvm.IRModule({"main": function}), target=machine.tvm(), tir_pipeline=pipeline.NAME).mod
    run = module["main"]
    print(f"{plan}\nbuilt in {time.perf_counter() - started:.2f} s")

    def bind(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> Callable[[], object]:
        flat = [tvm.runtime.from_dlpack(t.reshape(-1)) for t in (x, y, z)]
        return lambda: run(x.shape[0], y.shape[1], x.shape[1], *flat)

    return bind


def peak_call(machine: Machine) -> tuple[Callable[[], object], float]:
    """Multiply-adds in registers on all threads, and how many operations one call does."""
    probe = next(p for p in compute_probes(machine.target) if p.dtype == "f32")
    seed = tvm.runtime.tensor(np.full(probe.seed[0], 0.5, probe.seed[1]))
    out = tvm.runtime.tensor(np.zeros((machine.threads, probe.out[0]), probe.out[1]))
    ops = float(probe.ops) * PEAK_STEPS * machine.threads
    return lambda: probe.run(machine.threads, PEAK_STEPS, seed, out), ops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each contestant and shape (default: 1)")
    parser.add_argument("--quick", action="store_true", help="shapes up to 1024 only")
    options = parser.parse_args()
    threads = default_threads()
    torch.set_num_threads(threads)
    machine = Machine(target=host_target(), threads=threads)
    product = compiled(machine)
    peak, peak_ops = peak_call(machine)
    table = Table(title=f"f32 GFLOP/s on {threads} threads: median (10th to 90th percentile)")
    for column in ("m × n × k", "einfall", "torch", "numpy", "FMA peak", "einfall / torch", "share of peak"):
        table.add_column(column, justify="right")
    for m, n, k in SHAPES:
        if options.quick and max(m, n, k) > 1024:
            continue
        a, b, c, d = torch.rand(m, k), torch.rand(k, n), torch.empty(m, n), torch.empty(m, n)
        e = np.empty((m, n), np.float32)
        x, y = a.numpy(), b.numpy()
        calls = {
            "einfall": product(a, b, c),
            "torch": lambda a=a, b=b, d=d: torch.mm(a, b, out=d),
            "numpy": lambda x=x, y=y, e=e: np.matmul(x, y, out=e),
            "peak": peak,
        }
        times = interleave(calls, seconds=options.seconds)
        torch.testing.assert_close(c, d, rtol=1e-4, atol=1e-3)
        flops = 2.0 * m * n * k
        ours, theirs, ceiling = (rate(times[x], w) for x, w in (("einfall", flops), ("torch", flops), ("peak", peak_ops)))
        table.add_row(
            f"{m} × {n} × {k}",
            *(spread(times[name], flops) for name in ("einfall", "torch", "numpy")),
            spread(times["peak"], peak_ops),
            f"{ours / theirs:.2f}",
            f"{ours / ceiling:.0%}",
        )
    Console(width=140).print(table)


def rate(timing: Timing, ops: float) -> float:
    return ops / timing.median / 1e9


def spread(timing: Timing, ops: float) -> str:
    return f"{rate(timing, ops):.0f} ({ops / timing.p90 / 1e9:.0f} to {ops / timing.p10 / 1e9:.0f})"


if __name__ == "__main__":
    main()
