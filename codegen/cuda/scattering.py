"""Scatters by all threads at once: each combines its value into the target by an atomic operation.

Integers, extremes and truth values come out the same in any order. Sums and products of floats are rounded in the order in
which threads happen to come: the last bits of a scattered sum differ from run to run, as those of ``index_add_`` of PyTorch do.
Targets have elements of 32 or 64 bits, or truth values: a GPU's tile program combines narrower numbers in wider ones.
(CUDA C++ Programming Guide, section Atomic Functions.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call

from ...ir.types import DType
from ..arithmetic import convert
from ..context import Variables
from ..element import computed, stored
from ..microkernels.statements import Statements

if TYPE_CHECKING:
    from .compute import DeviceComputeEmitter

_C = {
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "uint32": "unsigned int",
    "int64": "long long",
    "uint64": "unsigned long long",
}

_NATIVE = {
    "+": ("atomicAdd", {"float32", "float64", "int32", "uint32", "int64", "uint64"}),
    "max": ("atomicMax", {"int32", "uint32", "int64", "uint64"}),
    "min": ("atomicMin", {"int32", "uint32", "int64", "uint64"}),
}
"""The function of an operator, and the types that have it; a 64-bit sum is that of unsigned numbers."""

_KINDS = {"+": "add", "*": "multiply"}

_DIRECT = """
__device__ __forceinline__ void einfall_NAME(void* p, TYPE v) { FUNCTION(reinterpret_cast<HELD*>(p), static_cast<HELD>(v)); }
"""

_EXTREME = """
__device__ __forceinline__ void einfall_NAME(void* p, TYPE v) {
  SIGNED bits = NAN_BITS;
  if (v == v) __builtin_memcpy(&bits, &v, sizeof(bits));
  if (bits >= 0) FUNCTION(reinterpret_cast<SIGNED*>(p), bits);
  else OPPOSITE(reinterpret_cast<WORD*>(p), static_cast<WORD>(bits));
}
"""
"""The bits of floats above zero are ordered as integers, those of floats below it as unsigned ones the other way round. Of a
NaN the bits are chosen that win either way: above the infinity for a maximum, with the sign for a minimum."""

_NAN_BITS = {
    ("float32", "max"): "0x7fc00000",
    ("float32", "min"): "-0x400000",
    ("float64", "max"): "0x7ff8000000000000",
    ("float64", "min"): "-0x8000000000000",
}

_PRODUCT = """
__device__ __forceinline__ void einfall_NAME(void* p, TYPE b) {
  WORD* word = reinterpret_cast<WORD*>(p);
  WORD old = atomicCAS(word, static_cast<WORD>(0), static_cast<WORD>(0));
  while (true) {
    HELD a;
    __builtin_memcpy(&a, &old, sizeof(a));
    const HELD c = a * static_cast<HELD>(b);
    WORD made;
    __builtin_memcpy(&made, &c, sizeof(c));
    if (made == old) return;
    const WORD seen = atomicCAS(word, old, made);
    if (seen == old) return;
    old = seen;
  }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scattering:
    """A scatter, each point of which is one thread's."""

    emitter: DeviceComputeEmitter

    def point(self, s: Statements, variables: Variables) -> None:
        """Combines the value of one point into the target, where the filter holds."""
        compute, context, target = self.emitter.compute, self.emitter.context, self.emitter.target
        condition = context.evaluator(s, variables).condition(compute.filter)
        with s.when(True if condition is None else condition):
            at = context.evaluator(s, variables)
            position = s.bind("position", at.offset(compute.target, compute.indices))
            value = convert(at.value(compute.value), computed(target.dtype))
            if target.dtype.is_bool:
                # Whoever comes stores the same.
                assert compute.reduction in ("or", "max", "and", "min")
                decided = compute.reduction in ("or", "max")
                with s.when(value if decided else tirx.Not(value)):
                    s.store(target.flat, position, tirx.IntImm("uint8", int(decided)))
                return
            place = tirx.address_of(tirx.BufferLoad(target.flat, [position]))
            name, text = function_of(compute.reduction or "", target.dtype)
            s.evaluate(cuda_func_call(name, place, value, source_code=text))


def function_of(reduction: str, dtype: DType) -> tuple[str, str]:
    """The name and the text of the function that combines a value into memory."""
    held = stored(dtype)
    wide, floating = held.endswith("64"), held.startswith("float")
    word = _C["uint64" if wide else "uint32"]
    name = f"scatter_{_KINDS.get(reduction, reduction)}_{held}"
    function, types = _NATIVE.get(reduction, ("", set()))
    if held in types:
        text = _DIRECT.replace("FUNCTION", function)
        cell = word if held == "int64" and reduction == "+" else _C[held]
    elif reduction == "*":
        text, cell = _PRODUCT, _C[held] if floating else word
    else:
        opposite = "atomicMin" if reduction == "max" else "atomicMax"
        text = _EXTREME.replace("FUNCTION", function).replace("OPPOSITE", opposite)
        text = text.replace("NAN_BITS", _NAN_BITS[held, reduction]).replace("SIGNED", _C["int64" if wide else "int32"])
        cell = _C[held]
    text = text.replace("HELD", cell).replace("WORD", word).replace("NAME", name).replace("TYPE", _C[held])
    return f"einfall_{name}", text
