"""Cascades as source text: what is printed lowers to the same cascade again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st

from einfall.frontend import load
from einfall.frontend.formatter import format_source
from einfall.ir.cascade import Cascade
from einfall.ir.diagnostics import EinfallError
from einfall.ir.expr import Cast, integer, op, rank, read, real, size
from einfall.ir.printer import expr_to_source, index_to_source, to_source
from einfall.ir.types import DTYPES, F32, I32

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*/*.ecs"))


def only(text: str) -> Cascade:
    (kernel,) = load(text, "test.ecs").values()
    return kernel


def body(kernel: Cascade) -> list[str]:
    """The statements of a printed kernel."""
    lines = to_source(kernel).splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith("{"))
    return [line.strip() for line in lines[start + 1 : lines.index("}")]]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_survive_the_round_trip(path: Path) -> None:
    for name, kernel in load(path.read_text(), path.name).items():
        text = to_source(kernel)
        assert load(text, "printed.ecs")[name] == kernel
        assert format_source(text) == text


def test_expressions_have_only_the_parentheses_that_they_need() -> None:
    i, N = rank("i"), size("N")
    a, b, c = (read(name, (i,), F32) for name in "abc")
    assert expr_to_source(op("sub", a, op("sub", b, c))) == "a[i] - (b[i] - c[i])"
    assert expr_to_source(op("sub", op("sub", a, b), c)) == "a[i] - b[i] - c[i]"
    assert expr_to_source(op("mul", op("add", a, b), op("neg", c))) == "(a[i] + b[i]) * -c[i]"
    assert expr_to_source(op("neg", op("pow", a, integer(2)))) == "-a[i] ** 2"
    assert expr_to_source(op("pow", op("neg", a), integer(-2))) == "(-a[i]) ** -2"
    assert expr_to_source(op("not", op("and", op("lt", a, b), op("ge", a, c)))) == "not (a[i] < b[i] and a[i] >= c[i])"
    assert expr_to_source(op("max", a, real(-float("inf"), F32))) == "max(a[i], -inf)"
    assert expr_to_source(op("div", op("add", i, integer(1)), N)) == "(i + 1) / N"


def test_simple_indices_are_tight() -> None:
    p, r = rank("p"), rank("r")
    assert index_to_source(op("add", p, integer(1))) == "p+1"
    assert index_to_source(op("sub", op("add", op("mul", integer(2), p), r), integer(1))) == "2*p + r - 1"
    assert index_to_source(op("floordiv", p, integer(4))) == "p // 4"


def test_conversions_that_the_language_makes_are_not_written() -> None:
    i = rank("i")
    x, k = read("x", (i,), F32), read("k", (i,), I32)
    half = read("h", (i,), DTYPES["bf16"])
    assert expr_to_source(op("mul", x, Cast(value=i, dtype=F32))) == "x[i] * i"
    assert expr_to_source(op("mul", x, Cast(value=k, dtype=F32))) == "x[i] * k[i]"
    assert expr_to_source(op("mul", x, Cast(value=half, dtype=F32))) == "x[i] * h[i]"
    both = op("mul", Cast(value=half, dtype=F32), Cast(value=half, dtype=F32))
    assert expr_to_source(both) in ("h[i] * cast(f32, h[i])", "cast(f32, h[i]) * h[i]")
    assert expr_to_source(Cast(value=x, dtype=I32)) == "cast(i32, x[i])"


WRITTEN = """
type w4 = quant(u4, group = K:32, scale = f16, zero = f16)

@tolerance(0.01)
kernel all(
    X: bf16[M, K],
    const W: w4[K, N],
    B: i8[M, K],
    ids: i32[M],
    scale: f32,
) -> (Y: f32[M, N], count: i32[M], hits: f32[V], best: i32[M]) {
    let K2 = ceildiv(K, 2)
    require K % 32 == 0
    S: f32[V]

    XW: bf16[m, n] = X[m, k] * W[k, n]
    Y[m, n]        = XW[m, n] * scale + X[m, K2]        where m <= n or n == 0
    count[m]       = B[m, k] * B[m, k]                  where B[m, k] > 0
    S[ids[m]]      = X[m, k]                            :: max(m, k)
    hits[v]        = S[v] + 0.5
    Q[m, k]        = X[m, k] * sqrt(K) + bitcast(f32, bitcast(i32, scale) + 8388608)
    best[m]        = Q[m, k] + cast(f32, m)             :: argmax(k)  where m > 0 and k != m
}

