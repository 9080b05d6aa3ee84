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
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx.stmt import ForKind

from ...ir.microkernels import MicroKernel
from ...ir.types import DTYPES
from ..microkernels.statements import Statements, as_index, index
from .operand_loads import STEP, Lane, Staged, load_left, load_right, register
from .staging import i32, narrow
from .statements import WARP, DeviceStatements, Team
from .writing import TOGETHER, meet, move, pitch

if TYPE_CHECKING:
    from .product import Shape

ROWS, COLUMNS, DEPTH = 16, 8, 16
"""Of one instruction on 16-bit floats."""

_LOAD = """
__device__ __forceinline__ void einfall_ldmatrix(unsigned* r, const void* p) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(p));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}
"""

_MULTIPLY = """
__device__ __forceinline__ void einfall_mma_NAME(SUM* c, const unsigned* a, const unsigned* b) {
  asm volatile("mma.sync.aligned.m16n8kDEPTH.row.col.TOTAL.LEFT.RIGHT.TOTAL "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+LETTER"(c[0]), "+LETTER"(c[1]), "+LETTER"(c[2]), "+LETTER"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
"""

PTX = {"i8": "s8", "u8": "u8", "f32": "tf32"}
"""What the instruction calls a type, where that is not the language's name."""


def element_bytes(kernel: MicroKernel) -> int:
    """Of the operands of a micro-kernel."""
    return DTYPES[kernel.left].bits // 8


