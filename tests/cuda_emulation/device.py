"""TVM's own runtime on the emulator: `tvm.cuda(0)` exists and runs whole compiled modules.

The stand-ins for the CUDA libraries must be in the process before TVM's CUDA runtime, and stay: work in a process of its
own, through `Worker`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

from . import toolchain
from .emulator import ORDERS, EmulationError, library
from .translation import translated

P = ParamSpec("P")
T = TypeVar("T")

MAGIC = b"EMULATED:"


def stand_ins() -> Sequence[Path]:
    """libcudart.so.13 and libcuda.so.1 with the emulator behind them."""
    sources = toolchain.RUNTIME
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", *toolchain.WARNINGS]
    versioned = f"-Wl,--version-script={sources / 'cudart.map'}"
    build = toolchain.key("stand-ins")
    return [
        toolchain.kept(name, build, [*flags, f"-Wl,-soname,{name}", *extra, sources / source])
        for name, source, extra in (
            ("libcudart.so.13", "stand_in_runtime.cpp", [versioned]),
            ("libcuda.so.1", "stand_in_driver.cpp", []),
        )
    ]


def install() -> None:
    """Makes this process's CUDA device the emulator, for good.

    Raises RuntimeError when TVM's CUDA runtime is already loaded on the real libraries.
    """
    library()
    for path in stand_ins():
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    import tvm
    import tvm_ffi

    if tvm_ffi.get_global_func("device_api.cuda", allow_missing=True) is None:
        runtime = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
        ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
    tvm_ffi.register_global_func("tvm_callback_cuda_compile", compiled, override=True)
    if not tvm.cuda(0).exist or tvm.cuda(0).device_name != "CUDA emulator":
        raise RuntimeError("TVM's CUDA runtime was loaded before the emulator")


def compiled(source: str, *_target: object) -> bytes:
    """What TVM embeds in a module instead of machine code."""
    text, _ = translated(source)
    path, cuda = toolchain.kernel_library(source, text)
    return MAGIC + f"{path}\n{cuda}".encode() + b"\0"


def set_order(order: int, seed: int = 0) -> None:
    """The order of threads and blocks of the launches from now on: one of `emulator.ORDERS`."""
    library().emulation_set_order(order, seed)


def in_every_order(run: Callable[[], T], orders: Sequence[tuple[int, int]] = ORDERS) -> list[T]:
    """The results of `run` in each order of the threads."""
    results = []
    for order in orders:
        set_order(*order)
        results.append(run())
    set_order(*ORDERS[0])
    return results


class Worker:
    """A process whose CUDA device is the emulator; functions of importable modules run in it.

    with Worker() as worker:
        result = worker.run(function, arguments...)
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=install)
        root = str(Path(__file__).parents[2])  # pytest imports tests by names that begin there, without it in sys.path
        sys.path.append(root)
        try:
            self._pool.submit(os.getpid).result()  # the process takes this sys.path over when it starts
        finally:
            sys.path.remove(root)

    def run(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Calls a module-level function in the worker. What it raises is raised here.

        Raises EmulationError for a defect of a kernel.
        """
        return self._pool.submit(called, function, arguments, named).result()

    def close(self) -> None:
        self._pool.shutdown()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def called(function: Callable[..., T], arguments: tuple[object, ...], named: dict[str, object]) -> T:
    """A call in which TVM's error of a failed launch becomes the emulator's, without the source that TVM adds."""
    library().emulation_forget_error()
    try:
        return function(*arguments, **named)
    except Exception:
        if reason := library().emulation_last_error():
            raise EmulationError(reason.decode(errors="replace")) from None
        raise