check all(M = 3, K = 64, N = 5, V = 4, scale = 0.5)
"""


def test_everything_that_a_kernel_can_state_is_printed() -> None:
    kernel = only(WRITTEN)
    text = to_source(kernel)
    assert only(text) == kernel
    assert format_source(text) == text
    assert text.splitlines()[0] == "type w4 = quant(u4, group = K:32, scale = f16, zero = f16)"
    for line in (
        "@tolerance(0.01)",
        "    let K2 = ceildiv(K, 2)",
        "    require K % 32 == 0",
        "    S: f32[V]",
        "check all(M = 3, K = 64, N = 5, V = 4, scale = 0.5)",
    ):
        assert line in text.splitlines()
    assert "XW: bf16[m, n] = X[m, k] * W[k, n]" in body(kernel)


def test_a_sum_of_unlike_terms_states_its_reduction() -> None:
    head = "kernel k(X: f32[M, K], B: f32[M]) -> (Y: f32[M]) {\n    "
    stated = only(head + "Y[m] = X[m, k] + B[m]    :: +(k)\n}\n")
    assert body(stated) == ["Y[m] = X[m, k] + B[m]    :: +(k)"]
    implied = only(head + "Y[m] = X[m, k] - X[m, k] * B[m]    :: +(k)\n}\n")
    assert body(implied) == ["Y[m] = X[m, k] - X[m, k] * B[m]"]


# Programs over tensors of every kind of type, with whatever operators fit; the front end rejects some of them. No cast
# to a small float is among them: where its operand fits and the result meets an f32, it leaves no trace in the cascade.
_TYPES = {
    "A": "f32", "B": "bf16", "C": "f16", "D": "i32", "E": "i8", "F": "u8", "G": "bool", "H": "f8_e4m3",
    "I": "i64", "J": "f64", "K": "u32",
}  # fmt: skip
_ATOMS = [f"{name}[i, k]" for name in _TYPES] + ["i", "k", "M", "2", "0.5", "-3", "7", "s"]
_INFIX = ["+", "-", "*", "/", "//", "%", "??", "|", "&", "<<", "==", "<", "and", "or"]
_CALLS = ["exp({})", "sqrt({})", "abs({})", "-({})", "not ({})", "floor({})", "({}) ** 2", "cast(i32, {})",
          "cast(f32, {})", "cast(i8, {})", "bitcast(i32, {})", "bitcast(f32, {})"]  # fmt: skip


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("({}) {} ({})".format, inner, st.sampled_from(_INFIX), inner),
        st.builds(lambda call, a: call.format(a), st.sampled_from(_CALLS), inner),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), inner, inner),
        st.builds("(if ({}) > ({}) then {} else {})".format, inner, inner, inner, inner),
    )


EXPRESSIONS = st.recursive(st.sampled_from(_ATOMS), _grown, max_leaves=6)
CLAUSES = st.sampled_from(["", " :: +(k)", " :: max(k)", " :: *(k)", " where i <= k", " where i > 1 and D[i, k] > 0"])


@example(value="cast(i8, (if (k) > (B[i, k]) then G[i, k] else G[i, k]))", clause=" :: +(k)", indices="i", result=": f32")
@example(value="cast(i32, E[i, k] + E[i, k])", clause=" :: +(k)", indices="i", result="")
@example(value="cast(i32, E[i, k] ?? -E[i, k])", clause=" :: *(k)", indices="i", result="")
@example(value="(bitcast(i32, -3)) ** 2", clause="", indices="i", result="")
@example(value="(bitcast(f32, (0.5) ** 2)) < (sqrt(J[i, k]))", clause=" :: +(k)", indices="i", result=": f32")
@given(value=EXPRESSIONS, clause=CLAUSES, indices=st.sampled_from(["i", "i, k"]), result=st.sampled_from(["", ": f32"]))
@settings(max_examples=150, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
def test_whatever_the_front_end_accepts_survives_the_round_trip(value: str, clause: str, indices: str, result: str) -> None:
    parameters = ", ".join(f"{name}: {dtype}[M, N]" for name, dtype in _TYPES.items())
    text = (
        f"kernel k({parameters}, s: f16) -> (Y: f32[M, N]) {{\n"
        f"    T{result}[{indices}] = {value}{clause}\n"
        f"    Y[i, k] = if T[{indices}] == T[{indices}] then A[i, k] else 0\n}}\n"
    )
    try:
        kernel = only(text)
    except EinfallError:
        assume(False)
    assert only(to_source(kernel)) == kernel
