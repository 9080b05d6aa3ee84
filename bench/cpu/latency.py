"""What a user waits for besides the kernel: imports, a cold compile, a load from the cache, the overhead of a call.

Run it with `python bench/cpu/latency.py`; every figure is the least of several, in wall time of this machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

ATTENTION = Path(__file__).parents[2] / "examples/attention/attention.ecs"


def in_process(code: str, *, repeat: int, cache: str) -> float:
    """Seconds that a fresh interpreter reports for ``code``, which prints them."""
    environment = {**os.environ, "EINFALL_CACHE_DIR": cache}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        for _ in range(repeat)
    ]
    return min(float(run.stdout.split()[-1]) for run in runs)


def overheads() -> dict[str, float]:
    """Seconds of one call above the bare call of the compiled function, three 4 by 4 tensors."""
    import numpy as np
    import tvm_ffi

    import einfall as ef

    add = ef.compile("kernel add(A: f32[M, N], B: f32[M, N]) -> (C: f32[M, N]) {\n C[m, n] = A[m, n] + B[m, n]\n}", threads=1)
    a, b, c = (np.ones((4, 4), np.float32) for _ in range(3))
    add(a, b)
    bare = add._compiled.function
    tensors = [tvm_ffi.from_dlpack(x) for x in (a, b, c)]
    calls: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(*tensors, 4, 4),
        "a call on NumPy arrays": lambda: add(a, b),
        "a call with out=": lambda: add(a, b, out=c),
    }
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(400):  # interleaved, so that a busy moment meets them all
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(20):
                call()
            least[name] = min(least[name], (time.perf_counter() - start) / 20)
    floor = least.pop("bare")
    return {f"{name}, above the bare call": seconds - floor for name, seconds in least.items()}


def main() -> None:
    timer = "import time; t = time.perf_counter()"
    compiled = f"einfall.compile({str(ATTENTION)!r}, E=64, F=64)"
    warm = f"import tvm, einfall; import numpy; {timer}; {compiled}; print(time.perf_counter() - t)"
    table = Table("what", "least", "goal")
    with tempfile.TemporaryDirectory() as cache:
        imported = in_process(f"{timer}; import einfall; print(time.perf_counter() - t)", repeat=5, cache=cache)
        table.add_row("import einfall", f"{imported * 1e3:.0f} ms", "300 ms")
        cold = []
        for n in range(3):
            cold.append(in_process(warm, repeat=1, cache=f"{cache}/{n}"))
        table.add_row("compile attention, TVM imported", f"{min(cold):.2f} s", "2 s")
        loaded = in_process(warm, repeat=3, cache=f"{cache}/0")
        table.add_row("compile attention, from the cache", f"{loaded * 1e3:.0f} ms", "50 ms")
    for name, seconds in overheads().items():
        table.add_row(name, f"{seconds * 1e6:.1f} µs", "10 µs")
    Console().print(table)


if __name__ == "__main__":
    main()
