"""Element-wise steps in the registers of the product before them: which are taken in, and that nothing changes by it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import einfall as ef
from einfall.compiler.checking import compare
from einfall.compiler.host import host_target
from einfall.compiler.program import read_program
from einfall.ir.target import Target
from einfall.ir.tile import Compute, Method, TileProgram, all_buffers, walk
from einfall.passes.pipeline import lower

BIAS = """kernel k(X: f32[M, K], W: f32[K, N], b: f32[N]) -> (Y: f32[M, N]) {
    T[m, n] = X[m, k] * W[k, n]
    Y[m, n] = max(T[m, n] + b[n], 0)
}
"""
TAKEN = {
    "bias": BIAS,
    "chain": """kernel k(X: f32[M, K], W: f32[N, K], b: f32[N], R: f32[M, N]) -> (Y: f32[M, N]) {
    T[m, n] = X[m, k] * W[n, k]
    U[m, n] = sigmoid(T[m, n] + b[n])
    Y[m, n] = U[m, n] * R[m, n]
}
""",
    "bf16 result": """kernel k(X: bf16[M, K], W: bf16[K, N], s: f32[M]) -> (Y: bf16[M, N]) {
    T[m, n] = X[m, k] * W[k, n]
    Y[m, n] = T[m, n] * s[m]
}
""",
    "f16 result": """kernel k(X: f16[M, K], W: f16[K, N]) -> (Y: f16[M, N]) {
    Y[m, n] = X[m, k] * W[k, n]
}
""",
    "integer result": """kernel k(X: f32[M, K], W: f32[K, N]) -> (Y: i8[M, N]) {
    T[m, n] = X[m, k] * W[k, n]
    Y[m, n] = cast(i8, clamp(round(T[m, n] * 16), -128, 127))
}
""",
    "transposed": """kernel k(X: f32[M, K], W: f32[K, N], b: f32[N]) -> (Y: f32[N, M]) {
    T[m, n] = X[m, k] * W[k, n]
    Y[n, m] = T[m, n] + b[n]
}
""",
    "batch": """kernel k(X: f32[B, M, K], W: f32[B, K, N], b: f32[B, N]) -> (Y: f32[B, M, N]) {
    T[i, m, n] = X[i, m, k] * W[i, k, n]
    Y[i, m, n] = exp(T[i, m, n]) * b[i, n]
}
""",
    "gain before": """kernel k(X: f32[M, K], g: f32[K], W: f32[K, N], b: f32[N]) -> (Y: f32[M, N]) {
    T[m, n] = X[m, k] * g[k] * W[k, n]
    Y[m, n] = T[m, n] + b[n]
}
""",
    "whole numbers as weights": """kernel k(X: f32[M, K], W: i8[N, K], s: f32[N]) -> (Y: f32[M, N]) {
    T[m, n] = X[m, k] * cast(f32, W[n, k])
    Y[m, n] = T[m, n] * s[n]
}
""",
    "divisor": """kernel k(X: f32[M, K], W: f32[K, N], b: f32[N]) -> (Y: f32[M, N]) {
    T[m, n] = X[m, k] * W[k, n]
    Y[m, n] = b[n] / (3 * K + T[m, n])
}
""",
    "gate": """kernel k(X: f32[M, K], W: f32[K, N], R: f32[M, N], c: f32[M]) -> (Y: f32[M, N]) {
    T[m, n] = X[m, k] * W[k, n]
    Y[m, n] = (if T[m, n] > 0 then R[m, n] else 0) + (if T[m, n] > c[m] then c[m] else 0)
}
""",
    "gate, transposed": """kernel k(X: f32[M, K], W: f32[K, N], R: f32[M, N], b: f32[N]) -> (Y: f32[N, M]) {
    T[m, n] = X[m, k] * W[k, n]
    Y[n, m] = (if T[m, n] > 0 then R[m, n] else 0) + (if T[m, n] > b[n] then b[n] else 0)
}
""",
    "table": """kernel k(X: f32[M, K], W: f32[K, N], b: f32[N]) -> (Y: f32[M, N]) {
    T[m, n] = X[m, k] * W[k, n]
    Y[m, n] = b[n + cast(i32, round(T[m, n]))] ?? -1
}
""",
}
LEFT = {
    "read twice": """kernel k(X: f32[M, K], W: f32[K, N]) -> (Y: f32[M, N], Z: f32[M, N]) {
    T[m, n] = X[m, k] * W[k, n]
    Y[m, n] = T[m, n] + 1
    Z[m, n] = T[m, n] * 2
}
""",
    "read elsewhere": """kernel k(X: f32[M, K], W: f32[K, M]) -> (Y: f32[M, M]) {
    T[m, n] = X[m, k] * W[k, n]
    Y[m, n] = T[m, n] + T[n, m]
}
""",
    "a result": """kernel k(X: f32[M, K], W: f32[K, N]) -> (T: f32[M, N], Y: f32[M, N]) {
    T[m, n] = X[m, k] * W[k, n]
    Y[m, n] = T[m, n] + 1
}
""",
    "reduced": """kernel k(X: f32[M, K], W: f32[K, N]) -> (Y: f32[M]) {
    T[m, n] = X[m, k] * W[k, n]
    Y[m]    = T[m, n]                :: max(n)
}
""",
}


def tiles(text: str) -> TileProgram:
    return lower(read_program(text).select(None), target=host_target()).program


def equal(text: str, *, special: float = 0.0, **sizes: int) -> None:
    kernel = ef.compile(text)
    cascade = read_program(text).select(None)
    rng = np.random.default_rng(list(sizes.values()))
    arguments = {}
    for tensor in cascade.parameters:
        shape = tuple(sizes[extent.name] for extent in tensor.shape)
        values = rng.integers(-4, 5, shape) if tensor.value.is_integer else rng.uniform(-1, 1, shape)
        if special and tensor.value.is_float:
            values = np.where(rng.random(shape) < special, rng.choice([np.nan, np.inf, -np.inf], shape), values)
        arguments[tensor.name] = values.astype(tensor.value.storage)
    found = kernel(**arguments)
    results = found if isinstance(found, tuple) else (found,)
    comparison = compare(cascade, arguments, results, sizes={})
    assert comparison.passed, f"{comparison}\nat {sizes}"


@pytest.mark.parametrize("text", TAKEN.values(), ids=TAKEN)
def test_the_whole_kernel_is_one_product(text: str) -> None:
    program = tiles(text)
    computes = [n for n in walk(program.body) if isinstance(n, Compute)]
    assert [c.method for c in computes] == [Method.CONTRACTION]
    assert {b.name for b in all_buffers(program)} <= {t.name for t in program.cascade.tensors if t.role.value != "local"}


@pytest.mark.parametrize("text", LEFT.values(), ids=LEFT)
def test_what_others_read_is_stored(text: str) -> None:
    program = tiles(text)
    assert any(isinstance(n, Compute) and n.target == "T" for n in walk(program.body))
    equal(text, M=17, N=17, K=33)


@pytest.mark.parametrize("text", TAKEN.values(), ids=TAKEN)
def test_values_at_the_edges_of_tiles(text: str) -> None:
    """Whole and partial register tiles, few rows (which are not packed), and depths beyond one block."""
    for m, n, k in [*itertools.product((1, 5, 15, 29), (1, 16, 37), (1, 17)), (15, 33, 700), (3, 65, 600)]:
        equal(text, M=m, N=n, K=k, B=2)


@pytest.mark.parametrize("name", ["bias", "chain", "batch", "gain before"])
def test_infinities_and_nan(name: str) -> None:
    equal(TAKEN[name], M=30, N=40, K=9, B=2, special=0.03)


def test_explain_says_it() -> None:
    assert "never stored" in str(ef.compile(BIAS).explain())


def test_a_running_sum_is_rescaled_where_its_product_adds_to_it() -> None:
    text = """kernel k(Q: f32[P, E], K: f32[M, E], V: f32[M, F]) -> (AV: f32[P, F]) {
    S[p, m]  = Q[p, e] * K[m, e]
    G[p]     = S[p, m]                  :: max(m)
    N[p, m]  = exp(S[p, m] - G[p])
    D[p]     = N[p, m]
    AV[p, f] = N[p, m] / D[p] * V[m, f]
}
"""
    rescaled = [
        n
        for n in walk(tiles(text).body)
        if isinstance(n, Compute) and n.product is not None and n.product.epilogue is not None and "AV" in n.target
    ]
    assert len(rescaled) == 1
    for p, m in ((1, 1), (17, 65), (130, 200)):
        equal(text, P=p, M=m, E=16, F=24)


def test_what_tells_that_an_operand_is_finite_stays_where_the_attempt_that_asked_for_it_is_given_up() -> None:
    text = """kernel k(X: f64[K, N], V: f64[N, F]) -> (S: f64[K, N], Y: f64[K, F]) {
        E[k, n] = exp(X[k, n]) where X[k, n] > 0.5
        S[k, n] = E[k, n] * 2
        D[k]    = E[k, n]
        C[k, f] = S[k, n] * V[n, f]
        Y[k, f] = C[k, f] / D[k]
    }"""
    program = lower(read_program(text).select(None), target=Target.parse("cuda:sm_80")).program
    written = {node.target for node in walk(program.body) if isinstance(node, Compute)}
    assert "V.finite" in written
    assert written <= {buffer.name for buffer in all_buffers(program)}
