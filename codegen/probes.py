"""Small kernels that reach a machine's limits: chains of multiply-adds in registers, streams through the caches.

They are timed by ``compiler/measure.py``. Every probe is one function of the number of workers, so that one core and
all cores run the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import tvm
from tvm.script import tirx as T

from ..ir.target import Target
from .tvm_target import to_tvm

Function: TypeAlias = Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeProbe:
    """``run(workers, steps, seed, out)``: ``ops`` operations per worker and step.

    ``seed`` holds ``seed_size`` elements and ``out`` ``out_size`` elements per worker, of the named types.
    """

    dtype: str
    run: Function
    ops: int
    seed: tuple[int, str]
    out: tuple[int, str]
    tiles: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamProbes:
    """Streams of f32 in chunks of ``block`` elements, one chunk of memory per worker.

    ``read(workers, repeats, source, out)`` sums its chunk ``repeats`` times (``out``: ``block`` elements per worker);
    ``pages`` does so of a source of [workers, groups, *``group``]: eight pages side by side, each as long as ``group`` says.
    ``copy(workers, repeats, source, target)`` scales one buffer into another.
    """

    read: Function
    pages: Function
    copy: Function
    block: int
    group: tuple[int, int, int]


_BYTE_DOTS = (  # features, bits of a register, instruction that adds products of four bytes to each 32-bit lane
    (("avx512vnni",), 512, "llvm.x86.avx512.vpdpbusd.512"),
    (("avxvnni",), 256, "llvm.x86.avx512.vpdpbusd.256"),
    (("dotprod",), 128, "llvm.aarch64.neon.sdot.v4i32.v16i8"),
)

_PAGE = 4096  # bytes

_TILE_OPS = 4 * 2 * 16 * 16 * 64  # four products of 16 x 64 by 64 x 16 bytes


def compute_probes(target: Target) -> list[ComputeProbe]:
    """One probe per instruction worth measuring on ``target``; a type may have several, of which the best counts."""
    with_fma = target.has("fma") or target.has("neon")
    accumulators = 24 if target.vector_registers >= 32 else 12
    dtypes = [("f32", "float32", 32), ("f64", "float64", 64)]
    if target.has("avx512fp16") or target.has("fullfp16"):
        dtypes.append(("f16", "float16", 16))
    probes = [_fma(name, dtype, target.lanes(bits), accumulators if with_fma else 8, target) for name, dtype, bits in dtypes]
    for features, bits, intrinsic in _BYTE_DOTS:
        if target.has(*features):
            probes.append(_dot(intrinsic, bits // 32, accumulators, target))
            break
    if target.tiles is not None:
        for dtype, feature, intrinsic in (
            ("i8", "amx-int8", "llvm.x86.tdpbssd"),
            ("bf16", "amx-bf16", "llvm.x86.tdpbf16ps"),
        ):
            if target.has(feature):
                probes.append(_tiles(dtype, intrinsic, target))
    return probes


def stream_probes(target: Target) -> StreamProbes:
    """Kernels that read, and that copy, f32 arrays with full vectors.

    Memory is slow to one stream: the prefetcher of the hardware follows a page to its end and begins anew with the next. Eight
    pages that are read side by side keep it busy. Measured on Sapphire Rapids, one core, GB/s over 256 MB: one stream 9.7, two
    pages 11.3, four 13.0, eight 13.4, sixteen 14.3.
    """
    lanes, streams = target.lanes(32), 8
    block, steps = lanes * streams, max(1, _PAGE // (4 * lanes))

    @T.prim_func(s_tir=True, private=True)
    def read(workers: T.int32, repeats: T.int32, source: T.handle, out: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        blocks = T.int64()
        start = T.match_buffer(source, (workers, blocks, block), "float32")
        result = T.match_buffer(out, (workers, block), "float32")
        for w in T.parallel(workers):
            sums = T.alloc_buffer((block,), "float32", scope="local")
            for j in T.unroll(streams):
                sums[T.ramp(j * lanes, 1, lanes)] = T.broadcast(T.float32(0), lanes)
            for _ in range(repeats):
                for b in range(blocks):
                    for j in T.unroll(streams):
                        sums[T.ramp(j * lanes, 1, lanes)] = (
                            sums[T.ramp(j * lanes, 1, lanes)] + start[w, b, T.ramp(j * lanes, 1, lanes)]
                        )
            for j in T.unroll(streams):
                result[w, T.ramp(j * lanes, 1, lanes)] = sums[T.ramp(j * lanes, 1, lanes)]

    @T.prim_func(s_tir=True, private=True)
    def pages(workers: T.int32, repeats: T.int32, source: T.handle, out: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        groups = T.int64()
        start = T.match_buffer(source, (workers, groups, streams, steps, lanes), "float32")
        result = T.match_buffer(out, (workers, block), "float32")
        for w in T.parallel(workers):
            sums = T.alloc_buffer((block,), "float32", scope="local")
            for j in T.unroll(streams):
                sums[T.ramp(j * lanes, 1, lanes)] = T.broadcast(T.float32(0), lanes)
            for _ in range(repeats):
                for g in range(groups):
                    for step in range(steps):
                        for j in T.unroll(streams):
                            sums[T.ramp(j * lanes, 1, lanes)] = (
                                sums[T.ramp(j * lanes, 1, lanes)] + start[w, g, j, step, T.ramp(0, 1, lanes)]
                            )
            for j in T.unroll(streams):
                result[w, T.ramp(j * lanes, 1, lanes)] = sums[T.ramp(j * lanes, 1, lanes)]

    # The factor keeps LLVM from turning the loop into memcpy, which kernels do not use.
    @T.prim_func(s_tir=True, private=True)
    def copy(workers: T.int32, repeats: T.int32, source: T.handle, out: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        blocks = T.int64()
        start = T.match_buffer(source, (workers, blocks, block), "float32")
        result = T.match_buffer(out, (workers, blocks, block), "float32")
        factor: T.let = T.broadcast(T.float32(1.5), lanes)
        for w in T.parallel(workers):
            for _ in range(repeats):
                for b in range(blocks):
                    for j in T.unroll(streams):
                        result[w, b, T.ramp(j * lanes, 1, lanes)] = factor * start[w, b, T.ramp(j * lanes, 1, lanes)]

    built = _build({"read": read, "pages": pages, "copy": copy}, target)
    return StreamProbes(**built, block=block, group=(streams, steps, lanes))


def _fma(name: str, dtype: str, lanes: int, accumulators: int, target: Target) -> ComputeProbe:
    """``a = a * x + y`` on enough independent accumulators to hide the latency of the multiply-add."""
    width = lanes * accumulators

    @T.prim_func(s_tir=True)
    def probe(workers: T.int32, steps: T.int32, seed: T.handle, out: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        start = T.match_buffer(seed, (2 * lanes,), dtype)
        result = T.match_buffer(out, (workers, width), dtype)
        for w in T.parallel(workers):
            sums = T.alloc_buffer((width,), dtype, scope="local")
            for a in T.unroll(accumulators):
                sums[T.ramp(a * lanes, 1, lanes)] = start[T.ramp(0, 1, lanes)]
            for _ in range(steps):
                for a in T.unroll(accumulators):
                    sums[T.ramp(a * lanes, 1, lanes)] = (
                        sums[T.ramp(a * lanes, 1, lanes)] * start[T.ramp(0, 1, lanes)] + start[T.ramp(lanes, 1, lanes)]
                    )
            for a in T.unroll(accumulators):
                result[w, T.ramp(a * lanes, 1, lanes)] = sums[T.ramp(a * lanes, 1, lanes)]

    run = _build({"probe": probe}, target)["probe"]
    return ComputeProbe(dtype=name, run=run, ops=2 * width, seed=(2 * lanes, dtype), out=(width, dtype))


def _dot(intrinsic: str, lanes: int, accumulators: int, target: Target) -> ComputeProbe:
    """The same with an int8 dot product, which has no form of its own in TensorIR."""
    width, elements = lanes * accumulators, 4 * lanes
    vector = f"int32x{lanes}"

    @T.prim_func(s_tir=True)
    def probe(workers: T.int32, steps: T.int32, seed: T.handle, out: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        start = T.match_buffer(seed, (elements,), "int8")
        result = T.match_buffer(out, (workers, width), "int32")
        for w in T.parallel(workers):
            sums = T.alloc_buffer((width,), "int32", scope="local")
            for a in T.unroll(accumulators):
                sums[T.ramp(a * lanes, 1, lanes)] = T.broadcast(w, lanes)
            for _ in range(steps):
                for a in T.unroll(accumulators):
                    sums[T.ramp(a * lanes, 1, lanes)] = T.call_llvm_pure_intrin(
                        vector,
                        intrinsic,
                        sums[T.ramp(a * lanes, 1, lanes)],
                        start[T.ramp(0, 1, elements)],
                        start[T.ramp(0, 1, elements)],
                    )
            for a in T.unroll(accumulators):
                result[w, T.ramp(a * lanes, 1, lanes)] = sums[T.ramp(a * lanes, 1, lanes)]

    run = _build({"probe": probe}, target)["probe"]
    return ComputeProbe(dtype="i8", run=run, ops=8 * width, seed=(elements, "int8"), out=(width, "int32"))


def _tiles(dtype: str, intrinsic: str, target: Target) -> ComputeProbe:
    """AMX: a block of 2 x 2 accumulator tiles, its four operand tiles loaded from the L1 cache for every step.

    The process must have been given the use of tiles by the kernel before this runs. Each worker configures its own
    eight tiles of 16 rows of 64 bytes (Intel's manual, section "Intel AMX instruction set": palette 1).
    """

    @T.prim_func(s_tir=True)
    def probe(workers: T.int32, steps: T.int32, seed: T.handle, out: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        start = T.match_buffer(seed, (4 * 1024,), "int8")
        result = T.match_buffer(out, (workers, 4 * 256), "int32")
        for w in T.parallel(workers):
            config = T.alloc_buffer((64,), "uint8", scope="global")
            for i in range(64):
                config[i] = T.uint8(0)
            config[0] = T.uint8(1)
            for i in range(8):
                config[16 + i * 2] = T.uint8(64)
                config[48 + i] = T.uint8(16)
            T.evaluate(T.call_llvm_intrin("void", "llvm.x86.ldtilecfg", config.data))
            for a in T.unroll(4):
                T.evaluate(T.call_llvm_intrin("void", "llvm.x86.tilezero", T.Cast("uint8", a)))
            for _ in range(steps):
                for a in T.unroll(4):
                    T.evaluate(
                        T.call_llvm_intrin(
                            "void",
                            "llvm.x86.tileloadd64",
                            T.Cast("uint8", a + 4),
                            start.access_ptr("r", offset=a * 1024),
                            T.int64(64),
                        )
                    )
                for a in T.unroll(4):
                    T.evaluate(
                        T.call_llvm_intrin(
                            "void",
                            intrinsic,
                            T.Cast("uint8", a),
                            T.Cast("uint8", 4 + a // 2),
                            T.Cast("uint8", 6 + a % 2),
                        )
                    )
            for a in T.unroll(4):
                T.evaluate(
                    T.call_llvm_intrin(
                        "void",
                        "llvm.x86.tilestored64",
                        T.Cast("uint8", a),
                        result.access_ptr("w", offset=w * 1024 + a * 256),
                        T.int64(64),
                    )
                )
            T.evaluate(T.call_llvm_intrin("void", "llvm.x86.tilerelease"))

    run = _build({"probe": probe}, target)["probe"]
    ops = _TILE_OPS if dtype == "i8" else _TILE_OPS // 2
    return ComputeProbe(dtype=dtype, run=run, ops=ops, seed=(4 * 1024, "int8"), out=(4 * 256, "int32"), tiles=True)


def _build(functions: dict[str, object], target: Target) -> dict[str, Function]:
    public = {name: function.with_attr("global_symbol", name) for name, function in functions.items()}  # type: ignore[attr-defined]
    module = tvm.compile(tvm.IRModule(public), target=to_tvm(target)).mod
    return {name: module[name] for name in functions}
