"""A small builder of TIR statements: nested scopes as `with` blocks, bindings and loops in the order they run.

TVMScript would read as well, but parsing it costs tens of milliseconds per kernel; nodes built directly cost
microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tvm_ffi
from tvm import tirx
from tvm.tirx.stmt import ForKind

INDEX = "int64"


def index(value: int) -> tirx.Expr:
    """An int64 constant, the type of every size, offset and loop variable."""
    return tirx.IntImm(INDEX, value)


def constant(value: tirx.Expr | int) -> int | None:
    """The value of an integer expression that is a literal, else None."""
    if isinstance(value, int):
        return value
    return int(value.value) if isinstance(value, tirx.IntImm) else None


def ceil_div(numerator: tirx.Expr | int, denominator: tirx.Expr | int) -> tirx.Expr:
    """⌈numerator / denominator⌉ of non-negative sizes; truncating, so that the machine divides without a sign fix."""
    if (n := constant(numerator)) is not None and (d := constant(denominator)) is not None:
        return index(-(-n // d))
    return tirx.truncdiv(numerator + (denominator - 1), as_index(denominator))


def divisor(extent: tirx.Expr) -> tirx.Expr:
    """An extent to divide the number of a point by: where it is known to be 0 there are no points."""
    return index(1) if constant(extent) == 0 else extent


def round_up(value: tirx.Expr | int, multiple: int) -> tirx.Expr:
    """The least multiple of `multiple` that is not below `value`."""
    return ceil_div(value, multiple) * multiple


def minimum(a: tirx.Expr | int, b: tirx.Expr | int) -> tirx.Expr:
    """min(a, b), folded when both are literals."""
    return tirx.min(as_index(a), as_index(b))


def maximum(a: tirx.Expr | int, b: tirx.Expr | int) -> tirx.Expr:
    """max(a, b), folded when both are literals."""
    return tirx.max(as_index(a), as_index(b))


def condition(flag: tirx.Expr | bool) -> tirx.Expr:
    """`flag` as an expression."""
    return tirx.IntImm("bool", int(flag)) if isinstance(flag, bool) else flag


def both(a: tirx.Expr | bool, b: tirx.Expr | bool) -> tirx.Expr:
    """Conjunction, folded where one side is a literal."""
    a, b = condition(a), condition(b)
    if (known := constant(a)) is not None:
        return b if known else a
    if (known := constant(b)) is not None:
        return a if known else b
    return tirx.And(a, b)


def either(a: tirx.Expr | bool, b: tirx.Expr | bool) -> tirx.Expr:
    """Disjunction, folded where one side is a literal."""
    return negation(both(negation(a), negation(b)))


def negation(flag: tirx.Expr | bool) -> tirx.Expr:
    """Not, folded for a literal."""
    flag = condition(flag)
    known = constant(flag)
    return tirx.Not(flag) if known is None else condition(not known)


def as_index(value: tirx.Expr | int) -> tirx.Expr:
    """`value` as an int64 expression."""
    if isinstance(value, int):
        return index(value)
    return value if str(value.ty.dtype) == INDEX else tirx.Cast(INDEX, value)


def identifier(name: str) -> str:
    """A name of the language (``k'``, ``tile.1``), or the number of a dimension, as one that C knows too."""
    spelled = name.replace(".", "_").replace("'", "_prime")
    return f"rank_{spelled}" if spelled[:1].isdigit() else spelled


class Statements:
    """Collects statements; `loop` and `when` open a nested scope for the length of a `with` block."""

    def __init__(self) -> None:
        self._scopes: list[list[tirx.Stmt]] = [[]]

    def add(self, statement: tirx.Stmt) -> None:
        self._scopes[-1].append(statement)

    def evaluate(self, call: tirx.Expr) -> None:
        self.add(tirx.Evaluate(call))

    def bind(self, name: str, value: tirx.Expr | int) -> tirx.Expr:
        """A variable that holds `value` from here to the end of the scope; a literal or a variable stands for itself.

        Of numbers that indices are made of, what is bound is a load of their value: TVM's analysers put values in the place
        of variables, and those of a matrix product, each made from the ones before, would keep them busy for seconds.
        TVM 0.27 cannot bind vectors of bool or integer type (its analyzer fails): keep masks as expressions.
        """
        if isinstance(value, int):
            return index(value)
        if isinstance(value, tirx.IntImm | tirx.Var):
            return value
        variable = tirx.Var(identifier(name), value.ty)
        if str(value.ty.dtype) == INDEX:
            value = self.share(value, name)
        self.add(tirx.Bind(variable, value))
        return variable

    def coordinates(self, at: tirx.Expr, names: Sequence[str], extents: Sequence[tirx.Expr]) -> dict[str, tirx.Expr]:
        """The coordinates, by name, of point number `at` of a grid of these extents, of which the last runs fastest."""
        found: dict[str, tirx.Expr] = {}
        for name, extent in reversed(list(zip(names[1:], extents[1:], strict=True))):
            found[name] = self.bind(name, tirx.truncmod(at, divisor(extent)))
            at = self.bind("rest", tirx.truncdiv(at, divisor(extent)))
        return {**found, names[0]: at} if names else found

    def share(self, value: tirx.Expr, name: str = "shared") -> tirx.Expr:
        """A value computed once and read wherever it is used, scalar or vector, of any type but bool.

        It goes through a local buffer, which LLVM turns into a register: TVM's analysers replace bound variables by
        their values again, which grows exponentially where values build on one another.
        """
        dtype = str(value.ty.dtype)
        lanes = tvm_ffi.dtype(dtype).lanes
        held = self.allocate(name, (lanes,), dtype.split("x")[0], scope="local")
        at = index(0) if lanes == 1 else tirx.Ramp(index(0), index(1), lanes)
        self.store(held, at, value)
        return tirx.BufferLoad(held, [at])

    def allocate(self, name: str, shape: Sequence[int], dtype: str, *, scope: str = "global") -> tirx.Buffer:
        """A buffer that lives to the end of the scope: `local` in registers or on the stack, `global` in the thread's
        pool.

        On a CPU TVM takes its own `local` storage from the pool too, a call for each allocation: what must become a
        register is a `global` allocation that the lowering is told to leave to LLVM.
        """
        on_stack = {"disable_lower_builtin": tirx.IntImm("bool", 1)} if scope == "local" else None
        buffer = tirx.decl_buffer(
            [index(extent) for extent in shape], dtype, name=identifier(name), scope="global", layout=None
        )
        self.add(tirx.AllocBuffer(buffer, on_stack))
        return buffer

    def reserve(self, name: str, size: tirx.Expr, dtype: str) -> tirx.Buffer:
        """A buffer in the thread's pool, of a size known when it is needed."""
        buffer = tirx.decl_buffer((self.bind("size", size),), dtype, name=name, layout=None)
        self.add(tirx.AllocBuffer(buffer))
        return buffer

    def store(self, buffer: tirx.Buffer, at: tirx.Expr | int, value: tirx.Expr) -> None:
        self.add(tirx.BufferStore(buffer, value, [as_index(at) if isinstance(at, int) else at]))

    @contextmanager
    def loop(
        self,
        name: str,
        extent: tirx.Expr | int,
        *,
        kind: ForKind = ForKind.SERIAL,
        after: tirx.Expr | None = None,
        rolled: bool = False,
    ) -> Iterator[tirx.Expr]:
        """`for name in range(extent)`; a loop known to run once is its body with `name` = 0, one that is ``rolled`` stays one
        turn at a time in CUDA.

        Every thread of a parallel loop makes the call `after` when its part of the loop is done.
        """
        if constant(extent) == 1 and kind is ForKind.SERIAL:
            yield index(0)
            return
        variable = tirx.Var(identifier(name), INDEX)
        self._scopes.append([])
        yield variable
        body = self._close()
        if body is not None and constant(extent) != 0:
            annotations = {"disable_unroll": True} if rolled else None
            loop: tirx.Stmt = tirx.For(variable, index(0), as_index(extent), kind, body, annotations=annotations)
            if after is not None:
                both = tirx.SeqStmt([loop, tirx.Evaluate(after)])
                loop = tirx.AttrStmt(index(0), "pragma_parallel_launch_point", index(1), both)
            self.add(loop)

    @contextmanager
    def when(self, condition: tirx.Expr | bool) -> Iterator[None]:
        """`if condition:`; a literal condition leaves the body, or nothing."""
        known = condition if isinstance(condition, bool) else constant(condition)
        if known is not None and known:
            yield
            return
        self._scopes.append([])
        yield
        body = self._close()
        if known is None and body is not None:
            self.add(tirx.IfThenElse(condition, body, None))

    def finish(self) -> tirx.Stmt:
        """The statements so far as one; the builder is spent."""
        (body,) = self._scopes
        return _sequence(body) if body else tirx.Evaluate(index(0))

    def _close(self) -> tirx.Stmt | None:
        body = self._scopes.pop()
        return _sequence(body) if body else None


def _sequence(body: list[tirx.Stmt]) -> tirx.Stmt:
    return body[0] if len(body) == 1 else tirx.SeqStmt(body)


def positive(value: tirx.Expr) -> tirx.Expr | bool:
    """Whether a number is above 0, as a constant where that is known."""
    known = constant(value)
    return value > 0 if known is None else known > 0
