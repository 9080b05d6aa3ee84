"""Kernels made by hand for the tests: TensorIR modules with the calling convention of compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import tvm
from tvm import tirx

from einfall.ir.cascade import Role
from einfall.ir.expr import Expr, integer, op, size
from einfall.ir.types import DTYPES
from einfall.runtime.calling import Code
from einfall.runtime.explanation import Explanation, Group
from einfall.runtime.kernel import Compiled, Kernel
from einfall.runtime.signature import Parameter, Result, Signature, expr_from_json

_CARRIED = {"f32": "float32", "f64": "float64", "bf16": "bfloat16", "i32": "int32", "bool": "bool", "f8_e4m3": "uint8"}


def declared(text: str, role: Role = Role.INPUT) -> Parameter:
    """``"X: f32[M, N]"`` as a parameter; extents are names, numbers, or sums such as ``P+R``."""
    name, _, rest = text.partition(": ")
    dtype, bracket, extents = rest.partition("[")
    shape = tuple(_extent(part.strip()) for part in extents.rstrip("]").split(",") if part.strip())
    return Parameter(name=name, dtype=DTYPES[dtype], shape=shape, role=role if bracket else Role.SCALAR)


def signature(
    name: str,
    parameters: Sequence[str],
    results: Sequence[str],
    *,
    lets: Sequence[tuple[str, Expr]] = (),
    requires: Sequence[tuple[Expr, str]] = (),
    workspace: Expr | None = None,
) -> Signature:
    takes = tuple(declared(p) for p in parameters)
    gives = tuple(Result(name=d.name, dtype=d.dtype, shape=d.shape) for d in map(declared, results))
    from einfall.ir.expr import sizes_of

    defined = {n for n, _ in lets}
    names = dict.fromkeys(n for t in (*takes, *gives) for e in t.shape for n in sizes_of(e) if n not in defined)
    extra = [n for _, e in lets for n in sizes_of(e)]
    return Signature(
        name=name,
        parameters=takes,
        results=gives,
        sizes=tuple(dict.fromkeys([*names, *extra])),
        lets=tuple(lets),
        requires=tuple(requires),
        workspace=integer(0) if workspace is None else workspace,
    )


def kernel(sig: Signature, function: Callable[..., object], **options: int) -> Kernel:
    return Kernel(compiled(sig, function), **options)


def compiled(sig: Signature, function: Callable[..., object]) -> Compiled:
    return Compiled(
        signature=sig,
        code=Code(function=function),
        explanation=Explanation(
            kernel=sig.name,
            einsums=("Y[m, n] = X[m, n]",),
            groups=(Group(tensors=("Y",)),),
            decisions=(),
            flops=op("mul", size("M"), size("N")),
            traffic=op("mul", integer(8), op("mul", size("M"), size("N"))),
            workspace=sig.workspace,
        ),
        target="cpu:test",
        sources={"cascade": "kernel …", "asm": lambda: "ret"},
    )


@lru_cache
def add_module(dtype: str = "f32") -> tvm.runtime.Module:
    """``C[m, n] = A[m, n] + B[m, n]``; rows of A and B may be strided. Types that do not add are copied from A."""
    carried = _CARRIED[dtype]
    m, n = tirx.Var("m", "int64"), tirx.Var("n", "int64")
    buffers = []
    for name in "ABC":
        strides = [tirx.Var(f"{name}_s", "int64"), tirx.IntImm("int64", 1)]
        itemsize = DTYPES[dtype].storage.itemsize
        buffers.append(tirx.decl_buffer((m, n), carried, name=name, strides=strides, data_alignment=itemsize))
    a, b, c = buffers
    i, j = tirx.Var("i", "int64"), tirx.Var("j", "int64")
    value = tirx.Add(a[i, j], b[i, j]) if dtype in ("f32", "f64", "i32") else a[i, j]
    inner = tirx.For(j, 0, n, tirx.ForKind.SERIAL, tirx.BufferStore(c, value, [i, j]))
    body = tirx.For(i, 0, m, tirx.ForKind.PARALLEL, inner)
    return _module(tirx.PrimFunc([a, b, c, m, n], body))


@lru_cache
def scale_module() -> tvm.runtime.Module:
    """``Y[m] = X[m] * scale + shift`` if ``flip`` is false, else its negative; X and Y f32, shift i32."""
    m = tirx.Var("m", "int64")
    x, y = (tirx.decl_buffer((m,), "float32", name=name, data_alignment=4) for name in "XY")
    scale, shift, flip = tirx.Var("scale", "float64"), tirx.Var("shift", "int64"), tirx.Var("flip", "bool")
    i = tirx.Var("i", "int64")
    value = x[i] * tirx.Cast("float32", scale) + tirx.Cast("float32", shift)
    chosen = tirx.Select(flip, tirx.Sub(tirx.FloatImm("float32", 0.0), value), value)
    body = tirx.For(i, 0, m, tirx.ForKind.SERIAL, tirx.BufferStore(y, chosen, [i]))
    return _module(tirx.PrimFunc([x, y, scale, shift, flip, m], body))


def _module(function: tirx.PrimFunc) -> tvm.runtime.Module:
    entry = function.with_attr({"global_symbol": "main", "tirx.noalias": True, "s_tir": True})
    return tvm.compile(tvm.IRModule({"main": entry}), target=tvm.target.Target({"kind": "llvm"})).mod


def add_kernel(dtype: str = "f32", **options: int) -> Kernel:
    sig = signature("add", [f"A: {dtype}[M, N]", f"B: {dtype}[M, N]"], [f"C: {dtype}[M, N]"])
    return kernel(sig, add_module(dtype)["main"], **options)


def _extent(text: str) -> Expr:
    if "+" in text:
        first, _, second = text.partition("+")
        return op("add", _extent(first.strip()), _extent(second.strip()))
    return expr_from_json(int(text) if text.isdigit() else text)


class Foreign:
    """An array of some library that speaks DLPack."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] | None = None) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **options: object) -> object:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device or self.array.__dlpack_device__()
