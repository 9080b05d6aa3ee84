"""Calling kernels: arrays of several libraries, by position and by name, results allocated or given."""

from __future__ import annotations

import threading
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from einfall.ir.diagnostics import EinfallError
from einfall.ir.expr import integer, op, size
from einfall.runtime.kernel import Kernel

from .kernels import Foreign, add_kernel, kernel, scale_module, signature

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def add() -> Kernel:
    return add_kernel()


def rows(m: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((m, n), np.float32)


def test_by_position_and_by_name(add: Kernel) -> None:
    a, b = rows(4, 8), rows(4, 8, 1)
    for result in (add(a, b), add(A=a, B=b), add(a, B=b), add(B=b, A=a), add(a, b, M=4, N=8)):
        assert isinstance(result, np.ndarray)
        np.testing.assert_array_equal(result, a + b)


def test_out_is_written_and_returned(add: Kernel) -> None:
    a, b = rows(4, 8), rows(4, 8, 1)
    for _ in range(2):  # the general way, then the short one
        out = np.zeros((4, 8), np.float32)
        assert add(a, b, out=out) is out
        np.testing.assert_array_equal(out, a + b)
    wide = np.zeros((4, 20), np.float32)
    add(a, b, out=wide[:, 3:11])
    np.testing.assert_array_equal(wide[:, 3:11], a + b)
    assert not wide[:, :3].any() and not wide[:, 11:].any()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x[::-1],
        lambda x: x[:, ::-1],
        lambda x: x[::2].repeat(2, axis=0),
        lambda x: np.asfortranarray(x),
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: np.broadcast_to(x[:, :1], x.shape),
        lambda x: np.concatenate([x, x], axis=1)[:, 8:],
        lambda x: np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
    ],
    ids=["plain", "rows back", "columns back", "twice", "fortran", "one row", "one column", "inside", "unaligned"],
)
def test_layouts(add: Kernel, view: Callable[[np.ndarray], np.ndarray]) -> None:
    a, b = view(rows(4, 8)), rows(4, 8, 1)
    np.testing.assert_array_equal(add(a, b), a + b)
    np.testing.assert_array_equal(add(b, a), a + b)


def test_read_only_inputs_are_not_copied(add: Kernel) -> None:
    a, b = rows(4, 8), rows(4, 8, 1)
    a.flags.writeable = False
    np.testing.assert_array_equal(add(a, b), a + b)
    seen: list[object] = []
    spy = kernel(signature("spy", ["A: f32[M, N]"], ["C: f32[M, N]"]), lambda *args: seen.append(args[0]))
    spy(a)
    assert seen[0].data_ptr() == a.ctypes.data  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (1, 1), (1, 7), (7, 1)])
def test_small_and_empty(add: Kernel, shape: tuple[int, int]) -> None:
    a, b = rows(*shape), rows(*shape, 1)
    for _ in range(2):
        np.testing.assert_array_equal(add(a, b), a + b)
    out = np.empty(shape, np.float32)  # without elements NumPy's strides are 0
    assert add(a, b, out=out) is out
    result = add(torch.from_numpy(a), torch.from_numpy(b))
    assert tuple(result.shape) == shape  # type: ignore[attr-defined]


def test_torch_in_torch_out(add: Kernel) -> None:
    a, b = torch.from_numpy(rows(4, 8)), torch.from_numpy(rows(4, 8, 1))
    for _ in range(2):
        result = add(a, b)
        assert isinstance(result, torch.Tensor)
        assert torch.equal(result, a + b)
    out = torch.empty(4, 8)
    assert add(a, b, out=out) is out
    assert torch.equal(out, a + b)
    assert torch.equal(add(a.T.contiguous().T, b), a + b)
    assert torch.equal(add(a, np.ones((4, 8), np.float32)), a + 1)
    with torch.no_grad():
        assert torch.equal(add(torch.nn.Parameter(a), b), a + b)


