"""Fragments of staged operands into the registers of a warp, in the order in which ``mma.sync`` takes them.

A step of the depth is what one instruction multiplies: 32 bytes of k, 32 elements of 8 bits, 16 of 16, 8 of 32 (PTX ISA,
sections Matrix Fragments for mma.m16n8k32, m16n8k16 and m16n8k8). Where lines are of k, ``ldmatrix`` does it for all of them:
to it, all are pairs of bytes. Where k runs from line to line

* elements of 16 bits are transposed by ``ldmatrix.trans``;
* elements of 8 bits are transposed in pairs: a lane gets two neighbours of one line and of the next; two such words, of four
  lines, are taken apart by ``prmt`` into words of four k, one for each of the two neighbours. So the eight rows (or columns) of
  a fragment are every other one of sixteen, which whoever writes the results must know (:attr:`.operands.Operand.interleaved`);
* elements of 32 bits are read one by one.

Sums in registers that are a left operand of 32 bits put k in another order: a lane has the columns 2 t and 2 t + 1 of eight,
where the instruction wants t and t + 4 (``fragment_product.py``). A product does not mind, if the right operand's k are in the
same order: its loads are ``paired``.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call

from ..microkernels.statements import Statements, index
from .staging import Order, Panel, beyond, i32, narrow
from .statements import Team

STEP = 32
"""Bytes of k that one instruction multiplies."""

_LOAD = """
__device__ __forceinline__ void einfall_load(unsigned* r, unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}
"""

_TRANSPOSED = """
__device__ __forceinline__ void einfall_load_trans(unsigned* r, unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}
"""

_BYTES = """
__device__ __forceinline__ void einfall_load_bytes_SIDE(unsigned* r, unsigned address) {
  unsigned x[4];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(address));
  r[0] = __byte_perm(x[0], x[1], 0x6420);
  r[ODD] = __byte_perm(x[0], x[1], 0x7531);
  r[DEEP] = __byte_perm(x[2], x[3], 0x6420);
  r[3] = __byte_perm(x[2], x[3], 0x7531);
}
"""

_ROUND = """
__device__ __forceinline__ void einfall_tf32(unsigned* r) {
  for (int i = 0; i < 4; ++i)
    asm volatile("cvt.rna.tf32.f32 %0, %1;" : "=r"(r[i]) : "f"(__uint_as_float(r[i])));
}
"""

_WORD = """
__device__ __forceinline__ void einfall_load_word(unsigned* r, unsigned address) {
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(r[0]) : "r"(address));
}
"""


_TWO_WORDS = """
__device__ __forceinline__ void einfall_load_two(unsigned* r, unsigned address) {
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address));
}
"""


def order_of(size: int, *, along: bool, paired: bool) -> Order:
    """How a panel must lie, of elements of so many bytes; ``along`` and ``paired`` as in :class:`Staged`."""
    if paired and size == 4:
        return Order.WORDS if along else Order.PAIRS
    return Order.LINES if along else {1: Order.BYTES, 4: Order.WORDS}.get(size, Order.LINES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """An operand in shared memory from ``address`` (uint32) on; ``along``: its lines are of k, else k runs from line to
    line. ``paired``: of eight k of 32 bits, those that the instruction takes for t and t + 4 are numbers 2 t and 2 t + 1."""

    panel: Panel
    along: bool
    address: tirx.Expr
    paired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Numbers of a lane, int32: ``low`` to ``upper``, its lowest three bits and the next two, tell ``ldmatrix`` which line of
    which of four matrices it points to; ``group`` and ``member`` are its number divided by 4, and the rest."""

    low: tirx.Expr
    odd: tirx.Expr
    upper: tirx.Expr
    group: tirx.Expr
    member: tirx.Expr

    @staticmethod
    def of(s: Statements, team: Team) -> Lane:
        lane = narrow(s, team.thread)
        odd, upper = ((lane >> i32(bit)) & i32(1) for bit in (3, 4))
        return Lane(
            low=s.share(lane & i32(7)),
            odd=s.share(odd),
            upper=s.share(upper),
            group=s.share((lane >> i32(2)) & i32(7)),
            member=s.share(lane & i32(3)),
        )


