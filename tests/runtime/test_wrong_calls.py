"""Every way in which a call can be wrong: the code, and the words that matter."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

import einfall as ef
from einfall.ir.catalogue import CATALOGUE
from einfall.ir.diagnostics import EinfallError
from einfall.ir.expr import integer, op, size
from einfall.runtime.kernel import Kernel

from .kernels import Foreign, kernel, signature

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def attention() -> Kernel:
    sig = signature("attention", ["Q: f32[H, P, E]", "K: f32[H, M, E]", "V: f32[H, M, F]"], ["AV: f32[H, P, F]"])
    return kernel(sig, lambda *_: None)


def zeros(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)  # type: ignore[call-overload,no-any-return]


Q, K, V = zeros(2, 3, 8), zeros(2, 5, 8), zeros(2, 5, 4)


def read_only(x: np.ndarray) -> np.ndarray:
    copy = x.copy()
    copy.flags.writeable = False
    return copy


WRONG: list[tuple[str, str, Callable[[Kernel], object]]] = [
    ("E1001", "no argument `q`.*did you mean `Q`", lambda f: f(Q, K, q=V)),
    ("E1001", "no argument `thread`.*did you mean `threads`", lambda f: f(Q, K, V, thread=1)),
    ("E1002", "needs `V`", lambda f: f(Q, K)),
    ("E1002", "needs `Q`, `K`, `V`", lambda f: f()),
    ("E1003", "`Q` has 3 dimensions, the argument has 2", lambda f: f(Q[0], K, V)),
    ("E1004", r"size E is 8 in `Q` \(axis 2\), but 4 in `K` \(axis 2\)", lambda f: f(Q, K[..., :4], V)),
    ("E1004", r"size M is 5 in `K` \(axis 1\), but 6 in `V` \(axis 1\)", lambda f: f(Q, K, zeros(2, 6, 4))),
    ("E1004", r"size H is 3 as given by name, but 2 in `Q` \(axis 0\)", lambda f: f(Q, K, V, H=3)),
    ("E1007", "takes 3", lambda f: f(Q, K, V, V)),
    ("E1007", "`Q` is given twice", lambda f: f(Q, K, V, Q=Q)),
    ("E1008", "`Q` is a list", lambda f: f(Q.tolist(), K, V)),
    ("E1008", "`V` is a float", lambda f: f(Q, K, 1.0)),
    ("E1008", "`V` is a NoneType", lambda f: f(Q, K, None)),
    ("E1008", "`V` is a str", lambda f: f(Q, K, "v")),
    ("E1009", r"`Q` must be f32 \(float32\), but is float64.*Q.astype\(np.float32\)", lambda f: f(Q.astype("d"), K, V)),
    ("E1009", "other byte order", lambda f: f(Q.astype(">f4"), K, V)),
    ("E1009", "bfloat16", lambda f: f(Q.astype(ml_dtypes.bfloat16), K, V)),
    ("E1009", "is object", lambda f: f(Q.astype(object), K, V)),
    ("E1009", r"torch.float64.*Q.to\(torch.float32\)", lambda f: f(torch.zeros(2, 3, 8, dtype=torch.float64), K, V)),
    ("E1010", "another device", lambda f: f(Foreign(Q, (2, 0)), K, V)),
    ("E1010", "on meta", lambda f: f(torch.zeros(2, 3, 8, device="meta"), K, V)),
    ("E1011", "masked array", lambda f: f(np.ma.masked_array(Q, Q > 0), K, V)),
    ("E1011", "requires a gradient.*Q.detach", lambda f: f(torch.zeros(2, 3, 8, requires_grad=True), K, V)),
    ("E1011", "sparse", lambda f: f(torch.zeros(2, 3, 8).to_sparse(), K, V)),
    ("E1012", "is -1", lambda f: f(Q, K, V, H=-1)),
    ("E1012", "not 2.0", lambda f: f(Q, K, V, H=2.0)),
    ("E1012", "not True", lambda f: f(Q, K, V, H=True)),
    ("E1012", "2\\*\\*63", lambda f: f(Q, K, V, H=2**63)),
    ("E1012", "not \\[2\\]", lambda f: f(Q, K, V, H=[2])),
    ("E1015", r"shape \(2, 3, 5\), but `AV` is \(2, 3, 4\)", lambda f: f(Q, K, V, out=zeros(2, 3, 5))),
    ("E1015", "holds 2 arrays", lambda f: f(Q, K, V, out=(V, V))),
    ("E1015", "must name AV", lambda f: f(Q, K, V, out={"av": V})),
    ("E1008", "`out` is a int", lambda f: f(Q, K, V, out=3)),
    ("E1009", "`out` must be f32.*pass an array of float32", lambda f: f(Q, K, V, out=zeros(2, 3, 4, dtype=np.float64))),
    ("E1016", "read-only", lambda f: f(Q, K, V, out=read_only(zeros(2, 3, 4)))),
    ("E1016", "not adjacent", lambda f: f(Q, K, V, out=zeros(2, 3, 8)[..., ::2])),
    ("E1016", "not adjacent", lambda f: f(Q, K, V, out=torch.zeros(2, 3, 8)[..., ::2])),
    ("E1016", "share one place", lambda f: f(Q, K, V, out=torch.zeros(2, 1, 4).expand(2, 3, 4))),
    ("E1022", "not 0", lambda f: f(Q, K, V, threads=0)),
    ("E1022", "not 'all'", lambda f: f(Q, K, V, threads="all")),
    ("E1019", "cannot be pickled", lambda f: pickle.dumps(f)),
    ("E1020", "no source", lambda f: f.source("ptx")),
    ("E1111", "bound arguments", lambda f: f.bind(Q=Q).save("x.efk")),
    ("E1111", "this process only", lambda f: f.save("x.efk")),
]


@pytest.mark.parametrize(("code", "words", "call"), WRONG, ids=[f"{c}-{i}" for i, (c, _, _) in enumerate(WRONG)])
def test_wrong(attention: Kernel, code: str, words: str, call: Callable[[Kernel], object]) -> None:
    for _ in range(2):  # before and after a good call: the short way must not let anything through
        with pytest.raises(EinfallError, match=f"(?s){words}") as failure:
            call(attention)
        assert failure.value.code == code
        assert code in CATALOGUE
        attention(Q, K, V)
        attention(*map(torch.from_numpy, (Q, K, V)))


def test_in_place_is_refused() -> None:
    calls: list[int] = []
    copy = kernel(signature("copy", ["X: f32[M, N]"], ["Y: f32[M, N]"]), lambda *_: calls.append(1))
    x = zeros(6, 8)
    whole = x.ravel()
    overlapping = [
        (x, x),
        (x[:4], x[2:]),
        (x[:, :4], x[:, 3:7]),
        (whole[:40].reshape(5, 8), whole[8:].reshape(5, 8)),
    ]
    for given, out in overlapping:
        for a, b in ((given, out), (torch.from_numpy(given), torch.from_numpy(out)), (torch.from_numpy(given), out)):
            with pytest.raises(EinfallError) as failure:
                copy(a, out=b)
            assert failure.value.code == "E1017" and "`X`" in str(failure.value)
    assert calls == []
    copy(x[:, :4], out=x[:, 4:])  # interleaved, yet no element is shared
    copy(x[:3], out=x[3:])
    assert calls == [1, 1]


def test_a_bound_array_is_not_overwritten() -> None:
    both = kernel(signature("both", ["A: f32[M]", "B: f32[M]"], ["C: f32[M]"]), lambda *_: None)
    a, b = zeros(4), zeros(4)
    bound = both.bind(B=b)
    bound(a)
    bound(a, out=zeros(4))
    for out in (b, torch.from_numpy(b)):
        with pytest.raises(EinfallError, match="`out` shares memory with `B`"):
            bound(a, out=out)
    tensor = torch.zeros(8)
    for _ in range(2):
        with pytest.raises(EinfallError, match="`out` shares memory with `A`"):
            both(tensor[:4], torch.zeros(4), out=tensor[2:6])
        both(tensor[:4], torch.zeros(4), out=tensor[4:])


def test_results_may_not_overlap() -> None:
    two = kernel(signature("two", ["X: f32[M]"], ["Y: f32[M]", "Z: f32[M]"]), lambda *_: None)
    buffer = zeros(10)
    with pytest.raises(EinfallError, match="`out of Z` shares memory with `out of Y`"):
        two(zeros(6), out=(buffer[:6], buffer[4:]))
    with pytest.raises(EinfallError, match="2 results"):
        two(zeros(6), out=buffer[:6])


def test_requirements_and_derived_sizes() -> None:
    condition = op("eq", op("mod", size("M"), size("M0")), integer(0))
    sig = signature(
        "blocked",
        ["X: f32[M]"],
        ["Y: f32[M1, M0]"],
        lets=[("M1", op("floordiv", size("M"), size("M0")))],
        requires=[(condition, "M % M0 == 0")],
    )
    blocked = kernel(sig, lambda *_: None)
    assert blocked(zeros(6), M0=3).shape == (2, 3)  # type: ignore[attr-defined]
    with pytest.raises(EinfallError, match="requires M % M0 == 0, but M = 7, M0 = 3") as failure:
        blocked(zeros(7), M0=3)
    assert failure.value.code == "E0701"
    with pytest.raises(EinfallError, match=r"`M1` = M // M0 has no value for M = 6, M0 = 0") as failure:
        blocked(zeros(6), M0=0)
    assert failure.value.code == "E1006"
    with pytest.raises(EinfallError, match="no argument of `blocked` determines the size M0"):
        blocked(zeros(6))


def test_computed_dimensions() -> None:
    sig = signature("window", ["X: f32[P+R]", "W: f32[R+R]"], ["Y: f32[P]"])
    window = kernel(sig, lambda *_: None)
    assert window(zeros(7), zeros(4)).shape == (5,)  # type: ignore[attr-defined]
    with pytest.raises(EinfallError, match="`W` has 3 in axis 0, but no R makes R \\+ R that"):
        window(zeros(7), zeros(3))
    with pytest.raises(EinfallError, match="no P makes P \\+ R that"):
        window(zeros(1), zeros(4))
    with pytest.raises(EinfallError, match=r"`W` has 4 in axis 0, but R \+ R is 6 with R = 3"):
        window(zeros(7), zeros(4), P=4)


def test_too_large() -> None:
    grow = kernel(signature("grow", ["X: f32[M]"], ["Y: f32[M, N]"]), lambda *_: None)
    for n in (2**61, 2**63 - 1, 2**45):
        with pytest.raises(EinfallError) as failure:
            grow(zeros(4), N=n)
        assert failure.value.code == "E1013"
    with pytest.raises(EinfallError) as failure:
        grow(torch.zeros(4), N=2**45)
    assert failure.value.code == "E1013"
    many = op("mul", integer(1 << 40), size("M"))
    hungry = kernel(signature("hungry", ["X: f32[M]"], ["Y: f32[M]"], workspace=many), lambda *_: None)
    with pytest.raises(EinfallError, match="more than the machine's memory"):
        hungry(zeros(1000))


@pytest.mark.parametrize(
    ("declaration", "value", "words"),
    [
        ("s: f32", "2", "a number"),
        ("s: f32", 2j, "a number"),
        ("s: f32", None, "a number"),
        ("s: f32", True, "a number"),
        ("s: f32", np.zeros(3), "of shape"),
        ("s: f32", 10**400, "too large"),
        ("s: i32", 2.0, "a whole number"),
        ("s: i32", 2**31, "outside of i32"),
        ("s: u8", -1, "outside of u8"),
        ("s: i64", 2**63, "outside of i64"),
        ("s: bool", 1, "True or False"),
    ],
)
def test_wrong_scalars(declaration: str, value: object, words: str) -> None:
    scale = kernel(signature("scale", ["X: f32[M]", declaration], ["Y: f32[M]"]), lambda *_: None)
    for _ in range(2):
        with pytest.raises(EinfallError, match=words) as failure:
            scale(zeros(2), value)
        assert failure.value.code == "E1014"
        scale(zeros(2), {"f32": 1.0, "bool": True}.get(declaration[3:], 1))


def test_unsigned_scalars_travel_as_words() -> None:
    seen: list[object] = []
    take = kernel(signature("take", ["X: f32[M]", "s: u64"], ["Y: f32[M]"]), lambda *a: seen.append(a[2]))
    take(zeros(2), 2**64 - 1)
    assert seen == [-1]


def test_failures_inside_a_kernel_are_ours() -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("Check failed: something\nwith a stack trace")

    bad = kernel(signature("bad", ["X: f32[M]"], ["Y: f32[M]"]), broken)
    for _ in range(2):
        with pytest.raises(EinfallError, match=r"`bad` failed while it ran: Check failed: something$") as failure:
            bad(zeros(2))
        assert failure.value.code == "E9001"


def test_tensors_without_elements_of_their_own() -> None:
    fake_tensors = pytest.importorskip("torch._subclasses.fake_tensor")
    kernel = ef.compile("kernel add(X: f32[M], Z: f32[M]) -> (Y: f32[M]) { Y[m] = X[m] + Z[m] }")
    x = torch.ones(3, 4)
    first, second = x[0], x[1]
    kernel(first, second)  # from now on by the short way
    with pytest.raises(EinfallError, match=r"E1011.*torch.func.vmap"):
        torch.func.vmap(kernel)(x, x)
    with fake_tensors.FakeTensorMode(allow_non_fake_inputs=True):
        fake = torch.empty(4)
        with pytest.raises(EinfallError, match=r"E1011.*`X` is a FakeTensor"):
            kernel(fake, fake)
        with pytest.raises(EinfallError, match=r"E1011.*the result is a FakeTensor"):
            kernel(first, second)
    assert kernel(first, second).tolist() == [2.0] * 4
