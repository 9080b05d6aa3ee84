"""einfall beside PyTorch (cuBLAS, fused attention, torch.compile) on an NVIDIA GPU: correctness first, then one table.

    python bench/gpu/run.py                     everything, some minutes
    python bench/gpu/run.py --filter attention --json attention.json

Needs a GPU, its driver, nvcc and a PyTorch with CUDA. Contestants of a row run in turn on the same stream and are timed with
CUDA events; ratios are of medians, above 1 where einfall is faster. The limit of a row is what this device was measured to do
just before: bf16 products by cuBLAS at 8192³, and a copy of 1 GB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import einfall as ef
from einfall.ir.diagnostics import EinfallError

EXAMPLES = Path(ef.__file__).parent / "examples"
SAMPLES, WARM_UP = 30, 3

PRODUCT = """\
kernel gemm(A: {t}[M, K], B: {t}[N, K]) -> (C: {t}[M, N]) {{ C[m, n] = A[m, k] * B[n, k] }}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A workload: einfall's call, its peers' calls by name, operations and bytes, and how far results may lie apart."""

    name: str
    own: Callable[[], object]
    peers: Mapping[str, Callable[[], object]]
    flops: float
    traffic: float
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was measured, in milliseconds; ``ratio`` to the fastest peer, ``share`` of the device's limit."""

    name: str
    median: float
    p10: float
    p90: float
    best: str
    best_median: float
    ratio: float
    share: float
    error: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 where a result is wrong or a kernel fails, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--filter", default="", metavar="TEXT", help="only workloads with this in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        import torch
    except ModuleNotFoundError:
        console.print("PyTorch is not installed: pip install torch", style="red")
        return 2
    if not torch.cuda.is_available():
        console.print("there is no GPU that PyTorch can use", style="red")
        return 2
    torch.set_grad_enabled(False)
    name = torch.cuda.get_device_name()
    peak, bandwidth = _limits(torch)
    console.print(f"{name}: {peak / 1e12:.0f} TFLOP/s in bf16, {bandwidth / 1e9:.0f} GB/s, PyTorch {torch.__version__}")
    rows: list[Row] = []
    failed = False
    for make in _works(torch, options.filter):
        try:
            row = _measured(torch, make(), peak, bandwidth)
        except EinfallError as failure:
            console.print(str(failure), style="red", markup=False)
            failed = True
            continue
        rows.append(row)
        console.print(f"{row.name}: {row.ratio:.2f} × {row.best}", markup=False)
    Console(width=None if sys.stdout.isatty() else 160).print(_table(name, rows))
    if options.json:
        limits = {"tflops_bf16": peak / 1e12, "gbytes": bandwidth / 1e9}
        options.json.write_text(json.dumps({"device": name, "limits": limits, "rows": [asdict(r) for r in rows]}, indent=1))
    return 1 if failed or any(not row.error <= 1 for row in rows) else 0


def _target(torch) -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"cuda:sm_{major}{minor}"


def _works(torch, wanted: str) -> Iterator[Callable[[], Work]]:
    """Makers of the workloads whose names have ``wanted`` in them: their arrays exist one row at a time."""
    for size in (4096, 8192):
        for t in ("bf16", "f16"):
            if wanted in (name := f"gemm {t} {size}"):
                yield lambda name=name, t=t, size=size: _product(torch, name, t, size)
    for width in (64, 128):
        for length in (2048, 4096, 16384):
            for causal in (False, True):
                name = f"attention bf16 D{width} {length}{' causal' if causal else ''}"
                if wanted in name:
                    yield lambda n=name, w=width, s=length, c=causal: _attention(torch, n, w, s, c)
    for rows, columns in ((4096, 1024), (4096, 16384)):
        if wanted in (name := f"softmax f32 {rows}×{columns}"):
            yield lambda name=name, r=rows, c=columns: _softmax(torch, name, r, c)


def _product(torch, name: str, t: str, size: int) -> Work:
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[t]
    a, b = (torch.randn(size, size, device="cuda", dtype=dtype) / 64 for _ in range(2))
    out = torch.empty(size, size, device="cuda", dtype=dtype)
    kernel = ef.compile(PRODUCT.format(t=t), target=_target(torch))
    return Work(
        name=name, own=lambda: kernel(a, b, out=out), peers={"cuBLAS": lambda: torch.matmul(a, b.T)},
        flops=2.0 * size**3, traffic=3 * 2.0 * size**2, tolerance=2e-2,
    )  # fmt: skip


