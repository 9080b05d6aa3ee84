"""On which stream a kernel runs, what it asks the library of its arrays for, and that a repeated call takes the short way."""

from __future__ import annotations

import numpy as np
import pytest

import einfall as ef
from einfall.runtime import streams
from einfall.runtime.kernel import Kernel
from tests.cuda import kernels, libraries
from tests.cuda_emulation.device import Worker

ADD = "kernel add(X: f32[M, N], Z: f32[M, N]) -> (Y: f32[M, N]) { Y[m, n] = X[m, n] + Z[m, n] }"
FLAGS = "kernel flags(X: bool[M], c: f32) -> (Y: bool[M], N: f32[M]) { Y[m] = not X[m]\n N[m] = c }"
STAGED = """\
kernel staged(X: f32[M, N]) -> (Y: f32[M, N]) {
    S[n] = X[m, n]
    Y[m, n] = X[m, n] / S[n]
}
"""
"""Its sums lie in scratch memory."""


def watched(kernel: Kernel) -> list[int]:
    """The streams that are set when the kernel is launched, from now on."""
    seen: list[int] = []
    function = kernel._caller.function

    def launch(*arguments: object) -> object:
        seen.append(streams.current(0))
        return function(*arguments)

    kernel._caller.function = launch
    kernel._caller.fast.namespace["_einfall_function"] = launch
    return seen


def only_the_short_way(kernel: Kernel) -> None:
    def refuse(*_: object) -> object:
        raise AssertionError("the general way was taken")

    kernel._caller.fast.namespace["_einfall_general"] = refuse


def compiled(text: str) -> Kernel:
    kernels.emulate()
    return ef.compile(text, target="cuda:sm_90", cache=False)


def with_cupy() -> tuple[list[int], list[object], list[float], int]:
    cupy, kernel = libraries.cupy(), compiled(ADD)
    seen = watched(kernel)
    x, out = cupy.asarray(np.ones((3, 4), np.float32)), cupy.asarray(np.zeros((3, 4), np.float32))
    first = kernel(x, x)
    assert type(first) is cupy.ndarray
    only_the_short_way(kernel)
    cupy.current = 6
    second = kernel(x, first)
    assert kernel(x, second, out=out) is out
    found = [float(kernels.back(each.held).sum()) for each in (first, second, out)]
    return seen, cupy.ndarray.asked, found, streams.current(0)


def test_cupy_tells_its_current_stream_and_waits_for_nothing(gpu: Worker) -> None:
    seen, asked, found, after = gpu.run(with_cupy)
    assert seen == [5, 6, 6]
    assert set(asked) == {-1}
    assert found == [24.0, 36.0, 48.0]
    assert after == 0


def with_jax() -> tuple[list[int], list[object], list[float]]:
    jax, kernel = libraries.jax(), compiled(ADD)
    seen = watched(kernel)
    x = jax.asarray(np.ones((3, 4), np.float32))
    first = kernel(x, x)
    only_the_short_way(kernel)
    second = kernel(x, first)
    assert type(second) is jax.Array
    return seen, jax.Array.asked, [float(kernels.back(each.held).sum()) for each in (first, second)]


def test_jax_gives_a_stream_for_others(gpu: Worker) -> None:
    seen, asked, found = gpu.run(with_jax)
    assert seen == [77, 77]
    assert set(asked) == {77}
    assert found == [24.0, 36.0]


def short_way() -> tuple[list[list[float]], bool, float]:
    kernel, flags = compiled(ADD), compiled(FLAGS)
    x, y, out = (kernels.on_gpu(np.full((3, 4), n, np.float32)) for n in (1, 2, 0))
    p = kernels.on_gpu(np.array([True, False]))
    results = [kernel(x, y), flags(p, 2.0).Y]
    only_the_short_way(kernel)
    only_the_short_way(flags)
    both = flags(p, 2.5)
    results += [kernel(x, y), both.Y, both.N]
    same = kernel(x, y, out=out) is out
    return [kernels.back(each).ravel().tolist() for each in results], same, float(kernels.back(out).sum())


def test_repeated_calls_take_the_short_way(gpu: Worker) -> None:
    (general, general_flags, quick, quick_flags, number), same, total = gpu.run(short_way)
    assert general == quick == [3.0] * 12
    assert general_flags == quick_flags == [False, True]
    assert number == [2.5, 2.5]
    assert same
    assert total == 36


