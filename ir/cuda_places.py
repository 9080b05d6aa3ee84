"""Where NVIDIA's software lies on a machine: the folders of CUDA toolkits, and those of the packages that pip installs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

DEFAULT = Path("/usr/local/cuda")
"""Where the installer of the toolkit puts it."""


def homes() -> Iterator[Path]:
    """The folders of toolkits, best first: what CUDA_HOME and CUDA_PATH name, that of the nvcc in PATH, the default one."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            yield Path(home)
    if found := shutil.which("nvcc"):
        yield Path(found).resolve().parent.parent
    yield DEFAULT


def packages() -> Iterator[Path]:
    """The folders in which pip's packages of CUDA have `bin`, `include` and `lib`: one for all from CUDA 13 on
    (`nvidia/cu13`), one for each before (`nvidia/cuda_nvrtc`)."""
    for place in dict.fromkeys(sys.path):
        folder = Path(place or ".") / "nvidia"
        if folder.is_dir():
            yield from sorted((each for each in folder.iterdir() if each.is_dir()), key=lambda each: each.name, reverse=True)


def libraries(pattern: str) -> Iterator[Path]:
    """The shared libraries whose names match, such as ``libnvrtc.so.*``: those of toolkits before those of packages."""
    for folder in (*homes(), *packages()):
        for below in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
            yield from sorted((folder / below).glob(pattern), reverse=True)


def include_folders() -> Iterator[Path]:
    """Every folder with headers of CUDA."""
    for folder in (*homes(), *packages()):
        if (found := folder / "include").is_dir():
            yield found


def program(name: str) -> str | None:
    """The path of a program of the toolkit, such as nvcc: in CUDA_HOME or CUDA_PATH, in PATH, in the default folder, or in one
    of pip's packages."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if (home := os.environ.get(variable)) and (found := shutil.which(name, path=str(Path(home) / "bin"))):
            return found
    places = [DEFAULT, *packages()]
    return shutil.which(name) or next((p for folder in places if (p := shutil.which(name, path=str(folder / "bin")))), None)
