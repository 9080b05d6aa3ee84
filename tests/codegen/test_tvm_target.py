"""Every known machine is one that TVM takes and compiles for."""

from __future__ import annotations

import pytest

from einfall.codegen.tvm_target import to_tvm
from einfall.ir.target import Target, best_match, known, named

tvm = pytest.importorskip("tvm")


def assembly(target: Target) -> str:
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)
    def main(a: T.handle, b: T.handle) -> None:
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        A = T.match_buffer(a, (64,), "float32")
        B = T.match_buffer(b, (64,), "float32")
        for i in T.vectorized(64):
            B[i] = A[i] * A[i] + B[i]

    return str(tvm.compile(tvm.IRModule({"main": main}), target=to_tvm(target)).mod.inspect_source("asm"))


@pytest.mark.parametrize("name", known("cpu"))
def test_cpus_compile(name: str) -> None:
    text = assembly(named("cpu", name))
    marks = {512: "%zmm", 256: "%ymm", 128: ""}
    target = named("cpu", name)
    if target.arch == "x86_64" and "avx512f" in target.features and name not in ("x86-64-v4",):
        assert marks[target.vector_bits] in text


@pytest.mark.parametrize("name", [name for name in known("cpu") if name != "generic"])
def test_llvm_agrees_on_the_features(name: str) -> None:
    target = named("cpu", name)
    assert target.features <= set(tvm.target.codegen.llvm_get_cpu_features(to_tvm(target)))


@pytest.mark.parametrize("name", known("cuda"))
def test_gpus_are_taken(name: str) -> None:
    assert to_tvm(named("cuda", name)).attrs["arch"].startswith(name)


def test_extra_features_reach_llvm() -> None:
    haswell = named("cpu", "haswell")
    wider = best_match("x86_64", haswell.features | {"avx512f", "avx512vl"}, vendor="intel")
    assert wider.mcpu == "haswell"
    assert "%zmm" in assembly(wider)
    assert "%zmm" not in assembly(haswell)
