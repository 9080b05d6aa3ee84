"""TVM's runtime as kernels need it: its library and its Python bindings, without the compiler and without PyTorch.

`import tvm` brings in the compiler (250 MB) and, where it is installed, all of PyTorch, which takes seconds. A compiled
kernel needs neither.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from types import ModuleType

from ..ir.diagnostics import EinfallError, error


class _WithoutTorch(MetaPathFinder):
    """Hides PyTorch from the imports of one thread."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "torch" and threading.get_ident() == self.thread:
            raise ModuleNotFoundError("PyTorch is not imported on behalf of TVM", name=name)
        return None


@contextmanager
def importing_tvm() -> Iterator[None]:
    """For imports of tvm and tvm_ffi: they do without PyTorch unless the process has imported it already.

    Its tensors are taken by kernels all the same: `torch_arrays.py` reads them by itself. Raises EinfallError E1113 where TVM
    is missing or broken.
    """
    try:
        with _without_torch():
            yield
    except (ImportError, OSError, RuntimeError) as failure:
        if (getattr(failure, "name", None) or "").startswith("einfall"):
            raise  # a mistake of ours
        raise without_tvm(str(failure).strip().partition("\n")[0] or type(failure).__name__) from None


def without_tvm(reason: str) -> EinfallError:
    """What the user is told where TVM cannot be used."""
    wanted = [need.partition(";")[0].strip() for need in _requirements() if need.startswith("apache-tvm")]
    return error("E1113", f"TVM cannot be loaded: {reason}", help=f"pip install {' '.join(wanted or ['apache-tvm'])}")


def _requirements() -> list[str]:
    try:
        return requires("einfall") or []
    except PackageNotFoundError:
        return []


@contextmanager
def _without_torch() -> Iterator[None]:
    if "torch" in sys.modules or sys.platform == "win32":  # there tvm_ffi wants to come after PyTorch
        yield
        return
    finder = _WithoutTorch()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@lru_cache(maxsize=1)
def tvm_ffi() -> ModuleType:
    """The bindings, with TVM's runtime library loaded. Raises EinfallError E1113 where they are broken or missing."""
    with importing_tvm():
        import tvm_ffi

        bindings: ModuleType = tvm_ffi
        load_library("tvm_runtime", bindings)
    return bindings


def load_library(name: str, bindings: ModuleType | None = None) -> None:
    """Loads one of TVM's libraries. The loader keeps it, so that `import tvm` finds the same one, before, after or meanwhile in
    another thread. Raises ImportError, OSError or RuntimeError where it is broken or missing."""
    package = importlib.util.find_spec("tvm")
    if package is None:
        raise ModuleNotFoundError("No module named 'tvm'", name="tvm")
    named = os.environ.get("TVM_LIBRARY_PATH")
    places = [Path(named)] if named else []
    for folder in map(Path, package.submodule_search_locations or ()):
        places += [folder / "lib", folder.parent.parent / "build/lib", folder.parent.parent / "lib"]
    ffi = tvm_ffi() if bindings is None else bindings
    ffi.libinfo.load_lib_ctypes("tvm", name, "RTLD_GLOBAL", extra_lib_paths=places)


def load_functions(library: Path, names: Sequence[str]) -> tuple[Callable[..., object], ...]:
    """Functions of a kernel's library. Raises what :func:`tvm_ffi` does, and what the loader does."""
    module = tvm_ffi().load_module(str(library))
    return tuple(module[name] for name in names)


def global_function(name: str) -> Callable[..., object]:
    """A function of TVM's runtime by its registered name. Raises ValueError for one that it lacks."""
    found: Callable[..., object] = tvm_ffi().get_global_func(name)
    return found
