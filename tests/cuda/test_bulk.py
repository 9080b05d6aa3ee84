"""Products on sm_90 whose operands the copy engine brings: edges, orders of storage, batches, what it cannot copy, mistakes."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np
import pytest
import tvm_ffi

import einfall as ef
from tests.cuda import kernels
from tests.cuda.test_staging import ORDERS as LYING
from tests.cuda.test_staging import Part, cut, operands, text
from tests.cuda_emulation.device import Worker, compiled, in_every_order, set_order
from tests.cuda_emulation.emulator import ORDERS, EmulationError

BLOCKS = 3
"""Of a launch at most: they take several tiles one after the other."""

AWAIT, MET = r"einfall_await\(\(shared.*\n", r"einfall_met\(\);"


def changed(
    given: Mapping[str, np.ndarray], source: str, pattern: str = "", number: int = 0, instead: str = "", orders: int = 1
) -> np.ndarray:
    """The result of a kernel that copies in bulk, the same in so many orders of the threads; with something ``instead`` of what
    is number so and so of the places where ``pattern`` is."""
    from einfall.codegen.cuda import lower, toolkit

    kernels.emulate()
    minimum = lower.minimum

    def compile_source(source: str, arch: str) -> toolkit.DeviceCode:
        bulk, extern, other = source.rpartition('extern "C"')
        assert "main_kernel_1(" in other
        start = other.index("{") + 1  # whoever would go the other way stops
        if pattern:
            place = list(re.finditer(pattern, bulk))[number]
            bulk = bulk[: place.start()] + instead + bulk[place.end() :]
        source = f"{bulk}{extern}{other[:start]} __trap(); {other[start:]}"
        return toolkit.DeviceCode(arch="sm_90", ptx="", cubin=compiled(source), usage=())

    toolkit.compile_source, lower.minimum = compile_source, lambda a, _: minimum(a, BLOCKS)
    try:
        kernel = ef.compile(source, target="cuda:sm_90", cache=False)
    finally:
        lower.minimum = minimum
    placed = {name: kernels.on_gpu(value) for name, value in given.items()}
    first, *others = in_every_order(lambda: kernels.back(kernel(**placed)), ORDERS[:orders])
    assert all(first.tobytes() == other.tobytes() for other in others)
    return first


def in_bulk(gpu: Worker, m: int, n: int, k: int, left: bool, right: bool, orders: int = 1) -> None:
    given, expected = operands(m, n, k, left, right)
    assert np.array_equal(gpu.run(changed, given, text(left, right), orders=orders).astype(float), expected)


def in_orders(given: Mapping[str, np.ndarray], source: str) -> np.ndarray:
    return kernels.run(source, given, {}, "cuda:sm_90", every_order=True)[0]


@pytest.mark.parametrize(("m", "n", "k", "order"), [(136, 264, 328, (True, True)), (72, 40, 72, (False, False))])
def test_edges(gpu: Worker, m: int, n: int, k: int, order: tuple[bool, bool]) -> None:
    """Tiles that stick out, more steps than slots; operands with k last, with k first."""
    in_bulk(gpu, m, n, k, *order)


@pytest.mark.parametrize(("m", "n", "k"), [(5, 16, 0), (8, 0, 8), (7, 9, 5)])
def test_what_is_not_copied_in_bulk(gpu: Worker, m: int, n: int, k: int) -> None:
    """Sizes of 0, lines that begin between multiples of 16 bytes."""
    given, expected = operands(m, n, k, True, False)
    assert np.array_equal(gpu.run(in_orders, given, text(True, False)).astype(float), expected)


@pytest.mark.parametrize(("offset", "pad"), [(8, 8), (1, 8), (0, 1)])
@pytest.mark.slow
def test_parts_of_arrays(gpu: Worker, offset: int, pad: int) -> None:
    """Those that can be copied in bulk, and those that begin, or whose lines begin, between multiples of 16 bytes."""
    given, expected = operands(129, 264, 72, False, True)
    for found in gpu.run(cut, given, False, True, offset, pad):
        assert np.array_equal(found.astype(float), expected)


MISTAKES = [
    ("a slot is filled before it is empty", AWAIT, 0, "", r"1 arrivals, but the phase waits for 0 more"),
    ("a slot is read before it is full", AWAIT, 1, "", r"asynchronous copy still under way: read of 16 bytes"),
    ("nobody says that a slot is empty", r"einfall_arrive\(\(shared.*\n", 0, "", r"deadlock"),
    ("one step too early it is said", r"einfall_group_wait_1\(\);", 0, "", r"wgmma still under way: write"),
    ("fewer bytes are announced than come", r"(?<=, )49152\);", 0, "16384);", r"still under way|deadlock"),
    ("the barriers are not made for all", r"__syncthreads\(\);", 0, "", r"race in shared memory|no mbarrier was initialised"),
    ("one warp too many is waited for", r"(?<=, )8\);\n +einfall_barrier\(.*, 1\)", 0, "9);", r"deadlock|no mbarrier"),
    ("nobody says that a tile's last slot is empty", r"einfall_arrive\(\(shared.*\n", 1, "", r"deadlock"),
    ("what was handed on there is not fenced", r"einfall_seen\(\);", 0, "", r"no fence.proxy.async between a write"),
    ("sums are exchanged where others still multiply", MET, 0, "", r"wgmma still under way|race in shared memory"),
]
FAST = 2


def cases() -> Iterator[object]:
    for number, (name, *mistake) in enumerate(MISTAKES):
        yield pytest.param(*mistake, id=name, marks=[pytest.mark.slow] if number >= FAST else [])


@pytest.mark.parametrize(("pattern", "number", "instead", "found"), list(cases()))
def test_mistakes(gpu: Worker, pattern: str, number: int, instead: str, found: str) -> None:
    given, _ = operands(392, 256, 264, True, True)
    with pytest.raises(EmulationError, match=found):
        gpu.run(changed, given, text(True, True), pattern, number, instead)


def unlike(given: Mapping[str, np.ndarray], source: str) -> np.ndarray:
    """The result where the copy engine lays chunks in their own order."""
    from einfall.codegen.cuda import tensor_maps

    before, tensor_maps._SWIZZLE = tensor_maps._SWIZZLE, 0
    try:
        return changed(given, source)
    finally:
        tensor_maps._SWIZZLE = before


def test_another_order_than_the_descriptors_tell(gpu: Worker) -> None:
    given, expected = operands(16, 16, 64, True, True)
    assert not np.array_equal(gpu.run(unlike, given, text(True, True)).astype(float), expected)


BATCH = """\
kernel product(A: f16[G, H, M, K], B: f16[H, K, N]) -> (C: f32[G, H, M, N]) {
    C[g, h, m, n] = A[g, h, m, k] * B[h, k, n]
}
"""


def test_batches(gpu: Worker) -> None:
    """A tensor of four dimensions by one of three."""
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-3, 4, shape).astype(np.float16) for shape in ((2, 3, 24, 72), (3, 72, 40)))
    found = gpu.run(changed, {"A": a, "B": b}, BATCH)
    assert np.array_equal(found, np.einsum("ghmk,hkn->ghmn", a.astype(float), b.astype(float)))


def repeated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of a batch by the same matrix again and again, at a stride of 0."""
    import tvm

    kernels.emulate()
    kernel = ef.compile(BATCH.replace("f16", "bf16"), target="cuda:sm_90", cache=False)
    owner = tvm.runtime.tensor(b.view(np.uint16).reshape(-1), tvm.cuda(0))
    memory = (ctypes.c_uint16 * b.size).from_address(tvm_ffi.from_dlpack(owner).data_ptr())
    elements = np.frombuffer(memory, np.uint16).reshape(b.shape)
    again = np.lib.stride_tricks.as_strided(elements, (a.shape[1], *b.shape), (0, *elements.strides))
    set_order(0, 0)
    return kernels.back(kernel(A=kernels.on_gpu(a), B=Part(owner, again)))


