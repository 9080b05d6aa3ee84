"""What the threads of a block do to tiles that they hold in registers: products, what is done point by point, and along rows.

Lane l of a warp has of every fragment of 16 × 8 elements the rows l / 4 and l / 4 + 8, of each the columns 2 (l mod 4) and the
next one (PTX ISA, section Matrix Fragments for mma.m16n8k16), and the number of those rows of every vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx.stmt import ForKind

from ...ir.expr import Const, Expr, Op, Select, children, conjuncts, ranks_of, reads_of, transform
from ...ir.fragments import ROWS, Held, Roles, padded, roles
from ...ir.index import affine_in
from ...ir.tile import Buffer, Compute, Fill
from ...ir.types import BOOL, INDEX
from ..arithmetic import literal
from ..context import Context, Variables
from ..element import computed, stored
from ..expressions import Evaluator
from ..microkernels.statements import Statements, as_index, both, constant, identifier, index
from ..reduction import Accumulator
from ..views import View, encode, load_scalar, store_scalar
from . import mma
from .compute import DeviceComputeEmitter
from .staging import i32, narrow
from .statements import DeviceStatements, Team, exchanged

STEEPEST, FARTHEST = 1 << 10, 1 << 30
"""Steps of a condition from row to row, and distances from where it changes, with which 32 bits hold it at every point."""

_TOGETHER = """
__device__ __forceinline__ unsigned einfall_together(unsigned short low, unsigned short high) {
  unsigned both;
  asm volatile("mov.b32 %0, {%1, %2};" : "=r"(both) : "h"(low), "h"(high));
  return both;
}
"""

QUAD = (1, 2)
"""The distances of the lanes that share a row, for :func:`exchanged`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """An element of a thread's, or with ``element`` None a row of its: its numbers among those of the tiles and vectors."""

    element: tirx.Expr | None
    line: tirx.Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Border:
    """A comparison of affine forms of the row and the column, in 32 bits: ``start + rows · row + columns · (column - left)`` is
    not negative where it holds, ``left`` being the thread's first column. So a thread compares one number for each of its rows
    with constants, where it would hold a number of 64 bits for each of its columns."""

    condition: Expr
    start: tirx.Expr
    rows: int
    columns: int


