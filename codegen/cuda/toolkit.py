"""CUDA C++ to machine code: the compiler of the CUDA toolkit, wherever it lies. Neither a driver nor a GPU is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...ir.diagnostics import error
from ...ir.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCode:
    """Machine code for one architecture (an ELF file, a cubin), the PTX it was made of, and what its kernels take."""

    arch: str
    ptx: str
    cubin: bytes
    usage: tuple[Usage, ...]


def compile_source(source: str, arch: str) -> DeviceCode:
    """The machine code of CUDA C++ ``source`` for ``arch`` (``sm_90a``).

    Arithmetic is as written: no fast mathematics, subnormal numbers are kept. Raises EinfallError E1205 where there is no CUDA
    compiler, E1206 where the one that is there cannot compile for this architecture.
    """
    with tempfile.TemporaryDirectory(prefix="einfall-", ignore_cleanup_errors=True) as folder:
        text, ptx, made = (Path(folder) / f"kernel.{kind}" for kind in ("cu", "ptx", "cubin"))
        text.write_text(source, "utf-8")
        virtual = arch.replace("sm_", "compute_")
        _nvcc(["-ptx", "-std=c++17", f"-arch={virtual}", "-o", str(ptx), str(text)], arch)
        said = _nvcc(["-cubin", f"-arch={arch}", "-Xptxas", "-v", "-o", str(made), str(ptx)], arch)
        usage = tuple(_usage(said))
        return DeviceCode(arch=arch, ptx=ptx.read_text("utf-8"), cubin=made.read_bytes(), usage=usage)


@lru_cache(maxsize=1)
def nvcc() -> str | None:
    """The path of nvcc: of CUDA_HOME or CUDA_PATH, of PATH, or where the toolkit is installed by default."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if (home := os.environ.get(variable)) and (found := shutil.which("nvcc", path=str(Path(home) / "bin"))):
            return found
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def _nvcc(arguments: list[str], arch: str) -> str:
    path = nvcc()
    if path is None:
        raise error(
            "E1205",
            "there is no CUDA compiler: nvcc is neither in CUDA_HOME nor in PATH",
            help="install the CUDA toolkit (12 or later), or set CUDA_HOME to its folder; no GPU is needed",
        )
    command = [path, "-O3", "-w", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode == 0:
        return said
    if "nsupported gpu architecture" in said or "is not defined for option" in said:
        raise error(
            "E1206",
            f"{path} makes no code for {arch}",
            help="install a CUDA toolkit that knows this architecture, or choose an older one, such as cuda:sm_80",
        )
    raise RuntimeError(f"nvcc failed:\n{said[:4000]}")


_KERNEL = re.compile(r"Compiling entry function '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def _usage(said: str) -> Iterator[Usage]:
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
