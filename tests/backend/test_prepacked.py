"""Constants packed when they are bound: the same bits as when they are packed in the call, for every size and layout."""

from __future__ import annotations

import io
import json
import zipfile
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import einfall
from einfall.compiler.checking import compare
from einfall.compiler.host import host_target
from einfall.compiler.program import read_program
from einfall.ir.diagnostics import EinfallError
from einfall.ir.types import DTYPES
from einfall.runtime import extents
from einfall.runtime.arrays import as_tensors
from einfall.runtime.artifact import Artifact
from einfall.runtime.kernel import Kernel
from einfall.runtime.packing import packed

PRODUCT = "kernel f(X: {x}[M, K], const W: {w}[N, K]) -> (Y: {y}[M, N]) {{ Y[m, n] = X[m, k] * W[n, k] }}"
ACROSS = "kernel f(X: {x}[M, K], const W: {w}[K, N]) -> (Y: {y}[M, N]) {{ Y[m, n] = X[m, k] * W[k, n] }}"
BATCH = "kernel f(X: {x}[B, M, K], const W: {w}[K, N]) -> (Y: {y}[B, M, N]) {{ Y[b, m, n] = X[b, m, k] * W[k, n] }}"
TWICE = """kernel f(X: f32[M, K], const W: f32[K, K]) -> (Y: f32[M, K], Z: f32[M, K]) {
    Y[m, n] = X[m, k] * W[k, n]
    Z[m, n] = X[m, k] * W[n, k]
}"""
NORMED = """kernel f(X: f32[M, K], const W: f32[K, N]) -> (Y: f32[M, N]) {
    S[m]    = X[m, k] * X[m, k]
    A[m, k] = X[m, k] / sqrt(S[m] / K + 1e-5)
    Y[m, n] = A[m, k] * W[k, n]
}"""
STACK = "kernel f(X: {x}[B, K], const W: {w}[G, N, K]) -> (Y: {y}[B, G, N]) {{ Y[b, g, n] = X[b, k] * W[g, n, k] }}"
MEMORY = """kernel f(X: f32[T, B, D], H0: f32[B, N], const W: f32[N, D], const U: f32[N, N]) -> (Y: f32[T, B, N]) {
    XW[t, b, n]  = X[t, b, d] * W[n, d]
    HU[t, b, n]  = H[t, b, m] * U[n, m]
    H[0, b, n]   = H0[b, n]
    H[t+1, b, n] = tanh(XW[t, b, n] + HU[t, b, n])
    Y[t, b, n]   = H[t+1, b, n]
}"""
LEFT = "kernel f(X: f32[M, K], const W: f32[N, K]) -> (Y: f32[N, M]) { Y[n, m] = X[m, k] * W[n, k] }"

TYPES = [
    ("f32", "f32", "f32"),
    ("bf16", "bf16", "bf16"),
    ("u8", "i8", "i32"),
    ("f64", "f64", "f64"),
    ("i8", "i8", "i32"),
    ("i8", "u8", "i32"),
]
SIZES = [(1, 1, 1), (17, 5, 1), (17, 1, 70), (40, 130, 129), (20, 0, 65), (20, 70, 0), (0, 5, 6), (5, 300, 70), (4, 70, 40)]
BLOCKS = (130, 1001, 1090)
"""Past the cache blocks of every micro-kernel."""


@cache
def kernel(program: str, **sizes: int) -> Kernel:
    return einfall.compile(program, target="cpu", cache=False, **sizes)


