"""Element types, their promotion rules and the quantised storage types of the language (design page 1, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import ml_dtypes
import numpy as np


class Kind(Enum):
    """What the values of an element type are."""

    FLOAT = "float"
    SIGNED = "signed"
    UNSIGNED = "unsigned"
    BIPOLAR = "bipolar"  # i1: the values -1 and +1
    TERNARY = "ternary"  # t2: the values -1, 0 and +1
    BOOL = "bool"


@dataclass(frozen=True, slots=True, kw_only=True)
class DType:
    """An element type: its name in the language, its kind and its width in bits."""

    name: str
    kind: Kind
    bits: int

    @property
    def is_float(self) -> bool:
        return self.kind is Kind.FLOAT

    @property
    def is_bool(self) -> bool:
        return self.kind is Kind.BOOL

    @property
    def is_integer(self) -> bool:
        """Whether integer arithmetic (wrapping, bit operators) applies to the values."""
        return self.kind not in (Kind.FLOAT, Kind.BOOL)

    @property
    def is_signed(self) -> bool:
        return self.kind is not Kind.UNSIGNED and self.kind is not Kind.BOOL

    @property
    def storage(self) -> np.dtype:
        """The NumPy dtype in which one element travels between the caller and a kernel."""
        return np.dtype(_STORAGE[self.name])

    @property
    def minimum(self) -> int | float:
        """The least value (``-inf`` for floats that have it)."""
        if self.is_float:
            return -float("inf")
        return {Kind.SIGNED: -(1 << (self.bits - 1)), Kind.BIPOLAR: -1, Kind.TERNARY: -1}.get(self.kind, 0)

    @property
    def maximum(self) -> int | float:
        """The greatest value (``+inf`` for floats that have it)."""
        match self.kind:
            case Kind.FLOAT:
                return float("inf")
            case Kind.SIGNED:
                return (1 << (self.bits - 1)) - 1
            case Kind.UNSIGNED:
                return (1 << self.bits) - 1
            case _:
                return 1

    def __str__(self) -> str:
        return self.name

    def __hash__(self) -> int:
        return hash(self.name)  # every expression node hashes its type: the generated hash took most of that time


def _table() -> dict[str, DType]:
    floats = {
        "f64": 64,
        "f32": 32,
        "f16": 16,
        "bf16": 16,
        "f8_e4m3": 8,
        "f8_e5m2": 8,
        "f6_e3m2": 6,
        "f6_e2m3": 6,
        "f4_e2m1": 4,
    }
    types = [DType(name=name, kind=Kind.FLOAT, bits=bits) for name, bits in floats.items()]
    for bits in (64, 32, 16, 8, 4, 3, 2):
        types.append(DType(name=f"i{bits}", kind=Kind.SIGNED, bits=bits))
        types.append(DType(name=f"u{bits}", kind=Kind.UNSIGNED, bits=bits))
    types.append(DType(name="i1", kind=Kind.BIPOLAR, bits=1))
    types.append(DType(name="t2", kind=Kind.TERNARY, bits=2))
    types.append(DType(name="bool", kind=Kind.BOOL, bits=1))
    return {t.name: t for t in types}


DTYPES: dict[str, DType] = _table()

_STORAGE: dict[str, type | np.dtype | str] = {
    "f64": np.float64,
    "f32": np.float32,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f8_e4m3": ml_dtypes.float8_e4m3fn,
    "f8_e5m2": ml_dtypes.float8_e5m2,
    "f6_e3m2": ml_dtypes.float6_e3m2fn,
    "f6_e2m3": ml_dtypes.float6_e2m3fn,
    "f4_e2m1": ml_dtypes.float4_e2m1fn,
    "bool": np.bool_,
    **{f"i{b}": f"int{b}" for b in (64, 32, 16, 8)},
    **{f"u{b}": f"uint{b}" for b in (64, 32, 16, 8)},
    **dict.fromkeys(("i4", "i3", "i2", "i1", "t2"), "int8"),
    **dict.fromkeys(("u4", "u3", "u2"), "uint8"),
}

F64, F32, F16, BF16 = DTYPES["f64"], DTYPES["f32"], DTYPES["f16"], DTYPES["bf16"]
I64, I32, I16, I8 = DTYPES["i64"], DTYPES["i32"], DTYPES["i16"], DTYPES["i8"]
U64, U32, U16, U8 = DTYPES["u64"], DTYPES["u32"], DTYPES["u16"], DTYPES["u8"]
BOOL = DTYPES["bool"]
INDEX = I64
"""The type of rank variables and sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantType:
    """Quantised storage: groups of ``group`` elements along size ``dimension`` share a scale and a zero point.

    The *value* of a quantised tensor is its dequantised real value, of type :attr:`value`.
    """

    name: str | None
    element: DType
    dimension: str | None
    group: int
    scale: DType | None
    zero: DType | None

    @property
    def value(self) -> DType:
        return F32

    def __str__(self) -> str:
        if self.name is not None:
            return self.name
        parts = [self.element.name]
        if self.dimension is not None:
            parts.append(f"group = {self.dimension}:{self.group}")
        if self.scale is not None:
            parts.append(f"scale = {self.scale.name}")
        if self.zero is not None:
            parts.append(f"zero = {self.zero.name}")
        return f"quant({', '.join(parts)})"


StorageType = DType | QuantType


def value_type(storage: StorageType) -> DType:
    """The type that reading a tensor of this storage type gives."""
    return storage.value if isinstance(storage, QuantType) else storage


def promote(a: DType, b: DType) -> DType:
    """The type of an operation on two typed operands: one type gives itself, different types the wider.

    A float beats an integer (f32 at least, when the integer has 16 bits or more); two floats of one width
    but different formats, and mixed signedness, give the next wider type that holds both.
    """
    if a == b:
        return a
    if a.is_float and b.is_float:
        if a.bits == b.bits:
            return {16: F32, 8: F16, 6: F16}.get(a.bits, F32)
        wide, narrow = (a, b) if a.bits > b.bits else (b, a)
        return F32 if (wide is F16 and narrow.name == "f8_e5m2") else wide
    if a.is_float or b.is_float:
        real, whole = (a, b) if a.is_float else (b, a)
        return F32 if whole.bits >= 16 and real.bits < 32 else real
    if a.is_bool or b.is_bool:
        return b if a.is_bool else a
    if a.is_signed == b.is_signed:
        wide = a if a.bits >= b.bits else b
        return I8 if wide.kind in (Kind.BIPOLAR, Kind.TERNARY) else wide
    signed, unsigned = (a, b) if a.is_signed else (b, a)
    if signed.bits > unsigned.bits:
        return signed
    for bits in (8, 16, 32, 64):
        if bits > unsigned.bits:
            return DTYPES[f"i{bits}"]
    return I64


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of ``narrow`` is one of ``wide``."""
    if wide == narrow:
        return True
    if narrow.is_bool:
        return wide.kind is not Kind.BIPOLAR
    if wide.is_float and narrow.is_float:
        return wide.bits >= 32 > narrow.bits or wide.bits == 64
    if wide.is_float:
        return wide.bits >= 2 * narrow.bits
    return (
        not narrow.is_float
        and wide.is_integer
        and (wide.minimum <= narrow.minimum and narrow.maximum <= wide.maximum and wide.kind is not Kind.BIPOLAR)
    )


def accumulator(dtype: DType) -> DType:
    """The type in which sums and products of ``dtype`` are formed: f32 for small floats, i32 for small integers."""
    if dtype.is_float:
        return dtype if dtype.bits >= 32 else F32
    return dtype if dtype.bits >= 32 else I32
