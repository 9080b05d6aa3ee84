"""Products of narrow types: whichever micro-kernel a machine has, the interpreter's result."""

from __future__ import annotations

from functools import cache

import ml_dtypes
import numpy as np
import pytest

import einfall
from einfall.compiler.checking import compare
from einfall.compiler.host import host_target
from einfall.compiler.program import read_program
from einfall.ir.machine import Machine
from einfall.ir.microkernels import BY_NAME, FMA, choose
from einfall.ir.plans import plan_gemm
from einfall.ir.target import named
from einfall.ir.tile import Compute, walk
from einfall.ir.types import BF16, F32
from einfall.passes.pipeline import lower
from einfall.runtime.kernel import Kernel
from einfall.runtime.tiles import request_tiles

amx = pytest.mark.skipif(
    not (host_target().has("amx-bf16") and request_tiles()), reason="needs AMX tiles that the kernel lets us use"
)

PLAIN = "kernel f(X: bf16[M, K], W: bf16[N, K]) -> (Y: bf16[M, N]) { Y[m, n] = X[m, k] * W[n, k] }"
WIDE = "kernel f(X: bf16[M, K], W: bf16[K, N]) -> (Y: f32[M, N]) { Y[m, n] = X[m, k] * W[k, n] }"
GELU = """def gelu(x) = 0.5 * x * (1 + erf(x / sqrt(2)))
kernel f(X: bf16[M, K], W: bf16[N, K], bias: f32[N]) -> (Y: bf16[M, N]) {
    S[m, n] = X[m, k] * W[n, k]
    Y[m, n] = gelu(S[m, n] + bias[n])
}"""
BATCHED = "kernel f(X: bf16[B, M, K], W: bf16[B, N, K]) -> (Y: f32[B, M, N]) { Y[b, m, n] = X[b, m, k] * W[b, n, k] }"
FLIPPED = "kernel f(X: bf16[M, K], W: bf16[N, K]) -> (Y: f32[N, M]) { Y[n, m] = X[m, k] * W[n, k] }"
SEVERAL = "kernel f(X: bf16[J, M, K], W: bf16[J, K, N]) -> (Y: f32[M, N]) { Y[m, n] = X[j, m, k] * W[j, k, n] }"
ROUNDED = "kernel f(X: f32[M, K], W: bf16[K, N]) -> (Y: f32[M, N]) { Y[m, n] = cast(bf16, X[m, k]) * W[k, n] }"
SCALED = "kernel f(X: bf16[M, K], g: bf16[K], W: bf16[K, N]) -> (Y: f32[M, N]) { Y[m, n] = X[m, k] * g[k] * W[k, n] }"

TWO_LAYERS = """kernel f(X: bf16[M, K], W: bf16[K, N], U: bf16[N, L]) -> (Y: bf16[M, L]) {
    H[m, n] = X[m, k] * W[k, n]
    R[m, n] = max(H[m, n], 0)
    Y[m, l] = R[m, n] * U[n, l]
}"""
ATTENTION = """kernel f(Q: bf16[H, P, E], K: bf16[H, M, E], V: bf16[H, M, F]) -> (AV: bf16[H, P, F]) {
    QK[h, p, m] = Q[h, p, e] * K[h, m, e] / sqrt(E)
    GM[h, p]    = QK[h, p, m] :: max(m)
    SN[h, p, m] = exp(QK[h, p, m] - GM[h, p])
    SD[h, p]    = SN[h, p, m]
    A[h, p, m]  = SN[h, p, m] / SD[h, p]
    AV[h, p, f] = A[h, p, m] * V[h, m, f]
}"""
CAUSAL = ATTENTION.replace("/ sqrt(E)", "/ sqrt(E) where m <= p")

BYTES = [(a, b) for a in ("i8", "u8") for b in ("i8", "u8")]
INTEGER = "kernel f(X: {}[M, K], W: {}[N, K]) -> (Y: i32[M, N]) {{ Y[m, n] = X[m, k] * W[n, k] }}"
DEQUANTISED = """kernel f(X: i8[M, K], W: i8[K, N], s: f32[N], t: f32[M]) -> (Y: f32[M, N]) {
    A[m, n] = X[m, k] * W[k, n]
    Y[m, n] = A[m, n] * s[n] * t[m]
}"""
QUANTISING = """kernel f(X: f32[M, K], W: i8[K, N]) -> (Y: f32[M, N]) {
    A[m, n] = cast(i8, round(X[m, k] * 40)) * W[k, n]
    Y[m, n] = A[m, n] / 40
}"""
WEIGHTED = "kernel f(X: i8[M, K], g: i8[M], W: i8[N, K]) -> (Y: i32[M, N]) { Y[m, n] = X[m, k] * g[m] * W[n, k] }"

