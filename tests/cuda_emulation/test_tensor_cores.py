"""Tensor-core kernels written in TVM's dialects, through TVM's own compiler and runtime."""

from __future__ import annotations

import numpy as np
import pytest

from .device import Worker
from .test_device import run

MMA = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
STEPS = 4
ENCODE = "runtime.cuTensorMapEncodeTiled"


def warp_product():
    """C[16, 8] = A[16, 64] @ B[8, 64].T by one warp: cp.async in two stages, ldmatrix, mma; the schedulable dialect."""
    from tvm.script import tirx as T

    # fmt: off
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((16, 64), "float16"), B: T.Buffer((8, 64), "float16"), C: T.Buffer((16, 8), "float32")):
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        lane = T.launch_thread("threadIdx.x", 32)
        a = T.alloc_buffer((512,), "float16", scope="shared")
        b = T.alloc_buffer((256,), "float16", scope="shared")
        ra = T.alloc_buffer((4,), "uint32", scope="local")
        rb = T.alloc_buffer((2,), "uint32", scope="local")
        c = T.alloc_buffer((4,), "float32", scope="local")
        for i in T.unroll(4):
            c[i] = T.float32(0)
        for step in range(STEPS + 1):
            if step < STEPS:
                T.evaluate(T.ptx["cp.async.cg.shared.global"](
                    a.access_ptr("w", offset=step % 2 * 256 + lane * 8, extent=8),
                    T.address_of(A[lane // 2, step * 16 + lane % 2 * 8]), 16))
                if lane < 16:
                    T.evaluate(T.ptx["cp.async.cg.shared.global"](
                        b.access_ptr("w", offset=step % 2 * 128 + lane * 8, extent=8),
                        T.address_of(B[lane // 2, step * 16 + lane % 2 * 8]), 16))
            T.evaluate(T.ptx["cp.async.commit_group"]())
            T.evaluate(T.ptx["cp.async.wait_group"](1))
            T.tvm_storage_sync("shared")
            if step > 0:
                T.evaluate(T.ptx["ldmatrix.sync.aligned.m8n8.x4.shared.b16"](
                    ra[0], ra[1], ra[2], ra[3],
                    a.access_ptr("r", offset=(step + 1) % 2 * 256 + lane % 16 * 16 + lane // 16 * 8, extent=8)))
                T.evaluate(T.ptx["ldmatrix.sync.aligned.m8n8.x2.shared.b16"](
                    rb[0], rb[1], b.access_ptr("r", offset=(step + 1) % 2 * 128 + lane % 8 * 16 + lane // 8 % 2 * 8, extent=8)))
                T.evaluate(T.ptx[MMA](c[0], c[1], c[2], c[3], ra[0], ra[1], ra[2], ra[3], rb[0], rb[1], c[0], c[1], c[2], c[3]))
            T.tvm_storage_sync("shared")
        for i in T.unroll(4):
            C[lane // 4 + 8 * (i // 2), lane % 4 * 2 + i % 2] = c[i]
    # fmt: on
    return main


def warpgroup_product(rows: int, n: int, k: int):
    """C[rows, n] = A[rows, k] @ B[n, k].T by warpgroups of 64 rows: TMA, one mbarrier for each stage, wgmma; TIRx."""
    from tvm.script import tirx as T

    chain = f"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.f16.f16"
    load = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
    bytes_a, bytes_b = 64 * 128, n * 128
    stage, sums, steps = bytes_a + bytes_b, n // 2, k // 64
    of_a, of_b = [k, rows, k * 2, 64, 64, 1, 1, 0, 3, 2, 0], [k, n, k * 2, 64, n, 1, 1, 0, 3, 2, 0]

    # fmt: off
    @T.prim_func
    def main(a: T.handle, b: T.handle, c: T.handle):
        A = T.match_buffer(a, (rows, k), "float16", align=16)
        B = T.match_buffer(b, (n, k), "float16", align=16)
        C = T.match_buffer(c, (rows, n), "float32", align=16)
        map_a: T.let[T.handle("tensormap")] = T.tvm_stack_alloca("tensormap", 1)
        T.call_packed(ENCODE, map_a, "float16", 2, A.data, *of_a)
        map_b: T.let[T.handle("tensormap")] = T.tvm_stack_alloca("tensormap", 1)
        T.call_packed(ENCODE, map_b, "float16", 2, B.data, *of_b)
        T.device_entry()
        block = T.cta_id([rows // 64])
        thread = T.thread_id([128])
        memory = T.alloc_buffer((2 * stage + 1024,), "uint8", scope="shared.dyn", align=1024)
        full = T.decl_buffer((2,), "uint64", data=memory.data, byte_offset=2 * stage, scope="shared.dyn")
        d = T.alloc_buffer((sums,), "float32", scope="local")
        left = T.alloc_buffer((1,), "uint64", scope="local")
        right = T.alloc_buffer((1,), "uint64", scope="local")
        if thread == 0:
            for s in T.unroll(2):
                T.ptx.mbarrier.init.shared.b64(full.ptr_to([s]), T.uint32(1))
            T.ptx.fence.mbarrier_init.release.cluster()
        T.cuda.cta_sync()
        for i in T.unroll(sums):
            d[i] = T.float32(0)
        T.cuda.wgmma.encode_matrix_descriptor(T.address_of(left[0]), memory.ptr_to([0]), 1, 64, 3)
        T.cuda.wgmma.encode_matrix_descriptor(T.address_of(right[0]), memory.ptr_to([bytes_a]), 1, 64, 3)
        for step in T.serial(steps + 1):
            if thread == 0 and step < steps:
                T.ptx.mbarrier.arrive.expect_tx.shared.b64(full.ptr_to([step % 2]), T.uint32(stage))
                T.ptx[load](
                    memory.ptr_to([step % 2 * stage]), T.address_of(map_a), step * 64, block * 64, full.ptr_to([step % 2]))
                T.ptx[load](
                    memory.ptr_to([step % 2 * stage + bytes_a]), T.address_of(map_b), step * 64, 0, full.ptr_to([step % 2]))
            if step > 0:
                T.cuda.mbarrier_wait(full.ptr_to([(step + 1) % 2]), ((step - 1) // 2) & 1)
                T.ptx.wgmma.fence.sync.aligned()
                for i in T.unroll(4):
                    offset = T.meta_var(T.Cast("uint64", (step + 1) % 2 * (stage // 16) + i * 2))
                    T.ptx[chain](*[d[j] for j in range(sums)], left[0] + offset, right[0] + offset, T.ptx.pred(1), 1, 1, 0, 0)
                T.ptx.wgmma.commit_group.sync.aligned()
                T.ptx.wgmma.wait_group.sync.aligned(0)
            T.cuda.cta_sync()
        for i in T.unroll(sums):
            row = T.meta_var(block * 64 + thread // 32 * 16 + thread % 32 // 4 + i // 2 % 2 * 8)
            C[row, i // 4 * 8 + thread % 4 * 2 + i % 2] = d[i]
    # fmt: on
    return main


def product(kind: str, rows: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(10)
    a, b = (rng.integers(-4, 5, shape).astype(np.float16) for shape in ((rows, k), (n, k)))
    c = np.zeros((rows, n), np.float32)
    if kind == "warp":
        *_, c = run(warp_product(), a, b, c)
    else:
        *_, c = run(warpgroup_product(rows, n, k), a, b, c, arch="sm_90a", pipeline="tirx")
    return c, a.astype(np.float64) @ b.astype(np.float64).T


def test_mma(worker: Worker) -> None:
    result, expected = worker.run(product, "warp", 16, 8, 16 * STEPS)
    assert np.array_equal(result, expected)


@pytest.mark.slow
def test_wgmma(worker: Worker) -> None:
    result, expected = worker.run(product, "warpgroup", 128, 64, 192)
    assert np.array_equal(result, expected)
