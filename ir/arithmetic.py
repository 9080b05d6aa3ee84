"""The scalar semantics of the language on NumPy arrays: carriers, conversions and every operator.

A value of the language is held in a *carrier*: floats in the float type of the mode (:class:`Arithmetic`), u64 in
uint64, all other integers in int64 and wrapped to their type after every operation, bool in bool. Operators give a
value array and, where they can be undefined, a mask of the points at which the result is present (division of
integers by zero, negative powers of integers). i1 and t2 have no modular arithmetic: results outside ±1 and
-1, 0, +1 go to the nearest of these values (0 to +1 for i1). As bits, i1 is 1 for +1 and 0 for -1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .types import F32, F64, DType, Kind

Array = NDArray[Any]
Mask = NDArray[np.bool_] | None
"""Which points are present; None where all are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """How floats are carried: all in float64 (``exact``), or rounded (``typed``: float32, float64 for f64).

    Typed arithmetic is done in at least f32 and rounds to smaller types only at casts and when a tensor is stored.
    """

    typed: bool

    def carrier(self, dtype: DType) -> np.dtype[Any]:
        """The NumPy type in which values of ``dtype`` are held."""
        if dtype.is_float:
            return np.dtype(np.float32 if self.typed and dtype.bits <= 32 else np.float64)
        if dtype.is_bool:
            return np.dtype(np.bool_)
        return np.dtype(np.uint64 if dtype.name == "u64" else np.int64)

    def load(self, array: Array, dtype: DType) -> Array:
        """Stored elements of ``dtype`` in their carrier."""
        return array.astype(self.carrier(dtype))

    def settle(self, values: Array, dtype: DType) -> Array:
        """The result of an operator as a value of ``dtype`` in its carrier: integers wrap."""
        values = values.astype(self.carrier(dtype), copy=False)
        return wrap(values, dtype) if dtype.is_integer else values

    def round(self, values: Array, dtype: DType) -> Array:
        """Values in the carrier of ``dtype`` as memory of that type would hold them; 8-bit and smaller floats saturate."""
        values = saturate(values, dtype)
        if self.typed and dtype.is_float and dtype not in (F32, F64):
            return values.astype(dtype.storage).astype(np.float32)
        return self.settle(values, dtype)

    def convert(self, values: Array, source: DType, target: DType) -> Array:
        """``cast(target, values)``: floats to integers truncate and saturate, integers to integers wrap."""
        if source == target:
            return values
        if target.is_bool:
            return np.asarray(values != 0)
        if source.is_float and target.is_integer:
            return self._truncate(values, target)
        return self.round(values.astype(self.carrier(target)), target)

    def _truncate(self, values: Array, target: DType) -> Array:
        least, most = int(target.minimum), int(target.maximum)
        whole = np.trunc(values.astype(np.float64))
        # float(most) may round up to the first value that does not fit, hence the comparison with >=.
        inside = np.isfinite(whole) & (whole > float(least)) & (whole < float(most))
        result = np.where(inside, whole, 0.0).astype(self.carrier(target))
        result = np.where(whole >= float(most), np.array(most, self.carrier(target)), result)
        result = np.where(whole <= float(least), np.array(least, self.carrier(target)), result)
        return wrap(result, target) if target.kind is Kind.BIPOLAR else result

    def bitcast(self, values: Array, source: DType, target: DType) -> Array:
        """The bits of values of ``source`` read as ``target``, of the same width."""
        return self._from_bits(_to_bits(values, source), target)

    def _from_bits(self, bits: Array, dtype: DType) -> Array:
        width = np.dtype(f"u{dtype.storage.itemsize}")
        if dtype.is_float:
            return self.load(bits.astype(width).view(dtype.storage), dtype)
        match dtype.kind:
            case Kind.BOOL:
                return np.asarray(bits != 0)
            case Kind.BIPOLAR:
                return np.where(bits != 0, 1, -1).astype(np.int64)
            case Kind.UNSIGNED:
                return bits.astype(self.carrier(dtype))
            case _:
                return _sign_extend(bits.astype(np.int64), dtype.bits)

    def apply(self, name: str, dtype: DType, args: list[Array]) -> tuple[Array, Mask]:
        """An operator of the table on arguments in the carrier of ``dtype``; the result is not yet rounded."""
        if dtype.is_float:
            return np.asarray(_FLOAT[name](*args)), None
        if dtype.is_bool:
            return np.asarray(_BOOL[name](*args)), None
        if name in _PARTIAL:
            return _PARTIAL[name](*args)
        if name in ("shl", "shr"):
            return _shift(name, args[0], args[1], dtype), None
        return np.asarray(_INTEGER[name](*args)), None


