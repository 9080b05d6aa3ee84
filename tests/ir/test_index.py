"""The algebra of sizes: normal forms, provable equality, exact evaluation."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einfall.ir.expr import Expr, integer, op, rank, read, size, sizes_of
from einfall.ir.index import (
    affine,
    at_most,
    constant_difference,
    constant_value,
    equal,
    expand_lets,
    non_negative,
    simplify,
)
from einfall.ir.injective import is_injective
from einfall.ir.sizes import evaluate
from einfall.ir.solving import solve_for
from einfall.ir.types import I32

A, B, N, M, M0 = (size(n) for n in ("A", "B", "N", "M", "M0"))
i, j, p, r = (rank(n) for n in "ijpr")


def add(a: Expr, b: Expr) -> Expr:
    return op("add", a, b)


def mul(a: Expr, b: Expr) -> Expr:
    return op("mul", a, b)


def sub(a: Expr, b: Expr) -> Expr:
    return op("sub", a, b)


def test_affine_form_of_a_strided_convolution() -> None:
    form = affine(sub(add(mul(size("S"), p), r), integer(1)))
    assert form is not None
    assert form.ranks == ("p", "r")
    assert form.coefficient("p") == size("S")
    assert form.coefficient("r") == integer(1)
    assert form.coefficient("q") == integer(0)
    assert form.constant == integer(-1)


def test_affine_form_with_products_of_sizes() -> None:
    form = affine(add(mul(add(mul(i, M0), j), N), integer(2)))
    assert form is not None
    assert form.coefficient("i") == mul(M0, N)
    assert form.coefficient("j") == N


@pytest.mark.parametrize(
    "expr",
    [
        op("floordiv", i, integer(2)),
        op("mod", i, M0),
        mul(i, j),
        mul(i, i),
        read("E", (i,), I32),
        add(i, op("max", j, N)),
    ],
)
def test_not_affine(expr: Expr) -> None:
    assert affine(expr) is None


def test_shifted_rank() -> None:
    form = affine(add(i, integer(1)))
    assert form is not None and form.shifted_rank == ("i", integer(1))
    scaled = affine(mul(integer(2), i))
    assert scaled is not None and scaled.shifted_rank is None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (add(N, M), add(M, N)),
        (mul(integer(2), add(N, integer(1))), add(add(N, N), integer(2))),
        (op("floordiv", mul(A, B), B), A),
        (op("floordiv", add(mul(A, B), B), B), add(A, integer(1))),
        (op("ceildiv", N, M0), op("floordiv", sub(add(N, M0), integer(1)), M0)),
        (op("mod", add(mul(A, B), N), B), op("mod", N, B)),
        (op("min", N, add(N, integer(1))), N),
        (op("max", N, integer(0)), N),
        (op("floordiv", add(mul(integer(6), N), integer(5)), integer(2)), add(mul(integer(3), N), integer(2))),
        (mul(op("floordiv", N, M0), B), mul(B, op("floordiv", N, M0))),
    ],
)
def test_provably_equal(a: Expr, b: Expr) -> None:
    assert equal(a, b)
    assert constant_difference(a, b) == 0


@pytest.mark.parametrize(
    ("a", "b"), [(N, M), (N, add(N, integer(1))), (mul(op("floordiv", N, M0), M0), N), (integer(2), integer(3))]
)
def test_not_provably_equal(a: Expr, b: Expr) -> None:
    assert not equal(a, b)


def test_lets_are_expanded() -> None:
    lets = {"M1": op("floordiv", M, size("BLOCK")), "BLOCK": integer(64)}
    assert equal(size("M1"), op("floordiv", M, integer(64)), lets)
    assert not equal(size("M1"), op("floordiv", M, integer(64)))
    assert sizes_of(expand_lets(size("M1"), lets)) == ("M",)
    assert constant_value(size("BLOCK"), lets) == 64


def test_signs() -> None:
    assert non_negative(add(N, integer(3)))
    assert not non_negative(sub(N, integer(3)))
    assert at_most(N, add(N, M))
    assert not at_most(N, M)
    assert at_most(op("min", N, M), add(op("min", N, M), integer(1)))


def test_solving_a_linear_dimension() -> None:
    form = solve_for("N", add(mul(integer(2), N), integer(1)))
    assert form is not None
    assert form.solve(7, {}) == 3
    assert form.solve(8, {}) is None
    assert form.solve(-1, {}) is None
    product = solve_for("N", mul(N, M))
    assert product is not None
    assert product.solve(12, {"M": 4}) == 3
    assert product.solve(12, {"M": 0}) is None
    with pytest.raises(KeyError):
        product.solve(12, {})


@pytest.mark.parametrize("expr", [mul(N, N), op("floordiv", N, integer(2)), M, add(N, op("max", N, M))])
def test_not_linear(expr: Expr) -> None:
    assert solve_for("N", expr) is None


@pytest.mark.parametrize(
    ("coords", "expected"),
    [
        ([i, j], True),
        ([i, i], True),
        ([add(i, j)], False),
        ([add(i, j), j], True),
        ([add(mul(integer(2), i), integer(1))], True),
        ([add(mul(M0, i), j)], True),  # j < M0
        ([add(i, mul(M0, j))], False),  # i has the extent N, not M0
        ([op("floordiv", i, M0)], False),
        ([op("floordiv", i, M0), op("mod", i, M0)], True),
        ([op("floordiv", i, M0), op("mod", i, M)], False),
        ([read("E", (i,), I32), j], False),
        ([read("E", (i,), I32), i], True),
        ([integer(0), j], True),
    ],
)
def test_injective_coordinates(coords: list[Expr], expected: bool) -> None:
    assert is_injective(coords, {"i": N, "j": M0}) is expected


def test_evaluation_is_exact() -> None:
    big = 2**70
    assert evaluate(mul(N, add(N, integer(1))), {"N": big}) == big * (big + 1)
    assert evaluate(op("ceildiv", N, M0), {"N": 129, "M0": 64}) == 3
    assert evaluate(op("floordiv", sub(integer(0), N), integer(2)), {"N": 3}) == -2
    assert evaluate(op("eq", op("mod", N, M0), integer(0)), {"N": 12, "M0": 4})


def test_evaluation_refuses() -> None:
    with pytest.raises(KeyError, match="N"):
        evaluate(N, {})
    with pytest.raises(ZeroDivisionError):
        evaluate(op("floordiv", N, M), {"N": 1, "M": 0})
    with pytest.raises(ValueError, match="not an expression over sizes"):
        evaluate(i, {})
    with pytest.raises(OverflowError):
        evaluate(op("pow", N, integer(10**9)), {"N": 3})


_leaves = st.one_of(st.sampled_from([A, B, N]), st.integers(-4, 4).map(integer), st.sampled_from([integer(1), integer(0)]))
_binary = ("add", "sub", "mul", "floordiv", "mod", "ceildiv", "min", "max")
_sizes = st.recursive(_leaves, lambda inner: st.builds(op, st.sampled_from(_binary), inner, inner), max_leaves=8)


@settings(max_examples=150, deadline=None)
@given(_sizes, st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)))
def test_simplified_means_the_same(expr: Expr, values: tuple[int, int, int]) -> None:
    sizes = dict(zip("ABN", values, strict=True))
    try:
        expected = evaluate(expr, sizes)
    except ZeroDivisionError:
        return
    simpler = simplify(expr)
    assert evaluate(simpler, sizes) == expected
    assert simplify(simpler) == simpler
    assert equal(expr, simpler)
    if non_negative(expr):
        assert expected >= 0


@settings(max_examples=100, deadline=None)
@given(_sizes, _sizes, st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)))
def test_what_is_proven_holds(a: Expr, b: Expr, values: tuple[int, int, int]) -> None:
    sizes = dict(zip("ABN", values, strict=True))
    try:
        x, y = evaluate(a, sizes), evaluate(b, sizes)
    except ZeroDivisionError:
        return
    if equal(a, b):
        assert x == y
    if at_most(a, b):
        assert x <= y
    if (difference := constant_difference(a, b)) is not None:
        assert x - y == difference
