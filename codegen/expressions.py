"""Expressions of the tile program as TIR values: scalars, or vectors along one rank (the lane rank).

Every subexpression is evaluated once. A read whose address moves by one element from lane to lane is a vector load, one
that does not move is a broadcast; anything else is collected element by element into a small buffer. Guarded reads
(``Select(condition, read, constant)``, as the presence pass writes them) never touch memory where the guard is false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad

from ..ir.arithmetic import Arithmetic
from ..ir.evaluation import Evaluator as Interpreter
from ..ir.evaluation import Grid
from ..ir.expr import (
    Bitcast,
    Cast,
    Const,
    Expr,
    Op,
    Rank,
    Read,
    Select,
    Size,
    ranks_of,
    reads_of,
    walk,
)
from ..ir.index import affine_in
from ..ir.types import INDEX, DType
from . import conversions, functions
from .arithmetic import apply, convert, lanes_of, literal, not_equal, on_coordinates, wrap
from .element import computed, stored
from .microkernels.statements import Statements, as_index, constant, index
from .microkernels.vector import lane_type, splat
from .views import View, broadcast, decode, load_scalar, load_vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """The lane rank of a vector: lane l holds the point ``base + l`` of ``rank``; lanes from ``valid`` on are not real."""

    rank: str
    base: tirx.Expr
    count: int
    valid: tirx.Expr | None = None  # None: all lanes are
    streams: tirx.Expr | None = None  # whether the result goes past the caches; its vectors are aligned where that is true

    @property
    def mask(self) -> tirx.Expr | None:
        if self.valid is None:
            return None
        ramp = tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), self.count)
        return ramp < splat(tirx.Cast("int32", self.valid), self.count)


class Evaluator:
    """Evaluates expressions at one point (or vector of points) of an iteration space, adding bindings to ``statements``."""

    def __init__(
        self,
        statements: Statements,
        views: Mapping[str, View],
        sizes: Mapping[str, tirx.Expr],
        variables: Mapping[str, tirx.Expr],
        lanes: Lanes | None = None,
        scalars: Mapping[str, tirx.Expr] | None = None,
        *,
        fused: bool = False,
    ) -> None:
        self.statements = statements
        self.views = views
        self.sizes = sizes
        self.variables = variables
        self.lanes = lanes
        self.scalars = scalars or {}
        self.fused = fused  # the target has fused multiply-add
        self.inverses: Mapping[Expr, functions.Inverse] = {}  # of divisors that many points have in common
        self._known: dict[Expr, tirx.Expr] = {}
        self._rounded: dict[Expr, tirx.Expr] = {}

    def at(self, lanes: Lanes | None, **variables: tirx.Expr) -> Evaluator:
        """An evaluator for other points, writing to the same statements."""
        inside = {**self.variables, **variables}
        return Evaluator(self.statements, self.views, self.sizes, inside, lanes, self.scalars, fused=self.fused)

    def bind(self, value: tirx.Expr) -> tirx.Expr:
        """Computes a value once, however often it is used."""
        dtype = str(value.ty.dtype)
        if _is_simple(value) or dtype.startswith("bool"):
            return value
        return self.statements.share(value)

    def varies(self, expr: Expr) -> bool:
        """Whether the value differs from lane to lane."""
        if self.lanes is None:
            return False
        # What a product's lanes hold is read without an index.
        held = (self.scalars[r.tensor] for r in reads_of(expr) if r.tensor in self.scalars)
        return self.lanes.rank in ranks_of(expr) or any(lanes_of(value) > 1 for value in held)

    def vector(self, expr: Expr) -> tirx.Expr:
        """The value in every lane."""
        value = self.value(expr)
        return value if self.lanes is None else broadcast(value, self.lanes.count, lanes_of(value))

    def value(self, expr: Expr) -> tirx.Expr:
        """The value: a scalar where it is the same in all lanes, else a vector."""
        known = self._known.get(expr)
        if known is None:
            known = self._evaluate(expr)
            if not isinstance(expr, Const | Rank | Size):
                known = self.bind(known)
            self._known[expr] = known
        return known

    def rounds(self, expr: Expr, dtype: DType) -> bool:
        """Whether there is a cheaper way to a value of which only what is left of it in ``dtype`` counts: :meth:`value_in`."""
        exponential, _ = _exponential(expr)
        if functions.on_device():
            return exponential is not None and dtype.name in ("bf16", "f16") and expr.dtype.name == "f32"
        if dtype.name != "bf16" or self.lanes is None or exponential is None:
            return False
        like = literal(0, computed(expr.dtype), self.lanes.count)
        return self.varies(exponential) and functions.fraction(like) is not None

    def value_in(self, expr: Expr, dtype: DType) -> tirx.Expr:
        """The value where only what is left of it in ``dtype`` counts; rounded already where :meth:`rounds`."""
        exponential, condition = _exponential(expr)
        if not self.rounds(expr, dtype) or exponential is None:
            return self.value(expr)
        if expr not in self._rounded:
            value = None
            match exponential.args[0]:
                case Op(op="sub", args=(a, b)) if set(ranks_of(b)) < set(ranks_of(a)):
                    value = functions.exp_rounded_apart(self.vector(a), self.vector(b))
            if value is None:
                value = functions.exp_rounded(self.vector(exponential.args[0]), self.bind)
            assert value is not None
            if condition is not None:
                lanes = lanes_of(value)
                chosen = self.value(condition)
                value = tirx.Select(broadcast(chosen, lanes, lanes_of(chosen)), value, literal(0, "float32", lanes))
            self._rounded[expr] = self.bind(value)
        return self._rounded[expr]

    def given(self, values: Mapping[Expr, tirx.Expr]) -> Evaluator:
        """This evaluator, with values that have been computed already."""
        self._known.update(values)
        return self

    def knows(self, expr: Expr, value: tirx.Expr) -> None:
        """Takes ``value`` for an expression from here on."""
        self._known[expr] = value

    def beside(self, lanes: Lanes) -> Evaluator:
        """An evaluator of other lanes of the same rank, which knows what does not vary along it."""
        made = self.at(lanes)
        made._known.update((e, v) for e, v in self._known.items() if not self.varies(e))
        return made

    def condition(self, expr: Expr | None) -> tirx.Expr | None:
        """A condition, None where it is absent or literally true."""
        if expr is None or (isinstance(expr, Const) and expr.value is True):
            return None
        return self.value(expr)

    def offset(self, name: str, indices: tuple[Expr, ...]) -> tirx.Expr:
        """The flat position of an element that does not depend on the lane."""
        return self.views[name].offset([as_index(self.value(i)) for i in indices])

    def lane_step(self, name: str, indices: tuple[Expr, ...]) -> int | None:
        """By how many elements the address moves from lane to lane, None where that is not one known number."""
        assert self.lanes is not None
        step = 0
        for i, stride in zip(indices, self.views[name].strides, strict=True):
            if not self.varies(i):
                continue
            form = affine_in(i, (self.lanes.rank,))
            coefficient = None if form is None else form.coefficient(self.lanes.rank)
            if not isinstance(coefficient, Const) or (elements := constant(stride)) is None:
                return None
            step += int(coefficient.value) * elements
        return step

    def first_lane(self) -> Evaluator:
        """The evaluator of lane 0 as a scalar."""
        assert self.lanes is not None
        return self.at(None, **{self.lanes.rank: self.lanes.base})

    # -- nodes -----------------------------------------------------------------------------------------------------

    def _evaluate(self, expr: Expr) -> tirx.Expr:
        match expr:
            case Const(value=value, dtype=dtype):
                return literal(value, computed(dtype))
            case Size(name=name):
                return self.sizes[name]
            case Rank(name=name):
                if self.lanes is not None and name == self.lanes.rank:
                    return tirx.Ramp(as_index(self.lanes.base), index(1), self.lanes.count)
                return self.variables[name]
            case Read():
                return self._read(expr, None)
            case Select(condition=condition, then=Read(tensor=name) as then, otherwise=Const(value=value)) if (
                value == 0 and name not in self.scalars
            ):
                return self._read(then, condition)
            case Select(condition=condition, then=then, otherwise=otherwise):
                chosen, a, b = self.value(condition), self.value(then), self.value(otherwise)
                width = max(lanes_of(chosen), lanes_of(a), lanes_of(b))
                if lanes_of(chosen) == 1 < width:
                    chosen = splat(chosen, width)
                return tirx.Select(chosen, *(broadcast(x, width, lanes_of(x)) for x in (a, b)))
            case Op(op="div", args=(a, b)) if (inverse := self.inverses.get(b)) is not None:
                return functions.divide_with(self.value(a), inverse, self.bind)
            case Op(op="div", args=(a, b)) if self.fused and a.dtype.is_float and self._divides(a, b):
                known = _known(b)
                quotient = None if known is None else functions.divide_by(self.value(a), known)
                if quotient is not None:
                    return quotient
                if self.lanes is None:
                    return apply("div", [self.value(a), self.value(b)], a.dtype, self.bind)
                # One division for all lanes, and for all vectors of the row where LLVM hoists it.
                return functions.divide_all(self.value(a), self.value(b), self.bind)
            case Op(op="add", args=(a, Op(op="mul", args=factors))) if self.fused and expr.dtype.is_float:
                return self._multiply_add(factors, a)
            case Op(op="add", args=(Op(op="mul", args=factors), a)) if self.fused and expr.dtype.is_float:
                return self._multiply_add(factors, a)
            case Op(op="lt" | "le" | "gt" | "ge" as name, args=(a, b)) if (chosen := self._compared(name, a, b)) is not None:
                return chosen
            case Op(op=name, args=args):
                values = [self.value(a) for a in args]
                width = max(map(lanes_of, values))
                values = [broadcast(v, width, lanes_of(v)) for v in values]
                if args[0].dtype == INDEX and not reads_of(expr):
                    return on_coordinates(name, values, self.bind)
                return apply(name, values, args[0].dtype, self.bind)
            case Cast(value=value, dtype=dtype):
                return self.cast(self.value(value), value.dtype, dtype)
            case Bitcast(value=value, dtype=dtype):
                bits = conversions.to_bits(self.value(value), value.dtype)
                return conversions.from_bits(bits, dtype)
            case _:
                raise TypeError(f"not an expression of a tile program: {expr!r}")

    def _divides(self, a: Expr, b: Expr) -> bool:
        """Whether the inverse of b may serve for many divisions: all lanes, or the elements of a thread."""
        known = _known(b)
        if functions.on_device() or known == 0:
            return bool(known)
        return self.varies(a) and not self.varies(b)

    def _compared(self, name: str, a: Expr, b: Expr) -> tirx.Expr | None:
        """A comparison of coordinates whose distance moves by one from lane to lane: one of lane numbers with a scalar, in 32
        bits; None for others."""
        if self.lanes is None or a.dtype != INDEX or b.dtype != INDEX or any(True for e in (a, b) for _ in reads_of(e)):
            return None
        rank, step = self.lanes.rank, 0
        for expr, sign in ((a, -1), (b, 1)):
            if self.varies(expr):
                form = affine_in(expr, (rank,))
                factor = None if form is None else form.coefficient(rank)
                if not isinstance(factor, Const):
                    return None
                step += sign * int(factor.value)
        if step not in (1, -1):
            return None
        # 0 < d ± lane, and so on: lanes from a border on, or those before it.
        first = self.first_lane()
        distance = as_index(first.value(b)) - as_index(first.value(a))
        border = distance if step < 0 else index(0) - distance
        if (name in ("le", "gt")) == (step < 0):
            border = border + 1
        inside = tirx.Cast("int32", tirx.max(tirx.min(border, index(self.lanes.count)), index(0)))
        wide = splat(self.bind(inside), self.lanes.count)
        lane = tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), self.lanes.count)
        return lane < wide if (name in ("lt", "le")) == (step < 0) else lane >= wide

    def _multiply_add(self, factors: tuple[Expr, ...], added: Expr) -> tirx.Expr:
        """``x * y + z`` with one rounding."""
        values = [self.value(e) for e in (*factors, added)]
        width = max(map(lanes_of, values))
        values = [broadcast(v, width, lanes_of(v)) for v in values]
        return functions.pure("llvm.fma", *values)

    def cast(self, value: tirx.Expr, source: DType, target: DType) -> tirx.Expr:
        """Conversion as the language defines it: rounding to small floats, saturation from floats to integers."""
        lanes = lanes_of(value)
        if source == target:
            return value
        if target.is_bool:
            return not_equal(value, literal(0, computed(source), lanes))
        if target.is_float:
            widened = convert(value, computed(target))
            return conversions.round_to(widened, target.name) if target.bits < 32 else widened
        if source.is_float:
            return conversions.float_to_int(value, target)
        return wrap(convert(value, computed(target)), target)

    # -- reads -----------------------------------------------------------------------------------------------------

    def _read(self, expr: Read, guard: Expr | None) -> tirx.Expr:
        if expr.tensor in self.scalars:
            return self.scalars[expr.tensor]
        view = self.views[expr.tensor]
        condition = None if guard is None else self.value(guard)
        moving = any(self.varies(i) for i in expr.indices) or (guard is not None and self.varies(guard))
        if self.lanes is None or not moving:
            return load_scalar(view, self.offset(expr.tensor, expr.indices), condition)
        step = self.lane_step(expr.tensor, expr.indices)
        if step == 1:
            return self._contiguous(view, expr, condition)
        if step == 0 and condition is not None and not any(self.varies(i) for i in expr.indices):
            # The address is the same in every lane but the guard is not: lanes with a false guard give 0.
            return self._gathered(view, expr, guard)
        return self._gathered(view, expr, guard)

    def _contiguous(self, view: View, expr: Read, condition: tirx.Expr | None) -> tirx.Expr:
        assert self.lanes is not None
        lanes = self.lanes.count
        start = self.first_lane().offset(expr.tensor, expr.indices)
        mask = self.lanes.mask
        if condition is None:
            return load_vector(view, start, lanes, mask)
        if lanes_of(condition) > 1:
            both = condition if mask is None else tirx.And(condition, mask)
            return load_vector(view, start, lanes, both)
        wide = splat(condition, lanes)
        return load_vector(view, start, lanes, wide if mask is None else tirx.And(wide, mask))

    def _gathered(self, view: View, expr: Read, guard: Expr | None) -> tirx.Expr:
        """Element by element through a small buffer; lanes that are not real repeat the last one that is."""
        assert self.lanes is not None
        lanes, held = self.lanes.count, stored(view.dtype)
        collected = self.statements.allocate("gathered", (lanes,), held, scope="local")
        deciding = expr.indices if guard is None else (*expr.indices, guard)
        spilled = self._spilled({r.tensor for e in deciding for r in reads_of(e)})
        with self.statements.loop("lane", lanes) as lane:
            real = lane if self.lanes.valid is None else tirx.Min(lane, self.lanes.valid - 1)
            point = self.at(None, **{self.lanes.rank: self.statements.bind("point", self.lanes.base + real)})
            point.scalars = {**self.scalars, **{n: tirx.BufferLoad(b, [real]) for n, b in spilled.items()}}
            condition = None if guard is None else point.value(guard)
            raw: tirx.Expr = tirx.BufferLoad(view.flat, [point.offset(expr.tensor, expr.indices)])
            if condition is not None:
                raw = tirx.if_then_else(condition, raw, literal(0, held))
            self.statements.store(collected, lane, raw)
        loaded = tirx.BufferLoad(collected, [tirx.Ramp(index(0), index(1), lanes)])
        return decode(loaded, view.dtype, lanes)

    def _spilled(self, names: set[str]) -> dict[str, tirx.Buffer]:
        """What a product's lanes hold under these names, in memory, where single lanes can be read."""
        buffers: dict[str, tirx.Buffer] = {}
        for name, value in self.scalars.items():
            if name in names and (lanes := lanes_of(value)) > 1:
                held = tvm_ffi.dtype(str(value.ty.dtype)).with_lanes(1)
                buffers[name] = self.statements.allocate("lanes", (lanes,), str(held), scope="local")
                self.statements.store(buffers[name], tirx.Ramp(index(0), index(1), lanes), value)
        return buffers


def _exponential(expr: Expr) -> tuple[Op | None, Expr | None]:
    """The exponential that an expression is, perhaps only where a condition holds, and else 0."""
    match expr:
        case Op(op="exp"):
            return expr, None
        case Select(condition=condition, then=Op(op="exp") as then, otherwise=Const(value=0.0)):
            return then, condition
        case _:
            return None, None


def _known(expr: Expr) -> float | None:
    """The number that an expression over constants computes, rounded as in its type."""
    if any(isinstance(e, Read | Rank | Size) for e in walk(expr)):
        return None
    at = Interpreter(grid=Grid(ranges={}), tensors={}, sizes={}, arithmetic=Arithmetic(typed=True))
    with np.errstate(all="ignore"):
        found = at.evaluate(expr)
    return None if found.present is not None else float(found.values[()])


def _is_simple(value: tirx.Expr) -> bool:
    """Whether evaluating the value again costs nothing."""
    return isinstance(value, tirx.Var | tirx.IntImm | tirx.FloatImm | TensorLoad)


def node_count(expr: Expr) -> int:
    """The number of nodes, for choices by size."""
    return sum(1 for _ in walk(expr))


__all__ = ["Evaluator", "Lanes", "lane_type", "node_count"]