def drawn(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    held = DTYPES[dtype].storage
    if DTYPES[dtype].is_float:
        return random.standard_normal(shape).astype(held)
    low, high = (-128, 128) if dtype == "i8" else (0, 256)
    return random.integers(low, high, shape).astype(held)


def same_bits(one: object, other: object) -> bool:
    pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


def checked(program: str, found: Kernel, constants: dict[str, np.ndarray], **inputs: np.ndarray) -> None:
    """Bound and unbound results have the same bits on one and on several threads, and are the interpreter's."""
    bound = found.bind(**constants)
    free = found(**inputs, **constants)
    for threads in (1, 2, 3):
        assert same_bits(bound(**inputs, threads=threads), free)
    outcome = compare(read_program(program).select("f"), {**inputs, **constants}, free if isinstance(free, tuple) else [free])
    assert outcome.passed, outcome


@pytest.mark.parametrize("types", TYPES, ids="·".join)
@pytest.mark.parametrize("program", [PRODUCT, ACROSS], ids=["[N, K]", "[K, N]"])
def test_sizes(program: str, types: tuple[str, str, str]) -> None:
    text = program.format(x=types[0], w=types[1], y=types[2])
    found = kernel(text)
    # Without matrix tiles bf16 is widened where it lies.
    packs = types[0] != "bf16" or host_target().has("amx-bf16")
    assert [form.parameter for form in found._compiled.signature.packed] == (["W"] if packs else [])
    for m, k, n in SIZES:
        w = drawn(types[1], (n, k) if program is PRODUCT else (k, n), 1)
        checked(text, found, {"W": w}, X=drawn(types[0], (m, k), 2))


@pytest.mark.parametrize("types", TYPES, ids="·".join)
def test_many_blocks(types: tuple[str, str, str]) -> None:
    m, k, n = BLOCKS
    text = PRODUCT.format(x=types[0], w=types[1], y=types[2])
    x, w = drawn(types[0], (m, k), 2), drawn(types[1], (n, k), 1)
    found = kernel(text)(x, w)
    assert same_bits(kernel(text).bind(W=w)(x), found)
    wide = np.int64 if types[2] == "i32" else np.float64
    exact = x.astype(wide) @ w.astype(wide).T
    assert np.abs(found.astype(wide) - exact).max() <= {"f32": 1e-3, "bf16": 0.5}.get(types[0], 1e-9)


@pytest.mark.parametrize("target", ["haswell", "icelake-server"])
@pytest.mark.parametrize("types", [("f32", "f32", "f32"), ("u8", "i8", "i32"), ("i8", "i8", "i32")], ids="·".join)
def test_other_machines(types: tuple[str, str, str], target: str) -> None:
    if not host_target().has("avx512vnni") and target == "icelake-server":
        pytest.skip("needs AVX-512 VNNI")
    text = PRODUCT.format(x=types[0], w=types[1], y=types[2])
    found = einfall.compile(text, target=f"cpu:{target}", cache=False)
    for m in (7, 40):
        checked(text, found, {"W": drawn(types[1], (70, 130), 1)}, X=drawn(types[0], (m, 130), 2))


@pytest.mark.parametrize("types", TYPES, ids="·".join)
def test_known_sizes(types: tuple[str, str, str]) -> None:
    text = PRODUCT.format(x=types[0], w=types[1], y=types[2])
    found = kernel(text, K=300, N=70)
    for m in (3, 40):
        checked(text, found, {"W": drawn(types[1], (70, 300), 1)}, X=drawn(types[0], (m, 300), 2))


@pytest.mark.parametrize("types", TYPES[:2], ids="·".join)
def test_values_that_are_no_numbers(types: tuple[str, str, str]) -> None:
    text = ACROSS.format(x=types[0], w=types[1], y=types[2])
    w = drawn(types[1], (70, 90), 1)
    w[3, 5], w[60, 70], w[1, 2] = np.nan, np.inf, 1e-42
    with np.errstate(all="ignore"):
        checked(text, kernel(text), {"W": w}, X=drawn(types[0], (33, 70), 2))


@pytest.mark.parametrize("types", TYPES, ids="·".join)
def test_strides(types: tuple[str, str, str]) -> None:
    text = PRODUCT.format(x=types[0], w=types[1], y=types[2])
    x, wide = drawn(types[0], (20, 70), 2), drawn(types[1], (99, 150), 1)
    for w in (wide[:65, 3:73], wide[1::2, :70], wide[::-1, :70], wide[:65, 10:150:2], wide[:70, :99].T):
        checked(text, kernel(text), {"W": w}, X=x)


def test_one_constant_for_a_whole_batch() -> None:
    text = BATCH.format(x="f32", w="f32", y="f32")
    for b, m in ((1, 40), (3, 20), (2, 3), (0, 4)):
        checked(text, kernel(text), {"W": drawn("f32", (65, 70), 1)}, X=drawn("f32", (b, m, 65), 2))


def test_one_constant_in_two_orders() -> None:
    assert len(kernel(TWICE)._compiled.signature.packed) == 2
    checked(TWICE, kernel(TWICE), {"W": drawn("f32", (70, 70), 1)}, X=drawn("f32", (20, 70), 2))


def test_inside_a_tile_of_rows() -> None:
    for m in (5, 40, 300):
        checked(NORMED, kernel(NORMED), {"W": drawn("f32", (65, 130), 1)}, X=drawn("f32", (m, 65), 2))


def test_inside_a_recurrence() -> None:
    w, u = drawn("f32", (65, 40), 1) / 9, drawn("f32", (65, 65), 2) / 9
    for b in (3, 20):
        inputs = {"X": drawn("f32", (4, b, 40), 3), "H0": drawn("f32", (b, 65), 4)}
        checked(MEMORY, kernel(MEMORY), {"W": w, "U": u}, **inputs)


@pytest.mark.parametrize("types", [("bf16", "bf16", "bf16"), ("u8", "i8", "i32")], ids="·".join)
def test_a_stack_of_matrices(types: tuple[str, str, str]) -> None:
    text = STACK.format(x=types[0], w=types[1], y=types[2])
    if types[0] == "bf16" and not host_target().has("amx-bf16"):
        pytest.skip("needs AMX tiles")
    found = kernel(text)
    (form,) = found._compiled.signature.packed
    assert form.size((3, 40, 70)) == 3 * form.size((40, 70)) > 0
    big = drawn(types[1], (5, 99, 150), 1)
    stacks = (big[:3, :40, :70], big[::-2, 1::2, :64], big[4:, :33, 3:80], big[:0, :5, :5], big[:2, :40, 10:150:2], big[:2, :0])
    for w in stacks:
        for b in (1, 5, 40):
            checked(text, found, {"W": w}, X=drawn(types[0], (b, w.shape[2]), 2))


def test_several_constants() -> None:
    text = (Path(einfall.__file__).parent / "examples/gemm/swiglu.ecs").read_text()
    for name in ("WG", "WU", "WD"):
        text = text.replace(f" {name}:", f" const {name}:")
    found = einfall.compile(text, target="cpu", cache=False)
    w = {"WG": drawn("f32", (65, 130), 1), "WU": drawn("f32", (65, 130), 2), "WD": drawn("f32", (130, 70), 3)}
    x = drawn("f32", (20, 65), 4)
    free = found(x, **w)
    assert same_bits(found.bind(**w)(x), free)
    some = found.bind(WU=w["WU"])
    assert same_bits(some(x, WG=w["WG"], WD=w["WD"]), free)
    assert same_bits(some.bind(WG=w["WG"]).bind(WD=w["WD"])(x), free)


def test_a_left_operand_is_not_packed() -> None:
    assert kernel(LEFT)._compiled.signature.packed == ()
    checked(LEFT, kernel(LEFT), {"W": drawn("f32", (40, 65), 1)}, X=drawn("f32", (20, 65), 2))


def test_few_rows_need_no_packing() -> None:
    text = PRODUCT.format(x="f32", w="f32", y="f32")
    assert kernel(text, M=8)._compiled.signature.packed == ()
    assert kernel(text, M=17)._compiled.signature.packed != ()


def test_few_rows_that_do_not_read_it_as_it_lies_find_it_packed() -> None:
    """Short dot products pay for four rows only, and bytes are read along k or not at all."""
    for program, types, sizes in (
        (PRODUCT, ("f32", "f32", "f32"), {"M": 8, "K": 100}),
        (ACROSS, ("i8", "i8", "i32"), {"M": 3, "K": 100}),
    ):
        text = program.format(x=types[0], w=types[1], y=types[2])
        found = kernel(text, **sizes)
        if types[1] == "i8" and not host_target().has("avx512vnni"):
            continue
        assert found._compiled.signature.packed != ()
        w = drawn(types[1], (90, 100) if program is PRODUCT else (100, 90), 1)
        checked(text, found, {"W": w}, X=drawn(types[0], (sizes["M"], 100), 2))
    text = PRODUCT.format(x="f32", w="f32", y="f32")
    assert kernel(text, M=4, K=100)._compiled.signature.packed == ()


def test_saved_and_loaded(tmp_path: Path) -> None:
    text = PRODUCT.format(x="f32", w="f32", y="f32")
    w, x = drawn("f32", (70, 65), 1), drawn("f32", (20, 65), 2)
    again = einfall.load(kernel(text).save(tmp_path / "f.efk"))
    assert same_bits(again.bind(W=w)(x), kernel(text)(x, w))


@pytest.mark.parametrize(
    ("dtypes", "change"),
    [
        (("f32", "f32", "f32"), {"columns": 1}),
        (("f32", "f32", "f32"), {"steps": 1 << 40}),
        (("f32", "f32", "f32"), {"bits": 64}),
        (("f32", "f32", "f32"), {"notes": True}),
        (("f32", "f32", "f32"), {"parameter": "X"}),
        (("f32", "f32", "f32"), {"parameter": "V"}),
        (("f32", "f32", "f32"), {"rows": None}),
        (("bf16", "bf16", "bf16"), {"steps": 2}),
    ],
    ids=str,
)
def test_saved_with_a_layout_that_no_kernel_reads(dtypes: tuple[str, str, str], change: dict[str, object]) -> None:
    if dtypes[0] == "bf16" and not host_target().has("amx-bf16"):
        pytest.skip("needs AMX tiles")
    x, w, y = dtypes
    artifact = kernel(PRODUCT.format(x=x, w=w, y=y))._compiled.artifact
    assert artifact is not None
    with zipfile.ZipFile(io.BytesIO(artifact().to_bytes())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])
    manifest["signature"]["packed"][0] |= change
    members["manifest.json"] = json.dumps(manifest).encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(EinfallError) as failure:
        Artifact.from_bytes(written.getvalue())
    assert failure.value.code == "E1104"


