"""Compiles one expression into a kernel over arrays, on scalars or on vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.generic]


@pytest.fixture(scope="session")
def elementwise() -> Callable[..., Callable[..., Array]]:
    """`elementwise(f, inputs=("float32",), output="float32", lanes=16)` compiles `f(*values, bind)` for arrays.

    `features` are those of the machine that the functions may use. uint16 and uint8 arrays carry the bits of smaller floats.
    """
    import tvm
    from tvm import tirx

    from einfall.codegen import pipeline
    from einfall.codegen.functions.lanes import using
    from einfall.codegen.microkernels.statements import Statements, index

    target = {"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()}

    def compile(
        f: Callable[..., tirx.Expr],
        *,
        inputs: tuple[str, ...] = ("float32",),
        output: str = "float32",
        lanes: int = 16,
        features: frozenset[str] = frozenset(),
    ) -> Callable[..., Array]:
        size = tirx.Var("size", "int64")
        arrays = [tirx.decl_buffer((size,), dtype, name=f"x{k}") for k, dtype in enumerate(inputs)]
        result = tirx.decl_buffer((size,), output, name="y")
        statements = Statements()
        with using(features), statements.loop("i", tirx.truncdiv(size, index(lanes))) as i:
            at = tirx.Ramp(i * lanes, index(1), lanes) if lanes > 1 else i
            statements.store(result, at, f(*(tirx.BufferLoad(a, [at]) for a in arrays), statements.share))
        function = tirx.PrimFunc([*arrays, result], statements.finish())
        function = function.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)
        module = tvm.IRModule({"main": function})
        kernel = tvm.compile(module, target=tvm.target.Target(target), tir_pipeline=pipeline.NAME)

        def run(*values: Array) -> Array:
            shape = values[0].shape
            whole = -(-values[0].size // 16) * 16
            padded = [tvm.runtime.tensor(np.resize(v, whole)) for v in values]
            out = tvm.runtime.tensor(np.zeros(whole, output))
            kernel(*padded, out)
            return out.numpy()[: values[0].size].reshape(shape)

        run.assembly = kernel.mod.inspect_source("asm")  # type: ignore[attr-defined]
        return run

    return compile
