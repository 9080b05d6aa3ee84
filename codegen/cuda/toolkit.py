"""CUDA C++ to machine code: the compiler of the CUDA toolkit, wherever it lies. Neither a driver nor a GPU is needed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ...ir.cuda_places import program
from ...ir.diagnostics import EinfallError, error
from ...ir.usage import Usage
from .nvrtc import Nvrtc, NvrtcError, headers, nvrtc

SPILLED = 64
"""Bytes that a thread spills beyond which code is assembled once more."""

_BLOCK = re.compile(r"(^\.maxntid .*$)(\n\.minnctapersm .*$)?", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCode:
    """Machine code for one architecture (an ELF file, a cubin), the PTX it was made of, and what its kernels take."""

    arch: str
    ptx: str
    cubin: bytes
    usage: tuple[Usage, ...]


def compile_source(source: str, arch: str) -> DeviceCode:
    """The machine code of CUDA C++ ``source`` for ``arch`` (``sm_90a``), by nvcc, or by NVRTC where there is no nvcc.

    Arithmetic is as written: no fast mathematics, subnormal numbers are kept. Raises EinfallError E1205 where there is no CUDA
    compiler, E1206 where the one that is there cannot compile for this architecture.
    """
    if (path := nvcc()) is not None:
        return _by_nvcc(path, source, arch)
    if (library := nvrtc()) is not None:
        return _by_nvrtc(library, source, arch)
    raise error(
        "E1205",
        "there is no CUDA compiler: nvcc is neither in CUDA_HOME nor in PATH, and there is no NVRTC either",
        help="install the CUDA toolkit (12 or later) or set CUDA_HOME to its folder, or "
        "pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-cccl; no GPU is needed",
    )


@lru_cache(maxsize=1)
def nvcc() -> str | None:
    """The path of nvcc: of CUDA_HOME or CUDA_PATH, of PATH, where the toolkit is installed by default, or of a package."""
    return program("nvcc")


def identity() -> str:
    """What tells the compiler that is used from others: its place, and when it was installed."""
    path = nvcc() or ((library := nvrtc()) and library.path)
    if not path:
        return ""
    place = Path(path).resolve()
    return f"{place} {place.stat().st_mtime_ns}" if place.exists() else path


def _by_nvcc(path: str, source: str, arch: str) -> DeviceCode:
    with tempfile.TemporaryDirectory(prefix="einfall-", ignore_cleanup_errors=True) as folder:
        text, ptx = (Path(folder) / f"kernel.{kind}" for kind in ("cu", "ptx"))
        text.write_text(source, "utf-8")
        virtual = arch.replace("sm_", "compute_")
        _run(path, ["-ptx", "-std=c++17", f"-arch={virtual}", "-o", str(ptx), str(text)], arch)
        return assembled(ptx.read_text("utf-8"), arch)


def assembled(ptx: str, arch: str) -> DeviceCode:
    """The machine code of PTX for one of the architectures that it suits. Needs nvcc; raises as `compile_source` does."""
    path = nvcc()
    if path is None:
        raise error("E1205", "there is no nvcc, which assembles PTX", help="set CUDA_HOME to the folder of a CUDA toolkit")
    # ptxas spills to leave room for a second block, and holds what it could compute again.
    careful = ["-Xptxas", "--register-usage-level=0"]
    alone = _BLOCK.sub(r"\1\n.minnctapersm 1", ptx)
    best: DeviceCode | None = None
    for text, options in ((ptx, []), (ptx, careful), (alone, careful)):
        made = replace(_assembled(path, text, arch, options), ptx=ptx)
        best = made if best is None else min(best, made, key=_spilled)
        if _spilled(best) <= SPILLED:
            break
    assert best is not None
    return best


def _assembled(path: str, ptx: str, arch: str, options: list[str]) -> DeviceCode:
    with tempfile.TemporaryDirectory(prefix="einfall-", ignore_cleanup_errors=True) as folder:
        text, made = (Path(folder) / f"kernel.{kind}" for kind in ("ptx", "cubin"))
        text.write_text(ptx, "utf-8")
        said = _run(path, ["-cubin", f"-arch={arch}", "-Xptxas", "-v", *options, "-o", str(made), str(text)], arch)
        return DeviceCode(arch=arch, ptx=ptx, cubin=made.read_bytes(), usage=tuple(usage_of(said)))


def _spilled(code: DeviceCode) -> int:
    """The most bytes that a thread of one of the kernels spills."""
    return max((usage.spill_stores for usage in code.usage), default=0)


def _by_nvrtc(library: Nvrtc, source: str, arch: str) -> DeviceCode:
    options = [f"-arch={arch}", "-std=c++17", "-w", "--ptxas-options=-v", *headers()]
    try:
        made = library.compile(source, options)
    except NvrtcError as failure:
        said = str(failure)
        if "could not open source file" in said:
            raise error(
                "E1205",
                f"NVRTC ({library.path}) is here, but not CUDA's headers: {said.partition(chr(10))[0]}",
                help="pip install nvidia-cuda-runtime nvidia-cuda-cccl, or set CUDA_HOME to the folder of a toolkit",
            ) from None
        if "invalid value for --gpu-architecture" in said:
            raise _too_old(library.path, arch) from None
        raise RuntimeError(f"NVRTC failed:\n{said[:4000]}") from None
    return DeviceCode(arch=arch, ptx=made.ptx, cubin=made.cubin, usage=tuple(usage_of(made.said)))


def _run(path: str, arguments: list[str], arch: str) -> str:
    done = subprocess.run([path, "-O3", "-w", *arguments], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode == 0:
        return said
    if "nsupported gpu architecture" in said or "is not defined for option" in said:
        raise _too_old(path, arch)
    raise RuntimeError(f"nvcc failed:\n{said[:4000]}")


def _too_old(path: str, arch: str) -> EinfallError:
    return error(
        "E1206",
        f"{path} makes no code for {arch}",
        help="install a CUDA toolkit that knows this architecture, or choose an older one, such as cuda:sm_80",
    )


_KERNEL = re.compile(r"Compiling entry function '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def usage_of(said: str) -> Iterator[Usage]:
    """The figures of each kernel, in the form that ``ptxas -v`` prints them."""
    kernel, stack = "", (0, 0, 0)
    for line in said.splitlines():
        if found := _KERNEL.search(line):
            kernel, stack = found[1], (0, 0, 0)
        elif found := _SPILLS.search(line):
            stack = (int(found[1]), int(found[2]), int(found[3]))
        elif kernel and (found := _USED.search(line)):
            shared = _SHARED.search(line)
            yield Usage(
                kernel=kernel, registers=int(found[1]), shared=int(shared[1]) if shared else 0, stack=stack[0],
                spill_stores=stack[1], spill_loads=stack[2],
            )  # fmt: skip
            kernel = ""