def test_anything_with_dlpack(add: Kernel) -> None:
    a, b = rows(4, 8), rows(4, 8, 1)
    np.testing.assert_array_equal(add(Foreign(a), b), a + b)
    out = np.zeros((4, 8), np.float32)
    given = Foreign(out)
    assert add(a, b, out=given) is given
    np.testing.assert_array_equal(out, a + b)


@pytest.mark.parametrize("dtype", ["f64", "i32", "bf16", "bool", "f8_e4m3"])
def test_element_types(dtype: str) -> None:
    storage = {"f64": np.float64, "i32": np.int32, "bf16": ml_dtypes.bfloat16, "bool": np.bool_}.get(
        dtype, ml_dtypes.float8_e4m3fn
    )
    a, b = rows(3, 5).astype(storage), rows(3, 5, 1).astype(storage)
    kernel = add_kernel(dtype)
    expected = a + b if dtype in ("f64", "i32") else a
    for _ in range(2):
        result = kernel(a, b)
        assert isinstance(result, np.ndarray) and result.dtype == storage
        np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(kernel(a[:, 1:4], b[:, 1:4]), expected[:, 1:4])
        assert kernel(a[:0], b[:0]).shape == (0, 5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.float8_e4m3fn], ids=str)
def test_torch_element_types(dtype: object) -> None:
    kernel = add_kernel({"bfloat16": "bf16", "bool": "bool"}.get(str(dtype).removeprefix("torch."), "f8_e4m3"))
    a = torch.from_numpy(rows(3, 5)).to(dtype)
    for _ in range(2):
        result = kernel(a, a)
        assert result.dtype is dtype  # type: ignore[attr-defined]
        assert torch.equal(result.to(torch.float32), a.to(torch.float32))  # type: ignore[attr-defined]


def test_scalars() -> None:
    scale = kernel(
        signature("scale", ["X: f32[M]", "scale: f32", "shift: i32", "flip: bool"], ["Y: f32[M]"]),
        scale_module()["main"],
    )
    x = np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(scale(x, 2.0, 1, False), 2 * x + 1)
    np.testing.assert_array_equal(scale(x, 2, np.int64(1), np.bool_(True)), -2 * x - 1)
    np.testing.assert_array_equal(scale(x, np.float32(2), torch.tensor(1), np.array(False)), 2 * x + 1)
    np.testing.assert_array_equal(scale(x, flip=False, shift=-3, scale=ml_dtypes.bfloat16(0.5)), x / 2 - 3)
    assert isinstance(scale(torch.from_numpy(x), 2.0, 1, False), torch.Tensor)


