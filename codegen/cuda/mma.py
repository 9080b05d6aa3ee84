"""Products on tensor cores: fragments of 16 × 8 sums, added up by ``mma.sync`` from operands in shared memory.

Lane l of a warp holds of a fragment of C the rows l / 4 and l / 4 + 8, of each the columns 2 (l mod 4) and the next one (PTX
ISA, section Matrix Fragments for mma.m16n8k16 with floating point type). Operands are panels (:mod:`.staging`): where their
lines are of k, ``ldmatrix`` loads them as the instruction wants them, where k runs from line to line it transposes on the way.

What bounds it, by arithmetic: for 16 of k a tile of 128 × 128 takes 128 instructions, 256 cycles of a multiprocessor of an A100
(1024 multiply-adds of 16-bit floats a cycle). Four warps with rectangles of 64 × 64 read 4 · 4 KB of shared memory for them and
8 KB are written to it: 192 cycles at 128 bytes a cycle, 75 % of the time. With eight rectangles of 64 × 32 it would be all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx.stmt import ForKind

from ..microkernels.statements import Statements, as_index, index
from .staging import Panel, beyond, i32, narrow
from .statements import WARP, DeviceStatements, Team
from .writing import TOGETHER, meet, move, pitch

if TYPE_CHECKING:
    from .product import Shape

ROWS, COLUMNS, DEPTH = 16, 8, 16
"""Of one instruction on 16-bit floats."""

BYTES = 2
"""Of an element of an operand."""

_LOAD = """
__device__ __forceinline__ void einfall_ldmatrix(unsigned* r, const void* p) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(p));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}
"""

_LOAD_AT = """
__device__ __forceinline__ void einfall_loadSUFFIX(unsigned* r, unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4TRANS.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}
"""

_MULTIPLY = """
__device__ __forceinline__ void einfall_mma_TYPE(float* c, const unsigned* a, const unsigned* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.TYPE.TYPE.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
"""


def load(s: Statements, to: tirx.Buffer, at: tirx.Expr, staged: tirx.Buffer, place: tirx.Expr) -> None:
    """``ldmatrix``: four matrices of 8 × 8 elements of 16 bits into the registers of ``to`` from number ``at`` on; the lane's
    line of 8 elements begins at ``place``."""
    s.evaluate(cuda_func_call("einfall_ldmatrix", _address(to, at), _address(staged, place), source_code=_LOAD))


def add(
    s: Statements,
    dtype: str,
    sums: tirx.Buffer,
    at: tirx.Expr,
    left: tirx.Buffer,
    left_at: tirx.Expr,
    right: tirx.Buffer,
    right_at: tirx.Expr,
) -> None:
    """``mma.sync`` m16n8k16 of operands of ``dtype`` (``bf16``, ``f16``): adds to four sums the product of four registers by
    two."""
    places = (_address(sums, at), _address(left, left_at), _address(right, right_at))
    s.evaluate(cuda_func_call(f"einfall_mma_{dtype}", *places, source_code=_MULTIPLY.replace("TYPE", dtype)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """An operand in shared memory from ``address`` (uint32) on; ``along``: its lines are of k, else k runs from line to
    line."""

    panel: Panel
    along: bool
    address: tirx.Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Where a lane's part of four matrices of 8 × 8 begins, which one ``ldmatrix`` loads: lanes 0 to 7 give the lines of the
    first one, and so on. All are int32."""

    low: tirx.Expr
    odd: tirx.Expr
    upper: tirx.Expr

    @staticmethod
    def of(s: Statements, team: Team) -> Lane:
        lane = narrow(s, team.thread)
        odd, upper = ((lane >> i32(bit)) & i32(1) for bit in (3, 4))
        return Lane(low=s.share(lane & i32(7)), odd=s.share(odd), upper=s.share(upper))


def load_left(s: Statements, to: tirx.Buffer, at: tirx.Expr | int, a: Staged, row: tirx.Expr, k: tirx.Expr, lane: Lane) -> None:
    """The fragment of A, 16 rows from ``row`` by 16 of k from step ``k`` on, into registers ``at`` to ``at + 3`` of ``to``."""
    _load(s, to, at, a, row, k, (lane.low, lane.odd, lane.upper))


def load_right(
    s: Statements, to: tirx.Buffer, at: tirx.Expr | int, b: Staged, column: tirx.Expr, k: tirx.Expr, lane: Lane
) -> None:
    """Two fragments of B side by side, 16 of k from step ``k`` on by 2 · 8 columns from ``column``, two registers each."""
    _load(s, to, at, b, column, k, (lane.low, lane.upper, lane.odd))


def _load(
    s: Statements, to: tirx.Buffer, at: tirx.Expr | int, staged: Staged, first: tirx.Expr, k: tirx.Expr,
    lane: tuple[tirx.Expr, tirx.Expr, tirx.Expr],
) -> None:  # fmt: skip
    low, own, deep = lane  # which half of the rows or columns, which half of k
    if staged.along:
        place = staged.panel.place(first + own * 8 + low, k * 2 + deep)
    else:
        place = staged.panel.place(k * DEPTH + deep * 8 + low, (first >> i32(3)) + own)
    suffix, trans = ("", "") if staged.along else ("_trans", ".trans")
    source = _LOAD_AT.replace("SUFFIX", suffix).replace("TRANS", trans)
    s.evaluate(cuda_func_call(f"einfall_load{suffix}", _address(to, at), beyond(staged.address, place), source_code=source))


@dataclass(frozen=True, slots=True)
class Fragments:
    """The sums of one warp's rectangle of a tile of C, of operands of ``dtype`` (``bf16``, ``f16``)."""

    s: DeviceStatements
    team: Team
    shape: Shape
    dtype: str
    sums: tirx.Buffer = field(init=False)

    def __post_init__(self) -> None:
        count = self.down * self.across * 4
        sums = self.s.allocate("sums", (count,), "float32", scope="local")
        with self.s.loop("i", count, kind=ForKind.UNROLLED) as i:
            self.s.store(sums, i, tirx.const(0, "float32"))
        object.__setattr__(self, "sums", sums)

    @property
    def down(self) -> int:
        """Fragments of a warp's rectangle, one below the other."""
        return self.shape.rows // self.shape.warps[0] // ROWS

    @property
    def across(self) -> int:
        """Fragments side by side."""
        return self.shape.columns // self.shape.warps[1] // COLUMNS

    def _corner(self, s: Statements) -> tuple[tirx.Expr, tirx.Expr]:
        """Where the warp's rectangle begins; int32."""
        warp = narrow(s, self.team.thread) >> i32(WARP.bit_length() - 1)
        beside = self.shape.warps[1]  # a power of two
        row = (warp >> i32(beside.bit_length() - 1)) * (self.down * ROWS)
        column = (warp & i32(beside - 1)) * (self.across * COLUMNS)
        return s.share(row), s.share(column)

    def multiply(self, s: DeviceStatements, a: Staged, b: Staged) -> None:
        """Adds the products of a step of the depth; the next fragments are loaded while these are multiplied."""
        top, left = self._corner(s)
        lane = Lane.of(s, self.team)
        unrolled = partial(s.loop, kind=ForKind.UNROLLED)
        pairs, steps = -(-self.across // 2), self.shape.depth // DEPTH
        held = min(2, steps)
        lefts = s.allocate("a", (held * self.down * 4,), "uint32", scope="local")
        rights = s.allocate("b", (held * pairs * 4,), "uint32", scope="local")

        def load(k: int) -> None:
            with unrolled("i", self.down) as i:
                row = top + tirx.Cast("int32", i) * ROWS
                load_left(s, lefts, (k % held * self.down + i) * 4, a, row, i32(k), lane)
            with unrolled("j", pairs) as j:
                column = left + tirx.Cast("int32", j) * (2 * COLUMNS)
                # The second half of the last pair may belong to the next warp, or to nobody.
                load_right(s, rights, (k % held * pairs + j) * 4, b, column, i32(k), lane if self.across % 2 == 0 else one)

        one = Lane(low=lane.low, odd=lane.odd, upper=i32(0))
        load(0)
        for k in range(steps):
            if k + 1 < steps:
                load(k + 1)
            with unrolled("i", self.down) as i, unrolled("j", self.across) as j:
                a_at, b_at = (k % held * self.down + i) * 4, k % held * pairs * 4 + j * 2
                add(s, self.dtype, self.sums, (i * self.across + j) * 4, lefts, a_at, rights, b_at)

    def results(self, s: DeviceStatements, done: Callable[[Statements, tirx.Expr, tirx.Expr, tirx.Expr], None]) -> None:
        """Gives each sum with its row and column in the tile to ``done``."""
        top, left = (tirx.Cast("int64", at) for at in self._corner(s))
        lane = s.bind("lane", self.team.lane)
        row, column = (
            s.bind("row", top + tirx.truncdiv(lane, index(4))),
            s.bind("column", left + tirx.truncmod(lane, index(4)) * 2),
        )
        unrolled = partial(s.loop, kind=ForKind.UNROLLED)
        with unrolled("i", self.down) as i, unrolled("j", self.across) as j, unrolled("e", 4) as e:
            value = s.share(tirx.BufferLoad(self.sums, [(i * self.across + j) * 4 + e]))
            down = row + i * ROWS + tirx.truncdiv(e, index(2)) * 8
            done(s, down, column + j * COLUMNS + tirx.truncmod(e, index(2)), value)

    def by_rows(
        self,
        s: DeviceStatements,
        scratch: tirx.Buffer,
        done: Callable[[DeviceStatements, tirx.Expr, tirx.Expr, tirx.Buffer], None],
    ) -> None:
        """Gives four sums of a row at a time, with their row and first column in the tile, to ``done``; through ``scratch``,
        bytes of shared memory of which nobody needs the first :func:`exchanged`."""
        held, width = pitch(self.across * COLUMNS), self.across * COLUMNS
        words = tirx.decl_buffer((index(1 << 20),), "float32", name="exchanged", data=scratch.data)
        s.add(tirx.DeclBuffer(words, data=scratch.data))
        thread = narrow(s, self.team.thread)
        lane = s.share(thread & i32(WARP - 1))
        own = s.share((thread >> i32(WARP.bit_length() - 1)) * (ROWS * held))
        top, left = self._corner(s)
        beside = width // TOGETHER  # lanes of a row
        sums = s.allocate("row", (TOGETHER,), "float32", scope="local")
        with s.loop("i", self.down, kind=ForKind.UNROLLED) as i:
            meet(s)
            with s.loop("j", self.across, kind=ForKind.UNROLLED) as j, s.loop("h", 2, kind=ForKind.UNROLLED) as h:
                line = (lane >> i32(2)) + tirx.Cast("int32", h) * 8
                place = own + line * held + tirx.Cast("int32", j) * COLUMNS + (lane & i32(3)) * 2
                move(s, 2, _address(words, as_index(place)), _address(self.sums, (i * self.across + j) * 4 + h * 2))
            meet(s)
            with s.loop("part", width * ROWS // (WARP * TOGETHER)) as part:
                number = s.share(tirx.Cast("int32", part) * WARP + lane)
                row = s.share(number >> i32(beside.bit_length() - 1))
                column = s.share((number & i32(beside - 1)) * TOGETHER)
                move(s, TOGETHER, _address(sums, 0), _address(words, as_index(own + row * held + column)))
                done(s, as_index(top + row) + i * ROWS, as_index(left + column), sums)


def exchanged(shape: Shape) -> int:
    """Bytes of shared memory through which the warps of a block hand sums on."""
    return shape.warps[0] * shape.warps[1] * ROWS * pitch(shape.columns // shape.warps[1]) * 4


def _address(buffer: tirx.Buffer, at: tirx.Expr | int) -> tirx.Expr:
    return tirx.address_of(tirx.BufferLoad(buffer, [index(at) if isinstance(at, int) else at]))
