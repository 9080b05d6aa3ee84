"""Accumulators: how a reduction starts, takes in one value and ends, for scalars and vectors."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from ..ir.operators import REDUCTIONS
from ..ir.types import I32, DType
from . import functions
from .arithmetic import add, literal, maximum, minimum, multiply, not_equal
from .element import computed
from .microkernels.statements import Statements, index
from .microkernels.vector import shuffle
from .views import select_bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulator:
    """One running reduction in a local buffer of ``copies`` vectors of ``lanes`` elements (the lanes are independent)."""

    reduction: str
    dtype: DType  # in which values are combined
    lanes: int
    copies: int
    state: tirx.Buffer
    best: tirx.Buffer | None  # argmax and argmin: the coordinates, state holds the values

    @staticmethod
    def start(statements: Statements, reduction: str, dtype: DType, lanes: int, copies: int = 1) -> Accumulator:
        """Allocates the accumulator and sets it to the identity."""
        entry = REDUCTIONS[reduction]
        held = "uint8" if dtype.is_bool else computed(dtype)
        state = statements.allocate("acc", (lanes * copies,), held, scope="local")
        best = statements.allocate("best", (lanes,), "int32", scope="local") if entry.coordinate else None
        made = Accumulator(reduction=reduction, dtype=dtype, lanes=lanes, copies=copies, state=state, best=best)
        start = REDUCTIONS[entry.combine if entry.coordinate else reduction].identity(dtype)
        for copy in range(copies):
            made._put(statements, state, literal(start, held, lanes), copy)
        if best is not None:
            made._put(statements, best, literal(-1, "int32", lanes), 0)
        return made

    def take(
        self,
        statements: Statements,
        value: tirx.Expr,
        *,
        where: tirx.Expr | None,
        coordinate: tirx.Expr | None = None,
        copy: int = 0,
        product: tuple[tirx.Expr, tirx.Expr] | None = None,
    ) -> None:
        """Combines one value into the accumulator, in the lanes where ``where`` holds.

        ``product`` gives the factors of a value that is a product, for a fused multiply-add into a sum.
        """
        now = self._get(self.state, copy)
        if self.best is not None:
            assert coordinate is not None
            best = self._get(self.best, 0)
            better = tirx.Or(self._better(value, now), best < literal(0, "int32", self.lanes))
            if where is not None:
                better = tirx.And(where, better)
            # The value last: it still holds the old best when the coordinate is chosen. Afterwards ``better`` differs only
            # for a first value equal to the identity, which the state already holds.
            self._put(statements, self.best, tirx.Select(better, coordinate, best), 0)
            self._put(statements, self.state, tirx.Select(better, value, now), copy)
            return
        if product is not None:
            combined = functions.pure("llvm.fma", *product, now)
        else:
            combined = self.combine(now, select_bool(value, self.lanes) if self.dtype.is_bool else value)
        if where is not None:
            combined = tirx.Select(where, combined, now)
        self._put(statements, self.state, combined, copy)

    @property
    def is_watched(self) -> bool:
        """Whether NaN is looked for once for two values: an extreme of vectors of floats."""
        return self.reduction in ("max", "min") and self.dtype.is_float and self.lanes > 1

    def take_extreme(self, statements: Statements, value: tirx.Expr, *, where: tirx.Expr | None, copy: int = 0) -> tirx.Expr:
        """Combines one value into a maximum or minimum as :meth:`take` does, but for NaN; gives the value for :meth:`watch`.

        One instruction: where a comparison fails, TIR's Max gives its second operand, and NaN that is held stays.
        """
        if where is not None:
            identity = REDUCTIONS[self.reduction].identity(self.dtype)
            value = statements.share(tirx.Select(where, value, literal(identity, computed(self.dtype), self.lanes)))
        pick = tirx.Max if self.reduction == "max" else tirx.Min
        self._put(statements, self.state, pick(value, self._get(self.state, copy)), copy)
        return value

    def watch(self, statements: Statements, a: tirx.Expr, b: tirx.Expr, *, copy: int = 0) -> None:
        """Holds NaN from here on in the lanes where one of two values is NaN."""
        nan = literal(float("nan"), computed(self.dtype), self.lanes)
        found = tirx.Or(tirx.isnan(a), tirx.isnan(b))  # one instruction
        self._put(statements, self.state, tirx.Select(found, nan, self._get(self.state, copy)), copy)

    def _better(self, value: tirx.Expr, now: tirx.Expr) -> tirx.Expr:
        """Whether a later value replaces the best: strictly better, or the first NaN."""
        greater = value > now if self.reduction == "argmax" else value < now
        if not self.dtype.is_float:
            return greater
        return tirx.Or(greater, tirx.And(not_equal(value, value), tirx.EQ(now, now)))

    def join(self, value: tirx.Expr, place: tirx.Expr, other: tirx.Expr, other_place: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """The better of two extremes with their coordinates, of which the lesser wins a tie; -1 is none at all."""
        none = literal(0, "int32", self.lanes)
        first = tirx.And(tirx.Not(self._better(value, other)), other_place < place)
        wins = tirx.Or(place < none, tirx.Or(self._better(other, value), first))
        taken = tirx.And(other_place >= none, wins)
        return tirx.Select(taken, other, value), tirx.Select(taken, other_place, place)

    def combine(self, a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
        """Two partial results as one."""
        match self.reduction:
            case "+":
                return add(a, b, self.dtype)
            case "*":
                return multiply(a, b, self.dtype)
            case "max":
                return a | b if self.dtype.is_bool else maximum(a, b, self.dtype)
            case "min":
                return a & b if self.dtype.is_bool else minimum(a, b, self.dtype)
            case "or":
                return a | b
            case "and":
                return a & b
        raise NotImplementedError(self.reduction)

    def result(self) -> tirx.Expr:
        """The reduced value, one for each lane."""
        if self.best is not None:
            return self._get(self.best, 0)
        total = self._get(self.state, 0)
        for copy in range(1, self.copies):
            total = self.combine(total, self._get(self.state, copy))
        return tirx.NE(total, literal(0, "uint8", self.lanes)) if self.dtype.is_bool else total

    def result_of(self, copy: int) -> tirx.Expr:
        """The reduced value of one of several copies that are reductions of their own."""
        total = self._get(self.state, copy)
        return tirx.NE(total, literal(0, "uint8", self.lanes)) if self.dtype.is_bool else total

    def folded(self, statements: Statements) -> tirx.Expr:
        """All lanes and copies combined into one scalar, by halves in a fixed order."""
        if self.is_watched:
            return self._folded_extreme(statements)
        held = str(self.state.dtype)
        total = self._get(self.state, 0)
        for copy in range(1, self.copies):
            total = self.combine(total, self._get(self.state, copy))
            total = statements.share(total) if "float" in held else total
        lanes = self.lanes
        spill = statements.allocate("fold", (lanes,), held, scope="local")
        while lanes > 1:
            if "float" in held:
                total = statements.share(total)
                lanes //= 2
                low = statements.share(shuffle([total], range(lanes)))
                high = statements.share(shuffle([total], range(lanes, 2 * lanes)))
                total = self.combine(low, high)
            else:
                statements.store(spill, _ramp(lanes), total)
                lanes //= 2
                low = tirx.BufferLoad(spill, [_ramp(lanes)])
                high = tirx.BufferLoad(spill, [_ramp(lanes, lanes)])
                total = self.combine(low, high)
        return tirx.NE(total, literal(0, "uint8")) if self.dtype.is_bool else total

    def _folded_extreme(self, statements: Statements) -> tirx.Expr:
        """A maximum or minimum of floats, for which NaN is looked for once, in all lanes and copies."""
        pick = tirx.Max if self.reduction == "max" else tirx.Min
        copies = [self._get(self.state, copy) for copy in range(self.copies)]
        found = tirx.isnan(copies[0])
        for copy in copies[1:]:
            found = tirx.Or(found, tirx.isnan(copy))
        one, none = (literal(value, "int32", self.lanes) for value in (1, 0))
        count = tirx.call_llvm_pure_intrin("int32", "llvm.vector.reduce.or", tirx.Select(found, one, none))
        total, lanes = copies[0], self.lanes
        for copy in copies[1:]:
            total = statements.share(pick(total, copy))
        while lanes > 1:
            lanes //= 2
            low = statements.share(shuffle([total], range(lanes)))
            high = statements.share(shuffle([total], range(lanes, 2 * lanes)))
            total = statements.share(pick(low, high))
        nan = literal(float("nan"), computed(self.dtype))
        return tirx.Select(statements.share(count) > literal(0, "int32"), nan, total)

    @property
    def result_type(self) -> DType:
        return I32 if self.best is not None else self.dtype

    def _get(self, buffer: tirx.Buffer, copy: int) -> tirx.Expr:
        return tirx.BufferLoad(buffer, [_ramp(self.lanes, copy * self.lanes)])

    def _put(self, statements: Statements, buffer: tirx.Buffer, value: tirx.Expr, copy: int) -> None:
        statements.store(buffer, _ramp(self.lanes, copy * self.lanes), value)


def _ramp(lanes: int, start: int = 0) -> tirx.Expr:
    return index(start) if lanes == 1 else tirx.Ramp(index(start), index(1), lanes)
