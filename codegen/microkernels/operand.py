"""What a matrix product reads and writes: strided views of flat buffers, and the place of a register vector in the
result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm import tirx

from .statements import Statements, as_index, constant, index
from .vector import first_lanes, load_masked, load_scalar, splat


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A matrix inside a flat buffer: element (i, j) lies at `offset + i · row_stride + j · col_stride`, counted in
    elements.

    `buffer` is one-dimensional. Strides may be any int64 expression; a literal 1 selects contiguous vector access
    when the code is emitted, a literal 0 a broadcast. No alignment is assumed. `slack` is how many rows beyond the last
    may be read. `encode` makes of a computed vector what the buffer of a result holds; None: the same, rounded to the
    buffer's type.
    """

    buffer: tirx.Buffer
    offset: tirx.Expr | int = 0
    row_stride: tirx.Expr | int
    col_stride: tirx.Expr | int
    slack: int = 0
    encode: Callable[[tirx.Expr], tirx.Expr] | None = None

    def at(self, row: tirx.Expr | int, col: tirx.Expr | int) -> tirx.Expr:
        """The flat index of element (row, col)."""
        total = as_index(self.offset)
        for position, stride in ((row, self.row_stride), (col, self.col_stride)):
            if constant(position) == 0 or constant(stride) == 0:
                continue
            step = position if constant(stride) == 1 else as_index(position) * stride
            total = step if constant(total) == 0 else total + step
        return as_index(total)

    def transposed(self) -> Operand:
        return replace(self, row_stride=self.col_stride, col_stride=self.row_stride, slack=0)

    @property
    def dtype(self) -> str:
        return str(self.buffer.dtype)

    @property
    def rows_contiguous(self) -> bool:
        """Whether neighbours in a row are neighbours in memory, known while emitting."""
        return constant(self.col_stride) == 1

    @property
    def columns_contiguous(self) -> bool:
        return constant(self.row_stride) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """A matrix whose elements are computed where they are packed.

    `compute(s, site)` gives the elements at a site, for every number of lanes, and may add statements to `s`; those outside
    the matrix are meaningless. `along_rows` tells in which direction vectors of them cost least.
    """

    compute: Callable[[Statements, Site], tirx.Expr]
    along_rows: bool

    def transposed(self) -> Formula:
        return Formula(compute=lambda s, site: self.compute(s, site.transposed()), along_rows=not self.along_rows)

    @property
    def rows_contiguous(self) -> bool:
        return self.along_rows

    @property
    def columns_contiguous(self) -> bool:
        return not self.along_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The elements of the result that one register vector holds: `lanes` neighbours from (row, col) on, along a row
    or a column.

    Lanes at or beyond `count` lie outside the matrix: their values are meaningless and are not stored.
    """

    row: tirx.Expr
    col: tirx.Expr
    lanes: int
    count: tirx.Expr | int
    along_row: bool = True

    @property
    def mask(self) -> tirx.Expr:
        return first_lanes(self.count, self.lanes)

    @property
    def rows(self) -> tirx.Expr:
        """The row index of every lane."""
        return self._ramp(self.row) if not self.along_row else splat(self.row, self.lanes)

    @property
    def cols(self) -> tirx.Expr:
        """The column index of every lane."""
        return self._ramp(self.col) if self.along_row else splat(self.col, self.lanes)

    def transposed(self) -> Site:
        return replace(self, row=self.col, col=self.row, along_row=not self.along_row)

    def load(self, operand: Operand, dtype: str) -> tirx.Expr:
        """The elements of another matrix at the same place, in `dtype`; a stride of 0 makes it a row, a column or a
        scalar."""
        at = operand.at(self.row, self.col)
        stride = operand.col_stride if self.along_row else operand.row_stride
        if self.lanes == 1:
            return load_scalar(operand.buffer, at, dtype)
        match constant(stride):
            case 0:
                return splat(load_scalar(operand.buffer, at, dtype), self.lanes)
            case 1:
                return load_masked(operand.buffer, at, self.mask, dtype, self.lanes)
            case _:
                return load_scalar(operand.buffer, strided_lanes(at, stride, self.count, self.lanes), dtype)

    def _ramp(self, start: tirx.Expr) -> tirx.Expr:
        return start if self.lanes == 1 else tirx.Ramp(as_index(start), index(1), self.lanes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epilogue:
    """What becomes of a finished sum before it is stored.

    `apply(s, site, value)` maps a register vector of the result to what is stored; it must accept every number of lanes, 1
    included, and may add statements to `s`. `reads_result` tells that it reads the elements of C that it is about to write.
    `light` tells that a copy of it for every register of a tile is worth its code.
    """

    apply: Callable[[Statements, Site, tirx.Expr], tirx.Expr]
    reads_result: bool = False
    light: bool = False

    def transposed(self) -> Epilogue:
        return replace(self, apply=lambda s, site, value: self.apply(s, site.transposed(), value))


def load(s: Statements, matrix: Operand | Formula, site: Site, dtype: str) -> tirx.Expr:
    """The elements of a matrix at a site, in `dtype`."""
    return matrix.compute(s, site) if isinstance(matrix, Formula) else site.load(matrix, dtype)


def strided_lanes(at: tirx.Expr, stride: tirx.Expr | int, count: tirx.Expr | int, lanes: int) -> tirx.Expr:
    """The indices at + lane · stride; lanes from `count` on repeat the last valid one, so that reading them is safe."""
    lane = tirx.Min(tirx.Ramp(index(0), index(1), lanes), splat(as_index(count) - 1, lanes))
    return splat(at, lanes) + lane * splat(as_index(stride), lanes)
