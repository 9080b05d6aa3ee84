"""GPUs as the runtime needs them: whether there is one, and a kernel's machine code on it. TVM's runtime does for all of it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from functools import lru_cache

from ..ir.cuda_places import libraries
from ..ir.diagnostics import EinfallError, error
from .driver import driver
from .streams import CUDA
from .tvm_runtime import global_function, load_library, tvm_ffi

RUNTIME = 13
"""The major version of CUDA's runtime library that TVM's is linked with: the driver must know it."""

ARCHITECTURE = re.compile(r"sm_(\d+)(\d)([af]?)")
"""The name of a CUDA architecture: major and minor number, and a letter where it is for these alone."""

_EXISTS, _COMPUTE_CAPABILITY, _FREE_MEMORY = 0, 4, 15  # TVM's DeviceAttrKind


@lru_cache(maxsize=1)
def missing_driver() -> str | None:
    """Why no CUDA kernel can run in this process, as the driver or the loader of TVM's runtime tells; None where one can."""
    found = driver()
    if found.reason:
        return found.reason
    if found.version < (RUNTIME, 0):
        newest = ".".join(map(str, found.version))
        return f"the NVIDIA driver runs CUDA up to {newest}, TVM's runtime needs {RUNTIME}.0: the driver is to be updated"
    tvm_ffi()
    if not _load_cuda_runtime():
        return f"CUDA's runtime library, libcudart.so.{RUNTIME}, is missing: pip install nvidia-cuda-runtime=={RUNTIME}.*"
    try:
        load_library("tvm_runtime_cuda")
    except (OSError, RuntimeError) as failure:
        return str(failure).strip().partition("\n")[0]
    return None


def _load_cuda_runtime() -> bool:
    """Whether CUDA's runtime library is in the process, so that TVM's finds it: the one that is there (PyTorch's), that of a
    toolkit, or that of a package of pip."""
    name = f"libcudart.so.{RUNTIME}"
    for candidate in (name, *map(str, libraries(name))):
        try:
            ctypes.CDLL(candidate, mode=ctypes.RTLD_GLOBAL)
            return True
        except OSError:
            continue
    return False


def capability(device: int) -> str | None:
    """The compute capability (``"9.0"``) of GPU number ``device``; None where there is no such GPU."""
    if missing_driver() is not None:
        return None
    ask = global_function("runtime.GetDeviceAttr")
    if not ask(CUDA, device, _EXISTS):
        return None
    return str(ask(CUDA, device, _COMPUTE_CAPABILITY))


@lru_cache(maxsize=256)
def check_device(name: str, arch: str, device: int) -> None:
    """Raise EinfallError E1207 unless GPU number ``device`` is there, E1106 unless it runs machine code for ``arch``.

    Code for sm_XY runs on capabilities X.Z with Z at least Y, and code for sm_XYa on X.Y alone (CUDA C++ Programming Guide,
    section Application Compatibility).
    """
    reason, found = missing_driver(), capability(device)
    if reason is not None or found is None:
        raise no_device(name, arch, reason or f"there is no GPU number {device}")
    numbers = ARCHITECTURE.fullmatch(arch)
    assert numbers is not None, arch
    major, minor = (int(n) for n in found.split("."))
    fits = major == int(numbers[1]) and (minor == int(numbers[2]) if numbers[3] else minor >= int(numbers[2]))
    if not fits:
        raise error(
            "E1106",
            f"`{name}` was compiled for {arch}, but GPU {device} has compute capability {found}",
            help=f'compile it for this GPU: target="cuda:sm_{major}{minor}"',
        )


@lru_cache(maxsize=16)
def gpu_memory(device: int) -> tuple[int, str]:
    """(bytes of memory of a GPU that is there, whose they are)."""
    return driver().devices[device].memory, f"GPU {device}'s"


def _free_memory(device: int) -> int:
    found = global_function("runtime.GetDeviceAttr")(CUDA, device, _FREE_MEMORY)
    return found if isinstance(found, int) else 0


def explained(name: str, arch: str, text: str) -> EinfallError | None:
    """What the user is told where a call failed with this ``text``; None where it tells nothing that they could change."""
    if "out of memory" in text or "cudaErrorMemoryAllocation" in text:
        free = ", ".join(f"{_free_memory(each.number) >> 20} of {each.memory >> 20} MiB" for each in driver().devices)
        return error(
            "E1013",
            f"there is not enough memory on the GPU for `{name}` with these sizes",
            notes=[f"free: {free}"],
            help="free other arrays; what PyTorch keeps of freed ones, torch.cuda.empty_cache() gives back",
        )
    if "cuModuleLoad" in text:
        newest = ".".join(map(str, driver().version))
        reason = text.strip().splitlines()[0].rpartition("error: ")[2]
        return error(
            "E1106",
            f"the NVIDIA driver (for CUDA up to {newest}) does not load the machine code of `{name}` for {arch}: {reason}",
            help="update the driver, or compile the kernel with a CUDA toolkit that is no newer than it",
        )
    return None


def no_device(name: str, arch: str, reason: str) -> EinfallError:
    """What is said where a kernel cannot run for want of a GPU."""
    return error(
        "E1207",
        f"`{name}` ({arch}) cannot run here: {reason}",
        help='a CUDA kernel needs an NVIDIA GPU and its driver; target="cpu" runs everywhere',
    )


def finish(device: int) -> None:
    """Waits until GPU number ``device`` has done what its current stream was given. For measuring: calls wait for nobody."""
    gpu = tvm_ffi().device("cuda", device)
    global_function("runtime.Device_StreamSync")(gpu, tvm_ffi().get_raw_stream(gpu))


def device_function(module: object, cubin: bytes, launches: str) -> Callable[..., object]:
    """A kernel's function, of the module of its host part, with its machine code for the GPU.

    ``launches`` is TVM's JSON about the kernels in it. Raises what the loader raises.
    """
    known = global_function("runtime.LoadMetaDataFromJSON")(launches)
    module.import_module(global_function("ffi.Module.create.cuda")(cubin, "cubin", known, {}))  # type: ignore[attr-defined]
    function: Callable[..., object] = module["main"]  # type: ignore[index]
    return function