def _attention(torch, name: str, width: int, length: int, causal: bool) -> Work:
    heads = 16
    q, k, v = (torch.randn(heads, length, width, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    out = torch.empty_like(q)
    text = (EXAMPLES / f"attention/{'causal_' if causal else ''}attention.ecs").read_text("utf-8").replace("f32", "bf16")
    kernel = ef.compile(text, target=_target(torch), E=width, F=width)
    attend = torch.nn.functional.scaled_dot_product_attention
    flops = 4.0 * heads * length**2 * width * (0.5 if causal else 1)
    return Work(
        name=name, own=lambda: kernel(q, k, v, out=out), peers={"SDPA": lambda: attend(q, k, v, is_causal=causal)},
        flops=flops, traffic=4 * 2.0 * q.numel(), tolerance=3e-2,
    )  # fmt: skip


def _softmax(torch, name: str, rows: int, columns: int) -> Work:
    x = torch.randn(rows, columns, device="cuda")
    out = torch.empty_like(x)
    kernel = ef.compile(EXAMPLES / "norms/softmax.ecs", target=_target(torch))
    compiled = torch.compile(lambda t: torch.softmax(t, -1))
    peers = {"eager": lambda: torch.softmax(x, -1), "torch.compile": lambda: compiled(x)}
    return Work(
        name=name, own=lambda: kernel(x, out=out), peers=peers, flops=5.0 * x.numel(), traffic=8.0 * x.numel(), tolerance=1e-5
    )


def _limits(torch) -> tuple[float, float]:
    """(operations a second of products in bf16, bytes a second of a copy, those read and those written)."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    x, y = (torch.empty(1 << 28, device="cuda") for _ in range(2))
    (product,), (copy,) = (_times(torch, [call]) for call in (lambda: torch.matmul(a, a), lambda: y.copy_(x)))
    return 2 * 8192**3 / (statistics.median(product) / 1e3), 2 * x.numel() * 4 / (statistics.median(copy) / 1e3)


def _times(torch, calls: Sequence[Callable[[], object]]) -> list[list[float]]:
    """Milliseconds of each call, in turn."""
    found: list[list[float]] = [[] for _ in calls]
    for turn in range(WARM_UP + SAMPLES):
        for call, times in zip(calls, found, strict=True):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            if turn >= WARM_UP:
                times.append(begin.elapsed_time(end))
    return found


def _measured(torch, work: Work, peak: float, bandwidth: float) -> Row:
    expected = next(iter(work.peers.values()))().float()
    found = work.own().float()  # type: ignore[attr-defined]
    error = float((found - expected).abs().max() / (work.tolerance * expected.abs().max()))
    own, *others = _times(torch, [work.own, *work.peers.values()])
    medians = {name: statistics.median(times) for name, times in zip(work.peers, others, strict=True)}
    best = min(medians, key=lambda name: medians[name])
    deciles, median = statistics.quantiles(own, n=10), statistics.median(own)
    limit = max(work.flops / peak, work.traffic / bandwidth) * 1e3
    return Row(
        name=work.name, median=median, p10=deciles[0], p90=deciles[-1], best=best, best_median=medians[best],
        ratio=medians[best] / median, share=limit / median, error=error,
    )  # fmt: skip


def _table(device: str, rows: Sequence[Row]) -> Table:
    table = Table(title=device)
    for column in ("workload", "ms", "p10 – p90", "best peer", "its ms", "ratio", "of limit", "error / allowed"):
        table.add_column(column, justify="left" if column in ("workload", "best peer") else "right")
    for row in rows:
        spread = f"{row.p10:.3f} – {row.p90:.3f}"
        figures = (f"{row.best_median:.3f}", f"{row.ratio:.2f}", f"{row.share:.0%}", f"{row.error:.2g}")
        table.add_row(row.name, f"{row.median:.3f}", spread, row.best, *figures)
    return table


if __name__ == "__main__":
    sys.exit(main())
