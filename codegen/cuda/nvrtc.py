"""NVRTC, CUDA's compiler as a library: for machines that have it (PyTorch brings it along) and no nvcc."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...ir.cuda_places import include_folders, libraries

_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12")
_COMPILATION_FAILED = 6  # NVRTC_ERROR_COMPILATION; other codes are mistakes of the call


class NvrtcError(Exception):
    """NVRTC refused a source or an option; the text has its messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What NVRTC made of a source: PTX, machine code (an ELF file), and what its assembler said of the registers."""

    ptx: str
    cubin: bytes
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Nvrtc:
    """The library: where it was found, and its version (13, 0)."""

    library: ctypes.CDLL
    path: str
    version: tuple[int, int]

    def compile(self, source: str, options: list[str]) -> Compiled:
        """Compiles CUDA C++ for the architecture in ``options``. Raises NvrtcError with what the compiler says."""
        call, program = self.library, ctypes.c_void_p()
        made = call.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
        if made:
            raise NvrtcError(self._name(made))
        try:
            given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = call.nvrtcCompileProgram(program, len(options), given)
            said = self._text(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            if failed:
                raise NvrtcError(said.strip() if failed == _COMPILATION_FAILED else f"{self._name(failed)} {said}".strip())
            ptx, cubin = self._text(program, "PTX").rstrip(b"\0").decode(), self._text(program, "CUBIN")
            return Compiled(ptx=ptx, cubin=cubin, said=said)
        finally:
            call.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        code = getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        found = ctypes.create_string_buffer(size.value)
        code = code or getattr(self.library, f"nvrtcGet{what}")(program, found)
        if code:
            raise NvrtcError(f"there is no {what}: {self._name(code)}")
        return found.raw

    def _name(self, code: int) -> str:
        said = self.library.nvrtcGetErrorString
        said.restype = ctypes.c_char_p
        return (said(code) or b"").decode(errors="replace") or f"error {code}"


@lru_cache(maxsize=1)
def nvrtc() -> Nvrtc | None:
    """The newest NVRTC that the loader finds by its name, or that lies where toolkits and pip's packages are; None without."""
    for candidate in _candidates():
        try:
            for beside in sorted(candidate.parent.glob("libnvrtc-builtins.so.*")):  # which the library does not find by itself
                ctypes.CDLL(str(beside))
            library = ctypes.CDLL(str(candidate))
            major, minor = ctypes.c_int(), ctypes.c_int()
            if library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) == 0:
                return Nvrtc(library=library, path=str(candidate), version=(major.value, minor.value))
        except (OSError, AttributeError):
            continue
    return None


def headers() -> list[str]:
    """The options that name the folders with CUDA's headers, such as cuda_fp16.h, which NVRTC does not bring along."""
    found: dict[str, None] = {}
    for folder in include_folders():
        found |= {f"-I{each}": None for each in (folder, folder / "cccl") if each.is_dir()}
    return list(found)


def _candidates() -> Iterator[Path]:
    yield from map(Path, _NAMES)
    yield from libraries("libnvrtc.so.*")
