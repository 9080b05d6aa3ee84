"""Panels: pieces of a matrix that the threads of a block copy from global into shared memory, 16 bytes at a time.

A panel has ``lines`` lines of ``width`` elements, those that lie side by side in global memory. In shared memory it lies in
slabs of 128 bytes of every line, one slab behind the other; of each line the chunks of 16 bytes are permuted by an exclusive or
with the line's number, so that eight lines of one chunk, which ``ldmatrix`` reads, lie in different banks, as do the eight
chunks of a line, which eight threads write. That is the order which ``wgmma`` calls a swizzle of 128 bytes (PTX ISA, section
Shared Memory Matrix Layout), where lines have as many.

Copies are asynchronous (``cp.async``): :func:`copy` begins them, :func:`commit` closes a group of them, :func:`wait` waits for
the calling thread's groups, and a barrier must follow before other threads read what has arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx.stmt import ForKind

from ...ir.expr import Expr, Read
from ...ir.index import affine_in
from ..context import Context
from ..expressions import Evaluator
from ..microkernels.statements import Statements, as_index, both, constant, index
from ..views import moves_along
from .statements import DeviceStatements, Team

CHUNK = 16
"""Bytes that one thread copies at a time, to and from multiples of as many."""

SLAB = 128
"""Bytes after which the banks of shared memory repeat (CUDA C++ Programming Guide, section Shared Memory)."""

_COPY = """
__device__ __forceinline__ void einfall_copy16(unsigned to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(bytes));
}
"""

_GATHER = """
__device__ __forceinline__ void einfall_gatherBYTES(void* to, const void* from, int bytes) {
#pragma unroll 1
  for (int half = 0; half < 16; half += 8) {
    unsigned words[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; i += BYTES)
      if (half + i < bytes)
        words[i / 4] |= unsigned(*reinterpret_cast<const WORD*>(static_cast<const char*>(from) + half + i)) << (i % 4 * 8);
    *reinterpret_cast<uint2*>(static_cast<char*>(to) + half) = make_uint2(words[0], words[1]);
  }
}
"""

_WORDS = {1: "unsigned char", 2: "unsigned short", 4: "unsigned"}

_ADDRESS = """
__device__ __forceinline__ unsigned einfall_shared(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
"""

_ALIGNED = """
__device__ __forceinline__ int einfall_aligned(const void* p, long long step, int bytes) {
  return ((reinterpret_cast<unsigned long long>(p) | static_cast<unsigned long long>(step)) & (bytes - 1)) == 0;
}
"""


def i32(value: int) -> tirx.Expr:
    """A constant of the type in which places in shared memory are computed."""
    return tirx.IntImm("int32", value)


def narrow(s: Statements, value: tirx.Expr) -> tirx.Expr:
    """A number below 2³¹, in 32 bits, computed once."""
    return s.share(tirx.Cast("int32", value))


def _log2(power: int) -> int:
    return power.bit_length() - 1


class Order(Enum):
    """Which lines have their chunks in different banks: eight that follow each other; those that are read at once where
    elements of 8 or of 32 bits are transposed (``operand_loads.py``), numbers 0, 1, 4, 5, 8, 9, 12, 13 or four lines and two
    chunks; the same where the four are every other one of eight."""

    LINES = "lines"
    BYTES = "bytes"
    WORDS = "words"
    PAIRS = "pairs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A matrix in shared memory: ``lines`` and ``width`` are powers of two, at least 8 and 16 bytes; ``size`` is the bytes of
    an element. Where lines are shorter than a slab, as many as fill one follow each other."""

    lines: int
    width: int
    size: int
    order: Order = Order.LINES

    @property
    def bytes(self) -> int:
        return self.lines * self.width * self.size

    @property
    def across(self) -> int:
        """Chunks of a line in one slab."""
        return min(SLAB, self.width * self.size) // CHUNK

    @property
    def elements(self) -> int:
        """Of a chunk."""
        return CHUNK // self.size

    @property
    def period(self) -> int:
        """Lines after which the order of chunks repeats."""
        return 16 if self.order is Order.BYTES else 8

    def place(self, line: tirx.Expr, chunk: tirx.Expr) -> tirx.Expr:
        """Where a chunk of a line begins, in bytes from the panel's beginning; int32, as its arguments."""
        per = self.across
        if self.order is Order.PAIRS:  # of eight lines those of even numbers come first
            line = (line & i32(~7)) | ((line & i32(6)) >> i32(1)) | ((line & i32(1)) << i32(2))
        slab, own = chunk >> i32(per.bit_length() - 1), chunk & i32(per - 1)
        turned = own ^ (self._key(line) & i32(per - 1)) if per > 1 else own
        inside = line * (per * CHUNK) + turned * CHUNK
        return inside if self.width * self.size <= SLAB else slab * (self.lines * SLAB) + inside

    def _key(self, line: tirx.Expr) -> tirx.Expr:
        """What the numbers of a line's chunks are changed by. The lowest bits of the line's number, as many as lines shorter
        than a slab need, tell its place in the slab; the others are the key."""
        skip = (SLAB // CHUNK // self.across).bit_length() - 1
        match self.order:
            case Order.LINES:
                return line >> i32(skip)
            case Order.BYTES:  # bits 0, 2 and 3 of the line's number
                return (line & i32(1)) | ((line >> i32(1)) & i32(6)) if skip == 0 else line >> i32(skip + 1)
            case Order.WORDS | Order.PAIRS:
                return ((line & i32(3)) >> i32(skip)) << i32(1)

    def element(self, line: tirx.Expr, column: tirx.Expr) -> tirx.Expr:
        """Where an element lies, counted in elements from the panel's beginning; int32, as its arguments."""
        per = self.elements
        place = self.place(line, column >> i32(per.bit_length() - 1)) >> i32(self.size.bit_length() - 1)
        return place + (column & i32(per - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines(Panel):
    """A panel whose lines follow each other, with a gap of four elements: elements that are copied one by one lie in different
    banks, four neighbours of eight lines."""

    @property
    def pitch(self) -> int:
        """Elements from line to line."""
        return self.width + 4

    @property
    def bytes(self) -> int:
        return self.lines * self.pitch * self.size

    def element(self, line: tirx.Expr, column: tirx.Expr) -> tirx.Expr:
        return line * self.pitch + column


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where a panel is staged: its ``address`` (uint32), which is byte ``start`` (int32) of the elements ``raw``."""

    address: tirx.Expr
    raw: tirx.Buffer
    start: tirx.Expr


Bring = Callable[[DeviceStatements, int, tirx.Expr, Slot], None]
"""Begins to bring an operand's panel of a step to a slot: (statements, 0 for the left operand, the step, the slot)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A matrix in global memory: element (line, column) is number ``origin + line · stride + column`` of ``flat``; there are
    ``lines`` of ``width`` elements. All are int64."""

    flat: tirx.Buffer
    origin: tirx.Expr
    stride: tirx.Expr
    lines: tirx.Expr
    width: tirx.Expr
    size: int


def lies_along(context: Context, read: Expr, line: str, column: str) -> bool:
    """Whether an operand is read as it lies in global memory, element by element along the rank ``column``, at one step from
    line to line."""
    if not isinstance(read, Read) or read.tensor not in context.views or context.views[read.tensor].flat.scope() != "global":
        return False
    forms = [affine_in(i, (line, column)) for i in read.indices]
    if not forms or None in forms or not moves_along(read, column) or constant(context.views[read.tensor].strides[-1]) != 1:
        return False
    return not any(column in form.ranks for form in forms[:-1] if form is not None)


def source_of(
    s: Statements,
    context: Context,
    read: Read,
    line: str,
    column: str,
    variables: Mapping[str, tirx.Expr],
    lines: tirx.Expr,
    width: tirx.Expr,
) -> Source:
    """The matrix that an operand is (:func:`lies_along`) at the point of all other ranks that ``variables`` tell."""
    view = context.views[read.tensor]
    at = context.evaluator(s, {**variables, line: index(0), column: index(0)})
    origin = s.bind("origin", at.offset(read.tensor, read.indices))
    stride = stride_along(s, at, context, read, line, (line, column))
    size = view.dtype.bits // 8
    return Source(flat=view.flat, origin=origin, stride=stride, lines=lines, width=width, size=size)


def stride_along(s: Statements, at: Evaluator, context: Context, read: Read, rank: str, ranks: Sequence[str]) -> tirx.Expr:
    """Elements from one point of ``rank`` to the next, for a read whose indices are affine in ``ranks``, among them this."""
    stride: tirx.Expr = index(0)
    for each, step in zip(read.indices, context.views[read.tensor].strides, strict=True):
        form = affine_in(each, ranks)
        assert form is not None
        if rank in form.ranks:
            stride = stride + as_index(at.value(form.coefficient(rank))) * step
    return s.bind("stride", stride)


def aligned(source: Source, bytes_: int = CHUNK) -> tirx.Expr:
    """Whether every line begins at a multiple of so many bytes, a power of two: 0 or 1, an int32."""
    first = tirx.address_of(tirx.BufferLoad(source.flat, [source.origin]))
    step = source.stride * source.size
    return cuda_func_call("einfall_aligned", first, step, i32(bytes_), source_code=_ALIGNED, return_type="int32")


def address(s: Statements, buffer: tirx.Buffer, byte: tirx.Expr | int = 0) -> tirx.Expr:
    """The address of a byte of a buffer of bytes in shared memory, as instructions take it: uint32."""
    at = index(byte) if isinstance(byte, int) else as_index(byte)
    pointer = tirx.address_of(tirx.BufferLoad(buffer, [at]))
    return s.share(cuda_func_call("einfall_shared", pointer, source_code=_ADDRESS, return_type="uint32"))


def beyond(to: tirx.Expr, byte: tirx.Expr) -> tirx.Expr:
    """An address so many bytes (int32) further on."""
    return to + tirx.Cast("uint32", byte)


def copy(
    s: DeviceStatements, team: Team, panel: Panel, to: tirx.Expr, source: Source, line: tirx.Expr, column: tirx.Expr
) -> None:
    """Begins to copy the panel of ``source`` whose first element is (line, column), both multiples of a chunk, to the address
    ``to`` in shared memory. What lies beyond the matrix is 0. All threads of the team, a power of two, take part."""
    with _chunks(s, team, panel, source, line, column) as (place, from_, bytes_):
        copy_chunk(s, beyond(to, place), from_, bytes_)


def gather(
    s: DeviceStatements, team: Team, panel: Panel, slot: Slot, source: Source, line: tirx.Expr, column: tirx.Expr
) -> None:
    """Copies as :func:`copy` does, but at once, and from lines that begin anywhere: the elements of half a chunk one by one,
    and one half after the other, since the registers may be full of tiles."""
    code = _GATHER.replace("WORD", _WORDS[panel.size]).replace("BYTES", str(panel.size))
    with _chunks(s, team, panel, source, line, column, rolled=True) as (place, from_, bytes_):
        first = as_index((slot.start + place) >> i32(_log2(panel.size)))
        to = tirx.address_of(tirx.BufferLoad(slot.raw, [first]))
        s.evaluate(cuda_func_call(f"einfall_gather{panel.size}", to, from_, bytes_, source_code=code))


@contextmanager
def _chunks(
    s: DeviceStatements, team: Team, panel: Panel, source: Source, line: tirx.Expr, column: tirx.Expr, *, rolled: bool = False
) -> Iterator[tuple[tirx.Expr, tirx.Expr, tirx.Expr]]:
    """A thread's chunks of a panel: where each lies in it, in bytes; its address in global memory; its bytes that count."""
    thread = narrow(s, team.thread)
    lines = narrow(s, tirx.min(source.lines - line, index(panel.lines)))
    width = narrow(s, tirx.max(tirx.min(source.width - column, index(panel.width)), index(0)))
    per, total, bits = panel.across, panel.bytes // CHUNK, _log2(panel.lines)
    # From one of a thread's chunks to the next there are as many lines each time: where they are differs by constants and by
    # multiples of the stride, which are all that is computed for each.
    apart = team.threads // per
    row = s.share(thread >> i32(_log2(per)))
    own, slab = (row, i32(0)) if apart <= panel.lines else (s.share(row & i32(panel.lines - 1)), s.share(row >> i32(bits)))
    chunk = s.share(slab * per + (thread & i32(per - 1)))
    place = s.share(panel.place(own, chunk))
    across = s.share(chunk * panel.elements)
    begin = s.bind("begin", source.origin + (line + as_index(own)) * source.stride + column + as_index(across))
    below, beside = s.share(lines - own), s.share(width - across)
    known = constant(source.width)
    kind = ForKind.SERIAL if rolled else ForKind.UNROLLED
    with s.loop("turn", -(-total // team.threads), kind=kind, rolled=rolled) as turn:
        further = s.share(tirx.Cast("int32", turn) * i32(apart))
        down, slabs = further & i32(panel.lines - 1), further >> i32(bits)
        right = slabs * (SLAB // panel.size)
        inside: tirx.Expr | bool = below > down
        bytes_: tirx.Expr = i32(CHUNK)
        if known is None or known % panel.elements:
            bytes_ = tirx.max(tirx.min(beside - right, i32(panel.elements)), i32(0)) * panel.size
        elif constant(column) != 0 or known < panel.width:
            inside = both(inside, beside > right)
        with s.when(True if total >= team.threads else thread < i32(total)):
            if apart % panel.period == 0 or total <= team.threads:
                at = place + down * (per * CHUNK) + slabs * (panel.lines * SLAB)
            else:
                at = panel.place(own + down, chunk + slabs * per)
            from_ = tirx.address_of(tirx.BufferLoad(source.flat, [begin + as_index(down) * source.stride + as_index(right)]))
            yield at, from_, tirx.Select(inside, bytes_, i32(0))


def copy_chunk(s: Statements, to: tirx.Expr, from_: tirx.Expr, bytes_: tirx.Expr) -> None:
    """Begins to copy 16 bytes from one address to another, both aligned; only the first ``bytes_`` (int32) are read, the others
    are 0."""
    s.evaluate(cuda_func_call("einfall_copy16", to, from_, bytes_, source_code=_COPY))


def ordered(s: Statements, name: str, instruction: str) -> None:
    """An instruction without operands, across which the compiler moves no access to memory."""
    source = f"""
__device__ __forceinline__ void einfall_{name}() {{
  asm volatile("{instruction};" ::: "memory");
}}
"""
    s.evaluate(cuda_func_call(f"einfall_{name}", source_code=source))


def commit(s: Statements) -> None:
    """Closes a group: the copies that this thread has begun since the last one."""
    ordered(s, "commit", "cp.async.commit_group")


def wait(s: Statements, left: int) -> None:
    """Waits until at most the ``left`` youngest groups of this thread are under way."""
    ordered(s, f"wait_{left}", f"cp.async.wait_group {left}")


def pipeline(
    s: DeviceStatements,
    steps: tirx.Expr,
    stages: int,
    stage: Callable[[DeviceStatements, tirx.Expr, tirx.Expr], None],
    use: Callable[[DeviceStatements, tirx.Expr], None],
) -> None:
    """``use`` of every step's panels, while those of later steps arrive: ``stage`` begins to bring those of a step to a slot,
    of which there are ``stages``. The threads meet once in each turn, twice with one slot.

    The turns in which the first slots fill are turns of the same loop, so that there is one copy of the code of ``stage``.
    """
    if stages == 1:
        with s.loop("step", steps) as step:
            s.barrier()
            stage(s, step, i32(0))
            commit(s)
            wait(s, 0)
            s.barrier()
            use(s, i32(0))
        return
    ahead = stages - 1
    with s.loop("turn", s.bind("turns", steps + ahead)) as turn:
        wait(s, stages - 2)  # the step that is used in this turn has arrived, for this thread
        s.barrier()  # and for all; and all are done with the slot that is filled now
        number = narrow(s, turn)
        with s.when(turn < steps):
            stage(s, turn, s.share(tirx.truncmod(number, i32(stages))))
        commit(s)
        with s.when(turn >= ahead):
            use(s, s.share(tirx.truncmod(number + 1, i32(stages))))
