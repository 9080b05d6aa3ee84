"""Products on tensor cores: fragments of 16 × 8 sums, added up by ``mma.sync`` from operands in shared memory.

Lane l of a warp holds of a fragment of C the rows l / 4 and l / 4 + 8, of each the columns 2 (l mod 4) and the next one.
Operands are loaded by ``ldmatrix`` from lines of k, which are padded by 16 bytes: eight lines then lie in different banks
(PTX ISA, sections Matrix Fragments for mma.m16n8k16 with floating point type, and ldmatrix).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx.stmt import ForKind

from ..microkernels.statements import Statements, index
from .statements import DeviceStatements, Team

if TYPE_CHECKING:
    from .product import Shape

ROWS, COLUMNS, DEPTH = 16, 8, 16
"""Of one instruction on 16-bit floats."""

PAD = 8
"""Elements between lines of k in shared memory."""

_LOAD = """
__device__ __forceinline__ void einfall_ldmatrix(unsigned* r, const void* p) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(p));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
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


class Staged(Protocol):
    """An operand in shared memory: its elements begin at number ``first`` of ``buffer``."""

    @property
    def buffer(self) -> tirx.Buffer: ...
    @property
    def first(self) -> int: ...


def line_bytes(depth: int) -> int:
    """Bytes from one line of a staged operand to the next."""
    return (depth + PAD) * 2


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
    def element(self) -> str:
        """The type in which operands are staged: their bits."""
        return "uint16"

    @property
    def stride(self) -> int:
        """Elements from one line of a staged operand to the next."""
        return self.shape.depth + PAD

    def bytes(self, lines: int) -> int:
        """Of a staged operand."""
        return lines * line_bytes(self.shape.depth)

    @property
    def down(self) -> int:
        """Fragments of a warp's rectangle, one below the other."""
        return self.shape.rows // self.shape.warps[0] // ROWS

    @property
    def across(self) -> int:
        """Fragments side by side."""
        return self.shape.columns // self.shape.warps[1] // COLUMNS

    def _corner(self, s: Statements) -> tuple[tirx.Expr, tirx.Expr]:
        """Where the warp's rectangle begins."""
        warp = s.bind("warp", self.team.warp)
        row = tirx.truncdiv(warp, index(self.shape.warps[1])) * (self.down * ROWS)
        column = tirx.truncmod(warp, index(self.shape.warps[1])) * (self.across * COLUMNS)
        return s.bind("top", row), s.bind("left", column)

    def multiply(self, s: DeviceStatements, a: Staged, b: Staged) -> None:
        """Adds the products of a step of the depth. A is staged as [row, k], B as [column, k]."""
        top, left = self._corner(s)
        lane = s.bind("lane", self.team.lane)
        unrolled = partial(s.loop, kind=ForKind.UNROLLED)
        lefts = s.allocate("a", (self.down * 4,), "uint32", scope="local")
        pairs = -(-self.across // 2)
        rights = s.allocate("b", (pairs * 4,), "uint32", scope="local")
        # A lane gives ldmatrix the address of one line of 8 elements: lanes 0 to 7 those of the first matrix, and so on.
        low, quarter = s.bind("low", tirx.truncmod(lane, index(8))), s.bind("quarter", tirx.truncdiv(lane, index(8)))
        a_line = s.bind("line", top + low + tirx.truncmod(quarter, index(2)) * 8)
        a_step = s.bind("half", tirx.truncdiv(quarter, index(2)) * 8)
        b_line = s.bind("line", left + low + tirx.truncdiv(quarter, index(2)) * 8)
        b_step = s.bind("half", tirx.truncmod(quarter, index(2)) * 8)
        with unrolled("k", self.shape.depth // DEPTH) as k:
            with unrolled("i", self.down) as i:
                load(s, lefts, i * 4, a.buffer, a.first + (a_line + i * ROWS) * self.stride + k * DEPTH + a_step)
            with unrolled("j", pairs) as j:
                line = b_line + j * (2 * COLUMNS)
                if self.across % 2:  # the second half of the last pair belongs to the next warp, or to nobody
                    line = tirx.min(line, index(self.shape.columns - 1))
                load(s, rights, j * 4, b.buffer, b.first + line * self.stride + k * DEPTH + b_step)
            with unrolled("i", self.down) as i, unrolled("j", self.across) as j:
                add(s, self.dtype, self.sums, (i * self.across + j) * 4, lefts, i * 4, rights, j * 2)

    def results(self, s: DeviceStatements, done: Callable[[Statements, tirx.Expr, tirx.Expr, tirx.Expr], None]) -> None:
        """Gives each sum with its row and column in the tile to ``done``."""
        top, left = self._corner(s)
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


def _address(buffer: tirx.Buffer, at: tirx.Expr) -> tirx.Expr:
    return tirx.address_of(tirx.BufferLoad(buffer, [at]))
