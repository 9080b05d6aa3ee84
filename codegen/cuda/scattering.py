"""Scatters by all threads at once: each combines its value into the target by an atomic operation.

Integers, extremes and truth values come out the same in any order. Sums and products of floats are rounded in the order in
which threads happen to come: the last bits of a scattered sum differ from run to run, as those of ``index_add_`` of PyTorch do.
(CUDA C++ Programming Guide, section Atomic Functions.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call

from ...ir.operators import REDUCTIONS
from ...ir.tile import Compute
from ...ir.types import DType
from ..arithmetic import convert
from ..context import Variables
from ..element import computed, stored
from ..microkernels.statements import Statements
from ..views import View

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

_COMBINED = {"+": "a + b", "*": "a * b", "max": "a != a || a >= b ? a : b", "min": "a != a || a <= b ? a : b"}

_DIRECT = """
__device__ __forceinline__ void einfall_NAME(void* p, TYPE v) { FUNCTION(reinterpret_cast<HELD*>(p), static_cast<HELD>(v)); }
"""

_BY_EXCHANGE = """
__device__ __forceinline__ void einfall_NAME(void* p, TYPE b) {
  WORD* word = reinterpret_cast<WORD*>(p);
  WORD old = atomicCAS(word, static_cast<WORD>(0), static_cast<WORD>(0));
  while (true) {
    TYPE a;
    __builtin_memcpy(&a, &old, sizeof(a));
    TYPE c = COMBINED;
    WORD made;
    __builtin_memcpy(&made, &c, sizeof(c));
    if (made == old) return;
    const WORD seen = atomicCAS(word, old, made);
    if (seen == old) return;
    old = seen;
  }
}
"""


def is_atomic(compute: Compute, target: View) -> bool:
    """Whether all threads may scatter at once."""
    reduction = compute.reduction or ""
    if not compute.scatter or REDUCTIONS[reduction].coordinate:
        return False
    if target.dtype.is_bool:
        return reduction in ("or", "and", "max", "min")
    return reduction in _COMBINED and stored(target.dtype) == computed(target.dtype) and stored(target.dtype) in _C


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
    kind = {"+": "add", "*": "multiply"}.get(reduction, reduction)
    name = f"scatter_{kind}_{held}"
    function, types = _NATIVE.get(reduction, ("", set()))
    if held in types:
        unsigned = held == "int64" and reduction == "+"
        text = _DIRECT.replace("FUNCTION", function).replace("HELD", _C["uint64"] if unsigned else _C[held])
    else:
        word = "unsigned long long" if held.endswith("64") else "unsigned int"
        text = _BY_EXCHANGE.replace("WORD", word).replace("COMBINED", _COMBINED[reduction])
    return f"einfall_{name}", text.replace("NAME", name).replace("TYPE", _C[held])
