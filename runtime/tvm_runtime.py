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
from pathlib import Path
from types import ModuleType


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

    Its tensors are taken by kernels all the same: `torch_arrays.py` reads them by itself.
    """
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
    """The bindings, with TVM's runtime library loaded. Raises ImportError, or OSError, where they are broken or missing."""
    with importing_tvm():
        import tvm_ffi
    package = importlib.util.find_spec("tvm")
    if package is None:
        raise ModuleNotFoundError("No module named 'tvm'", name="tvm")
    named = os.environ.get("TVM_LIBRARY_PATH")
    places = [Path(named)] if named else []
    for folder in map(Path, package.submodule_search_locations or ()):
        places += [folder / "lib", folder.parent.parent / "build/lib", folder.parent.parent / "lib"]
    # The loader keeps it, so that `import tvm` finds the same library, before, after or meanwhile in another thread.
    tvm_ffi.libinfo.load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=places)
    bindings: ModuleType = tvm_ffi
    return bindings


def load_functions(library: Path, names: Sequence[str]) -> tuple[Callable[..., object], ...]:
    """Functions of a kernel's library. Raises what :func:`tvm_ffi` does, and what the loader does."""
    module = tvm_ffi().load_module(str(library))
    return tuple(module[name] for name in names)


def global_function(name: str) -> Callable[..., object]:
    """A function of TVM's runtime by its registered name. Raises ValueError for one that it lacks."""
    found: Callable[..., object] = tvm_ffi().get_global_func(name)
    return found
