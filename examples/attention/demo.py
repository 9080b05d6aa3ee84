"""`make demo`: attention, from the mathematics to a kernel that is checked and timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

import einfall as ef

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "bench"))
from interleaved import interleave  # noqa: E402 (bench/ is no package)

PROGRAM = HERE / "attention.ecs"
HEADS, LENGTH, WIDTH = 8, 512, 64
CHECKED = 128  # the length for the comparison with the interpreter, which takes its time


def main() -> int:
    """Compile, explain, check, time. Exit code 1 where the kernel does not compute what the program says."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.rule("1  the kernel, as the mathematics", align="left")
    console.print(Syntax(_kernel_text(), "python", background_color="default"))

    console.rule("2  compile", align="left")
    start = perf_counter()
    kernel = ef.compile(PROGRAM, target="cpu", H=HEADS, E=WIDTH, F=WIDTH)
    console.print(f"{kernel.signature}\nfor {kernel.target} in {perf_counter() - start:.2f} s; P and M stay open")
    _explain(console, kernel)

    console.rule("3  check against the interpreter", align="left")
    fits = _check(console, kernel)

    console.rule("4  time", align="left")
    _time(console, kernel)
    return 0 if fits else 1


def _kernel_text() -> str:
    lines = PROGRAM.read_text("utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith(("#", "check"))).strip()


def _explain(console: Console, kernel: ef.Kernel) -> None:
    """The passes over the data, what is computed together, and the work."""
    explanation = kernel.explain()
    for rank, passes in explanation.passes.items():
        if passes.before > 1:
            console.print(f"passes over the data along {rank}: {passes.before} as written, {passes.after} as compiled")
    for group in explanation.groups:
        stored = [name for name in group.tensors if name not in group.in_tiles]
        over = f", in parallel over {', '.join(group.over)}" if group.over else ""
        tiles = f"; inside a thread's tile: {', '.join(group.in_tiles)}" if group.in_tiles else ""
        console.print(f"one loop nest for {', '.join(stored)}{over}{tiles}", highlight=False)
    work = explanation.at(H=HEADS, P=LENGTH, M=LENGTH, E=WIDTH, F=WIDTH)
    console.print(
        f"for {LENGTH} queries and keys: {work['flops'] / 1e9:.2f} GFLOP, {work['traffic'] / 1e6:.1f} MB in and out, "
        f"{work['workspace'] / 1e6:.1f} MB of shared scratch memory"
    )


def _check(console: Console, kernel: ef.Kernel) -> bool:
    """The compiled kernel against the interpreter, which evaluates the program in float64, Einsum by Einsum."""
    q, k, v = _inputs(CHECKED)
    k[:, 3] = 1e4  # a key that makes scores of a size at which exp would overflow
    exact = np.asarray(ef.interpret(PROGRAM, Q=q, K=k, V=v))
    found = np.asarray(kernel(Q=q, K=k, V=v), np.float64)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    fits = bool(error < 1e-5)
    console.print(
        f"{CHECKED} queries and keys: relative error {error:.1e}, [{'green' if fits else 'red'}]"
        f"{'agrees' if fits else 'DIFFERS'}[/]"
    )
    return fits


def _time(console: Console, kernel: ef.Kernel) -> None:
    q, k, v = _inputs(LENGTH)
    out = np.empty((HEADS, LENGTH, WIDTH), np.float32)
    contestants: dict[str, Callable[[], object]] = {
        "einfall": lambda: kernel(Q=q, K=k, V=v, out=out),
        "NumPy": lambda: _numpy_attention(q, k, v),
    }
    try:
        import torch
    except ImportError:
        console.print("PyTorch is not installed here: compared with NumPy only", style="dim")
    else:
        torch.set_num_threads(kernel.threads)
        torch.set_grad_enabled(False)
        tensors = [torch.from_numpy(each[None]) for each in (q, k, v)]
        fused = torch.nn.functional.scaled_dot_product_attention
        contestants["PyTorch, its fused attention"] = lambda: fused(*tensors)
        contestants["PyTorch, step by step"] = lambda: _torch_attention(torch, *tensors)
    timings = interleave(contestants, seconds=1.5)
    ours = timings["einfall"].median
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("time", "milliseconds", "p10 – p90", "GFLOP/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for name, timing in sorted(timings.items(), key=lambda item: item[1].median):
        cells = [
            f"{timing.median / ours:.2f}×",
            f"{timing.median * 1e3:.2f}",
            f"{timing.p10 * 1e3:.2f} – {timing.p90 * 1e3:.2f}",
            f"{4 * HEADS * LENGTH * LENGTH * WIDTH / timing.median / 1e9:.0f}",
            name,
        ]
        table.add_row(*cells, style="bold" if name == "einfall" else "")
    console.print(f"{HEADS} heads, {LENGTH} queries and keys, width {WIDTH}, f32, {kernel.threads} threads, medians in turns")
    console.print(table)


def _inputs(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((HEADS, length, WIDTH), np.float32) for _ in range(3))
    return q, k, v


def _numpy_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    scores = np.matmul(q, k.swapaxes(1, 2)) / np.float32(np.sqrt(WIDTH))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.matmul(weights / weights.sum(-1, keepdims=True), v)


def _torch_attention(torch, q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / WIDTH**0.5, -1) @ v


if __name__ == "__main__":
    sys.exit(main())
