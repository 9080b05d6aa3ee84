"""Modules that TVM compiled for a GPU, run by TVM's own runtime on the emulator."""

from __future__ import annotations

import ctypes

import ml_dtypes
import numpy as np
import pytest

from .device import Worker, in_every_order
from .emulator import EmulationError

TILE = 32


def target(arch: str):
    from tvm.target import Target

    limits = {"max_shared_memory_per_block": 166912, "max_threads_per_block": 1024, "max_num_threads": 1024}
    return Target({"kind": "cuda", "arch": arch, "thread_warp_size": 32, "registers_per_block": 65536, **limits}, host="llvm")


def run(function, *arrays: np.ndarray, arch: str = "sm_80", pipeline: str | None = None) -> list[np.ndarray]:
    """The arrays after `function` has run on the emulated device, the same in every order of the threads."""
    import tvm

    with target(arch):
        module = tvm.IRModule({"main": function})
        executable = tvm.compile(module, target=target(arch), **({"tir_pipeline": pipeline} if pipeline else {}))

    def once() -> list[np.ndarray]:
        tensors = [tvm.runtime.tensor(array, tvm.cuda(0)) for array in arrays]
        executable(*tensors)
        return [tensor.numpy() for tensor in tensors]

    first, *others = in_every_order(once)
    for other in others:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, other, strict=True))
    return first


def matmul(n: int, k: int, dtype: str = "float32"):
    """C[n, n] = A[n, k] @ B[k, n]: tiles of 32 x 32 in shared memory, 16 x 16 threads with 2 x 2 results each."""
    from tvm.script import tirx as T

    # fmt: off
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((n, k), dtype), B: T.Buffer((k, n), dtype), C: T.Buffer((n, n), "float32")):
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        by = T.launch_thread("blockIdx.y", n // TILE)
        bx = T.launch_thread("blockIdx.x", n // TILE)
        ty = T.launch_thread("threadIdx.y", 16)
        tx = T.launch_thread("threadIdx.x", 16)
        a = T.alloc_buffer((TILE, TILE), dtype, scope="shared")
        b = T.alloc_buffer((TILE, TILE), dtype, scope="shared.dyn")
        c = T.alloc_buffer((2, 2), "float32", scope="local")
        for i, j in T.grid(2, 2):
            c[i, j] = T.float32(0)
        for step in range(k // TILE):
            for i in range(2):
                for v in T.vectorized(2):
                    a[ty * 2 + i, tx * 2 + v] = A[by * TILE + ty * 2 + i, step * TILE + tx * 2 + v]
                for v in T.vectorized(2):
                    b[ty * 2 + i, tx * 2 + v] = B[step * TILE + ty * 2 + i, bx * TILE + tx * 2 + v]
            T.tvm_storage_sync("shared")
            for p, i, j in T.grid(TILE, 2, 2):
                c[i, j] += T.Cast("float32", a[ty * 2 + i, p]) * T.Cast("float32", b[p, tx * 2 + j])
            T.tvm_storage_sync("shared")
        for i, j in T.grid(2, 2):
            C[by * TILE + ty * 2 + i, bx * TILE + tx * 2 + j] = c[i, j]
    # fmt: on
    return main


def product(n: int, k: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    kind = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    a, b = (rng.integers(-4, 5, shape).astype(kind) for shape in ((n, k), (k, n)))
    *_, c = run(matmul(n, k, dtype), a, b, np.zeros((n, n), np.float32))
    return c, a.astype(np.float64) @ b.astype(np.float64)


@pytest.mark.parametrize(
    "dtype", ["float16", *(pytest.param(each, marks=pytest.mark.slow) for each in ("float32", "bfloat16"))]
)
def test_product_through_shared_memory(worker: Worker, dtype: str) -> None:
    result, expected = worker.run(product, 64, 96, dtype)
    assert np.array_equal(result, expected)


def row_sums() -> np.ndarray:
    """sum(exp(x)) over a block of four warps: TVM's shuffles, and the staging of the warps in shared memory."""
    from tvm.script import tirx as T

    # fmt: off
    @T.prim_func(s_tir=True)
    def main(X: T.Buffer((8, 128), "float16"), S: T.Buffer((8,), "float32")):
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        row = T.launch_thread("blockIdx.x", 8)
        lane = T.launch_thread("threadIdx.x", 128)
        total = T.alloc_buffer((1,), "float32", scope="local")
        with T.attr(T.comm_reducer(lambda x, y: x + y, [T.float32(0)]), "reduce_scope", T.reinterpret("handle", T.uint64(0))):
            T.tvm_thread_allreduce(T.uint32(1), T.exp(T.Cast("float32", X[row, lane])), T.bool(True), total[0], lane)
        if lane == 0:
            S[row] = total[0]
    # fmt: on
    x = np.random.default_rng(3).standard_normal((8, 128)).astype(np.float16)
    *_, s = run(main, x, np.zeros(8, np.float32))
    return s / np.exp(x.astype(np.float64)).sum(1)


def test_reduction_of_a_block(worker: Worker) -> None:
    assert np.abs(worker.run(row_sums) - 1).max() < 1e-6


def too_short() -> None:
    """A launch of the kernel itself, with a result that is one row too small for it."""
    import tvm

    with target("sm_80"):
        executable = tvm.compile(tvm.IRModule({"main": matmul(64, 32)}), target=target("sm_80"))
    device = tvm.cuda(0)
    a, b = (tvm.runtime.tensor(np.ones(shape, np.float32), device) for shape in ((64, 32), (32, 64)))
    c = tvm.runtime.tensor(np.zeros((63, 64), np.float32), device)
    pointers = (ctypes.c_void_p(each.data_ptr()) for each in (a, b, c))
    executable.mod.imports[0]["main_kernel"](*pointers, 2, 2, 16, 16, 4096)


def test_a_defect_is_reported_and_the_worker_lives_on(worker: Worker) -> None:
    with pytest.raises(
        EmulationError, match=r"out of bounds: write of \d+ bytes at global memory, byte \d+ of a buffer of 16128"
    ):
        worker.run(too_short)
    assert np.abs(worker.run(row_sums) - 1).max() < 1e-6
