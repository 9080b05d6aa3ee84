"""Names and namespaces, functions, constants, contracts."""

from __future__ import annotations

import pytest

from einfall.frontend import load
from einfall.ir.cascade import Role
from einfall.ir.index import expand_lets

from .lowered import codes, errors, lower, only, program, refused, spelt, texts


def test_roles_and_order() -> None:
    cascade = lower(
        "X: f32[M, K], s: f32, const W: i8[N, K], t: i32[]) -> (Y: f32[M], Z: f32",
        "B[m] = A[m] * s",
        "A[m] = X[m, k] * W[0, k]",
        "Z = A[m] + 0 * m",
        "Y[m] = B[m] + t",
    )
    assert {t.name: t.role for t in cascade.tensors} == {
        "X": Role.INPUT,
        "s": Role.SCALAR,
        "W": Role.CONST,
        "t": Role.SCALAR,
        "Y": Role.RESULT,
        "Z": Role.RESULT,
        "B": Role.LOCAL,
        "A": Role.LOCAL,
    }
    assert [t.name for t in cascade.tensors] == ["X", "s", "W", "t", "Y", "Z", "B", "A"]


def test_functions_are_expanded() -> None:
    items = "def silu(x) = x * sigmoid(x)\ndef gate(a, b) = silu(a) * b\n"
    value = only(lower("X: f32[M], W: f32[M]) -> (Y: f32[M]", "Y[m] = gate(X[m], W[m])", items=items), "Y").value
    assert spelt(value) == "mul.f32(mul.f32(X[m], sigmoid.f32(X[m])), W[m])"


def test_functions_see_sizes_and_constants_of_the_file() -> None:
    items = "let eps = 1e-5\nlet B = 4\ndef norm(x) = x / (N + eps) * B\n"
    cascade = lower("X: f32[N]) -> (Y: f32[N]", "Y[n] = norm(X[n])", items=items)
    assert spelt(only(cascade, "Y").value) == ("mul.f32(div.f32(X[n], add.f32(f32(N), 1e-05.f32)), f32(B))")
    assert [let.name for let in cascade.lets] == ["B"]


def test_functions_are_hygienic() -> None:
    """A parameter of a function is not the rank variable or scalar of that name at the call."""
    items = "def half(m) = m / 2\n"
    value = only(lower("X: f32[M], s: f32) -> (Y: f32[M]", "Y[m] = half(X[m]) * m", items=items), "Y").value
    assert spelt(value) == "mul.f32(div.f32(X[m], 2.0.f32), f32(m))"


def test_constants() -> None:
    cascade = lower(
        "X: f32[M], s: f32) -> (Y: f32[M1, M0]",
        "let M1 = ceildiv(M, M0)",
        "let M0 = 64",
        "let half = s / 2",
        "let causal = true",
        "let scale = 1 / sqrt(M)",
        "Y[a, b] = X[a*M0 + b] * half * scale  where causal or a > 0",
    )
    assert [let.name for let in cascade.lets] == ["M0", "M1"]
    assert cascade.sizes == ("M",)
    lets = {let.name: let.value for let in cascade.lets}
    assert texts((expand_lets(lets["M1"], lets),)) == ["ceildiv(M, 64)"]
    assert spelt(only(cascade, "Y").value) == (
        "mul.f32(mul.f32(X[add.i64(mul.i64(a, M0), b)], div.f32(s[], 2.0.f32)), div.f32(1.0.f32, sqrt.f32(f32(M))))"
    )


def test_only_used_constants_of_the_file_are_kept() -> None:
    cascade = lower("X: f32[M]) -> (Y: f32[M]", "Y[m] = X[m] * A", items="let A = B + 1\nlet B = 2\nlet C = OTHER\n")
    assert [let.name for let in cascade.lets] == ["B", "A"]


def test_rank_variables_have_their_own_namespace() -> None:
    cascade = lower("k: f32[K], e: f32) -> (Y: f32", "Z = k[k] * e", "Y = Z")
    assert only(cascade, "Z").reduced == ("k",)
    cascade = lower("X: f32[K], e: f32) -> (Y: f32[K]", "Y[e] = X[e]")
    assert only(cascade, "Y").output_ranks == ("e",)
    assert codes("X: f32[K], e: f32) -> (Y: f32[K]", "Y[e] = X[e] * e") == ["E0211"]


def test_integer_scalars_are_coordinates() -> None:
    cascade = lower("X: f32[M, K], best: i32) -> (Y: f32[M]", "Y[m] = X[m, best]")
    assert only(cascade, "Y").reduction is None
    assert codes("X: f32[M], n: i32) -> (Y: f32[M]", "Y[n] = X[n]") == ["E0211"]
    assert codes("X: f32[M]) -> (Y: f32[M]", "let n = 4", "Y[n] = X[n]") == ["E0211"]


