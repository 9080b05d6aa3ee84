"""What a user waits for besides the kernel: imports, a cold compile, a load from the cache, the overhead of a call."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ATTENTION = Path(__file__).parents[2] / "examples/attention/attention.ecs"
ADD = "kernel add(A: f32[M, N], B: f32[M, N]) -> (C: f32[M, N]) {\n C[m, n] = A[m, n] + B[m, n]\n}"
ROUNDS, CALLS = 400, 20


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The least ``seconds`` of several, and how many it should be at most."""

    what: str
    seconds: float
    goal: float | None = None


def latencies() -> list[Latency]:
    """Everything of this page. Takes half a minute, most of it for starting Python."""
    timer = "import time; t = time.perf_counter()"
    compiled = f"einfall.compile({str(ATTENTION)!r}, E=64, F=64)"
    timed = f"{timer}; {compiled}; print(time.perf_counter() - t)"
    imports = "import numpy, einfall; from einfall.runtime.tvm_runtime import importing_tvm, tvm_ffi"
    compiler = f"{imports}\nwith importing_tvm():\n    import tvm\n{timed}"
    runtime = f"{imports}\ntvm_ffi()\n{timed}"
    fresh = f"{timer}; import einfall; {compiled}; print(time.perf_counter() - t)"
    with tempfile.TemporaryDirectory() as cache:
        imported = _in_process(f"{timer}; import einfall; print(time.perf_counter() - t)", repeat=5, cache=cache)
        first = min(_in_process(fresh, repeat=1, cache=f"{cache}/first{n}") for n in range(2))
        cold = min(_in_process(compiler, repeat=1, cache=f"{cache}/{n}") for n in range(3))
        again = _in_process(fresh, repeat=3, cache=f"{cache}/0")
        loaded = _in_process(runtime, repeat=3, cache=f"{cache}/0")
    return [
        Latency(what="import einfall", seconds=imported, goal=0.3),
        Latency(what="compile attention, TVM imported", seconds=cold, goal=3.0),
        Latency(what="the same in a new process, with all imports", seconds=first),
        Latency(what="compile attention, from the cache", seconds=loaded, goal=0.05),
        Latency(what="the same in a new process, with all imports", seconds=again),
        *call_latencies(),
    ]


def _in_process(code: str, *, repeat: int, cache: str) -> float:
    """Seconds that a fresh interpreter reports for ``code``, which prints them."""
    environment = {**os.environ, "EINFALL_CACHE_DIR": cache}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        for _ in range(repeat)
    ]
    return min(float(run.stdout.split()[-1]) for run in runs)


def call_latencies(rounds: int = ROUNDS) -> list[Latency]:
    """One call above the bare call of the compiled function, three 4 by 4 tensors; PyTorch's own for comparison."""
    import numpy as np
    import tvm_ffi
    from torch_peer import torch

    import einfall as ef

    add = ef.compile(ADD, threads=1)
    a, b, c = (np.ones((4, 4), np.float32) for _ in range(3))
    add(a, b)
    bare = add._compiled.code.function
    tensors = [tvm_ffi.from_dlpack(x) for x in (a, b, c)]
    calls: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(*tensors, 4, 4),
        "NumPy arrays": lambda: add(a, b),
        "NumPy arrays, with out=": lambda: add(a, b, out=c),
    }
    if torch is not None:
        x, y, z = map(torch.from_numpy, (a, b, c))
        calls |= {"PyTorch tensors, with out=": lambda: add(x, y, out=z), "torch.add": lambda: torch.add(x, y, out=z)}
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):  # interleaved, so that a busy moment meets them all
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            least[name] = min(least[name], (time.perf_counter() - start) / CALLS)
    floor, theirs = least.pop("bare"), least.pop("torch.add", None)
    found = [
        Latency(what=f"a call above the bare TVM call, three tensors: {name}", seconds=seconds - floor, goal=5e-6)
        for name, seconds in least.items()
    ]
    if theirs is not None:
        found.append(Latency(what="torch.add(…, out=) of the same, in all", seconds=theirs))
    return found