SIZES = [(1, 1, 1), (3, 70, 40), (70, 2, 33), (16, 32, 64), (33, 17, 65), (40, 70, 130), (8, 33, 200), (0, 5, 3), (6, 7, 0)]


@cache
def compiled(text: str, target: str = "cpu") -> Kernel:
    return einfall.compile(text, target=target, cache=False)


def agrees(text: str, target: str = "cpu", **arguments: np.ndarray) -> np.ndarray:
    found = compiled(text, target)(**arguments)
    outcome = compare(read_program(text).select(None), arguments, [found])
    assert outcome.passed, f"{outcome}\n{text}"
    return found


def arrays(m: int, n: int, k: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {"X": (m, k), "W": (n, k), "WT": (k, n)}
    return {name: random.standard_normal(shape).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}


def kernels_of(text: str, target: str) -> list[str]:
    program = lower(read_program(text).select(None), target=named("cpu", target)).program
    return [n.product.kernel for n in walk(program.body) if isinstance(n, Compute) and n.product is not None]


def test_the_kernel_follows_the_types_and_the_machine() -> None:
    assert kernels_of(PLAIN, "sapphirerapids") == ["amx bf16·bf16"]
    assert kernels_of(ROUNDED, "sapphirerapids") == ["amx bf16·bf16"]
    assert kernels_of(PLAIN, "haswell") == kernels_of(PLAIN, "icelake-server") == [FMA]
    # The product of two factors is formed in f32: it is no bf16 number.
    assert kernels_of(SCALED, "sapphirerapids") == [FMA]
    for a, b in BYTES:
        assert kernels_of(INTEGER.format(a, b), "sapphirerapids") == [f"amx {a}·{b}"]
        assert kernels_of(INTEGER.format(a, b), "icelake-server") == [f"vnni {a}·{b}"]
        assert kernels_of(INTEGER.format(a, b), "haswell") == []
    assert kernels_of(DEQUANTISED, "sapphirerapids") == kernels_of(QUANTISING, "sapphirerapids") == ["amx i8·i8"]
    assert choose(named("cpu", "sapphirerapids"), BF16, F32, F32) is None
    assert all(kernel.name == name for name, kernel in BY_NAME.items())


@pytest.mark.amx
@amx
@pytest.mark.parametrize("text", [PLAIN, WIDE, FLIPPED, ROUNDED], ids=["plain", "wide", "flipped", "rounded"])
def test_bf16_products(text: str) -> None:
    for m, n, k in SIZES:
        a = arrays(m, n, k)
        x = a["X"].astype("float32") if text is ROUNDED else a["X"]
        agrees(text, X=x, W=a["WT"] if "W: bf16[K" in text else a["W"])


@pytest.mark.amx
@amx
def test_bf16_products_with_more_around_them() -> None:
    random = np.random.default_rng(1)
    a = arrays(50, 70, 90)
    agrees(GELU, X=a["X"], W=a["W"], bias=random.standard_normal(70, dtype=np.float32))
    x, w = (random.standard_normal(s).astype(ml_dtypes.bfloat16) for s in ((3, 37, 45), (3, 20, 45)))
    agrees(BATCHED, X=x, W=w)
    agrees(SEVERAL, X=x, W=random.standard_normal((3, 45, 33)).astype(ml_dtypes.bfloat16))
    wide = random.standard_normal((80, 200)).astype(ml_dtypes.bfloat16)
    agrees(PLAIN, X=wide[::2, :90], W=a["W"])


@pytest.mark.amx
@amx
def test_intermediates_between_bf16_products() -> None:
    """Unannotated, they may be rounded to bf16, which the tiles need."""
    assert kernels_of(TWO_LAYERS, "sapphirerapids") == ["amx bf16·bf16"] * 2
    assert kernels_of(TWO_LAYERS, "icelake-server") == [FMA, FMA]
    random = np.random.default_rng(5)
    for m, n, k, outputs in ((1, 1, 1, 1), (40, 70, 33, 50)):
        shapes = {"X": (m, k), "W": (k, n), "U": (n, outputs)}
        agrees(TWO_LAYERS, **{name: random.standard_normal(s).astype(ml_dtypes.bfloat16) for name, s in shapes.items()})


@pytest.mark.amx
@amx
@pytest.mark.parametrize("text", [ATTENTION, CAUSAL], ids=["full", "causal"])
def test_both_products_of_attention(text: str) -> None:
    assert kernels_of(text, "sapphirerapids") == ["amx bf16·bf16"] * 2
    random = np.random.default_rng(6)
    for h, p, m, e, f in ((1, 1, 1, 1, 1), (2, 33, 65, 16, 24), (2, 3, 0, 4, 5), (1, 140, 300, 64, 64)):
        shapes = {"Q": (h, p, e), "K": (h, m, e), "V": (h, m, f)}
        arguments = {name: (2 * random.standard_normal(s)).astype(ml_dtypes.bfloat16) for name, s in shapes.items()}
        agrees(text, **arguments)
    arguments["V"][0, 250, 3] = np.inf
    agrees(text, **arguments)


@pytest.mark.amx
@amx
def test_bf16_products_of_numbers_at_the_edge() -> None:
    a = arrays(64, 65, 130)
    x, w = a["X"], a["W"]
    x[3, 4], w[5, 6], x[40, 7], w[:, 7] = np.inf, np.nan, 1e-40, 1e38
    agrees(PLAIN, X=x, W=w)


@pytest.mark.amx
@amx
def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    a = arrays(97, 130, 300)
    one, two, three = (compiled(PLAIN)(X=a["X"], W=a["W"], threads=t) for t in (1, 2, 3))
    assert one.tobytes() == two.tobytes() == three.tobytes()


@pytest.mark.parametrize("target", ["haswell", "icelake-server"])
def test_machines_without_tiles(target: str) -> None:
    if not named("cpu", target).features <= host_target().features:
        pytest.skip(f"the host is no {target}")
    for m, n, k in SIZES:
        a = arrays(m, n, k)
        agrees(PLAIN, f"cpu:{target}", X=a["X"], W=a["W"])


def integers(dtype: str, *shape: int, seed: int) -> np.ndarray:
    held = {"i8": "int8", "u8": "uint8"}[dtype]
    limits = np.iinfo(held)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape).astype(held)


