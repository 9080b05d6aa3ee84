"""Simplification: what each identity makes, what it must leave alone, and that programs in disguise compute what they did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from einfall.compiler.specialise import specialise
from einfall.frontend import load
from einfall.ir.cascade import Cascade
from einfall.ir.diagnostics import EinfallError
from einfall.ir.expr import Cast, integer, op, rank, real, size
from einfall.ir.interpreter import interpret
from einfall.ir.printer import to_source
from einfall.ir.types import DTYPES, F32, I32
from einfall.passes.analysis.certainty import decide
from einfall.passes.pipeline import prepare
from einfall.passes.simplification.folding import folded
from einfall.passes.simplification.simplify import simplify

from .comparison import check_form, only

EXAMPLES = Path(__file__).parents[2] / "examples"
HEAD = "kernel k(X: f32[M, N], Y: f32[M, N], I: i32[M, N], J: i8[M, N], B: bool[M, N], v: f32) -> "


def simplified(text: str) -> Cascade:
    """A simplified program, checked: valid, printable, and nothing is left to do."""
    found = simplify(only(text)).cascade
    check_form(found)
    assert simplify(found).cascade is found
    return found


def lines(cascade: Cascade) -> list[str]:
    """The Einsums of a cascade as text, with single blanks."""
    text = to_source(cascade).splitlines()
    start = next(i for i, line in enumerate(text) if line.endswith("{"))
    return [" ".join(line.split()) for line in text[start + 1 : text.index("}")] if line.strip()]


def special(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.5, 3e38])
    return random.choice(odd, shape)


def same(a: np.ndarray, b: np.ndarray) -> None:
    """Equal bit by bit, but for the payload of NaN."""
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
    if a.dtype.kind == "f":
        known = ~np.isnan(a)
        np.testing.assert_array_equal(np.signbit(a[known]), np.signbit(b[known]))


FLOATS = {
    "X[m, n] * 1": "X[m, n]",
    "1 * X[m, n]": "X[m, n]",
    "X[m, n] / 1": "X[m, n]",
    "X[m, n] - 0": "X[m, n]",
    "X[m, n] + (-0.0)": "X[m, n]",
    "abs(X[m, n]) + 0": "abs(X[m, n])",
    "exp(X[m, n]) + Y[m, n] + 0": "exp(X[m, n]) + Y[m, n]",
    "-(-X[m, n])": "X[m, n]",
    "X[m, n] ** 1": "X[m, n]",
    "max(X[m, n], -inf)": "X[m, n]",
    "min(X[m, n], inf)": "X[m, n]",
    "clamp(X[m, n], -inf, inf)": "X[m, n]",
    "max(X[m, n], X[m, n])": "X[m, n]",
    "cast(f32, X[m, n])": "X[m, n]",
    "if true then X[m, n] else Y[m, n]": "X[m, n]",
    "if m >= 0 then X[m, n] else Y[m, n]": "X[m, n]",
    "if n < m - M then X[m, n] else Y[m, n]": "Y[m, n]",
    "if n % 4 < 4 then X[m, n] else Y[m, n]": "X[m, n]",
    "X[m, n] ?? 7": "X[m, n]",
    "X[m, n] * (2 + 3)": "X[m, n] * 5.0",
    "X[m, n] * (if 1 < 2 then 0.5 else 3)": "X[m, n] * 0.5",
    "if B[m, n] and true then X[m, n] else 0": "if B[m, n] then X[m, n] else 0.0",
    "if not not B[m, n] then X[m, n] else 0": "if B[m, n] then X[m, n] else 0.0",
    "if B[m, n] or m >= 0 then X[m, n] else 0": "X[m, n]",
}
KEPT = [
    "X[m, n] * 0",
    "X[m, n] + 0",
    "0 - X[m, n]",
    "X[m, n] - X[m, n]",
    "X[m, n] / X[m, n]",
    "max(X[m, n], 0)",
    "X[m+1, n] ?? 7",
    "if n < m then X[m, n] else Y[m, n]",
    "if m % M >= 0 then X[m, n] else Y[m, n]",
    "if B[m+1, n] and B[m, n] then X[m, n] else Y[m, n]",
    "X[m, n] * (inf - inf)",
]


@pytest.mark.parametrize("value", FLOATS)
def test_identities_of_floats(value: str) -> None:
    text = f"{HEAD}(Z: f32[M, N]) {{\n    Z[m, n] = {value}\n}}\n"
    found = simplified(text)
    assert lines(found) == [f"Z[m, n] = {FLOATS[value]}"]
    arguments = {
        "X": special((5, 7)), "Y": special((5, 7), 1), "I": np.zeros((5, 7)), "J": np.zeros((5, 7)),
        "B": np.arange(35).reshape(5, 7) % 2 == 0, "v": 1.0,
    }  # fmt: skip
    for mode in ("exact", "typed"):
        same(interpret(only(text), arguments, mode=mode)["Z"], interpret(found, arguments, mode=mode)["Z"])


@pytest.mark.parametrize("value", KEPT)
def test_what_is_no_identity_stays(value: str) -> None:
    written = only(f"{HEAD}(Z: f32[M, N]) {{\n    Z[m, n] = {value}\n}}\n")
    assert simplify(written).cascade is written


INTEGERS = {
    "I[m, n] + 0": "I[m, n]",
    "I[m, n] - 0": "I[m, n]",
    "I[m, n] // 1": "I[m, n]",
    "I[m, n] | 0": "I[m, n]",
    "I[m, n] ^ 0": "I[m, n]",
    "I[m, n] & I[m, n]": "I[m, n]",
    "I[m, n] << 0": "I[m, n]",
    "I[m, n] + I[m, n] * 0": "I[m, n]",
    "I[m, n] + (I[m, n] - I[m, n])": "I[m, n]",
    "I[m, n] + I[m, n] % 1": "I[m, n]",
    "I[m, n] + (2147483647 + cast(i32, 1))": "I[m, n] + -2147483648",
}


@pytest.mark.parametrize("value", INTEGERS)
def test_identities_of_integers(value: str) -> None:
    text = f"{HEAD}(Z: i32[M, N]) {{\n    Z[m, n] = {value}\n}}\n"
    found = simplified(text)
    random = np.random.default_rng(3)
    arguments = {
        "X": np.zeros((4, 6)), "Y": np.zeros((4, 6)), "I": random.integers(-(2**31), 2**31, (4, 6)),
        "J": random.integers(-128, 128, (4, 6)), "B": np.zeros((4, 6), bool), "v": 0.0,
    }  # fmt: skip
    same(interpret(only(text), arguments)["Z"], interpret(found, arguments)["Z"])
    assert lines(found) == [f"Z[m, n] = {INTEGERS[value]}"]


def test_literals_beside_narrow_types_stay() -> None:
    """``100 + 100`` would wrap as an i8; as the literal 200 it would be read back as a wider sum."""
    written = only(f"{HEAD}(Z: i32[M, N]) {{\n    Z[m, n] = J[m, n] + (cast(i8, 100) + cast(i8, 100))\n}}")
    assert simplify(written).cascade is written


def test_folding_agrees_with_both_modes_or_leaves_the_expression() -> None:
    third = op("div", real(1.0, F32), real(3.0, F32))
    assert folded(third) == real(1 / 3, F32)
    # 0.1 · 0.1 rounded to f32 is not the product of two roundings to f32.
    assert folded(op("mul", real(0.1, F32), real(0.1, F32))) is None
    assert folded(op("sub", real(np.inf, F32), real(np.inf, F32))) is None
    assert folded(Cast(value=real(3e9, F32), dtype=I32)) == integer(2**31 - 1, I32)
    assert folded(Cast(value=real(0.1, F32), dtype=DTYPES["bf16"])) is None
    assert folded(op("floordiv", integer(7, I32), integer(0, I32))) is None
    assert folded(op("neg", real(0.0, F32))) == real(-0.0, F32)
    assert folded(op("add", integer(2**31 - 1, I32), integer(1, I32))) == integer(-(2**31), I32)


def test_conditions_that_the_ranges_decide() -> None:
    m, n, M = rank("m"), rank("n"), size("M")
    extents = {"m": M, "n": op("add", M, integer(2))}
    for condition, answer in (
        (op("lt", m, M), True),
        (op("ge", m, M), False),
        (op("le", op("sub", m, M), n), True),
        (op("lt", m, n), None),
        (op("eq", op("mod", m, integer(8)), integer(9)), False),
        (op("ne", op("floordiv", m, integer(2)), integer(-1)), True),
        (op("and", op("lt", m, n), op("ge", m, M)), False),
        (op("or", op("lt", m, n), op("lt", m, M)), True),
        (op("not", op("lt", m, M)), False),
        (op("ge", op("mod", m, M), integer(0)), None),
    ):
        assert decide(condition, extents, {}) is answer, condition


def test_certain_conditions_are_dropped_and_impossible_ones_empty_a_sum() -> None:
    text = f"""{HEAD}(Z: f32[M], E: f32[M], L: f32[M]) {{
        Z[m] = X[m, n]    where n >= 0 and m < M and n <= m
        E[m] = X[m, n]    where n < 0
        L[m] = X[m, n]    :: max(n)  where n >= N
    }}"""
    assert lines(simplified(text)) == ["Z[m] = X[m, n] where n <= m", "E[m] = 0.0", "L[m] = -inf"]


def test_a_condition_on_the_output_that_never_holds_stays() -> None:
    text = f"""{HEAD}(Z: f32[M]) {{
        A[m] = v + X[m, n]    :: max(n)  where m < 0
        Z[m] = A[m] ?? X[m, 0]
    }}"""
    arguments = {name: np.ones((3, 2)) for name in "XYIJ"} | {"B": np.ones((3, 2), bool), "v": 9.0}
    same(interpret(simplified(text), arguments)["Z"], interpret(only(text), arguments)["Z"])


def test_known_sizes_decide_masks() -> None:
    text = """kernel k(X: f32[M, N]) -> (Z: f32[M]) {
        Z[m] = X[m, n]    where n - m < 8 and m - n < 8
    }"""
    assert lines(simplify(specialise(only(text), {"M": 7, "N": 5})).cascade) == ["Z[m] = X[m, n]"]
    assert "where" in lines(simplify(specialise(only(text), {"M": 9, "N": 5})).cascade)[0]


def test_constant_tensors_disappear() -> None:
    text = f"""{HEAD}(Z: f32[M, N], C: i32[M]) {{
        T: f32[M]
        O[m, n] = I[m, n] * 0 + 3
        T[m]    = 2
        C[m]    = O[m, n]
        Z[m, n] = (X[m, n] - T[m]) * (T[m] - 1)
    }}"""
    assert lines(simplified(text)) == ["C[m] = 3 * cast(i32, N)", "Z[m, n] = X[m, n] - 2.0"]


def test_a_constant_outside_its_tensor_is_absent() -> None:
    text = """kernel k(X: f32[M]) -> (Z: f32[M], S: f32) {
        O: f32[M]
        O[m] = 1
        Z[m] = X[m] * O[m+1]
        S    = X[m] * O[m+1]
    }"""
    arguments = {"X": np.arange(1.0, 6.0)}
    for name, value in interpret(only(text), arguments).items():
        same(value, interpret(simplified(text), arguments)[name])


def test_equal_tensors_are_computed_once() -> None:
    text = f"""{HEAD}(Z: f32[M, N], G: f32[M], G2: f32[M]) {{
        A[m, n] = X[m, n] * Y[m, n]
        B2[i, j] = Y[i, j] * X[i, j]
        G[m]    = A[m, n]    :: max(n)
        G2[m]   = B2[m, n]   :: max(n)
        Z[m, n] = A[m, n] + B2[m, n]
    }}"""
    found = lines(simplified(text))
    assert found == [
        "A[m, n] = X[m, n] * Y[m, n]",
        "G[m] = A[m, n] :: max(n)",
        "G2[m] = G[m]",
        "Z[m, n] = A[m, n] + A[m, n]",
    ]


def test_equal_recurrences_are_computed_once() -> None:
    text = """kernel k(X: f32[T]) -> (Z: f32) {
        S[0]   = 0
        S[t+1] = S[t] * 2 + X[t]
        R[0]   = 0
        R[u+1] = 2 * R[u] + X[u]
        Z      = S[T] + R[T]
    }"""
    assert lines(simplified(text))[2:] == ["Z = S[T] + S[T]"]


def test_tensors_of_different_types_are_not_equal() -> None:
    text = """kernel k(X: f32[M]) -> (Z: f32[M]) {
        A: bf16[m] = X[m] * 3
        B[m]       = X[m] * 3
        Z[m]       = A[m] - B[m]
    }"""
    written = only(text)
    assert simplify(written).cascade is written


def test_a_costly_value_of_one_pass_is_shared() -> None:
    text = """kernel k(X: f32[M, N]) -> (H: f32[M]) {
        G[m] = X[m, n]                                :: max(n)
        D[m] = exp(X[m, n] - G[m])
        S[m] = exp(X[m, i] - G[m]) * X[m, i]
        H[m] = S[m] / D[m]
    }"""
    assert lines(simplified(text))[1:4] == [
        "EXP[m, n] = exp(X[m, n] - G[m])",
        "D[m] = EXP[m, n]",
        "S[m] = EXP[m, i] * X[m, i]",
    ]


def test_a_value_of_two_passes_is_not_shared() -> None:
    text = """kernel k(X: f32[M, N]) -> (Y: f32[M, N]) {
        D[m]    = exp(X[m, n])
        Y[m, n] = exp(X[m, n]) / D[m]
    }"""
    written = only(text)
    assert simplify(written).cascade is written


def test_what_no_result_needs_goes_but_parameters_stay() -> None:
    text = """kernel k(X: f32[M], unused: f32[L]) -> (Z: f32[M]) {
        let M2 = ceildiv(M, 2)
        W: f32[M2]
        A[m]   = X[m] + 1
        W[i]   = i
        S[0]   = 0
        S[m+1] = S[m] + A[m]
        Z[m]   = X[m]
    }"""
    found = simplify(only(text))
    assert lines(found.cascade) == ["Z[m] = X[m]"]
    assert [t.name for t in found.cascade.parameters] == ["X", "unused"]
    assert found.cascade.sizes == ("M", "L")
    assert found.cascade.lets == ()
    assert {d.subject for d in found.decisions} == {"A", "W", "S", "M2"}


def test_a_size_that_only_dead_code_names_stays() -> None:
    text = """kernel k(X: f32[M]) -> (Z: f32[M]) {
        W: f32[V]
        W[v] = v
        Z[m] = X[m]
    }"""
    assert simplified(text).sizes == ("M", "V")


def test_generations_that_nothing_reads_go() -> None:
    text = """kernel k(A: f32[N], B: f32[M]) -> (Z: f32) {
        D[i, 0]     = i
        D[0, j]     = j
        D[0, 0]     = 0
        X[0, j]     = -inf
        X[i, 0]     = -inf
        X[i+1, j+1] = max(X[i, j+1], D[i, j] + A[i] * B[j])
        D[i+1, j+1] = X[i+1, j+1]
        Z           = D[N, M]
    }"""
    assert "X[i, 0] = -inf" not in lines(simplified(text))


KERNELS = {
    f"{path.parent.name}/{name}": kernel
    for path in sorted(EXAMPLES.glob("*/*.ecs"))
    for name, kernel in load(path.read_text(), path.name).items()
}


@pytest.mark.parametrize("name", KERNELS)
def test_examples(name: str) -> None:
    """Simplified examples are valid, print, and stay; parameters, results and sizes are those that were."""
    written = KERNELS[name]
    found = prepare(written).cascade
    assert prepare(found).cascade is found
    if found is not written:
        check_form(found)
        assert (found.parameters, found.results, found.sizes) == (written.parameters, written.results, written.sizes)


def agree(written: Cascade, arguments: dict[str, object], sizes: dict[str, int]) -> None:
    found = simplify(written).cascade
    check_form(found)
    assert simplify(found).cascade is found
    expected = interpret(written, arguments, sizes=sizes)
    for name, value in interpret(found, arguments, sizes=sizes).items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, expected[name], rtol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


SETTINGS = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


NEUTRAL = ["({}) * 1", "({}) + 0", "({}) - 0", "1 * ({})", "({}) / 1", "-(-({}))", "({}) ?? 3", "max({0}, {0})",
           "if m >= 0 then {} else X[m, n]", "if n > m + N then X[m, n] else {}", "({}) * (C[m] - 1)", "({}) + K0[m]",
           "({}) * 0", "({0}) - ({0})", "if B[m, n] then {} else C[m]"]  # fmt: skip
LEAVES = ["X[m, n]", "Y[m, n]", "cast(f32, I[m, n])", "C[m]", "K0[m]", "cast(f32, m)", "2", "0", "v", "X[m, n+1]"]


@st.composite
def disguised(draw: st.DrawFn) -> str:
    """A program over constant tensors and neutral operations."""

    def value(depth: int) -> str:
        if depth == 0:
            return draw(st.sampled_from(LEAVES))
        if draw(st.booleans()):
            return draw(st.sampled_from(NEUTRAL)).format(value(depth - 1))
        return f"({value(depth - 1)} {draw(st.sampled_from(['+', '-', '*']))} {value(depth - 1)})"

    mask = st.sampled_from(["", "where n >= 0", "where n < 0", "where m < M and n <= m", "where m - n < N + M", "where m >= M"])
    body = ["C: f32[M]", "K0: f32[M]", "C[m] = 2", "K0[m] = Y[m, n] * 0    :: max(n)" if draw(st.booleans()) else "K0[m] = 0"]
    body += [f"T[m, n] = {value(2)} + 0 * X[m, n]    {draw(mask)}", f"U[m, n] = {value(2)} + X[m, n]    {draw(mask)}"]
    reduction = draw(st.sampled_from(["+", "max", "min", "*"]))
    body += [f"R[m] = T[m, n] * {value(1)}    :: {reduction}(n) {draw(mask)}", f"S[m] = U[m, n]    {draw(mask)}"]
    body += ["Z[m, n] = (T[m, n] ?? R[m]) + (U[m, n] ?? S[m])"]
    return f"{HEAD}(Z: f32[M, N]) {{\n" + "\n".join(f"    {line}" for line in body) + "\n}\n"


@settings(max_examples=40, **SETTINGS)
@given(disguised(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 9), st.booleans())
def test_disguised_programs_compute_what_they_did(text, m, n, seed, odd) -> None:
    try:
        written = only(text)
    except EinfallError:
        assume(False)
    random = np.random.default_rng(seed)
    floats = special((m, n), seed) if odd else random.normal(size=(m, n))
    arguments = {
        "X": floats, "Y": random.normal(size=(m, n)), "I": random.integers(-9, 9, (m, n)),
        "J": random.integers(-9, 9, (m, n)), "B": random.random((m, n)) < 0.5, "v": -0.0 if odd else 1.5,
    }  # fmt: skip
    agree(written, arguments, {})
