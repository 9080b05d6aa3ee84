"""Operands copied in chunks of 16 bytes: edges, orders of storage, views that are not aligned, bank conflicts."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import pytest
import tvm_ffi

import einfall as ef
from einfall.codegen.cuda.build import build
from einfall.compiler.program import read_program
from einfall.ir.target import Target
from einfall.passes.pipeline import lower
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker, in_every_order, set_order
from tests.cuda_emulation.traffic import Traffic, counted

PRODUCT = """\
kernel product(A: bf16[{a}], B: bf16[{b}], c: bf16[M, N]) -> (C: bf16[M, N]) {{
    S: f32[m, n] = A[{i}] * B[{j}]
    C[m, n] = S[m, n] + c[m, n]
}}
"""
ORDERS = [(True, True), (True, False), (False, True), (False, False)]
"""Whether k comes last in A, in B."""


def text(left: bool, right: bool) -> str:
    return PRODUCT.format(
        a="M, K" if left else "K, M", i="m, k" if left else "k, m", b="N, K" if right else "K, N", j="n, k" if right else "k, n"
    )


def operands(m: int, n: int, k: int, left: bool, right: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Whole numbers, so small that nothing is rounded; (the arguments, the result)."""
    rng = np.random.default_rng(m + n + k)
    a, b, c = (rng.integers(-1, 2, shape).astype(ml_dtypes.bfloat16) for shape in ((m, k), (k, n), (m, n)))
    result = a.astype(float) @ b.astype(float) + c.astype(float)
    assert np.abs(result).max(initial=0) < 256
    given = {"A": a if left else a.T.copy(), "B": b.T.copy() if right else b, "c": c}
    return given, result


class Part:
    """Part of an array in the emulator's memory, which is the CPU's: elements of 16 bits, some from one line to the next."""

    def __init__(self, owner: object, elements: np.ndarray) -> None:
        self.owner, self.elements = owner, elements

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **_: object) -> object:
        capsule = self.elements.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        record = pointer(capsule, b"dltensor")
        ctypes.c_int32.from_address(record + 8).value = 2  # the type of the device, CUDA
        ctypes.c_uint8.from_address(record + 20).value = 4  # the type of the elements, bfloat
        return capsule


def cut(given: Mapping[str, np.ndarray], left: bool, right: bool, offset: int, pad: int) -> list[np.ndarray]:
    """The results, in every order of the threads, for operands that are parts of larger arrays: they begin so many elements
    further on, and their lines are so many elements longer."""
    import tvm

    kernels.emulate()
    kernel = ef.compile(text(left, right), target="cuda:sm_90", cache=False)

    def part(array: np.ndarray) -> Part:
        lines, width = array.shape
        owner = tvm.runtime.tensor(np.full(offset + lines * (width + pad), 0x7FC0, np.uint16), tvm.cuda(0))
        address = tvm_ffi.from_dlpack(owner).data_ptr()
        memory = (ctypes.c_uint16 * owner.shape[0]).from_address(address)
        elements = np.frombuffer(memory, np.uint16)[offset:].reshape(lines, width + pad)[:, :width]
        elements[...] = array.view(np.uint16)
        return Part(owner, elements)

    parts = {name: part(array) for name, array in given.items()}
    return in_every_order(lambda: kernels.back(kernel(**parts)))


def traffic(given: Mapping[str, np.ndarray], left: bool, right: bool, target: str) -> list[Traffic]:
    set_order(0, 0)
    return counted(lambda: kernels.run(text(left, right), given, {}, target))


@pytest.mark.parametrize(("order", "target"), [((True, False), "cuda:sm_80"), ((False, True), "cuda:sm_90")])
def test_no_bank_conflicts(gpu: Worker, order: tuple[bool, bool], target: str) -> None:
    given, _ = operands(128, 128, 128, *order)
    shared = [each for each in gpu.run(traffic, given, *order, target) if each.space == "shared"]
    assert {each.kind for each in shared} == {"read", "write"}
    assert all(each.excess == 1.0 for each in shared), shared


def test_what_tells_a_threads_copies_apart_are_constants_and_strides() -> None:
    """Where its chunks lie, with their order by an exclusive or, is computed once, before the loop over them."""
    target = Target.parse("cuda:sm_80")
    source = build(lower(read_program(text(True, False)).select(None), target=target).program, target).source
    copies = [line for line in source.splitlines() if " einfall_copy16(" in line and "void" not in line]
    assert len(copies) == 2 and not any("^" in line for line in copies)


@pytest.mark.parametrize(("offset", "pad"), [(8, 8), (1, 8), (0, 1)])
def test_parts_of_arrays(gpu: Worker, offset: int, pad: int) -> None:
    """Aligned ones, those that begin between chunks, those whose lines do."""
    given, expected = operands(129, 40, 72, True, False)
    for found in gpu.run(cut, given, True, False, offset, pad):
        assert np.array_equal(found.astype(float), expected)


def in_orders(given: Mapping[str, np.ndarray], left: bool, right: bool, target: str) -> np.ndarray:
    return kernels.run(text(left, right), given, {}, target, every_order=True)[0]


SIZES = [(1, 8, 8), (8, 136, 24), (136, 264, 200), (16, 16, 520), (40, 72, 64), (257, 127, 131), (3, 5, 7)]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_86", "cuda:sm_90"])
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_storage(gpu: Worker, order: tuple[bool, bool], target: str) -> None:
    for m, n, k in SIZES:
        given, expected = operands(m, n, k, *order)
        assert np.array_equal(gpu.run(in_orders, given, *order, target).astype(float), expected)
