"""einfall: write a kernel as a cascade of Einsums, get a fused, checked and fast implementation of it.

Importing the package is cheap: each public name is loaded when it is first used (PEP 562), so that
TVM, PyTorch and SymPy are imported only by what needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compiler.driver import check as check
    from .compiler.driver import compile as compile
    from .compiler.driver import interpret as interpret
    from .compiler.driver import load as load
    from .frontend.formatter import format_source as format  # noqa: F401
    from .ir.diagnostics import EinfallError as EinfallError
    from .ir.target import Target as Target
    from .runtime.kernel import Kernel as Kernel

__version__ = "0.1.0"

_HOME = {
    "EinfallError": ".ir.diagnostics",
    "Kernel": ".runtime.kernel",
    "Target": ".ir.target",
    "check": ".compiler.driver",
    "compile": ".compiler.driver",
    "format": ".frontend.formatter:format_source",
    "interpret": ".compiler.driver",
    "load": ".compiler.driver",
}
"""Where each public name is defined; `:` gives its name there when that is another one."""

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 (the keys are strings)


def __getattr__(name: str) -> object:
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    module, _, inner = home.partition(":")
    value: object = getattr(import_module(module, __name__), inner or name)
    globals()[name] = value  # the next access no longer comes here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