def test_sizes_that_no_argument_determines() -> None:
    seen: list[tuple[object, ...]] = []
    fill = kernel(
        signature("window", ["X: f32[P+R]"], ["Y: f32[P]"]),
        lambda x, y, *sizes: (seen.append(sizes), y.__setitem__(slice(None), x[: len(y)])),
    )
    x = np.arange(6, dtype=np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(fill(x, P=4), x[:4])
        np.testing.assert_array_equal(fill(x, R=4), x[:2])
    assert seen[:2] == [(4, 2), (2, 4)]
    with pytest.raises(EinfallError) as failure:
        fill(x)
    assert failure.value.code == "E1005" and "P, R" in str(failure.value)


def test_several_results() -> None:
    def split(x: np.ndarray, low: np.ndarray, high: np.ndarray, m: int) -> None:
        low[...], high[...] = x.min(), x.max()

    both = kernel(signature("extremes", ["X: f32[M]"], ["L: f32[M]", "H': f32[M]"]), split)
    x = np.arange(4, dtype=np.float32)
    result = both(x)
    assert type(result).__name__ == "extremes_results"
    assert result._fields == ("L", "H_prime")  # type: ignore[attr-defined]
    low, high = result  # type: ignore[misc]
    assert low[0] == 0 and high[0] == 3
    outs = (np.empty(4, np.float32), np.empty(4, np.float32))
    again = both(x, out=outs)
    assert again[0] is outs[0] and again[1] is outs[1] and outs[1][0] == 3  # type: ignore[index]
    both(x, out={"H'": outs[0], "L": outs[1]})
    assert outs[0][0] == 3 and outs[1][0] == 0


def test_odd_names() -> None:
    """Names with primes and Python's keywords are given by position or through ``**``."""
    odd = kernel(
        signature("odd", ["in: f32[M]", "x': f32[M]", "type: f32[M]"], ["out: f32[M]"]),
        lambda a, b, c, y, m: np.copyto(y, a + 2 * b + 4 * c),
    )
    a, b, c = (np.full(3, v, np.float32) for v in (1, 10, 100))
    for _ in range(2):
        np.testing.assert_array_equal(odd(a, b, c), 421)
        np.testing.assert_array_equal(odd(**{"in": a, "x'": b, "type": c}), 421)


def test_bind(add: Kernel) -> None:
    a, b = rows(4, 8), rows(4, 8, 1)
    bound = add.bind(B=b)
    assert [p.name for p in bound.signature.parameters] == ["A"]
    assert bound.sizes == ()
    np.testing.assert_array_equal(bound(a), a + b)
    np.testing.assert_array_equal(bound(A=a, out=np.empty((4, 8), np.float32)), a + b)
    np.testing.assert_array_equal(bound.bind(A=a)(), a + b)
    np.testing.assert_array_equal(add.bind(M=4)(a, b), a + b)
    assert torch.equal(bound(torch.from_numpy(a)), torch.from_numpy(a + b))
    with pytest.raises(EinfallError, match=r"size M is 2 in `A`.*but 4 in `B`"):
        bound(a[:2])
    with pytest.raises(EinfallError, match="bound already"):
        bound(a, B=b)
    with pytest.raises(EinfallError, match="did you mean `B`"):
        add.bind(b=b)
    with pytest.raises(EinfallError, match="size N is 8"):
        add.bind(A=a[:, :3], N=8)


def short_way_only(kernel: Kernel) -> None:
    """From now on the general way of a call fails."""

    def general(*_: object) -> object:
        raise AssertionError("the general way was taken")

    kernel._caller.fast.namespace["_einfall_general"] = general


def test_out_with_bound_arguments_takes_the_short_way(add: Kernel) -> None:
    a, b, c = rows(4, 8), rows(4, 8, 1), np.empty((4, 8), np.float32)
    for make in (np.asarray, torch.from_numpy):
        bound = add.bind(B=b)
        bound(make(a), out=make(c))
        short_way_only(bound)
        c[...] = 0
        bound(make(a), out=make(c))
        np.testing.assert_array_equal(c, a + b)
        with pytest.raises(AssertionError, match="general way"):
            bound(make(a), out=make(b))
        assert np.array_equal(b, rows(4, 8, 1))
        with pytest.raises(AssertionError, match="general way"):
            bound(make(a), out=make(c[:2]))


@pytest.mark.parametrize("where", ["input", "out"])
def test_tensors_that_are_no_plain_memory_are_told_of_each_time(add: Kernel, where: str) -> None:
    """The short way leaves it to the function to refuse them, which does so before it reads or writes."""
    plain, other = torch.zeros(4, 8), torch.ones(4, 8)
    add(plain, other, out=torch.empty(4, 8))
    wrong = {
        "E1009": [other.double(), other.int()],
        "E1010": [other.to("meta")],
        "E1011": [other.to_sparse(), other.to_sparse_csr(), other.to_mkldnn(), other.clone().requires_grad_()],
    }
    for code, tensors in wrong.items():
        for tensor in tensors:
            expected = "E1016" if where == "out" and tensor.requires_grad else code
            for _ in range(2):
                with pytest.raises(EinfallError) as failure:
                    add(plain, tensor) if where == "input" else add(plain, other, out=tensor)
                assert failure.value.code == expected, tensor


def test_negated_views_are_read_as_what_they_show(add: Kernel) -> None:
    negative = torch.tensor([[1 + 2j]]).conj().imag.as_strided((1, 1), (1, 1))
    one = torch.ones(1, 1)
    assert negative.is_neg() and negative.is_contiguous()
    for _ in range(2):
        assert add(negative, one).item() == -1


def test_out_that_overlaps_a_bound_argument_is_refused(add: Kernel) -> None:
    memory = np.zeros(64, np.float32)
    b, over = memory[:32].reshape(4, 8), memory[16:48].reshape(4, 8)
    a, kept = rows(4, 8), np.empty((4, 8), np.float32)
    for make in (np.asarray, torch.from_numpy):
        bound = add.bind(B=make(b))
        bound(make(a), out=make(kept))
        for out in (b, over):
            with pytest.raises(EinfallError) as failure:
                bound(make(a), out=make(out))
            assert failure.value.code == "E1017"
    beside = memory[32:].reshape(4, 8)
    np.testing.assert_array_equal(add.bind(B=b)(a, out=beside), a + b)


def test_a_tuple_of_results_takes_the_short_way() -> None:
    def split(x: np.ndarray, low: np.ndarray, high: np.ndarray, m: int) -> None:
        low[...], high[...] = x.min(), x.max()

    both = kernel(signature("extremes", ["X: f32[M]"], ["L: f32[M]", "H: f32[M]"]), split)
    x, low, high = np.arange(4, dtype=np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    both(x, out=(low, high))
    short_way_only(both)
    low[...] = high[...] = 7
    found = both(x, out=(low, high))
    assert found[0] is low and found.H is high and low[0] == 0 and high[0] == 3  # type: ignore[index, attr-defined]
    for outs in ((low, low), (low, x), (low,), [low, high], (low, high[:2])):
        with pytest.raises(AssertionError, match="general way"):
            both(x, out=outs)


def test_concurrent_calls(add: Kernel) -> None:
    inputs = [(rows(50 + i, 64, i), rows(50 + i, 64, i + 100)) for i in range(8)]
    wrong: list[int] = []

    def work(i: int) -> None:
        a, b = inputs[i]
        for _ in range(50):
            if not np.array_equal(add(a, b), a + b):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_workspace() -> None:
    work = op("mul", integer(4), op("mul", size("M"), size("K")))
    one = kernel(
        signature("w", ["X: f32[M]"], ["Y: f32[M]"], lets=[("K", op("ceildiv", size("M"), integer(64)))], workspace=work),
        lambda *_: None,
    )
    assert one.workspace_bytes(M=65) == 4 * 65 * 2
    with pytest.raises(EinfallError, match="depends on") as failure:
        one.workspace_bytes()
    assert failure.value.code == "E1005"


def test_sources_and_printing(add: Kernel) -> None:
    assert add.source("asm") == "ret"
    assert add.source() == "kernel …"
    with pytest.raises(EinfallError) as failure:
        add.source("asn")
    assert failure.value.code == "E1020" and "did you mean `asm`" in str(failure.value)
    assert repr(add) == "<einfall kernel add(A: f32[M, N], B: f32[M, N]) -> (C: f32[M, N]) for cpu:test>"
    assert "bound: B" in repr(add.bind(B=rows(2, 2)))
    assert "<code>add(A" in add._repr_html_()
    assert "FLOPs: M * N" in str(add.explain())
    assert "<pre>" in add.explain()._repr_html_()


def test_benchmark(add: Kernel) -> None:
    a, b = rows(64, 64), rows(64, 64, 1)
    found = add.benchmark(a, b, seconds=0.02)
    assert 0 < found.p10 <= found.median <= found.p90
    assert found.flops == 64 * 64 and found.traffic == 8 * 64 * 64
    assert "GFLOP/s" in str(found) and "<table>" in found._repr_html_()
    assert found.to_json()["threads"] == found.threads
