"""The language's real functions on a GPU: CUDA's mathematical library, in f32 and f64.

Its errors are at most 2 ulp for each function used here (CUDA C++ Programming Guide, section Mathematical Functions, tables of
maximum ulp errors; without ``--use_fast_math``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call

from .lanes import device_function, number, pure
from .rounding import absolute, negate


def _sigmoid(x: tirx.Expr) -> tirx.Expr:
    one = number(1.0, x)
    return tirx.Div(one, tirx.Add(one, device_function("exp", tirx.Sub(number(-0.0, x), x))))


REAL: dict[str, Callable[[tirx.Expr], tirx.Expr]] = {
    **{name: partial(device_function, name) for name in ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "erf")},
    "sigmoid": _sigmoid,
}
"""By the language's names."""


def extreme(name: str, a: tirx.Expr, b: tirx.Expr) -> tirx.Expr | None:
    """``max`` or ``min`` of f32 in one instruction, NaN where either is; None for other types."""
    return _instruction(f"{name}.NaN.f32", "=f", a, b) if str(a.ty.dtype) == "float32" else None


def to_bf16(x: tirx.Expr) -> tirx.Expr:
    """f32 rounded to bf16, as its bits. NaN becomes the one with all bits set but the sign."""
    return _instruction("cvt.rn.bf16.f32", "=h", x)


def exp_short(x: tirx.Expr) -> tirx.Expr:
    """e^x for f32 of which at most 12 bits count, in two instructions; subnormal results are 0.

    The argument of ``ex2.approx`` is rounded, which makes an error of 2^-17 for the largest results, and the instruction has
    one of 2^-22 (PTX ISA, section ex2).
    """
    return _instruction("ex2.approx.ftz.f32", "=f", x * number(math.log2(math.e), x))


def exp_short_apart(x: tirx.Expr, y: tirx.Expr) -> tirx.Expr:
    """e^(x - y) as :func:`exp_short`, for a y that many x have in common: two instructions for each of them.

    x log₂e - y log₂e is rounded once, and y log₂e before it: e^(x - y) for all x of a y is off by one factor, of |y| 2^-24 at
    most, which quotients do not have (FlashAttention-2, Dao 2023, computes it so). Where y log₂e might overflow, x and y are
    equal, or so far apart that the base does not matter.
    """
    base = tirx.Select(absolute(y) < number(2.0**100, y), number(math.log2(math.e), y), number(1.0, y))
    return _instruction("ex2.approx.ftz.f32", "=f", pure("llvm.fma", x, base, negate(y * base)))


_C = {"=f": "float", "=h": "unsigned short"}
_TIR = {"=f": "float32", "=h": "uint16"}


def _instruction(opcode: str, kind: str, *args: tirx.Expr) -> tirx.Expr:
    """The result of an instruction on f32."""
    name = "einfall_" + opcode.replace(".", "_").lower()
    parameters = ", ".join(f"float x{n}" for n in range(len(args)))
    operands = ", ".join(f'"f"(x{n})' for n in range(len(args)))
    places = ", ".join(f"%{n}" for n in range(len(args) + 1))
    source = f"""
__device__ __forceinline__ {_C[kind]} {name}({parameters}) {{
  {_C[kind]} r;
  asm("{opcode} {places};" : "{kind}"(r) : {operands});
  return r;
}}
"""
    return cuda_func_call(name, *args, source_code=source, return_type=_TIR[kind])
