"""What ptxas says of a CUDA source: registers, shared memory, stack and spills of each kernel."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

KERNEL = re.compile(r"Compiling entry function '(\w+)' for")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


class NvccError(Exception):
    """nvcc refused a source; the text has its messages."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Of one kernel: registers of a thread, bytes of static shared memory of a block, the rest bytes of a thread."""

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int

    @property
    def spills(self) -> int:
        return self.spill_stores + self.spill_loads


@functools.cache
def nvcc() -> str | None:
    """The path of nvcc, or None where there is none."""
    return shutil.which("nvcc") or (str(path) if (path := Path("/usr/local/cuda/bin/nvcc")).exists() else None)


def report(source: str, arch: str) -> dict[str, Usage]:
    """Compiles a source for one architecture (`sm_80`, `sm_90a`) and returns the figures by kernel.

    Raises NvccError when nvcc is missing or refuses the source.
    """
    compiler = nvcc()
    if compiler is None:
        raise NvccError("there is no nvcc")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cu"
        path.write_text(source, "utf-8")
        flags = ["-cubin", "-O3", "-w", f"-arch={arch}", "--use_fast_math", "-Xptxas", "-v", "-o", f"{path}.cubin"]
        done = subprocess.run([compiler, *flags, path], capture_output=True, text=True)
    if done.returncode:
        raise NvccError("\n".join((done.stdout + done.stderr).splitlines()[:20]))
    return parsed(done.stdout + done.stderr)


def parsed(text: str) -> dict[str, Usage]:
    """The figures in the output of `ptxas -v`."""
    usages = {}
    for name, part in zip(*[iter(KERNEL.split(text)[1:])] * 2, strict=True):
        stack, used, shared = STACK.search(part), USED.search(part), SHARED.search(part)
        if stack is None or used is None:
            raise NvccError(f"no figures for {name}: {part}")
        usages[name] = Usage(
            registers=int(used[1]),
            shared=int(shared[1]) if shared else 0,
            stack=int(stack[1]),
            spill_stores=int(stack[2]),
            spill_loads=int(stack[3]),
        )
    return usages
