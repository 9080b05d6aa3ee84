"""The operator table: what every scalar operator and reduction is called and which algebraic laws it obeys.

Analyses ask this table; no pass knows ``max`` or ``exp`` by name when the table can answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from .types import I32, DType


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarOperator:
    """A scalar operator or function: its arity, how it is written, and its laws over the reals."""

    name: str
    arity: int
    symbol: str | None = None  # infix or prefix spelling; None: written as a call
    gives_bool: bool = False
    real_valued: bool = False  # integers are converted to f32 before it is applied
    integers_only: bool = False
    associative: bool = False
    commutative: bool = False
    distributes_over: tuple[str, ...] = ()  # as x op (y + z) = (x op y) + (x op z)
    inverse: str | None = None  # the operator that undoes it
    distributes_if_positive: tuple[str, ...] = ()  # as above, for x > 0 (of "div": for a positive divisor)
    monotone: int = 0  # +1 increasing, -1 decreasing in its first argument everywhere
    exponential: bool = False  # turns sums into products
    flops: int = 1


def _functions() -> dict[str, ScalarOperator]:
    s = ScalarOperator
    table = [
        s(
            name="add",
            arity=2,
            symbol="+",
            associative=True,
            commutative=True,
            distributes_over=("max", "min"),
            inverse="sub",
            monotone=1,
        ),
        s(name="sub", arity=2, symbol="-", inverse="add", monotone=1),
        s(
            name="mul",
            arity=2,
            symbol="*",
            associative=True,
            commutative=True,
            distributes_over=("add", "sub"),
            distributes_if_positive=("max", "min"),
            inverse="div",
        ),
        s(
            name="div",
            arity=2,
            symbol="/",
            real_valued=True,
            inverse="mul",
            distributes_over=("add", "sub"),
            distributes_if_positive=("max", "min"),
            flops=4,
        ),
        s(name="floordiv", arity=2, symbol="//", flops=4),
        s(name="mod", arity=2, symbol="%", flops=4),
        s(name="neg", arity=1, symbol="-", inverse="neg", monotone=-1),
        s(name="pow", arity=2, symbol="**", flops=8),
        s(name="eq", arity=2, symbol="==", gives_bool=True, commutative=True),
        s(name="ne", arity=2, symbol="!=", gives_bool=True, commutative=True),
        s(name="lt", arity=2, symbol="<", gives_bool=True),
        s(name="le", arity=2, symbol="<=", gives_bool=True),
        s(name="gt", arity=2, symbol=">", gives_bool=True),
        s(name="ge", arity=2, symbol=">=", gives_bool=True),
        s(
            name="and",
            arity=2,
            symbol="and",
            gives_bool=True,
            associative=True,
            commutative=True,
            distributes_over=("or",),
        ),
        s(
            name="or",
            arity=2,
            symbol="or",
            gives_bool=True,
            associative=True,
            commutative=True,
            distributes_over=("and",),
        ),
        s(name="not", arity=1, symbol="not", gives_bool=True, inverse="not"),
        s(name="bitor", arity=2, symbol="|", integers_only=True, associative=True, commutative=True),
        s(name="bitxor", arity=2, symbol="^", integers_only=True, associative=True, commutative=True),
        s(name="bitand", arity=2, symbol="&", integers_only=True, associative=True, commutative=True),
        s(name="shl", arity=2, symbol="<<", integers_only=True),
        s(name="shr", arity=2, symbol=">>", integers_only=True),
        s(name="exp", arity=1, real_valued=True, inverse="log", monotone=1, exponential=True, flops=12),
        s(name="exp2", arity=1, real_valued=True, inverse="log2", monotone=1, exponential=True, flops=11),
        s(name="log", arity=1, real_valued=True, inverse="exp", monotone=1, flops=14),
        s(name="log2", arity=1, real_valued=True, inverse="exp2", monotone=1, flops=14),
        s(name="sqrt", arity=1, real_valued=True, monotone=1, flops=4),
        s(name="rsqrt", arity=1, real_valued=True, monotone=-1, flops=5),
        s(name="tanh", arity=1, real_valued=True, monotone=1, flops=16),
        s(name="sigmoid", arity=1, real_valued=True, monotone=1, flops=16),
        s(name="erf", arity=1, real_valued=True, monotone=1, flops=16),
        s(name="abs", arity=1),
        s(name="sign", arity=1, monotone=1),
        s(name="floor", arity=1, monotone=1),
        s(name="ceil", arity=1, monotone=1),
        s(name="round", arity=1, monotone=1),
        s(name="min", arity=2, associative=True, commutative=True, distributes_over=("max",), monotone=1),
        s(name="max", arity=2, associative=True, commutative=True, distributes_over=("min",), monotone=1),
        s(name="clamp", arity=3, monotone=1, flops=2),
        s(name="ceildiv", arity=2, flops=5),
    ]
    return {entry.name: entry for entry in table}


FUNCTIONS: dict[str, ScalarOperator] = _functions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """A reduction of the language. ``combine`` names the scalar operator that merges two partial results."""

    name: str
    combine: str
    idempotent: bool
    coordinate: bool = False  # argmax, argmin: the result is a coordinate

    def identity(self, dtype: DType) -> int | float | bool:
        """The value of a reduction over no present point, in type ``dtype`` (-1 for coordinates)."""
        if self.coordinate:
            return -1
        match self.name:
            case "+":
                return 0.0 if dtype.is_float else 0
            case "*":
                return 1.0 if dtype.is_float else 1
            case "max":
                return bool(0) if dtype.is_bool else dtype.minimum
            case "min":
                return bool(1) if dtype.is_bool else dtype.maximum
            case _:
                return self.name == "and"

    def result_type(self, dtype: DType) -> DType:
        """The type of the reduced value of operands of ``dtype``, before it is stored."""
        return I32 if self.coordinate else dtype


REDUCTIONS: dict[str, Reduction] = {
    r.name: r
    for r in (
        Reduction(name="+", combine="add", idempotent=False),
        Reduction(name="*", combine="mul", idempotent=False),
        Reduction(name="max", combine="max", idempotent=True),
        Reduction(name="min", combine="min", idempotent=True),
        Reduction(name="and", combine="and", idempotent=True),
        Reduction(name="or", combine="or", idempotent=True),
        Reduction(name="argmax", combine="max", idempotent=True, coordinate=True),
        Reduction(name="argmin", combine="min", idempotent=True, coordinate=True),
    )
}
"""Reductions by their name in the language. All are associative and commutative over the reals; ``argmax`` and
``argmin`` break ties by the first coordinate in the order of the reduced ranks."""
