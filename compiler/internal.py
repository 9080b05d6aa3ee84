"""Defects of einfall, reported as such: no traceback of Python or TVM reaches a user who did not ask for it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ..ir.diagnostics import EinfallError, error


@contextmanager
def reporting_defects(what: str) -> Iterator[None]:
    """Turn every exception but EinfallError into one with code E9001. ``what`` is what was being done."""
    try:
        yield
    except EinfallError:
        raise
    except Exception as failure:
        raise defect(failure, what) from None


def defect(failure: Exception, what: str) -> EinfallError:
    """The error to show for an exception that no input should cause; EINFALL_DEBUG=1 prints where it came from."""
    if os.environ.get("EINFALL_DEBUG", "") not in ("", "0"):
        traceback.print_exception(failure, file=sys.stderr)
    if isinstance(failure, ModuleNotFoundError) and failure.name and not failure.name.startswith("einfall"):
        missing = failure.name.partition(".")[0]
        text = f"the compiler needs the package `{missing}`, which is not installed"
        return error("E1113", text, help="pip install einfall, with its dependencies; saved kernels run without the compiler")
    if isinstance(failure, RecursionError):
        return error("E9001", f"einfall failed while {what}: the program is nested too deeply", help=_HELP)
    first = next((line.strip() for line in str(failure).splitlines() if line.strip()), "")
    return error("E9001", f"einfall failed while {what}: {type(failure).__name__}: {first[:200]}", help=_HELP)


_HELP = "please report this with the program; EINFALL_DEBUG=1 shows where it happened"
