"""``einfall doctor --measure``: the rates that this machine really reaches, measured with kernels built by TVM.

Cost decisions and the share of the limit that ``benchmark`` reports read them; without a measurement the nominal
figures of the target's table stand in.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..ir.target import LEVELS, Level, Limits, Roof, Target
from ..runtime.threads import TVM_POOL
from ..runtime.tiles import request_tiles
from ..runtime.tvm_runtime import importing_tvm
from .measurements import Measurement

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..codegen.probes import ComputeProbe, StreamProbes

Progress = Callable[[str, int, int], None]
"""Told what is being measured, how many measurements are done, and how many there are."""

_CALL_SECONDS = 0.008  # long beside the launch of the threads, short beside the scheduler's time slice
_CALLS = 7
_LARGEST = 512 << 20  # bytes of DRAM that are touched at most
_FAR: tuple[Level, ...] = ("l3", "dram")  # where one stream does not keep the memory busy
_ALIGNMENT = 64  # what TVM's generated code assumes of a buffer


class _Rate(NamedTuple):
    value: float
    spread: float


def measure(target: Target, progress: Progress | None = None) -> Measurement:
    """Measure the host, described by ``target`` (its cores are those that are used). Takes 5 to 15 seconds."""
    with importing_tvm():
        from ..codegen.probes import compute_probes, stream_probes

    report = progress or (lambda what, done, total: None)
    report("building", 0, 1)
    usable = target.tiles is not None and request_tiles()
    probes = [probe for probe in compute_probes(target) if usable or not probe.tiles]
    streams = stream_probes(target)
    counts = [1] if target.cores == 1 else [1, target.cores]
    arena = _arena(_dram_bytes(target))
    steps = len(counts) * (len(probes) + 2 * len(LEVELS))
    done = 0
    spreads: list[float] = []
    limits: list[Limits] = []
    for workers in counts:
        TVM_POOL.use(workers)
        ops: dict[str, float] = {}
        read: dict[str, float] = {}
        copy: dict[str, float] = {}
        for probe in probes:
            report(f"{probe.dtype} on {_cores(workers)}", done, steps)
            rate = _compute_rate(probe, workers)
            ops[probe.dtype] = max(ops.get(probe.dtype, 0.0), rate.value)
            spreads.append(rate.spread)
            done += 1
        for level, size in _sizes(target, workers, arena.nbytes):
            for kind, rates in (("read", read), ("copy", copy)):
                report(f"{kind} {level.upper()} on {_cores(workers)}", done, steps)
                ways = ["read", "pages"] if kind == "read" and level in _FAR else [kind]
                found = [_stream_rate(streams, way, arena, workers, size) for way in ways]
                rates[level] = max(rate.value for rate in found)
                spreads += [rate.spread for rate in found]
                done += 1
        limits.append(Limits(ops=ops, read=read, copy=copy))
    report("done", steps, steps)
    return Measurement(
        roof=Roof(core=limits[0], chip=_no_less(limits[-1], limits[0])),
        spread=statistics.median(spreads),
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _no_less(chip: Limits, core: Limits) -> Limits:
    """The rates of all cores, which are no less than those of one: where others use some of them, that is what was measured."""
    ops, read, copy = (
        {key: max(rate, one[key]) for key, rate in all_.items()}
        for all_, one in ((chip.ops, core.ops), (chip.read, core.read), (chip.copy, core.copy))
    )
    return Limits(ops=ops, read=read, copy=copy)


def _cores(workers: int) -> str:
    return "one core" if workers == 1 else f"{workers} cores"


def _sizes(target: Target, workers: int, arena: int) -> Iterator[tuple[Level, int]]:
    """Bytes per worker that live in each level: half of a private cache, and beyond the nearer ones."""
    yield "l1", target.l1d // 2
    if target.l2 >= 2 * target.l1d:
        yield "l2", target.l2 // 2
    beyond = min(4 * target.l2, target.l3 // (2 * workers))
    if beyond >= 3 * target.l2 // 2:
        yield "l3", beyond
    yield "dram", arena // workers


def _dram_bytes(target: Target) -> int:
    """Four times the last cache, so that hits are rare, as far as the memory allows."""
    wanted = max(64 << 20, 4 * max(target.l3, target.l2 * target.cores))
    return min(wanted, _LARGEST, max(16 << 20, _available_memory() // 4))


def _available_memory() -> int:
    """Bytes that can be allocated without swapping; 1 GiB where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError):
        pass
    return 1 << 30


def _arena(size: int) -> npt.NDArray[np.float32]:
    """Touched, aligned memory that all streams run over."""
    import numpy as np

    raw = np.ones(size // 4 + _ALIGNMENT, np.float32)
    start = -raw.ctypes.data % _ALIGNMENT // 4
    return raw[start : start + size // 4]


def _compute_rate(probe: ComputeProbe, workers: int) -> _Rate:
    import numpy as np
    import tvm

    seed = tvm.runtime.tensor(np.zeros(probe.seed[0], probe.seed[1]))
    out = tvm.runtime.tensor(np.zeros((workers, probe.out[0]), probe.out[1]))
    seconds = _timed(lambda repeats: probe.run(workers, repeats, seed, out), first=1000)
    return _rate(probe.ops * workers, seconds)


def _stream_rate(streams: StreamProbes, kind: str, arena: npt.NDArray[np.float32], workers: int, size: int) -> _Rate:
    """``size`` is what one worker touches: for a copy, half of it is read and half is written."""
    import numpy as np
    import tvm

    touched = size // 2 if kind == "copy" else size
    unit = streams.group if kind == "pages" else (streams.block,)
    blocks = touched // (4 * math.prod(unit))
    shape = (workers, blocks, *unit)
    elements = math.prod(shape)
    source = tvm.runtime.from_dlpack(arena[:elements].reshape(shape))
    if kind != "copy":
        run = streams.pages if kind == "pages" else streams.read
        out = tvm.runtime.tensor(np.zeros((workers, streams.block), np.float32))
        moved = 4 * elements
    else:
        run = streams.copy
        start = -(-elements // 16) * 16
        out = tvm.runtime.from_dlpack(arena[start : start + elements].reshape(shape))
        moved = 8 * elements
    return _rate(moved, _timed(lambda repeats: run(workers, repeats, source, out), first=1))


def _timed(run: Callable[[int], None], *, first: int) -> list[float]:
    """Seconds per repeat of several calls, each long enough for the clock."""
    repeats = first
    run(repeats)
    while True:
        start = time.perf_counter()
        run(repeats)
        elapsed = time.perf_counter() - start
        if elapsed >= _CALL_SECONDS / 2 or repeats >= 1 << 28:
            break
        repeats = max(2 * repeats, int(repeats * min(64.0, _CALL_SECONDS / max(elapsed, 1e-9))))
    seconds: list[float] = []
    for _ in range(_CALLS):
        start = time.perf_counter()
        run(repeats)
        seconds.append((time.perf_counter() - start) / repeats)
    return seconds


def _rate(work: float, seconds: list[float]) -> _Rate:
    median = statistics.median(seconds)
    lower, _, upper = statistics.quantiles(seconds, n=4)
    return _Rate(value=work / median, spread=(upper - lower) / median)
