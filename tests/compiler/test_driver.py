"""compile, interpret, check and load: sources, sizes, targets, kernels, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import einfall as ef
from einfall.compiler import driver
from einfall.ir.diagnostics import EinfallError

ROOT = Path(__file__).parents[2]
ATTENTION = ROOT / "examples" / "attention" / "attention.ecs"

AFFINE = """
kernel affine(X: f32[M, N], scale: f32) -> (Y: f32[M, N]) {
    Y[m, n] = X[m, n] * scale + n
}
"""

BLOCKED = """
let BLOCK = 4
kernel blocked(X: f32[M]) -> (Y: f32[M1, M0]) {
    let M0 = BLOCK
    let M1 = M // M0
    require M % M0 == 0
    Y[m1, m0] = X[M0 * m1 + m0]
}
"""

WINDOW = """
kernel window(X: f32[N], W: f32[R]) -> (Y: f32[P]) {
    Y[p] = X[p + r] * W[r]
}
kernel total(X: f32[N]) -> (S: f32[1]) {
    S[0] = X[n]
}
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINFALL_CACHE_DIR", str(tmp_path / "cache"))
    driver._memory.clear()


def x(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    scores = np.einsum("hpe,hme->hpm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(np.einsum("hpm,hmf->hpf", weights / weights.sum(-1, keepdims=True), v))


@pytest.mark.parametrize("source", [ATTENTION, str(ATTENTION), ATTENTION.read_text("utf-8")], ids=["path", "str", "text"])
def test_sources(source: str | Path) -> None:
    kernel = ef.compile(source)
    q, k, v = x(2, 5, 8), x(2, 7, 8, seed=1), x(2, 7, 3, seed=2)
    np.testing.assert_allclose(kernel(q, k, v), attention(q, k, v), atol=1e-6)
    np.testing.assert_allclose(ef.interpret(source, Q=q, K=k, V=v), attention(q, k, v), atol=1e-6)


def test_one_kernel_for_every_size_and_one_for_some() -> None:
    free, fixed = ef.compile(ATTENTION), ef.compile(ATTENTION, H=2, E=8, F=3)
    assert set(free.sizes) == {"H", "P", "M", "E", "F"}
    assert set(fixed.sizes) == {"P", "M"}
    assert "Q: f32[2, P, 8]" in str(fixed.signature)
    for p, m in ((1, 1), (33, 17), (3, 0)):
        q, k, v = x(2, p, 8), x(2, m, 8, seed=1), x(2, m, 3, seed=2)
        np.testing.assert_allclose(fixed(q, k, v), free(q, k, v), atol=1e-6)
    q, k, v = x(2, 5, 8), x(2, 7, 8), x(2, 7, 3)
    np.testing.assert_array_equal(fixed(q, k, v, E=8), fixed(q, k, v))
    with pytest.raises(EinfallError, match="compiled for E = 8"):
        fixed(q, k, v, E=9)
    with pytest.raises(EinfallError, match=r"`Q` has 9 in axis 2, but it must be 8"):
        fixed(x(2, 5, 9), k, v)


def test_recompiling_a_kernel() -> None:
    first = ef.compile(AFFINE)
    again = ef.compile(first, M=3)
    np.testing.assert_array_equal(again(x(3, 4), 2.0), first(x(3, 4), 2.0))
    assert "X: f32[3, N]" in again.source()


def test_a_tolerance_stands_for_the_annotation() -> None:
    text = "kernel twice(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = 2 * X[m]\n}\n"
    assert "@tolerance" not in ef.compile(text).source("cascade")
    wide = ef.compile(text, tolerance=1e-2)
    assert wide.source("cascade").startswith("@tolerance(0.01)\nkernel twice")
    assert ef.compile(wide).source("cascade") == wide.source("cascade")
    other = ef.compile(f"@tolerance(0.5)\n{text}", tolerance=np.float32(0.25))
    assert other.source("cascade").startswith("@tolerance(0.25)\n")


def test_lets_and_requires() -> None:
    kernel = ef.compile(BLOCKED)
    np.testing.assert_array_equal(kernel(np.arange(8, dtype=np.float32)), np.arange(8).reshape(2, 4))
    with pytest.raises(EinfallError) as failure:
        kernel(np.zeros(7, np.float32))
    assert failure.value.code == "E0701"
    with pytest.raises(EinfallError) as failure:
        ef.compile(BLOCKED, M=7)
    assert failure.value.code == "E0701"
    np.testing.assert_array_equal(ef.compile(BLOCKED, M=8)(np.arange(8, dtype=np.float32)), np.arange(8).reshape(2, 4))


def test_a_size_that_no_argument_determines() -> None:
    kernel = ef.compile(WINDOW, kernel="window")
    data, weights = x(10), x(3)
    expected = np.correlate(data, weights, "valid")
    np.testing.assert_allclose(kernel(data, weights, P=8), expected, atol=1e-6)
    np.testing.assert_allclose(ef.interpret(WINDOW, kernel="window", X=data, W=weights, P=8), expected, atol=1e-6)
    np.testing.assert_allclose(ef.compile(WINDOW, kernel="window", P=8)(data, weights), expected, atol=1e-6)
    with pytest.raises(EinfallError, match="determines the size P"):
        kernel(data, weights)


def test_check_gives_signatures() -> None:
    assert [str(s) for s in ef.check(WINDOW)] == [
        "window(X: f32[N], W: f32[R]) -> (Y: f32[P])",
        "total(X: f32[N]) -> (S: f32[1])",
    ]


def test_explanation_and_sources() -> None:
    kernel = ef.compile(ATTENTION)
    counts = kernel.explain().at(H=2, P=3, M=5, E=7, F=11)
    assert counts["traffic"] == 4 * 2 * (3 * 7 + 5 * 7 + 5 * 11 + 3 * 11)
    assert counts["flops"] >= 2 * 2 * 3 * 5 * (7 + 11)
    assert "QK" in str(kernel.explain())
    assert "T.prim_func" in kernel.source("tir")
    assert "define" in kernel.source("llvm")
    assert "main" in kernel.source("asm")


def test_saved_and_loaded(tmp_path: Path) -> None:
    kernel = ef.compile(AFFINE)
    path = kernel.save(tmp_path / "affine.efk")
    loaded = ef.load(str(path))
    np.testing.assert_array_equal(loaded(x(3, 4), 2.0), kernel(x(3, 4), 2.0))
    assert loaded.source() == kernel.source()
    assert loaded.explain() == kernel.explain()
    loaded.save(tmp_path / "again.efk")
    assert (tmp_path / "again.efk").read_bytes() == path.read_bytes()


def test_another_machine(tmp_path: Path) -> None:
    """Code for a lesser machine of the same kind runs here; code for a foreign one can be looked at."""
    from einfall.compiler.host import host_target

    if host_target().arch != "x86_64":
        pytest.skip("the targets of this test are x86-64")
    kernel = ef.compile(AFFINE, target="cpu:x86-64")
    assert kernel.target == "cpu:x86-64"
    np.testing.assert_allclose(kernel(x(3, 4), 2.0), x(3, 4) * 2 + np.arange(4), rtol=1e-6)
    foreign = ef.compile(AFFINE, target="cpu:neoverse-v1")
    assert "main" in foreign.source("asm")
    with pytest.raises(EinfallError) as failure:
        foreign(x(3, 4), 2.0)
    assert failure.value.code == "E1106"


def test_threads_of_a_kernel() -> None:
    one = ef.compile(AFFINE, threads=1)
    assert one.threads == 1
    np.testing.assert_array_equal(one(x(30, 40), 2.0), ef.compile(AFFINE)(x(30, 40), 2.0, threads=2))


QUANTISED = """\
type w4 = quant(u4, group = K:32, scale = f16, zero = f16)
kernel f(X: f32[M, K], W: w4[N, K]) -> (Y: f32[M, N]) { Y[m, n] = X[m, k] * W[n, k] }
"""

WRONG: list[tuple[str, str, Callable[[], object]]] = [
    ("E0705", "positive relative error, not 0", lambda: ef.compile(AFFINE, tolerance=0)),
    ("E0705", "not nan", lambda: ef.compile(AFFINE, tolerance=float("nan"))),
    ("E0705", "not '1e-2'", lambda: ef.compile(AFFINE, tolerance="1e-2")),  # type: ignore[arg-type]
    ("E1001", "no size `m`.*did you mean `M`", lambda: ef.compile(AFFINE, m=3)),
    ("E1001", "did you mean `cache`", lambda: ef.compile(AFFINE, cahce=False)),
    ("E1001", "`X` is a parameter.*bind", lambda: ef.compile(AFFINE, X=3)),
    ("E1001", "follows from others", lambda: ef.compile(BLOCKED, M1=3)),
    ("E1001", "no argument `x`.*did you mean `X`", lambda: ef.interpret(AFFINE, x=x(2, 2), scale=1.0)),
    ("E1002", "", lambda: ef.interpret(AFFINE, X=x(2, 2))),
    ("E1012", "is -1", lambda: ef.compile(AFFINE, M=-1)),
    ("E1012", "not 'four'", lambda: ef.compile(AFFINE, M="four")),
    ("E1012", "not 4.0", lambda: ef.compile(AFFINE, M=4.0)),
    ("E1022", "not 0", lambda: ef.compile(AFFINE, threads=0)),
    ("E1101", "no file no_such.ecs", lambda: ef.compile("no_such.ecs")),
    ("E1101", "did you mean `attention.ecs`", lambda: ef.compile(ATTENTION.with_name("atention.ecs"))),
    ("E1102", "is a folder", lambda: ef.compile(ATTENTION.parent)),
    ("E1103", "not UTF-8 text: byte 0", lambda: ef.compile(_file("x.ecs", b"\xff\xfe"))),
    ("E1103", "is a compiled kernel", lambda: ef.compile(_file("x.efk", b"PK\x03\x04"))),
    ("E1104", "no sound kernel file", lambda: ef.load(ATTENTION)),
    ("E1108", "several kernels: window, total.*--kernel total", lambda: ef.compile(WINDOW)),
    ("E1108", "no kernel `windov`.*did you mean `window`", lambda: ef.compile(WINDOW, kernel="windov")),
    ("E1109", "not a int", lambda: ef.compile(42)),  # type: ignore[arg-type]
    ("E1109", "not a int", lambda: ef.load(42)),  # type: ignore[arg-type]
    ("E1110", "`cache` is True or False, not 'no'", lambda: ef.compile(AFFINE, cache="no")),
    ("E1110", '"exact" or "typed"', lambda: ef.interpret(AFFINE, mode="fast")),  # type: ignore[arg-type]
    ("E1201", "", lambda: ef.compile(AFFINE, target="cpu:pentium")),
    ("E1204", "cannot be compiled yet", lambda: ef.compile(QUANTISED)),
    ("E01", "<string>:1", lambda: ef.compile("kernel f(")),
    ("E02", "Y\\[m\\] = Z\\[m\\]", lambda: ef.compile("kernel f(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = Z[m]\n}")),
]


def _file(name: str, content: bytes) -> Path:
    import tempfile

    path = Path(tempfile.mkdtemp()) / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("code", "words", "call"), WRONG, ids=[f"{c}-{i}" for i, (c, _, _) in enumerate(WRONG)])
def test_wrong(code: str, words: str, call: Callable[[], object]) -> None:
    with pytest.raises(EinfallError, match=f"(?s){words}") as failure:
        call()
    assert failure.value.code.startswith(code), failure.value


def test_a_file_without_kernels() -> None:
    with pytest.raises(EinfallError):
        ef.compile("def f(x) = x + 1\n")


def test_verify_each() -> None:
    np.testing.assert_array_equal(
        ef.compile(AFFINE, verify_each=True, cache=False)(x(2, 3), 1.0), ef.compile(AFFINE)(x(2, 3), 1.0)
    )


def test_wide_sizes_do_not_overflow() -> None:
    with pytest.raises(EinfallError) as failure:
        ef.compile(WINDOW, kernel="window")(x(10), x(3), P=2**62)
    assert failure.value.code == "E1013"