def saturate(values: Array, dtype: DType) -> Array:
    """What does not fit a float of 8 bits or less as its largest value; infinities and NaN too, where it has none (NaN: 0)."""
    if not dtype.is_float or dtype.bits > 8:
        return values
    largest = float(ml_dtypes.finfo(dtype.storage).max)  # type: ignore[no-untyped-call]
    clipped = np.clip(values, -largest, largest)
    if dtype.name == "f8_e5m2":
        return np.where(np.isinf(values), values, clipped)
    return clipped if dtype.bits == 8 else np.where(np.isnan(clipped), np.zeros_like(clipped), clipped)


def wrap(values: Array, dtype: DType) -> Array:
    """Integers in their carrier, modulo 2**bits (to the nearest value for i1 and t2)."""
    match dtype.kind:
        case Kind.BIPOLAR:
            return np.where(values >= 0, 1, -1).astype(np.int64)
        case Kind.TERNARY:
            return np.clip(values, -1, 1)
        case _ if dtype.bits == 64:
            return values
        case Kind.SIGNED:
            return _sign_extend(values, dtype.bits)
        case _:
            return np.asarray(values & ((1 << dtype.bits) - 1))


def _sign_extend(values: Array, bits: int) -> Array:
    if bits == 64:
        return values
    half = 1 << (bits - 1)
    return np.asarray(((values + half) & ((1 << bits) - 1)) - half)


def _to_bits(values: Array, dtype: DType) -> Array:
    if dtype.is_float:
        return saturate(values, dtype).astype(dtype.storage, order="C").view(f"u{dtype.storage.itemsize}")
    if dtype.kind is Kind.BIPOLAR:
        return np.asarray(values > 0).astype(np.uint64)
    bits = values.astype(np.uint64) if values.dtype == np.bool_ else values.view(np.uint64)
    return bits if dtype.bits == 64 else np.asarray(bits & np.uint64((1 << dtype.bits) - 1))


def _sigmoid(x: Array) -> Array:
    # exp of a negative number only: it cannot overflow.
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def _erf(x: Array) -> Array:
    from scipy.special import erf

    return np.asarray(erf(x))


def _floor_division(a: Array, b: Array) -> tuple[Array, Mask]:
    return np.floor_divide(a, np.where(b == 0, np.ones_like(b), b)), np.asarray(b != 0)


def _modulus(a: Array, b: Array) -> tuple[Array, Mask]:
    return np.remainder(a, np.where(b == 0, np.ones_like(b), b)), np.asarray(b != 0)


def _ceil_division(a: Array, b: Array) -> tuple[Array, Mask]:
    quotient, present = _floor_division(a, b)
    remainder, _ = _modulus(a, b)
    return quotient + (remainder != 0).astype(quotient.dtype), present


def _integer_power(a: Array, n: Array) -> tuple[Array, Mask]:
    # A negative count is taken out before the types meet: u64 and int64 would meet in float64.
    return np.power(a, np.maximum(n, 0).astype(a.dtype)), np.asarray(n >= 0)


def _shift(name: str, a: Array, count: Array, dtype: DType) -> Array:
    inside = (count >= 0) & (count < dtype.bits)
    safe = np.where(inside, count, 0).astype(a.dtype)
    if name == "shl":
        return np.where(inside, np.left_shift(a, safe), np.zeros_like(a))
    gone = np.where(a < 0, -np.ones_like(a), np.zeros_like(a)) if dtype.is_signed else np.zeros_like(a)
    return np.where(inside, np.right_shift(a, safe), gone)


def _identity(x: Array) -> Array:
    return x


_COMPARE: dict[str, Callable[..., Any]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}

_ORDER: dict[str, Callable[..., Any]] = {
    "max": np.maximum,  # propagates NaN
    "min": np.minimum,
    "clamp": lambda x, low, high: np.minimum(np.maximum(x, low), high),
}

_RING: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
}

_FLOAT: dict[str, Callable[..., Any]] = {
    **_COMPARE,
    **_ORDER,
    **_RING,
    "div": np.divide,
    "floordiv": lambda a, b: np.floor(a / b),
    "mod": lambda a, b: a - np.floor(a / b) * b,
    "ceildiv": lambda a, b: np.ceil(a / b),
    "pow": lambda x, n: np.power(x, n.astype(x.dtype)),
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "erf": _erf,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,  # half to even
}

_INTEGER: dict[str, Callable[..., Any]] = {
    **_COMPARE,
    **_ORDER,
    **_RING,
    "bitand": np.bitwise_and,
    "bitor": np.bitwise_or,
    "bitxor": np.bitwise_xor,
    "floor": _identity,
    "ceil": _identity,
    "round": _identity,
}

_PARTIAL: dict[str, Callable[..., tuple[Array, Mask]]] = {
    "floordiv": _floor_division,
    "mod": _modulus,
    "ceildiv": _ceil_division,
    "pow": _integer_power,
}

_BOOL: dict[str, Callable[..., Any]] = {
    **_COMPARE,
    **_ORDER,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "bitand": np.logical_and,
    "bitor": np.logical_or,
    "bitxor": np.logical_xor,
}