def load_left(s: Statements, to: tirx.Buffer, at: tirx.Expr | int, a: Staged, row: tirx.Expr, k: tirx.Expr, lane: Lane) -> None:
    """The fragment of A, 16 rows from ``row`` on of step ``k`` of the depth, into registers ``at`` to ``at + 3`` of ``to``."""
    _load(s, to, at, a, row, k, lane, left=True)


def load_right(
    s: Statements, to: tirx.Buffer, at: tirx.Expr | int, b: Staged, column: tirx.Expr, k: tirx.Expr, lane: Lane
) -> None:
    """Two fragments of B side by side, 2 · 8 columns from ``column`` on of step ``k`` of the depth, two registers each."""
    _load(s, to, at, b, column, k, lane, left=False)


def _load(
    s: Statements, to: tirx.Buffer, at: tirx.Expr | int, staged: Staged, first: tirx.Expr, k: tirx.Expr, lane: Lane,
    *, left: bool,
) -> None:  # fmt: skip
    panel, deep_step = staged.panel, STEP // 2 // staged.panel.size
    # Which half of the rows or columns, which half of k: the first two registers of A differ in its rows, those of B in k.
    own, deep = (lane.odd, lane.upper) if left else (lane.upper, lane.odd)
    line = k * (STEP // panel.size)
    match staged.along, panel.size:
        case True, 4 if staged.paired:
            for n in range(2):
                place = panel.element(first + n * 8 + lane.group, line + lane.member * 2) * panel.size
                _call(s, "einfall_load_two", _TWO_WORDS, to, at + n * 2, staged, place)
        case True, _:
            _call(s, "einfall_load", _LOAD, to, at, staged, panel.place(first + own * 8 + lane.low, k * 2 + deep))
        case False, 1:
            # Lanes of a matrix point to two lines out of four, those of the next one to the other two.
            line = line + lane.upper * deep_step + lane.odd * 2 + (lane.low >> i32(1)) * 4 + (lane.low & i32(1))
            side, odd, deeper = ("left", "1", "2") if left else ("right", "2", "1")
            source = _BYTES.replace("SIDE", side).replace("ODD", odd).replace("DEEP", deeper)
            _call(s, f"einfall_load_bytes_{side}", source, to, at, staged, panel.place(line, first >> i32(4)))
        case False, 2:
            place = panel.place(line + deep * deep_step + lane.low, (first >> i32(3)) + own)
            _call(s, "einfall_load_trans", _TRANSPOSED, to, at, staged, place)
        case _:
            for n in range(4):
                half, below = (n % 2, n // 2) if left else (n // 2, n % 2)
                own_line = lane.member * 2 + below if staged.paired else lane.member + below * deep_step
                place = panel.element(line + own_line, first + half * 8 + lane.group) * panel.size
                _call(s, "einfall_load_word", _WORD, to, at + n, staged, place)
    if panel.size == 4:
        round_four(s, to, at)


def round_four(s: Statements, to: tirx.Buffer, at: tirx.Expr | int) -> None:
    """Four f32 in registers to tf32."""
    s.evaluate(cuda_func_call("einfall_tf32", register(to, at), source_code=_ROUND))


def _call(
    s: Statements, name: str, source: str, to: tirx.Buffer, at: tirx.Expr | int, staged: Staged, place: tirx.Expr
) -> None:
    s.evaluate(cuda_func_call(name, register(to, at), beyond(staged.address, place), source_code=source))


def register(buffer: tirx.Buffer, at: tirx.Expr | int) -> tirx.Expr:
    """The address of an element of a buffer of registers."""
    return tirx.address_of(tirx.BufferLoad(buffer, [index(at) if isinstance(at, int) else at]))