@pytest.mark.parametrize("target", ["cpu", "cpu:icelake-server", "cpu:haswell"])
@pytest.mark.parametrize("types", BYTES, ids="·".join)
def test_integer_products(types: tuple[str, str], target: str) -> None:
    if target != "cpu" and not named("cpu", target.removeprefix("cpu:")).features <= host_target().features:
        pytest.skip(f"the host is no {target}")
    for m, n, k in SIZES:
        x, w = integers(types[0], m, k, seed=1), integers(types[1], n, k, seed=2)
        agrees(INTEGER.format(*types), target, X=x, W=w)


@pytest.mark.parametrize("target", ["cpu", "cpu:icelake-server", "cpu:haswell"])
def test_what_surrounds_integer_products(target: str) -> None:
    if target != "cpu" and not named("cpu", target.removeprefix("cpu:")).features <= host_target().features:
        pytest.skip(f"the host is no {target}")
    random = np.random.default_rng(3)
    for m, n, k in ((1, 1, 1), (37, 50, 70)):
        x, w = integers("i8", m, k, seed=1), integers("i8", k, n, seed=2)
        s, t = random.standard_normal(n, dtype=np.float32), random.standard_normal(m, dtype=np.float32)
        agrees(DEQUANTISED, target, X=x, W=w, s=s, t=t)
        agrees(QUANTISING, target, X=random.uniform(-3, 3, (m, k)).astype("float32"), W=w)
        agrees(WEIGHTED, target, X=x, g=integers("i8", m, seed=4), W=np.ascontiguousarray(w.T))


@pytest.mark.parametrize("finish", ["x", "max(x, 0) + m"])
def test_rows_that_fall_upon_the_same_sets_of_a_cache(finish: str) -> None:
    """Their sums wait in memory of their own: the same bits as where they wait in the result."""
    text = f"""def finish(x, m) = {finish}
    kernel f(X: f32[M, K], W: f32[K, N]) -> (Y: f32[M, N]) {{
        S[m, n] = X[m, k] * W[k, n]
        Y[m, n] = finish(S[m, n], m)
    }}"""
    random = np.random.default_rng(0)
    x = random.standard_normal((131, 300), dtype=np.float32)
    w = random.standard_normal((300, 4160), dtype=np.float32)
    assert plan_gemm(Machine(target=host_target()), "float32", 131, 4096, 300).crowds(4096)
    found = {}
    for columns in (4096, 4160):
        kernel = einfall.compile(text, cache=False, M=131, K=300, N=columns)
        found[columns] = np.asarray(kernel(X=x, W=np.ascontiguousarray(w[:, :columns])))
    assert np.array_equal(found[4096], found[4160][:, :4096])
    expected = x.astype(np.float64) @ w[:, :4096]
    expected = expected if finish == "x" else np.maximum(expected, 0) + np.arange(131)[:, None]
    np.testing.assert_allclose(found[4096], expected, rtol=1e-5, atol=1e-4)
