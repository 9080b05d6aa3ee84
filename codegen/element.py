"""How the language's element types are held: in memory (storage) and in registers (computation).

Floats below f32 are computed in f32 and rounded when they are stored or explicitly cast; integers are computed in their
own width, so that they wrap; sub-byte integers in a byte and wrapped after every operation.
"""

from __future__ import annotations

from ..ir.types import DType, Kind


def computed(dtype: DType) -> str:
    """The TIR type in which values of ``dtype`` are computed."""
    if dtype.is_bool:
        return "bool"
    if dtype.is_float:
        return "float64" if dtype.bits == 64 else "float32"
    width = max(8, dtype.bits)
    return f"uint{width}" if dtype.kind is Kind.UNSIGNED else f"int{width}"


def stored(dtype: DType) -> str:
    """The TIR type of one element in memory; floats below 32 bits other than f16 are held as their bits."""
    if dtype.is_bool:
        return "uint8"
    if dtype.is_float and dtype.bits < 32:
        return {"f16": "float16", "bf16": "uint16"}.get(dtype.name, "uint8")
    return computed(dtype)


def argument(dtype: DType) -> str:
    """The TIR type that an argument's DLPack header must carry."""
    return {"bool": "bool", "bf16": "bfloat16"}.get(dtype.name, stored(dtype))


def raw_type(dtype: DType) -> str:
    """The unsigned TIR type of an element's bits."""
    return f"uint{dtype.bits}"
