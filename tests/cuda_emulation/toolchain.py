"""g++ and the cache of what it built: the emulator's runtime, translated kernels, the stand-ins for the CUDA libraries."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
INCLUDE = HERE / "include"
RUNTIME = HERE / "runtime"

WARNINGS = ("-Wall", "-Wextra", "-Wno-unused-parameter")


class BuildError(Exception):
    """g++ refused a translated source; the text has its first messages."""


@functools.cache
def why_not() -> str | None:
    """Why the emulator cannot work here, or None."""
    if platform.machine() not in {"x86_64", "AMD64"} or platform.system() != "Linux":
        return "the emulator of CUDA switches fibers in x86-64 assembly and runs on Linux"
    if shutil.which("g++") is None:
        return "the emulator of CUDA needs g++"
    if version() < 9:
        return f"the emulator of CUDA needs g++ 9 or newer, this is {version()}"
    return None


@functools.cache
def version() -> int:
    """Major version of g++."""
    said = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True).stdout
    return int(said.split(".")[0])


def folder() -> Path:
    """Where built libraries are kept: under EINFALL_CACHE_DIR, or the system's temporary folder."""
    top = os.environ.get("EINFALL_CACHE_DIR")
    path = Path(top) / "cuda-emulation" if top else Path(tempfile.gettempdir()) / f"einfall-cuda-emulation-{os.getuid()}"
    path.mkdir(parents=True, exist_ok=True)
    return path


@functools.cache
def equipment() -> str:
    """A hash of the emulator's own C++ and of g++'s version: part of the key of everything built."""
    files = sorted([*INCLUDE.glob("*"), *RUNTIME.glob("*")])
    text = b"".join(path.name.encode() + path.read_bytes() for path in files) + str(version()).encode()
    return hashlib.sha256(text).hexdigest()


def key(*parts: str) -> str:
    return hashlib.sha256("\0".join([equipment(), *parts]).encode()).hexdigest()[:24]


def gxx(arguments: Sequence[str | Path]) -> None:
    """Runs g++. Raises BuildError with what it says when it fails."""
    done = subprocess.run(["g++", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if re.search(r"error|undefined", line)]
        raise BuildError("\n".join(errors[:12]) or done.stderr[-3000:])


def kept(name: str, build: str, arguments: Sequence[str | Path]) -> Path:
    """The library `name` of the cache folder `build`, made by g++ with these arguments if it is not there.

    Another process may build the same at the same time: each writes its own file and renames it.
    """
    place = folder() / build
    target = place / name
    if not target.exists():
        place.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            made = Path(scratch) / name
            gxx([*arguments, "-o", made])
            made.replace(target)
    return target


@functools.cache
def runtime() -> Path:
    """The library that runs kernels."""
    sources = [path for path in sorted(RUNTIME.glob("*.cpp")) if not path.name.startswith("stand_in_")]
    flags = ["-std=c++17", "-O2", "-fPIC", *WARNINGS]
    build = key("runtime", *flags)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        objects = list(pool.map(lambda path: kept(f"{path.stem}.o", build, [*flags, "-c", path]), sources))
    return kept("libemulation.so", build, ["-shared", "-Wl,-soname,libemulation.so", *objects, "-ldl"])


@functools.cache
def precompiled() -> Path:
    """The folder with kernel.h, compiled: most of what g++ reads for a small kernel."""
    flags = kernel_flags()
    return kept("kernel.h.gch", key("header", *flags), [*flags, "-x", "c++-header", INCLUDE / "kernel.h"]).parent


def kernel_flags() -> list[str]:
    """How translated kernels are compiled.

    The sanitizers only instrument: every access to memory that is not provably a thread's own becomes a call of the
    runtime's check, and what they find themselves a report. Their libraries are not linked.
    """
    flags = ["-std=gnu++17", "-O1", "-g1", "-w", "-fPIC", "-fvisibility=hidden", "-I", str(INCLUDE)]
    flags += ["-fno-strict-aliasing", "-fwrapv", "-ffp-contract=off", "-fno-exceptions"]
    flags += ["-fsanitize=thread,alignment,bounds,object-size,integer-divide-by-zero"]
    if version() >= 12:
        flags += ["-ftrivial-auto-var-init=pattern"]  # poisons accumulators that nobody cleared
    return flags


def kernel_library(cuda: str, translated: str) -> tuple[Path, Path]:
    """(library, file with the CUDA source) of a translated source."""
    build = key("kernel", cuda, translated, *kernel_flags())
    place = folder() / build
    source, library = place / "kernel.cu", place / "kernel.so"
    if not library.exists():
        place.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            text, made, linked = (Path(scratch) / name for name in ("kernel.cpp", "kernel.o", "kernel.so"))
            text.write_text(translated, "utf-8")
            gxx(["-I", precompiled(), *kernel_flags(), "-c", text, "-o", made])
            gxx(["-shared", made, "-o", linked])  # apart from compiling: -fsanitize would link the sanitizers' libraries
            (Path(scratch) / "kernel.cu").write_text(cuda, "utf-8")
            for path in (text, linked):
                path.replace(place / path.name)
            (Path(scratch) / "kernel.cu").replace(source)
    return library, source
