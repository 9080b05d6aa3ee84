"""The formatter: its canonical form, and that it keeps the program and the comments."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from einfall.frontend.formatter import format_source
from einfall.frontend.parser import parse
from einfall.ir.diagnostics import EinfallError

from .programs import programs

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("*.ecs"))

CANONICAL = """\
# attention.ecs: softmax attention, written as the mathematics
kernel attention(
    Q: f32[H, P, E],
    K: f32[H, M, E],
    V: f32[H, M, F],
) -> (AV: f32[H, P, F]) {
    QK[h, p, m] = Q[h, p, e] * K[h, m, e] / sqrt(E)
    GM[h, p]    = QK[h, p, m]                          :: max(m)
    SN[h, p, m] = exp(QK[h, p, m] - GM[h, p])
    SD[h, p]    = SN[h, p, m]
    A[h, p, m]  = SN[h, p, m] / SD[h, p]
    AV[h, p, f] = A[h, p, m] * V[h, m, f]
}
"""


def test_the_canonical_form_of_the_language_page() -> None:
    assert format_source(CANONICAL) == CANONICAL
    squeezed = "\n".join(" ".join(line.split()) for line in CANONICAL.splitlines())
    assert format_source(squeezed) == CANONICAL


def test_items_and_spacing() -> None:
    text = """\
let N=4
type w4=quant(u4,group=K:128,scale=f16)
@tolerance(1e-2) kernel f(X:f32[M,K], const W:w4[N ,K],scale:f32)->(Y:f32[M,N],L:f32[M],)
{ Y[m,n]=X[m,k]*W[n,k]*( -scale )   # product
  L[m]=Y[m,n]::max(n) where n<=m and not(n==3)


  # padded by absence
  O[k,p]=I[c,s*p+r-1,m1+1]??0
}
def square(x)=x**2
check f(N=2,x=-3.5)
"""
    assert (
        format_source(text)
        == """\
let N = 4
type w4 = quant(u4, group = K:128, scale = f16)

@tolerance(1e-2)
kernel f(X: f32[M, K], const W: w4[N, K], scale: f32) -> (Y: f32[M, N], L: f32[M]) {
    Y[m, n] = X[m, k] * W[n, k] * (-scale)  # product
    L[m]    = Y[m, n]                         :: max(n)  where n <= m and not (n == 3)

    # padded by absence
    O[k, p] = I[c, s*p + r - 1, m1+1] ?? 0
}

def square(x) = x ** 2
check f(N = 2, x = -3.5)
"""
    )


def test_a_long_header_gets_a_line_for_each_parameter() -> None:
    parameters = ", ".join(f"OPERAND{index}: f32[ROWS, COLUMNS]" for index in range(4))
    formatted = format_source(f"kernel f({parameters}) -> (Y: f32[ROWS]) {{ Y[m] = 1 }}")
    assert formatted.splitlines()[:3] == [
        "kernel f(",
        "    OPERAND0: f32[ROWS, COLUMNS],",
        "    OPERAND1: f32[ROWS, COLUMNS],",
    ]
    assert formatted.splitlines()[5:] == [") -> (Y: f32[ROWS]) {", "    Y[m] = 1", "}"]


def test_line_breaks_and_comments_inside_a_statement_stay() -> None:
    text = """\
kernel f(X: f32[M]) -> (Y: f32[M]) {  # opening
    Y[m] = max(
        X[m],  # first
        # second
        0,
    )
        + 1
        where m > 0
}  # closing
# end
"""
    expected = text.replace("# closing\n# end", "# closing\n\n# end")
    assert format_source(text) == expected
    assert format_source("\n".join(line.strip() for line in text.splitlines())) == expected


def test_a_file_without_kernels_is_formatted_too() -> None:
    assert format_source("") == ""
    assert format_source("\ufeff# only\r\n\r\n\r\n#  comments  ") == "# only\n\n#  comments\n"
    assert format_source("def f(x)=x") == "def f(x) = x\n"


def test_what_does_not_parse_is_not_formatted() -> None:
    with pytest.raises(EinfallError) as caught:
        format_source("kernel f(", "f.ecs")
    assert caught.value.code == "E0102"


def assert_faithful(text: str) -> None:
    formatted = format_source(text)
    assert parse(formatted) == parse(text)
    assert format_source(formatted) == formatted
    before = [comment.text for comment in parse(text).comments]
    assert [comment.text for comment in parse(formatted).comments] == before
    assert all(line == line.rstrip() for line in formatted.split("\n"))
    assert "\n\n\n" not in formatted


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples(path: Path) -> None:
    assert_faithful(path.read_text(encoding="utf-8"))


@given(programs())
@settings(max_examples=80, deadline=None)
def test_random_programs(text: str) -> None:
    assert_faithful(text)


@pytest.mark.slow
@given(programs())
@settings(max_examples=2000, deadline=None)
def test_many_random_programs(text: str) -> None:
    assert_faithful(text)