def refused_by_the_short_way(which: str) -> str:
    kernel = compiled(ADD)
    x, y = (kernels.on_gpu(np.ones((3, 4), np.float32)) for _ in range(2))
    kernel(x, y)
    long = kernels.on_gpu(np.ones(13, np.float32))
    shifted = long._create_view((3, 4), "float32", 1)
    other = kernels.on_gpu(np.ones((3, 4), np.int32))
    try:
        match which:
            case "misaligned":
                kernel(shifted, y)
            case "misaligned result":
                kernel(x, y, out=shifted)
            case "same memory":
                kernel(x, y, out=x)
            case "type":
                kernel(x, other)
            case "type of a result":
                kernel(x, y, out=other)
            case "host":
                kernel(x, np.ones((3, 4), np.float32))
            case "threads":
                kernel(x, y, threads=0)
    except ef.EinfallError as failure:
        return f"{failure.code} {failure} {kernels.back(kernel(x, y)).sum()}"
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize(
    ("which", "code"),
    [
        ("misaligned", "E1011"),
        ("misaligned result", "E1011"),
        ("same memory", "E1017"),
        ("type", "E1009"),
        ("type of a result", "E1009"),
        ("host", "E1010"),
        ("threads", "E1022"),
    ],
)
def test_what_the_short_way_refuses_is_explained_and_the_next_call_works(gpu: Worker, which: str, code: str) -> None:
    said = gpu.run(refused_by_the_short_way, which)
    assert said.startswith(code)
    assert said.endswith(" 24.0")


def scratch_memory_between_streams() -> tuple[list[tuple[int, int]], float]:
    cupy, kernel = libraries.cupy(), compiled(STAGED)
    assert kernel._caller.workspace
    waits: list[tuple[int, int]] = []
    streams._last.by_gpu.clear()
    real = streams.global_function

    def noting(name: str):
        if name != "runtime.Device_StreamSyncFromTo":
            return real(name)
        return lambda device, before, after: waits.append((before, after))

    streams.global_function = noting
    x = cupy.asarray(np.ones((3, 4), np.float32))
    try:
        for cupy.current in (5, 5, 6, 6, 5):
            found = kernel(x)
    finally:
        streams.global_function = real
    return waits, float(kernels.back(found.held).sum())


def test_scratch_memory_goes_from_stream_to_stream_in_order(gpu: Worker) -> None:
    waits, total = gpu.run(scratch_memory_between_streams)
    assert waits == [(5, 6), (6, 5)]
    assert total == pytest.approx(4.0)


class Elsewhere:
    """An array that says that it is on GPU 1."""

    def __init__(self, held: object) -> None:
        self.held = held

    def __dlpack__(self, **_: object) -> object:
        return self.held.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1


def several_gpus() -> str:
    kernel = compiled(ADD)
    x = kernels.on_gpu(np.ones((3, 4), np.float32))
    try:
        kernel(x, Elsewhere(x))
    except ef.EinfallError as failure:
        return str(failure)
    raise AssertionError("nothing was refused")


def test_arrays_on_two_gpus(gpu: Worker) -> None:
    said = gpu.run(several_gpus)
    assert "E1010" in said
    assert "GPU 0" in said and "GPU 1" in said


OUTER = "kernel outer(X: f32[M], Z: f32[N]) -> (Y: f32[M, N]) { Y[m, n] = X[m] * Z[n] }"


def too_large(which: str) -> str:
    text = OUTER if which == "result" else STAGED.replace("S[n] = X[m, n]", "S[m, n] = X[m, n]").replace("/ S[n]", "/ S[n, m]")
    kernel = compiled(text)
    length = 80_000
    x = kernels.on_gpu(np.ones(length if which == "result" else (4, 4), np.float32))
    try:
        kernel(x, x)
    except ef.EinfallError as failure:
        small = kernels.on_gpu(np.ones(2, np.float32))
        return f"{failure} {kernels.back(kernel(small, small)).sum()}"
    raise AssertionError("nothing was refused")


def test_out_of_memory(gpu: Worker) -> None:
    said = gpu.run(too_large, "result")
    assert "E1013" in said
    assert "free: " in said and "torch.cuda.empty_cache()" in said
    assert said.endswith(" 4.0")  # the next call works


def test_scratch_memory_that_no_gpu_has() -> None:
    from einfall.compiler.program import read_program
    from einfall.ir.expr import op, size
    from einfall.runtime.extents import resolve
    from einfall.runtime.signature import Signature

    cascade = read_program(OUTER).select(None)
    signature = Signature.of(cascade, workspace=op("mul", size("M"), size("N")))
    with pytest.raises(ef.EinfallError, match=r"E1013.*more than GPU 0's memory of 1000 bytes"):
        resolve(signature, {"X": (100,), "Z": (11,)}, memory=(1000, "GPU 0's"))


def test_code_that_the_driver_does_not_load() -> None:
    from einfall.runtime.devices import explained

    text = "CUDAError: cuModuleLoadData(&(module_[device_id]), data_.c_str()) failed with error: CUDA_ERROR_NO_BINARY"
    said = explained("scale", "sm_90a", text)
    assert said is not None and said.code == "E1106"
    assert "CUDA_ERROR_NO_BINARY" in str(said)
    assert explained("scale", "sm_90a", "something else") is None