def add(
    s: Statements,
    dtype: str,
    sums: tirx.Buffer,
    at: tirx.Expr,
    left: tirx.Buffer,
    left_at: tirx.Expr,
    right: tirx.Buffer,
    right_at: tirx.Expr,
    right_dtype: str | None = None,
) -> None:
    """``mma.sync`` of operands of ``dtype`` (``bf16``, ``f16``, ``f32`` as tf32, ``i8``, ``u8``; the right one's may be another
    of 8 bits): adds to four sums, i32 of bytes and else f32, the product of four registers by two."""
    a, b = (PTX.get(each, each) for each in (dtype, right_dtype or dtype))
    total, kind, letter = ("s32", "int", "r") if dtype in ("i8", "u8") else ("f32", "float", "f")
    name = a if a == b else f"{a}_{b}"
    words = {
        "NAME": name, "SUM": kind, "DEPTH": str(STEP * 8 // DTYPES[dtype].bits), "TOTAL": total, "LEFT": a, "RIGHT": b,
        "LETTER": letter,
    }  # fmt: skip
    source = _MULTIPLY
    for word, meaning in words.items():
        source = source.replace(word, meaning)
    places = (register(sums, at), register(left, left_at), register(right, right_at))
    s.evaluate(cuda_func_call(f"einfall_mma_{name}", *places, source_code=source))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Where the warps of a block hand sums on: from byte ``start`` (int32, a multiple of 16) of shared memory on, so many
    ``columns`` at a time."""

    start: tirx.Expr
    columns: int


@dataclass(frozen=True, slots=True)
class Fragments:
    """The sums of one warp's rectangle of a tile of C, on a micro-kernel. ``interleaved`` tells of A and of B whether pairs of
    fragments have every other row or column (:attr:`.operands.Operand.interleaved`)."""

    s: DeviceStatements
    team: Team
    shape: Shape
    kernel: MicroKernel
    interleaved: tuple[bool, bool]
    sums: tirx.Buffer = field(init=False)

    def __post_init__(self) -> None:
        count = self.down * self.across * 4
        sums = self.s.allocate("sums", (count,), self.numbers, scope="local")
        with self.s.loop("i", count, kind=ForKind.UNROLLED) as i:
            self.s.store(sums, i, tirx.const(0, self.numbers))
        object.__setattr__(self, "sums", sums)

    @property
    def numbers(self) -> str:
        """The type of the sums."""
        return "int32" if self.kernel.accumulator == "i32" else "float32"

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
        pairs, steps = -(-self.across // 2), self.shape.depth * element_bytes(self.kernel) // STEP
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

        one = replace(lane, upper=i32(0))
        load(0)
        for k in range(steps):
            if k + 1 < steps:
                load(k + 1)
            with unrolled("i", self.down) as i, unrolled("j", self.across) as j:
                a_at, b_at = (k % held * self.down + i) * 4, k % held * pairs * 4 + j * 2
                add(s, self.kernel.left, self.sums, (i * self.across + j) * 4, lefts, a_at, rights, b_at, self.kernel.right)

    def results(self, s: DeviceStatements, done: Callable[[Statements, tirx.Expr, tirx.Expr, tirx.Expr], None]) -> None:
        """Gives each sum with its row and column in the tile to ``done``."""
        top, left = (tirx.Cast("int64", at) for at in self._corner(s))
        lane = s.bind("lane", self.team.lane)
        group, member = s.bind("group", tirx.truncdiv(lane, index(4))), s.bind("member", tirx.truncmod(lane, index(4)) * 2)
        left_turned, right_turned = self.interleaved
        unrolled = partial(s.loop, kind=ForKind.UNROLLED)
        with unrolled("i", self.down) as i, unrolled("j", self.across) as j, unrolled("e", 4) as e:
            value = s.share(tirx.BufferLoad(self.sums, [(i * self.across + j) * 4 + e]))
            h, own = tirx.truncdiv(e, index(2)), member + tirx.truncmod(e, index(2))
            row = group * 2 + h if left_turned else group + h * 8
            pair = tirx.truncdiv(j, index(2)) * (2 * COLUMNS) + tirx.truncmod(j, index(2))
            column = pair + own * 2 if right_turned else j * COLUMNS + own
            done(s, top + i * ROWS + row, left + column, value)

    @property
    def fours(self) -> bool:
        """Whether :meth:`by_rows` can be."""
        return True

    def by_rows(
        self,
        s: DeviceStatements,
        scratch: tirx.Buffer,
        done: Callable[[DeviceStatements, tirx.Expr, tirx.Expr, tirx.Buffer], None],
        exchange: Exchange | None = None,
    ) -> None:
        """Gives four sums of a row at a time, with their row and first column in the tile, to ``done``; through ``scratch``,
        bytes of shared memory of which nobody needs the first :func:`exchanged`, or those that ``exchange`` tells."""
        width = self.across * COLUMNS if exchange is None else exchange.columns
        held = pitch(width, self._apart)
        words = tirx.decl_buffer((index(1 << 20),), self.numbers, name="exchanged", data=scratch.data)
        s.add(tirx.DeclBuffer(words, data=scratch.data))
        thread = narrow(s, self.team.thread)
        lane = s.share(thread & i32(WARP - 1))
        start = i32(0) if exchange is None else exchange.start >> i32(2)
        own = s.share(start + (thread >> i32(WARP.bit_length() - 1)) * (ROWS * held))
        top, left = self._corner(s)
        beside = width // TOGETHER  # lanes of a row
        sums = s.allocate("row", (TOGETHER,), self.numbers, scope="local")
        unrolled = partial(s.loop, kind=ForKind.UNROLLED)
        with unrolled("i", self.down) as i, unrolled("piece", self.across * COLUMNS // width) as piece:
            meet(s)
            self._exchange(s, words, own, held, lane, i, piece * (width // COLUMNS), width // COLUMNS)
            meet(s)
            with s.loop("part", width * ROWS // (WARP * TOGETHER)) as part:
                number = s.share(tirx.Cast("int32", part) * WARP + lane)
                row = s.share(number >> i32(beside.bit_length() - 1))
                column = s.share((number & i32(beside - 1)) * TOGETHER)
                move(s, self.numbers, TOGETHER, register(sums, 0), register(words, as_index(own + row * held + column)))
                done(s, as_index(top + row) + i * ROWS, as_index(left + column) + piece * width, sums)

    @property
    def _apart(self) -> int:
        """Words, modulo those of all banks, between rows, so that what a part of the warp stores at once is in different banks:
        pairs of four rows by 16 lanes, or four words of two rows by 8, of every row or of every other one."""
        return (16 if self.interleaved[1] else 8) // (2 if self.interleaved[0] else 1)

    def _exchange(
        self, s: DeviceStatements, words: tirx.Buffer, own: tirx.Expr, held: int, lane: tirx.Expr, i: tirx.Expr,
        first: tirx.Expr, count: int,
    ) -> None:  # fmt: skip
        """Stores ``count`` of row ``i`` of the warp's fragments, from the ``first`` on, in shared memory, in the order of their
        columns."""
        group, member, at = lane >> i32(2), lane & i32(3), i * self.across + first
        unrolled = partial(s.loop, kind=ForKind.UNROLLED)
        with unrolled("h", 2) as half:
            h = tirx.Cast("int32", half)
            line = s.share(own + (group * 2 + h if self.interleaved[0] else group + h * 8) * held)
            if self.interleaved[1]:
                four = s.allocate("four", (4,), self.numbers, scope="local")
                with unrolled("j", count // 2) as j:
                    with unrolled("e", 2) as e, unrolled("f", 2) as f:
                        s.store(four, e * 2 + f, tirx.BufferLoad(self.sums, [(at + j * 2 + f) * 4 + half * 2 + e]))
                    place = line + tirx.Cast("int32", j) * (2 * COLUMNS) + member * 4
                    move(s, self.numbers, 4, register(words, as_index(place)), register(four, 0))
                return
            with unrolled("j", count) as j:
                place = line + tirx.Cast("int32", j) * COLUMNS + member * 2
                pair = register(self.sums, (at + j) * 4 + half * 2)
                move(s, self.numbers, 2, register(words, as_index(place)), pair)


def exchanged(shape: Shape, columns: int | None = None) -> int:
    """Bytes of shared memory through which the warps of a block hand sums on, so many ``columns`` of each at a time (None:
    all)."""
    width = shape.columns // shape.warps[1] if columns is None else columns
    return shape.warps[0] * shape.warps[1] * ROWS * pitch(width, 16) * 4