@pytest.mark.parametrize("dtypes", [("f32", "f32", "f32"), ("i8", "i8", "i32")], ids=str)
def test_a_packer_refuses_memory_of_another_size(dtypes: tuple[str, str, str]) -> None:
    x, w, y = dtypes
    found = kernel(PRODUCT.format(x=x, w=w, y=y))._compiled
    if not found.signature.packed:
        pytest.skip("the machine has no micro-kernel for these types")
    (form,), constant = found.signature.packed, drawn(w, (70, 33), 1)
    packed(form, found.code.packers[0], constant.shape, as_tensors([constant])[0])
    for n in (20, 200):
        with pytest.raises(ValueError, match="another size"):
            packed(form, found.code.packers[0], (n, 33), as_tensors([constant])[0])


def test_memory_counts_what_a_call_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows pack nothing, and a bound constant is packed already."""
    w, x = drawn("f32", (70, 65), 1), drawn("f32", (40, 65), 2)
    found = kernel(PRODUCT.format(x="f32", w="f32", y="f32")).with_threads(1)
    monkeypatch.setattr(extents, "physical_memory", lambda: found.workspace_bytes(M=40, N=70, K=65) + w.nbytes)
    with pytest.raises(EinfallError, match="packed in the call") as failure:
        found(x, w)
    assert failure.value.code == "E1013"
    assert found(x[:8], w).shape == (8, 70)
    assert found.bind(W=w)(x).shape == (40, 70)


def test_contradictions() -> None:
    text = PRODUCT.format(x="f32", w="f32", y="f32")
    for found, wrong in (
        (kernel(text, K=300, N=70), {"W": np.zeros((70, 299), np.float32)}),
        (kernel(text), {"W": np.zeros((70, 299), np.float32), "K": 300}),
        (kernel(text), {"W": np.zeros(70, np.float32)}),
    ):
        with pytest.raises(EinfallError):
            found.bind(**wrong)


def test_explained() -> None:
    found = kernel(PRODUCT.format(x="f32", w="f32", y="f32"), K=300, N=70).explain()
    choice = next(d for d in found.decisions if d.made_by == "pack")
    assert choice.subject == "W" and choice.chosen.startswith("packed when it is bound")
    assert found.at(M=20)["packed"] >= 4 * 300 * 70
    assert "bytes of packed constants" in str(found)


def test_out_may_not_be_the_constant() -> None:
    found = kernel(PRODUCT.format(x="f32", w="f32", y="f32"))
    w, x = drawn("f32", (20, 20), 1), drawn("f32", (20, 20), 2)
    with pytest.raises(EinfallError, match="E1017"):
        found.bind(W=w)(x, out=w)


FUSED = """kernel fused(X: bf16[B, M, K], const W: bf16[K, N]) -> (Z: f32[B, M, N]) {
    A[b, m, n] = X[b, m, k] * W[k, n]
    S[b, n]    = A[b, m, n] * A[b, m, n]
    Z[b, m, n] = A[b, m, n] / sqrt(S[b, n] + 1)
}"""
QUANTISED = """kernel f(X: f32[M, K], const W: i8[N, K], S: f32[N]) -> (Y: f32[M, N], scale: f32[M]) {
    top[m]   = abs(X[m, k])                                             :: max(k)
    scale[m] = max(top[m], 1e-6) / 127
    Q[m, k]  = cast(i8, round(X[m, k] / scale[m]))
    T[m, n]  = Q[m, k] * W[n, k]
    Y[m, n]  = cast(f32, T[m, n]) * scale[m] * S[n]
}
"""
SKEWED = "kernel skewed(X: i8[M + K, K], const W: i8[N, K]) -> (Y: i32[M, N]) {\n Y[m, n] = X[m + k, k] * W[n, k]\n}"


@pytest.mark.parametrize("m", [1, 3, 4, 5, 20])
def test_a_tile_of_few_rows_finds_the_constant_packed(m):
    """Inside a loop over tiles the way for few rows is not there: whoever has not bound W packs it for any of them."""
    kernel, random = einfall.compile(FUSED), np.random.default_rng(m)
    x, w = (random.standard_normal(shape).astype(ml_dtypes.bfloat16) for shape in ((2, m, 70), (70, 65)))
    product = x.astype(np.float64) @ w.astype(np.float64)
    wanted = product / np.sqrt((product**2).sum(1, keepdims=True) + 1)
    assert np.abs(kernel(X=x, W=w) - wanted).max() < 1e-5
    assert np.array_equal(kernel(X=x, W=w), kernel.bind(W=w)(X=x))


@pytest.mark.parametrize("m", [1, 4, 8, 9])
def test_rows_that_do_not_lie_as_they_are_read(m):
    kernel, random = einfall.compile(SKEWED), np.random.default_rng(m)
    x, w = random.integers(-99, 99, (m + 70, 70), np.int8), random.integers(-99, 99, (65, 70), np.int8)
    rows = np.stack([x[np.arange(70) + i, np.arange(70)] for i in range(m)]).astype(np.int32)
    wanted = rows @ w.T.astype(np.int32)
    assert np.array_equal(kernel(X=x, W=w), wanted)
    assert np.array_equal(kernel.bind(W=w)(X=x), wanted)


@pytest.mark.parametrize("sizes", [{}, {"K": 100}, {"M": 40}])
def test_rows_that_the_kernel_makes(sizes: dict[str, int]) -> None:
    """Quantised rows times a constant: the left operand has no memory yet where the packed form is asked for."""
    found = kernel(QUANTISED, **sizes)
    for m in [sizes.get("M", m) for m in (1, 5, 40)]:
        checked(QUANTISED, found, {"W": drawn("i8", (33, 100), 1)}, X=drawn("f32", (m, 100), 2), S=drawn("f32", (33,), 3))