@dataclass(slots=True, kw_only=True)
class Registers:
    """The tiles of a block's :class:`Held` in the registers of its threads, as they are stored. Their ``views`` are of all that
    a thread has; :meth:`load` and :meth:`store` know where."""

    held: Held
    team: Team
    context: Context
    views: dict[str, View]  # the context's
    top: tirx.Expr = field(init=False)  # the first of this thread's rows
    left: tirx.Expr = field(init=False)  # and columns
    first: tirx.Expr = field(init=False)  # the first row of its warp

    def begin(self, s: DeviceStatements, buffers: Iterable[Buffer]) -> None:
        """Gives the tiles among these buffers their registers."""
        for buffer in buffers:
            if buffer.name in self.held.tiles:
                columns = self.held.tiles[buffer.name]
                count = self.held.fragments * (2 if columns is None else columns // 2)
                memory = s.allocate(identifier(buffer.name), (count,), stored(buffer.dtype), scope="local")
                self.views[buffer.name] = View(flat=memory, strides=(), extents=(), dtype=buffer.dtype)

    def place(self, s: DeviceStatements) -> None:
        """Computes where this thread's elements are."""
        lane = s.bind("lane", self.team.lane)
        self.first = s.bind("first", self.team.warp * (self.held.fragments * ROWS))
        self.top = s.bind("top", self.first + tirx.truncdiv(lane, index(4)))
        self.left = s.bind("left", tirx.truncmod(lane, index(4)) * 2)

    def fill(self, s: DeviceStatements, node: Fill) -> None:
        """Sets all elements of a tile."""
        view = self.views[node.target]
        with s.loop("i", int(view.flat.shape[0]), kind=ForKind.UNROLLED) as i:
            s.store(view.flat, i, encode(literal(node.value, computed(view.dtype)), view.dtype, 1))

    @contextmanager
    def lines(self, s: Statements) -> Iterator[tuple[Point, tirx.Expr]]:
        """This thread's rows: their number among its own, and in the tile."""
        with s.loop("i", self.held.fragments * 2, kind=ForKind.UNROLLED) as i:
            row = self.top + tirx.truncdiv(i, index(2)) * ROWS + tirx.truncmod(i, index(2)) * (ROWS // 2)
            yield Point(element=None, line=i), row

    @contextmanager
    def along(self, s: Statements, line: Point, columns: int, *, together: int = 1) -> Iterator[tuple[Point, tirx.Expr]]:
        """This thread's elements of one of its rows, with their columns; ``together`` 2: the first ones of each two."""
        i, across = line.line, columns // mma.COLUMNS
        with s.loop("number", across * 2 // together, kind=ForKind.UNROLLED) as number:
            j = number * together
            column = self.left + tirx.truncdiv(j, index(2)) * mma.COLUMNS + tirx.truncmod(j, index(2))
            fragment = tirx.truncdiv(i, index(2)) * across + tirx.truncdiv(j, index(2))
            element = fragment * 4 + tirx.truncmod(i, index(2)) * 2 + tirx.truncmod(j, index(2))
            yield Point(element=element, line=i), column

    def load(self, name: str, point: Point) -> tirx.Expr:
        """What a tile holds at a point."""
        return load_scalar(self.views[name], self._number(name, point), None)

    def store(self, s: Statements, name: str, point: Point, value: tirx.Expr) -> None:
        """Sets an element of a tile."""
        s.add(store_scalar(self.views[name], self._number(name, point), value))

    def clear(self, s: Statements, name: str, point: Point) -> None:
        """Sets an element of a tile to 0."""
        view = self.views[name]
        s.store(view.flat, self._number(name, point), literal(0, str(view.flat.dtype)))

    def settle(self, s: Statements, names: Iterable[str], line: Point) -> None:
        """Puts neighbours of 16 bits of a row of these tiles into one register. Without it nvcc holds each in a register of
        its own wherever branches meet, and puts them together where they are read."""
        for name in dict.fromkeys(names):
            columns, view = self.held.tiles.get(name), self.views.get(name)
            if columns is None or view is None or view.dtype.bits != 16:
                continue
            words, halves = self.words(s, name), self.words(s, name, 16)
            with self.along(s, line, columns, together=2) as (point, _):
                assert point.element is not None
                two = [tirx.BufferLoad(halves, [point.element + side]) for side in (0, 1)]
                word = cuda_func_call("einfall_together", *two, source_code=_TOGETHER, return_type="uint32")
                s.store(words, tirx.truncdiv(point.element, index(2)), word)

    def words(self, s: Statements, name: str, bits: int = 32) -> tirx.Buffer:
        """The bits of a tile of 16 or 32 bits as words of so many."""
        view = self.views[name]
        count = int(view.flat.shape[0]) * view.dtype.bits // bits
        words = tirx.decl_buffer((index(count),), f"uint{bits}", name="words", data=view.flat.data)
        s.add(tirx.DeclBuffer(words, data=view.flat.data))
        return words

    def _number(self, name: str, point: Point) -> tirx.Expr:
        if self.held.tiles[name] is None:
            return point.line
        assert point.element is not None, name
        return point.element


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentEmitter(DeviceComputeEmitter):
    """Emits one Compute on tiles in registers, each thread what it holds; no thread waits for another but those of its row."""

    registers: Registers
    roles: Roles
    point: Point | None = None
    mask: tirx.Expr | None = None  # where it is false, what is stored in registers is 0
    borders: tuple[Border, ...] = ()

    @staticmethod
    def of(registers: Registers, compute: Compute, variables: Variables) -> FragmentEmitter:
        """The emitter of a Compute that touches the tiles."""
        found = roles(compute, registers.held.tiles)
        assert found is not None
        return FragmentEmitter(
            context=registers.context,
            compute=compute,
            variables=variables,
            serial=True,
            team=registers.team,
            registers=registers,
            roles=found,
        )

    def emit(self, s: Statements) -> None:
        """Adds the whole Compute to ``s``: without any test where all of a warp's points count, else with one for each."""
        if self.roles.column is None:
            with self.registers.lines(s) as (point, row):
                self._element(s, point, row, None, self.inside(s, row, None))
            return
        # What is written to memory is written once, the others are repeated in loops.
        whole = self._whole(s) if self._target else tirx.IntImm("bool", 0)
        if constant(whole) != 0:
            with s.when(whole):
                self._certain()._rows(s, tested=False)
        if constant(whole) != 1:
            with s.when(tirx.Not(whole)):
                self._rows(s, tested=True)

    # -- which points count ----------------------------------------------------------------------------------------------

    @property
    def _target(self) -> bool:
        """Whether the result is a tile in registers."""
        return self.compute.target in self.registers.held.tiles

    @property
    def _reads_memory(self) -> bool:
        return any(r.tensor not in self.registers.held.tiles for r in self.compute.reads())

    @property
    def _rows_count(self) -> bool:
        """Whether rows beyond the tile's last must not be touched. Those in registers hurt nobody."""
        return self._reads_memory or not self._target

    def _whole(self, s: Statements) -> tirx.Expr:
        """Whether all of this warp's points count, and meet every condition."""
        width = self._width
        rows, columns = (self._bound(s, r) for r in (self.roles.row, self.roles.column or ""))
        last = self.registers.first + self.registers.held.fragments * ROWS
        answer: tirx.Expr = both(_at_least(columns, index(width)), _at_least(rows, last) if self._rows_count else True)
        for condition in self._conditions():
            for row in (self.registers.first, last - 1):
                for column in (0, width - 1):
                    at = {**self.variables, self.roles.row: row, self.roles.column or "": index(column)}
                    answer = both(answer, self.context.evaluator(s, at).value(condition))
        return answer if constant(answer) is not None else tirx.NE(s.share(tirx.Cast("int32", answer)), tirx.IntImm("int32", 0))

    @property
    def _width(self) -> int:
        """The columns of the tiles that are read and written; of a Compute on vectors alone, those of such tiles."""
        tiles = self.registers.held.tiles
        names = {self.compute.target, *(r.tensor for r in self.compute.reads()), *self.compute.targets} & set(tiles)
        found = next((columns for name in sorted(names) if (columns := tiles[name]) is not None), None)
        return padded(self.compute.extent(self.roles.column or ""), self.context.lets) if found is None else found

    def _bound(self, s: Statements, rank: str) -> tirx.Expr:
        return as_index(self.context.evaluator(s, self.variables).value(self.compute.extent(rank)))

    def _conditions(self) -> list[Expr]:
        """Conditions of the Compute that hold in all of a rectangle if they hold in its corners: comparisons of affine forms
        of the row and the column."""
        found: list[Expr] = []
        for each in (self.compute, *self.compute.along):
            for expr in (each.filter, each.condition):
                found += conjuncts(expr)
            found += (c for e in _selections(each.value) for c in conjuncts(e.condition))
        ranks = (self.roles.row, self.roles.column or "")
        return [c for c in dict.fromkeys(found) if _is_convex(c, ranks)]

    def _certain(self) -> FragmentEmitter:
        """This emitter where :meth:`_whole` holds."""
        known = set(self._conditions())

        def rule(expr: Expr) -> Expr | None:
            if expr in known:
                return Const(value=True, dtype=BOOL)
            match expr:
                case Select(condition=condition, then=then) if all(map(_is_true, conjuncts(condition))):
                    return then
                case _:
                    return None

        def mapped(compute: Compute) -> Compute:
            conditions = (None if e is None else transform(e, rule) for e in (compute.filter, compute.condition))
            chosen = [None if e is None or all(_is_true(c) for c in conjuncts(e)) else e for e in conditions]
            along = tuple(map(mapped, compute.along))
            value = transform(compute.value, rule)
            return replace(compute, filter=chosen[0], condition=chosen[1], value=value, along=along)

        return replace(self, compute=mapped(self.compute))

    def emit_everywhere(self, s: Statements) -> None:
        """Adds a Compute without memory, for the elements beyond the edges too."""
        self._rows(s, tested=False)

    def inside(self, s: Statements, row: tirx.Expr, column: tirx.Expr | None) -> tirx.Expr | bool:
        """Whether a point counts; in 32 bits, which hold the numbers inside a tile."""
        first, left = self.registers.top, self.registers.left
        inside: tirx.Expr | bool = self._below(s, row, self.roles.row, first) if self._rows_count else True
        if column is not None:
            inside = both(inside, self._below(s, column, self.roles.column or "", left))
        return inside

    def _below(self, s: Statements, at: tirx.Expr, rank: str, own: tirx.Expr) -> tirx.Expr:
        """Counted from the first that is this thread's ``own``, so that numbers are compared with constants."""
        first = tirx.Cast("int32", own)
        return tirx.LT(tirx.Cast("int32", at) - first, s.share(narrow(s, self._bound(s, rank)) - first))

    # -- points ----------------------------------------------------------------------------------------------------------

    def _rows(self, s: Statements, *, tested: bool) -> None:
        own = replace(self, borders=tuple(self._borders(s)))
        with self.registers.lines(s) as (line, row):
            if self.compute.reduction is not None:
                own._row_folded(s, line, row, tested=tested)
            else:
                with self.registers.along(s, line, self._width) as (point, column):
                    inside = self.inside(s, row, column) if tested else True
                    own._element(s, point, row, column, inside)
            self.registers.settle(s, self.compute.targets, line)

    def _borders(self, s: Statements) -> Iterator[Border]:
        """The conditions that move by whole numbers from row to row and from column to column."""
        row, column = self.roles.row, self.roles.column or ""
        at = self.context.evaluator(s, {**self.variables, row: index(0), column: index(0)})
        for condition in self._conditions():
            assert isinstance(condition, Op)
            forms = [affine_in(e, (row, column)) for e in condition.args]
            steps = [form.coefficient(r) for r in (row, column) for form in forms if form is not None]
            moves = [int(e.value) for e in steps if isinstance(e, Const) and abs(int(e.value)) <= STEEPEST]
            if len(moves) < 4:
                continue
            sign = 1 if condition.op in ("lt", "le") else -1
            rows, columns = sign * (moves[1] - moves[0]), sign * (moves[3] - moves[2])
            low, high = (as_index(at.value(e)) for e in condition.args[::sign])
            room = high - low - (1 if condition.op in ("lt", "gt") else 0)
            near = tirx.Cast("int32", tirx.max(tirx.min(room, index(FARTHEST)), index(-FARTHEST)))
            start = s.share(near + tirx.Cast("int32", self.registers.left) * columns)
            yield Border(condition=condition, start=start, rows=rows, columns=columns)

    def _across(self, border: Border, row: tirx.Expr, column: tirx.Expr | None) -> tirx.Expr:
        """Whether a condition holds at a point."""
        beside = i32(0) if column is None else tirx.Cast("int32", column) - tirx.Cast("int32", self.registers.left)
        return border.start + tirx.Cast("int32", row) * border.rows >= beside * -border.columns

    def at(self, point: Point, row: tirx.Expr, column: tirx.Expr | None) -> FragmentEmitter:
        """The emitter at a point: what it reads of the tiles is what they hold there."""
        tiles = self.registers.held.tiles
        names = {r.tensor for r in self.compute.reads() if r.tensor in tiles}
        reachable = [n for n in sorted(names) if tiles[n] is None or point.element is not None]
        held = {name: self.registers.load(name, point) for name in reachable}
        variables = {**self.variables, self.roles.row: row}
        if column is not None and self.roles.column is not None:
            variables[self.roles.column] = column
        known = [(b.condition, self._across(b, row, column)) for b in self.borders if column is not None or not b.columns]
        context = replace(self.context, scalars={**self.context.scalars, **held}, held=lambda _: known)
        return replace(self, context=context, variables=variables, point=point)

    def _element(self, s: Statements, point: Point, row: tirx.Expr, column: tirx.Expr | None, inside: tirx.Expr | bool) -> None:
        if self._target and not self._reads_memory:
            at = replace(self.at(point, row, column), mask=None if inside is True else inside)
            at._point(s, at.variables)
            return
        if inside is not True and self._target:
            # A running sum is read before it is written.
            own = any(r.tensor == self.compute.target for r in self.compute.reads())
            with s.when(tirx.Not(inside) if own else True):
                self.registers.clear(s, self.compute.target, point)
        if column is None and not self._target:
            inside = both(inside, tirx.EQ(self.registers.left, index(0)))
        with s.when(inside):
            at = self.at(point, s.bind("row", row), None if column is None else s.bind("column", column))
            at._point(s, at.variables)

    def _row_folded(self, s: Statements, line: Point, row: tirx.Expr, *, tested: bool) -> None:
        compute = self.compute
        assert compute.reduction is not None
        acc = Accumulator.start(s, compute.reduction, self._combined, 1)
        with self.registers.along(s, line, self._width) as (point, column):
            inside = self.inside(s, row, column) if tested else True
            if self._reads_memory:
                self._take_where(s, acc, point, row, column, inside)
            else:
                at = replace(self.at(point, row, column), mask=None if inside is True else inside)
                evaluator = at.context.evaluator(s, at.variables)
                where = evaluator.condition(compute.filter)
                every = both(inside, True if where is None else where)
                at._take(s, evaluator, acc, None if constant(every) == 1 else every)
        for distance in QUAD:
            mine = s.share(tirx.BufferLoad(acc.state, [index(0)]))
            s.store(acc.state, 0, acc.combine(mine, s.share(exchanged(mine, distance))))
        end = self.at(line, row, None)
        done: tirx.Expr | bool = True
        if not self._target:
            done = both(self.inside(s, row, None), tirx.EQ(self.registers.left, index(0)))
        with s.when(done):
            ended = self.context.evaluator(s, end.variables)
            value = end._convert(ended, acc.result(), acc.result_type)
            end._guarded(s, ended, end.variables, lambda: end._store(s, ended, value))

    def _take_where(
        self, s: Statements, acc: Accumulator, point: Point, row: tirx.Expr, column: tirx.Expr, inside: tirx.Expr | bool
    ) -> None:
        """Takes in an element, if it counts, for which memory is read."""
        for inner in self.compute.along if inside is not True or self.compute.filter is not None else ():
            if inner.target in self.registers.held.tiles:
                self.registers.clear(s, inner.target, point)
        with s.when(inside):
            at = self.at(point, s.bind("row", row), s.bind("column", column))
            where = at.context.evaluator(s, at.variables).condition(self.compute.filter)
            with s.when(True if where is None else where):
                at._take(s, at.context.evaluator(s, at.variables), acc, None)

    def _store_within(self, s: Statements, at: Evaluator, value: tirx.Expr, within: tirx.Expr | None) -> None:
        if not self._target:
            DeviceComputeEmitter._store_within(self, s, at, value, within)
            return
        assert self.point is not None and within is None
        if self.mask is not None:
            value = tirx.Select(self.mask, value, literal(0, str(value.ty.dtype)))
        self.registers.store(s, self.compute.target, self.point, value)


def _at_least(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr | bool:
    have, want = constant(a), constant(b)
    return have >= want if have is not None and want is not None else a >= b


def _is_true(expr: Expr) -> bool:
    return isinstance(expr, Const) and expr.value is True


def _selections(expr: Expr) -> Iterator[Select]:
    if isinstance(expr, Select):
        yield expr
    for child in children(expr):
        yield from _selections(child)


def _is_convex(expr: Expr, ranks: tuple[str, str]) -> bool:
    """Whether a condition compares affine forms of these ranks."""
    match expr:
        case Op(op="lt" | "le" | "gt" | "ge", args=(a, b)) if a.dtype == INDEX and b.dtype == INDEX:
            if any(True for e in (a, b) for _ in reads_of(e)) or set(ranks_of(expr)).isdisjoint(ranks):
                return False
            return all(affine_in(e, ranks) is not None for e in (a, b))
        case _:
            return False


__all__ = ["FragmentEmitter", "Point", "Registers"]
