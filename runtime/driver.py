"""NVIDIA's driver, asked directly: which GPUs this machine has. Needs libcuda.so.1 and nothing else; makes no context."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU: its number among those that this process may use (CUDA_VISIBLE_DEVICES), compute capability, bytes of memory."""

    number: int
    name: str
    major: int
    minor: int
    memory: int

    @property
    def capability(self) -> str:
        """``"9.0"``"""
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """What the driver says: the newest CUDA that it runs (13, 0), its GPUs, and why there are none."""

    version: tuple[int, int] = (0, 0)
    devices: tuple[Device, ...] = ()
    reason: str = ""


@lru_cache(maxsize=1)
def driver() -> Driver:
    """What the driver of this machine says. Never raises: ``reason`` is not empty where there is nothing to run on."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return Driver(reason=f"there is no NVIDIA driver ({_LIBRARY} is not installed)")
    version = ctypes.c_int()
    if failed := _failure(library, library.cuDriverGetVersion(ctypes.byref(version))):
        return Driver(reason=f"the NVIDIA driver does not answer: {failed}")
    numbers = (version.value // 1000, version.value % 1000 // 10)
    count = ctypes.c_int()
    failed = _failure(library, library.cuInit(0)) or _failure(library, library.cuDeviceGetCount(ctypes.byref(count)))
    if failed:
        return Driver(version=numbers, reason=f"the NVIDIA driver finds no GPU: {failed}")
    devices = tuple(_devices(library, count.value))
    return Driver(version=numbers, devices=devices, reason="" if devices else "the NVIDIA driver finds no GPU")


def _devices(library: ctypes.CDLL, count: int) -> Iterator[Device]:
    for number in range(count):
        handle, major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
        name = ctypes.create_string_buffer(256)
        results = (
            library.cuDeviceGet(ctypes.byref(handle), number),
            library.cuDeviceGetName(name, len(name), handle),
            library.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle),
            library.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle),
            library.cuDeviceTotalMem_v2(ctypes.byref(memory), handle),
        )
        if not any(results):
            shown = name.value.decode(errors="replace")
            yield Device(number=number, name=shown, major=major.value, minor=minor.value, memory=memory.value)


def _failure(library: ctypes.CDLL, code: int) -> str | None:
    """The name of what went wrong; None where nothing did."""
    if code == 0:
        return None
    text = ctypes.c_char_p()
    library.cuGetErrorName(code, ctypes.byref(text))
    return (text.value or b"").decode(errors="replace") or f"error {code}"
