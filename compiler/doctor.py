"""``einfall doctor``: what this machine and this installation can do, and what is missing for the rest."""

from __future__ import annotations

import json as json_format
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..codegen.cuda import toolkit
from ..codegen.cuda.nvrtc import nvrtc
from ..ir.diagnostics import EinfallError
from ..ir.target import LEVELS, Roof, Target
from ..runtime.devices import missing_driver
from ..runtime.driver import driver
from ..runtime.threads import available_threads
from ..runtime.tiles import request_tiles
from ..runtime.tvm_runtime import importing_tvm
from .host import HostInfo, host_info, host_target, target_of
from .measurements import Measurement, store, stored
from .paths import cache_dir

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Status = Literal["ok", "warning", "missing"]

TVM_VERSION = "0.27.0.post1"
FFI_VERSION = "0.1.14.post1"
"""The pair that was found to work: with apache-tvm-ffi 0.1.15 apache-tvm 0.27 crashes."""

_BUSY = 0.15
_SECTION_TITLES = {
    "cpu": "CPU",
    "compiler": "Compiler",
    "cuda": "CUDA",
    "interop": "Arrays and peers",
    "cache": "Cache",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report: what was looked for, what was found, and what that means for the user."""

    section: str
    name: str
    status: Status
    found: str
    enables: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport:
    """All checks, and the limits of the machine if they were measured."""

    target: str
    checks: tuple[Check, ...]
    measurement: Measurement | None

    @property
    def healthy(self) -> bool:
        """Whether kernels can be compiled and run for this CPU."""
        return all(check.status != "missing" for check in self.checks if check.name in ("apache-tvm", "LLVM"))


def doctor_report(*, measure: bool = False, progress: Callable[[str, int, int], None] | None = None) -> DoctorReport:
    """Look at the machine and the installation; with ``measure``, time the machine's limits first and keep them.

    Raises EinfallError E1203 when EINFALL_NUM_THREADS is not a number.
    """
    info, target = host_info(), host_target()
    if measure:
        from .measure import measure as take

        store(take(target, progress), info.key, target.cores)
    checks = [
        *_cpu(info, target),
        *_compiler(),
        *_cuda(),
        *_interop(),
        *_cache(),
    ]
    return DoctorReport(target=str(target), checks=tuple(checks), measurement=stored(info.key, target.cores))


def run_doctor(json: bool, measure: bool) -> int:
    """The command: the report on stdout, progress on stderr. Returns the exit code: 1 if nothing can be compiled."""
    from rich.console import Console

    if measure:
        with _Bar(Console(stderr=True)) as bar:
            report = doctor_report(measure=True, progress=bar.update)
    else:
        report = doctor_report()
    if json:
        print(json_format.dumps({**asdict(report), "healthy": report.healthy}, indent=2))
    else:
        _print(report, Console())
    return 0 if report.healthy else 1


_FEATURES: tuple[tuple[str, tuple[tuple[str, ...], ...], str], ...] = (
    # name, sets of features of which one suffices, what it enables
    ("vector FMA", (("fma",), ("neon",)), "register-blocked floating-point contractions"),
    ("AVX-512", (("avx512f", "avx512bw", "avx512vl"),), "512-bit vectors, 32 registers, masked edges"),
    ("f16 arithmetic", (("avx512fp16",), ("fullfp16",)), "contractions that compute in f16"),
    ("int8 dot product", (("avx512vnni",), ("avxvnni",), ("dotprod",)), "int8 contractions at four times f32's rate"),
    ("bit population count", (("avx512vpopcntdq",), ("neon",)), "bit-serial contractions in vectors"),
    ("matrix tiles", (("amx-int8", "amx-bf16"), ("i8mm", "bf16")), "int8 and bf16 contractions on the matrix unit"),
)


def _cpu(info: HostInfo, target: Target) -> Iterator[Check]:
    beyond = f" with {', '.join(target.extra)}" if target.extra else ""
    yield _check("cpu", "processor", f"{info.model}; compiled for as {target.mcpu}{beyond}", 'target="cpu"')
    available, total = available_threads(), os.cpu_count() or 1
    limit = "; EINFALL_NUM_THREADS limits them" if target.cores < available else ""
    yield _check("cpu", "cores", f"{target.cores} of {total}{limit}", "as many threads for each kernel")
    sizes = [("L1", target.l1d), ("L2", target.l2), ("L3", target.l3)]
    caches = ", ".join(f"{name} {_size(size)}" for name, size in sizes if size)
    yield _check("cpu", "caches", f"{caches}; lines of {target.cache_line} bytes", "the sizes of cache blocks")
    yield _check(
        "cpu",
        "vectors",
        f"{target.vector_bits} bits, {target.vector_registers} registers",
        f"{target.lanes(32)} f32 lanes",
    )
    for name, alternatives, enables in _FEATURES:
        present = next((needs for needs in alternatives if target.has(*needs)), None)
        tiles = any("amx-int8" in needs for needs in alternatives) and "amx-int8" in host_info().features
        if tiles and not request_tiles():
            yield _check("cpu", name, "the kernel refuses the tile registers", enables, "warning")
        elif present is None:
            yield _check("cpu", name, "no", enables, "missing")
        else:
            yield _check("cpu", name, ", ".join(present), enables)


def _compiler() -> Iterator[Check]:
    yield _check("compiler", "Python", platform.python_version(), sys.executable)
    yield _pinned("apache-tvm", TVM_VERSION, "code generation and the runtime")
    yield _pinned("apache-tvm-ffi", FFI_VERSION, "calling kernels; newer versions crash this TVM")
    try:
        with importing_tvm():
            from ..codegen.toolchain import llvm_version

            llvm = llvm_version()
    except Exception as problem:  # a broken installation fails in any way it likes; the report must come out
        reason = problem.diagnostics[0].message if isinstance(problem, EinfallError) else f"TVM cannot be imported: {problem}"
        yield _check("compiler", "LLVM", reason, "kernels for CPUs", "missing")
    else:
        found = f"version {llvm}, inside TVM" if llvm else "TVM was built without"
        yield _check("compiler", "LLVM", found, "kernels for CPUs", "ok" if llvm else "missing")
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    yield _check("compiler", "C compiler", compiler or "none", "kernel.save links a library", _status(compiler))


def _cuda() -> Iterator[Check]:
    path, library, found = toolkit.nvcc(), nvrtc(), driver()
    said = _output([path, "--version"]) if path else ""
    release = next((line.partition("release ")[2].split(",")[0] for line in said.splitlines() if "release " in line), "")
    enables = "machine code of CUDA kernels, their registers and spills"
    yield _check("cuda", "nvcc", f"{release} ({path})" if path else "none", enables, _status(path or library))
    place = f"{_numbers(library.version)} ({library.path})" if library else "none"
    yield _check("cuda", "NVRTC", place, "the same where there is no nvcc", _status(library))
    newest = f"for CUDA up to {_numbers(found.version)}" if any(found.version) else "none"
    yield _check("cuda", "driver", newest, "running CUDA kernels", _status(any(found.version)))
    if not found.devices:
        yield _check("cuda", "GPU", "none", "running CUDA kernels; compiling them needs none", "missing")
    for device in found.devices:
        target = target_of(device)
        shown = f"{device.name}, compute capability {device.capability}, {_size(device.memory)}"
        enables = 'target="cuda"' if target and device.number == 0 else "running kernels for it"
        enables += f", {target}" if target else ": no target is known for it"
        yield _check("cuda", f"GPU {device.number}", shown, enables, "ok" if target else "warning")
    if found.devices:
        reason = missing_driver()
        yield _check("cuda", "CUDA in TVM", reason or "loads", "running CUDA kernels", "warning" if reason else "ok")


def _numbers(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


_PEERS = (
    ("numpy", "arguments and results as NumPy arrays"),
    ("torch", "arguments and results as PyTorch tensors; comparison in bench/"),
    ("jax", "arguments and results as JAX arrays"),
    ("cupy", "arguments on a GPU as CuPy arrays"),
    ("onnxruntime", "comparison in bench/"),
    ("xgboost", "tuning with a learned cost model"),
)


def _interop() -> Iterator[Check]:
    for package, enables in _PEERS:
        found = _version(package) or _version(f"{package}-cpu") or _cupy(package)
        yield _check("interop", package, found or "not installed", enables, _status(found))


def _cupy(package: str) -> str | None:
    names = ("cupy-cuda13x", "cupy-cuda12x") if package == "cupy" else ()
    return next((found for name in names if (found := _version(name))), None)


def _cache() -> Iterator[Check]:
    folder = cache_dir()
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(_file_size(path) for path in files)
    yield _check("cache", "folder", str(folder), "compiled kernels and measurements; EINFALL_CACHE_DIR moves it")
    yield _check("cache", "size", f"{_size(size)} in {len(files)} files", "`einfall cache` shows and clears it")


def _check(section: str, name: str, found: str, enables: str, status: Status = "ok") -> Check:
    return Check(section=section, name=name, status=status, found=found, enables=enables)


def _status(found: object) -> Status:
    return "ok" if found else "missing"


def _pinned(package: str, wanted: str, enables: str) -> Check:
    found = _version(package)
    if found is None:
        return _check("compiler", package, "not installed", f"{enables}: pip install {package}=={wanted}", "missing")
    if found != wanted:
        return _check(
            "compiler",
            package,
            f"{found}, but {wanted} is what works: pip install {package}=={wanted}",
            enables,
            "warning",
        )
    return _check("compiler", package, found, enables)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another process has just removed it
        return 0


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


_MARKS = {"ok": "[green]yes[/]", "warning": "[yellow]check[/]", "missing": "[dim]no[/]"}


def _print(report: DoctorReport, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"einfall on {report.target}", title_justify="left", title_style="bold", pad_edge=False, box=None)
    table.add_column("")
    table.add_column("", min_width=16)
    table.add_column("found", overflow="fold")
    table.add_column("for", overflow="fold", style="dim")
    section = ""
    for check in report.checks:
        if check.section != section:
            section = check.section
            table.add_row("", f"\n[bold]{_SECTION_TITLES[section]}[/]")
        table.add_row(_MARKS[check.status], check.name, escape(check.found), escape(check.enables))
    console.print(table)
    console.print()
    if report.measurement is None:
        console.print("Limits: not measured; `einfall doctor --measure` does it in less than 20 seconds.")
        return
    console.print(_limits_table(report.measurement.roof))
    console.print(f"[dim]measured {report.measurement.when}, spread {report.measurement.spread:.0%}[/]")
    if report.measurement.spread > _BUSY:
        console.print("[yellow]The machine was busy; measure again when it is idle.[/]")


def _limits_table(roof: Roof) -> Table:
    from rich.table import Table

    table = Table(title="Measured limits", title_justify="left", title_style="bold", pad_edge=False, box=None)
    table.add_column("")
    table.add_column("one core", justify="right")
    table.add_column("all cores", justify="right")
    table.add_column("")
    for dtype, rate in roof.core.ops.items():
        table.add_row(dtype, f"{rate / 1e9:.0f}", f"{roof.chip.ops[dtype] / 1e9:.0f}", "Gop/s")
    for kind, one, every in (("read", roof.core.read, roof.chip.read), ("copy", roof.core.copy, roof.chip.copy)):
        for level in LEVELS:
            if level in one and level in every:
                table.add_row(f"{kind} {level.upper()}", f"{one[level] / 1e9:.1f}", f"{every[level] / 1e9:.1f}", "GB/s")
    return table


class _Bar:
    """A progress bar on a terminal; silent elsewhere."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def update(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=what, completed=done, total=total)
