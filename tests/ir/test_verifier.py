"""Every invariant of a cascade, broken once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from einfall.frontend import load
from einfall.ir.cascade import Cascade, Einsum, RankExtent, Role
from einfall.ir.diagnostics import EinfallError
from einfall.ir.expr import Cast, Const, Op, Read, Select, integer, op, rank, real, size
from einfall.ir.types import BOOL, F32, I8, I32
from einfall.ir.verifier import verify, violations

TEXT = """
kernel k(X: f32[M, K], B: i32[M], s: f32) -> (Y: f32[M], Z: f32[V]) {
    let K2 = K + 1
    T[m, k] = X[m, k] * s + 1
    Y[m]    = T[m, k]            :: +(k)  where k < m and m > 0
    Z[B[m]] = X[m, k]            :: +(m, k)
}
"""


@pytest.fixture
def cascade() -> Cascade:
    return load(TEXT, "test.ecs")["k"]


def with_einsum(index: int, **changes: object) -> Callable[[Cascade], Cascade]:
    def change(cascade: Cascade) -> Cascade:
        einsums = list(cascade.einsums)
        einsums[index] = replace(einsums[index], **changes)  # type: ignore[arg-type]
        return replace(cascade, einsums=tuple(einsums))

    return change


def with_tensor(name: str, **changes: object) -> Callable[[Cascade], Cascade]:
    def change(cascade: Cascade) -> Cascade:
        tensors = tuple(replace(t, **changes) if t.name == name else t for t in cascade.tensors)  # type: ignore[arg-type]
        return replace(cascade, tensors=tensors)

    return change


def value(expr: object) -> Callable[[Cascade], Cascade]:
    return with_einsum(0, value=expr)


m, k, M, K = rank("m"), rank("k"), size("M"), size("K")
X = Read(tensor="X", indices=(m, k), dtype=F32)
one = real(1, F32)


def test_what_the_front_end_gives_is_valid(cascade: Cascade) -> None:
    verify(cascade)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, sizes=(*c.sizes, "X")), "`X` is defined 2 times"),
        (lambda c: replace(c, sizes=("M", "V")), "unknown size `K`"),
        (with_tensor("T", steps=(M,)), "2 dimensions and 1 steps"),
        (with_tensor("T", shape=(M, rank("m"))), "depends on more than sizes"),
        (with_tensor("s", shape=(M,)), "the scalar `s` has dimensions"),
        (with_tensor("X", role=Role.LOCAL), "the local `X` is not written"),
        (with_tensor("T", role=Role.INPUT), "the input `T` is written"),
        (with_tensor("T", shape=(M,)), "2 coordinates for 1 dimensions"),
        (with_tensor("T", dtype=I8), "the tensor of i8"),
        (lambda c: replace(c, einsums=(*c.einsums, c.einsums[0])), "written by 2 Einsums that are no initialisers"),
        (value(Read(tensor="Q", indices=(m, k), dtype=F32)), "there is no tensor `Q`"),
        (value(Read(tensor="X", indices=(m,), dtype=F32)), "1 indices for 2 dimensions"),
        (value(Read(tensor="X", indices=(m, one), dtype=F32)), "the index 1.0 is of type f32"),
        (value(Read(tensor="X", indices=(m, rank("j")), dtype=F32)), "rank `j` in X[m, j] is not bound"),
        (value(op("add", X, integer(1))), "operands of types f32, i64"),
        (value(Op(op="add", args=(X, one), dtype=I32)), "is of type i32 instead of f32"),
        (value(Op(op="frob", args=(X,), dtype=F32)), "unknown operator `frob`"),
        (value(Op(op="add", args=(X,), dtype=F32)), "1 operands for `add`, which takes 2"),
        (value(Op(op="and", args=(X, X), dtype=BOOL)), "`and` on f32"),
        (value(Op(op="exp", args=(m,), dtype=m.dtype)), "`exp` on i64"),
        (value(op("bitand", X, X)), "`bitand` on f32"),
        (value(Select(condition=X, then=X, otherwise=X, dtype=F32)), "the condition is of type f32"),
        (value(Const(value=1, dtype=F32)), "a int as f32"),
        (value(Const(value=200, dtype=I8)), "does not fit i8"),
        (with_einsum(0, coords=(m, m)), "rank `k` is neither reduced nor in the coordinates"),
        (with_einsum(0, coords=(m, op("floordiv", k, integer(2)))), "two points may have the same coordinates"),
        (with_einsum(0, coords=(m, Cast(value=k, dtype=F32))), "is of type f32"),
        (with_einsum(0, coords=(m, Read(tensor="B", indices=(k,), dtype=I32))), "depends on data"),
        (with_einsum(0, target="Q"), "there is no tensor `Q`"),
        (with_einsum(1, reduction=None), "reduced by nothing"),
        (with_einsum(1, reduction="sum"), "unknown reduction `sum`"),
        (with_einsum(1, reduced=("j",)), "the reduced rank `j` is not a rank"),
        (with_einsum(1, output_filter=(op("lt", k, m),)), "mentions a reduced rank"),
        (with_einsum(1, point_filter=(op("lt", m, M),)), "mentions no reduced rank"),
        (with_einsum(1, point_filter=(k,)), "the condition k is of type i64"),
        (with_einsum(1, coords=(k,)), "mentions a reduced rank, but this is no scatter"),
        (
            with_einsum(1, ranks=(RankExtent(name="k", extent=K), RankExtent(name="m", extent=M))),
            "output ranks do not come before",
        ),
        (with_einsum(1, ranks=(RankExtent(name="m", extent=M),) * 2), "rank `m` occurs 2 times"),
        (with_einsum(2, reduction=None, reduced=()), "a scatter has no reduction"),
    ],
)
def test_a_broken_invariant_is_named(cascade: Cascade, change: Callable[[Cascade], Cascade], message: str) -> None:
    broken = change(cascade)
    found = list(violations(broken))
    assert any(message in text for text in found), found
    with pytest.raises(EinfallError) as caught:
        verify(broken)
    assert caught.value.code == "E9001"


def test_all_violations_are_reported_at_once(cascade: Cascade) -> None:
    broken = with_einsum(0, target="Q")(with_einsum(1, reduction="sum")(cascade))
    with pytest.raises(EinfallError) as caught:
        verify(broken)
    assert len(caught.value.diagnostics) >= 2
    assert all(isinstance(e, Einsum) for e in broken.einsums)