@pytest.mark.parametrize("heads", [1, 3])
def test_strides_of_0_are_not_left_to_the_driver(gpu: Worker, heads: int) -> None:
    rng = np.random.default_rng(4)
    a, b = (rng.integers(-3, 4, shape).astype(ml_dtypes.bfloat16) for shape in ((2, heads, 24, 72), (72, 40)))
    found = gpu.run(repeated, a, b)
    assert np.array_equal(found, np.einsum("ghmk,kn->ghmn", a.astype(float), b.astype(float)))


BYTES = "kernel product(A: {}[M, K], B: {}[N, K]) -> (C: i32[M, N]) {{ C[m, n] = A[m, k] * B[n, k] }}"


def bytes_product(gpu: Worker, left: str, right: str, m: int, n: int, k: int) -> None:
    """Bytes of all values; the greatest products are exact."""
    ranges = {"i8": (-128, 128, np.int8), "u8": (0, 256, np.uint8)}
    rng = np.random.default_rng(m * n + k)
    a, b = (rng.integers(*ranges[t][:2], shape).astype(ranges[t][2]) for t, shape in ((left, (m, k)), (right, (n, k))))
    found = gpu.run(changed, {"A": a, "B": b}, BYTES.format(left, right))
    assert np.array_equal(found, a.astype(np.int64) @ b.astype(np.int64).T)


def test_bytes(gpu: Worker) -> None:
    bytes_product(gpu, "i8", "u8", 136, 264, 144)


