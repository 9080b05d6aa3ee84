"""Scalar arguments: Python and NumPy numbers, and arrays without dimensions, in the form that a kernel takes."""

from __future__ import annotations

import operator

import numpy as np

from ..ir.diagnostics import EinfallError, error
from ..ir.types import DType, StorageType, value_type


def checked_scalar(name: str, dtype: StorageType, value: object) -> int | float:
    """The number to pass for the parameter ``name``; floats are rounded to the parameter's type.

    Raises EinfallError E1014 for what is no number, or no number of the type.
    """
    kind = value_type(dtype)
    number = _python_number(value)
    if kind.is_float:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise _refused(name, kind, value)
        return _rounded(name, kind, number)
    if kind.is_bool:
        if not isinstance(number, bool):
            raise _refused(name, kind, value)
        return int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        raise _refused(name, kind, value)
    if not kind.minimum <= number <= kind.maximum:
        raise error("E1014", f"`{name}` is {number}, outside of {kind.name} ({kind.minimum} to {kind.maximum})")
    # Kernels take integers as 64-bit words; the upper half of u64 is negative there.
    return number - (1 << 64) if number >= 1 << 63 else number


def _python_number(value: object) -> object:
    """The Python number that ``value`` stands for, or ``value`` itself."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.generic) or getattr(value, "shape", None) == ():
        try:
            value = value.item()  # type: ignore[attr-defined]
        except (AttributeError, TypeError, ValueError, RuntimeError):
            return value
        if isinstance(value, bool | int | float):
            return value
        if hasattr(value, "__float__") and not isinstance(value, complex | str | bytes):
            return float(value)  # ml_dtypes' scalars give themselves
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return value


def _rounded(name: str, kind: DType, number: int | float) -> float:
    try:
        with np.errstate(over="ignore"):
            return float(kind.storage.type(number))
    except OverflowError:
        raise error("E1014", f"`{name}` is too large for {kind.name}") from None


def _refused(name: str, kind: DType, value: object) -> EinfallError:
    shape = getattr(value, "shape", None)
    found = f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if shape else "")
    wanted = {True: "a number", False: "a whole number"}[kind.is_float]
    if kind.is_bool:
        wanted = "True or False"
    return error("E1014", f"`{name}` is {wanted} ({kind.name}), not {found}: {_shown(value)}")


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"