def test_a_local_scalar_is_an_index() -> None:
    cascade = lower("X: f32[M]) -> (Y: f32", "b = X[m] :: argmax(m)", "Y = X[b]")
    assert spelt(only(cascade, "Y").value) == "X[i64(b[])]"
    problem = refused("X: f32[M]) -> (Y: f32", "b = X[m] :: max(m)", "Y = X[b]")
    assert (problem.code, problem.message) == ("E0309", "an index is an integer, but the scalar `b` is of type f32")


@pytest.mark.parametrize(
    ("statement", "code", "advice"),
    [
        ("Y[m] = X[m] * alhpa", "E0201", "did you mean `alpha`?"),
        ("Y[m] = x[m]", "E0201", "did you mean `X`?"),
        ("Y[m] = sgimoid(X[m])", "E0208", "did you mean `sigmoid`?"),
        ("Y: bf61[m] = X[m]", "E0209", "did you mean `bf16`?"),
        ("Y[m] = X[m] :: mxa(m)", "E0503", "did you mean `max`?"),
        ("Y[m] = X", "E0210", "read one of its elements: `X[…]`"),
        ("Y[m] = X[m] * exp[m]", "E0210", None),
    ],
)
def test_advice(statement: str, code: str, advice: str | None) -> None:
    found = errors("X: f32[M], alpha: f32) -> (R: f32[M]", statement, "R[m] = X[m]")
    assert [(each.code, each.help) for each in found] == [(code, advice)]


def test_one_mistake_is_reported_once() -> None:
    """Nothing is said about what reads a tensor whose Einsum was rejected."""
    found = codes(
        "X: f32[M]) -> (Y: f32[M]",
        "A[m] = X[m] * beta",
        "B[m, k] = A[m] & C[k]",
        "C[k] = A[k] * 2 + B[k, 0]",
        "D: i8[M]",
        "D[m] = A[m]",
        "Y[m] = B[m, m] + C[m] + D[m]",
    )
    assert found == ["E0201"]


def test_independent_mistakes_are_reported_together() -> None:
    text = (
        program("X: f32[M]) -> (Y: f32[M]", "A[m] = X[m] + q", "Y[m] = A[m] + X[m, m]")
        + program("X: f32[M]) -> (Y: i32[M]", "Y[m] = X[m]").replace("kernel k", "kernel l")
        + "check l(N = 3)\n"
    )
    with pytest.raises(Exception, match="E0201") as caught:
        load(text)
    report = str(caught.value)
    assert [code for code in ("E0201", "E0302", "E0404", "E0702") if code not in report] == []


def test_contracts() -> None:
    text = "@tolerance(1e-2)" + program(
        "X: f32[M], s: f32) -> (Y: f32[M]", "let H = M // 2", "require M % 2 == 0 and H > 0", "Y[m] = X[m] * s / H"
    )
    cascade = load(text + "check k(M = 4, s = 0.5)\ncheck k(M = 6)\n")["k"]
    assert cascade.tolerance == 1e-2
    assert [require.text for require in cascade.requires] == ["M % 2 == 0 and H > 0"]
    assert [check.values for check in cascade.checks] == [(("M", 4), ("s", 0.5)), (("M", 6),)]


def test_several_kernels() -> None:
    text = program("X: f32[M]) -> (Y: f32[M]", "Y[m] = X[m]") + program("A: f32[N]) -> (B: f32[N]", "B[n] = A[n]").replace(
        "kernel k", "kernel other"
    )
    assert list(load(text)) == ["k", "other"]


def test_origins() -> None:
    cascade = lower("X: f32[M]) -> (Y: f32[M]", "Y[m] = X[m] * 2")
    span = only(cascade, "Y").origin.span
    assert span is not None and (span.line, span.column) == (3, 5)
    place = only(cascade, "Y").value.span
    assert place is not None and (place.line, place.column, place.end_column) == (3, 12, 20)


@pytest.mark.parametrize(
    ("statement", "help"),
    [
        ("Y[m] = relu(X[m])", "write `max(x, 0)`"),
        ("Y[m] = X[m] :: mean(m)", "a mean is a sum"),
        ("Y[m] = X[m] ^ 2", "a power is `x ** 2`"),
        ("// a copy", "a comment begins with `#`"),
        ("Y[m] = X[0:m]", "`where m < 3`"),
        ("Y = X @ X", "a product of matrices"),
        ("Y[m] = activation(X[m])", "defined by `def`"),
    ],
)
def test_habits_of_other_languages_are_told_what_stands_for_them_here(statement: str, help: str) -> None:
    assert help in refused("X: f32[M]) -> (Y: f32[M]", statement).help