@pytest.mark.slow
@pytest.mark.parametrize("types", [("i8", "i8"), ("u8", "u8"), ("u8", "i8")])
def test_kinds_of_bytes(gpu: Worker, types: tuple[str, str]) -> None:
    for size in [(8, 8, 16), (128, 256, 128), (72, 136, 656)]:
        bytes_product(gpu, *types, *size)


ROUNDED = "@tolerance(2e-3) kernel product(A: f32[M, K], B: f32[N, K]) -> (C: f32[M, N]) { C[m, n] = A[m, k] * B[n, k] }"


def test_elements_are_rounded_on_their_way(gpu: Worker) -> None:
    """To tf32: the relative error in the Frobenius norm of normal numbers, of which the low bits are not just left out."""
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((72, 164), (136, 164)))
    found, expected = gpu.run(changed, {"A": a, "B": b}, ROUNDED), a.astype(float) @ b.astype(float).T
    assert 1e-5 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 2.0**-11


INDICES = {
    "every other row": ("A: bf16[P, K]", "let P = 2 * M + 1", "A[2 * m + 1, k] * B[n, k]", (49, 72)),
    "rows backwards": ("A: bf16[M, K]", "", "A[M - 1 - m, k] * B[n, k]", (48, 72)),
    "rows one element apart": ("A: bf16[S]", "let S = M + K", "A[m + k] * B[n, k]", (112,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INDICES)
def test_indices(gpu: Worker, name: str) -> None:
    parameter, let, value, shape = INDICES[name]
    source = f"kernel product({parameter}, B: bf16[N, K]) -> (C: f32[M, N]) {{ {let}\n C[m, n] = {value} }}"
    rng = np.random.default_rng(6)
    a, b = (rng.integers(-3, 4, each).astype(ml_dtypes.bfloat16) for each in (shape, (40, 72)))
    found = gpu.run(in_orders, {"A": a, "B": b}, source)
    assert np.array_equal(found, ef.interpret(source, A=a, B=b))


@pytest.mark.slow
@pytest.mark.parametrize("order", LYING)
def test_every_order_of_storage(gpu: Worker, order: tuple[bool, bool]) -> None:
    for m, n, k in [(8, 8, 8), (136, 264, 200), (16, 16, 520), (256, 520, 64), (264, 128, 584)]:
        in_bulk(gpu, m, n, k, *order, len(ORDERS))
        given, expected = operands(m, n, k, *order)
        assert np.array_equal(gpu.run(in_orders, given, text(*order)).astype(float), expected)


def on_fewer(given: Mapping[str, np.ndarray], source: str) -> np.ndarray:
    """The result on a device of 9 multiprocessors: another attribute of the emulator's is 9. Other numbers of blocks stop."""
    from einfall.codegen.cuda import lower, toolkit

    kernels.emulate()

    def compile_source(source: str, arch: str) -> toolkit.DeviceCode:
        start = source.index("{", source.rindex("main_kernel(")) + 1
        cubin = compiled(f"{source[:start]} if (gridDim.x != 9u) __trap(); {source[start:]}")
        return toolkit.DeviceCode(arch="sm_90", ptx="", cubin=cubin, usage=())

    before, lower._MULTIPROCESSORS, toolkit.compile_source = lower._MULTIPROCESSORS, 75, compile_source
    try:
        kernel = ef.compile(source, target="cuda:sm_90", cache=False)
    finally:
        lower._MULTIPROCESSORS = before
    return kernels.back(kernel(**{name: kernels.on_gpu(value) for name, value in given.items()}))


def test_blocks_are_no_more_than_multiprocessors(gpu: Worker) -> None:
    given, expected = operands(1288, 16, 16, True, True)
    assert np.array_equal(gpu.run(on_fewer, given, text(True, True)).astype(float), expected)


def without_fence(given: Mapping[str, np.ndarray], source: str) -> np.ndarray:
    """The result where nobody tells the tensor cores of what threads have stored in shared memory."""
    from einfall.codegen.cuda import toolkit

    kernels.emulate()

    def compile_source(source: str, arch: str) -> toolkit.DeviceCode:
        assert "einfall_seen();" in source
        cubin = compiled(source.replace("einfall_seen();", ""))
        return toolkit.DeviceCode(arch="sm_90", ptx="", cubin=cubin, usage=())

    toolkit.compile_source = compile_source
    kernel = ef.compile(source, target="cuda:sm_90", cache=False)
    return kernels.back(kernel(**{name: kernels.on_gpu(value) for name, value in given.items()}))


def test_what_threads_store_is_fenced(gpu: Worker) -> None:
    given, _ = operands(7, 9, 5, True, True)
    with pytest.raises(EmulationError, match=r"no fence.proxy.async between a write of shared memory"):
        gpu.run(without_fence, given, text(True, True))
