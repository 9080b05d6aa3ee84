"""Products on sm_90 whose operands a warp of its own brings: bulk copies (TMA) into a ring of slots, ``wgmma`` out of it.

A block has two groups of four warps that multiply (:mod:`.wgmma`) and one more, of which one thread issues
``cp.async.bulk.tensor``: one instruction for 8 to 32 KB, which the copy engine writes past the load-store units. Each slot has
two barriers in shared memory (PTX ISA, section Parallel Synchronization and Communication Instructions: mbarrier): ``full``
completes when the bytes that the copying thread announced have arrived, ``empty`` when all warps that multiply are done with
them. Nobody else meets until the sums are finished. The group that copies gives its registers to the others (``setmaxnreg``).
Blocks take tiles one after the other: operands of the next one arrive while the results of the last one leave.

Limits, by arithmetic: for 64 of k a tile of 128 × 256 takes 1024 cycles of the tensor cores of an H100; ``wgmma`` reads 80 KB
of shared memory for it and the copy engine writes 48: its banks are as busy as where ``cp.async`` does the same. But nobody who
multiplies computes addresses, issues copies (96 a step in a block) or meets all others at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call

from ...ir.expr import ranks_of, reads_of
from ...ir.microkernels import BY_NAME
from ...ir.tile import Compute
from ..context import Variables
from ..microkernels.statements import Statements, ceil_div
from . import wgmma
from .mma import Exchange, exchanged
from .operand_loads import Staged
from .product import BlockProduct, Shape, scratch_of
from .staging import SLAB, address, beyond, i32, narrow, ordered
from .statements import WARP, DeviceStatements
from .tensor_maps import Mapped, Pair
from .writing import meet

COPYING = wgmma.GROUP
"""Threads that do not multiply: registers are handed over by whole groups."""

_KEPT, _TAKEN = 40, 232
"""Registers of a thread that copies and of one that multiplies: together those that 384 threads begin with, 168 each."""

_BARRIER = 8
"""Bytes of one."""

_PREFETCH = """
#ifdef __CUDACC_RTC__  // which has no cuda.h
struct alignas(64) CUtensorMap_st { unsigned long long opaque[16]; };
typedef struct CUtensorMap_st CUtensorMap;
#endif
__device__ __forceinline__ void einfall_prefetch_map(unsigned long long map) {
  asm volatile("prefetch.tensormap [%0];" :: "l"(map) : "memory");
}
"""

_INIT = """
__device__ __forceinline__ void einfall_barrier(unsigned barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(arrivals) : "memory");
}
"""

_EXPECT = """
__device__ __forceinline__ void einfall_expect(unsigned barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}
"""

_ARRIVE = """
__device__ __forceinline__ void einfall_arrive(unsigned barrier, int chosen) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %1, 0; @p mbarrier.arrive.shared::cta.b64 _, [%0]; }"
               :: "r"(barrier), "r"(chosen) : "memory");
}
"""

_AWAIT = """
__device__ __forceinline__ void einfall_await(unsigned barrier, int parity) {
  unsigned done;
  do {
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
  } while (!done);
}
"""

_BRING = """
__device__ __forceinline__ void einfall_bring_RANK(unsigned to, unsigned long long map, unsigned barrier, PARAMETERS) {
  asm volatile("cp.async.bulk.tensor.RANKd.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {PLACES}], [%2];"
               :: "r"(to), "l"(map), "r"(barrier), VALUES : "memory");
}
"""


def threads_of(shape: Shape) -> int:
    """Of a block: those that multiply, then those that copy."""
    return shape.threads + COPYING


def shared_of(compute: Compute, shape: Shape) -> int:
    """Bytes of shared memory of a block: the slots, then their barriers."""
    return scratch_of(compute, shape) + 2 * _BARRIER * shape.stages


def suits(compute: Compute, shape: Shape) -> bool:
    """Whether a product is done this way where its operands are tensors that maps describe."""
    product = compute.product
    if not shape.grouped or product is None or compute.reduced != (product.inner,):
        return False
    depth = compute.extent(product.inner)  # which the host must know
    return not any(ranks_of(depth)) and not any(True for _ in reads_of(depth))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ring:
    """Slots of ``bytes`` from ``base`` (uint32) on, ``before`` bytes (int32) after the beginning of shared memory, then the
    barriers of all: full ones, then empty ones."""

    base: tirx.Expr
    before: tirx.Expr
    bytes: int
    slots: int

    def slot(self, s: Statements, step: tirx.Expr) -> tirx.Expr:
        return s.share(tirx.truncmod(step, i32(self.slots)))

    def turn(self, step: tirx.Expr) -> tirx.Expr:
        """How often the step's slot has been filled before it, modulo 2."""
        return tirx.truncdiv(step, i32(self.slots)) & i32(1)

    def place(self, s: Statements, slot: tirx.Expr) -> tirx.Expr:
        return s.share(beyond(self.base, slot * self.bytes))

    def full(self, slot: tirx.Expr) -> tirx.Expr:
        return beyond(self.base, slot * _BARRIER + self.slots * self.bytes)

    def empty(self, slot: tirx.Expr) -> tirx.Expr:
        return self.full(slot + self.slots)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkProduct(BlockProduct):
    """A product as :class:`.product.BlockProduct`, of many tiles one after the other by a block that has more threads than the
    ``team``, which copy. ``maps`` are of its operands."""

    maps: Pair

    @staticmethod
    def of(product: BlockProduct, maps: Pair) -> BulkProduct:
        return BulkProduct(**{field.name: getattr(product, field.name) for field in fields(product)}, maps=maps)

    def tiles(
        self, s: DeviceStatements, variables: Variables, count: tirx.Expr, blocks: tirx.Expr,
        place: Callable[[DeviceStatements, tirx.Expr], tuple[Variables, tirx.Expr, tirx.Expr]],
    ) -> None:  # fmt: skip
        """The tiles of C that fall to this block of so many ``blocks``, of ``count`` in all: ``place`` tells of a number the
        point of the batch and the tile's first row and column. All threads of the block take part; the depth is not 0."""
        m, n, k = (self._extent(s, r, variables) for r in (self.product.rows, self.product.columns, self.product.inner))
        base = address(s, self.scratch)
        before = (tirx.IntImm("uint32", 0) - base) & tirx.IntImm("uint32", wgmma.ALIGNED - 1)
        size = sum(each.operand.panel.bytes for each in self.maps)
        ring = _Ring(
            base=s.share(base + before), before=s.share(tirx.Cast("int32", before)), bytes=size, slots=self.shape.stages
        )
        steps = s.bind("steps", ceil_div(k, self.shape.depth))
        rounds = s.bind("rounds", ceil_div(count - self.team.block, blocks))
        thread = narrow(s, self.team.thread)
        with s.when(tirx.EQ(thread, i32(0))):
            self._begin(s, ring)
        s.barrier()
        multiplies = s.share(wgmma.uniform(tirx.Cast("int32", thread < i32(self.team.threads))))
        with s.when(tirx.EQ(multiplies, i32(0))):
            ordered(s, "give_registers", f"setmaxnreg.dec.sync.aligned.u32 {_KEPT}")
            with s.when(tirx.EQ(thread, i32(self.team.threads))), s.loop("round", rounds) as turn:
                inside, *corner = place(s, s.bind("tile", turn * blocks + self.team.block))
                self._bring(s, ring, narrow(s, turn * steps), steps, inside, corner)
        with s.when(tirx.NE(multiplies, i32(0))):
            ordered(s, "take_registers", f"setmaxnreg.inc.sync.aligned.u32 {_TAKEN}")
            leads = s.share(tirx.Cast("int32", tirx.EQ(thread & i32(WARP - 1), i32(0))))
            with s.loop("round", rounds) as turn:
                inside, top, left = place(s, s.bind("tile", turn * blocks + self.team.block))
                work = wgmma.Groups(s, self.team, self.shape, BY_NAME[self.product.kernel], (False, False))
                last = self._multiply(s, ring, narrow(s, turn * steps), steps, work, leads)
                # The sums are handed on in the slot of the last step, while the next tile's operands come to the others.
                exchange = Exchange(start=ring.before + last * ring.bytes, columns=_together(self.shape, ring.bytes))
                self.write(s, work, inside, (top, left), (m, n), self._meet(s), exchange)
                ordered(s, "seen", "fence.proxy.async.shared::cta")
                meet(s)
                _call(s, "arrive", _ARRIVE, ring.empty(last), leads)

    def _meet(self, s: DeviceStatements) -> Callable[[], None]:
        """Those who multiply, all of them."""
        return lambda: ordered(s, "met", f"bar.sync 1, {self.team.threads}")

    def _begin(self, s: DeviceStatements, ring: _Ring) -> None:
        """By one thread, before any other uses a barrier."""
        for each in self.maps:
            s.evaluate(cuda_func_call("einfall_prefetch_map", tirx.address_of(each.handle), source_code=_PREFETCH))
        for slot in map(i32, range(ring.slots)):
            _call(s, "barrier", _INIT, ring.full(slot), i32(1))
            _call(s, "barrier", _INIT, ring.empty(slot), i32(self.team.threads // WARP))
        ordered(s, "barriers_made", "fence.mbarrier_init.release.cluster")

    def _bring(
        self, s: DeviceStatements, ring: _Ring, before: tirx.Expr, steps: tirx.Expr, variables: Variables,
        corner: Sequence[tirx.Expr],
    ) -> None:  # fmt: skip
        """All steps of both operands, by one thread, which has brought those of so many steps ``before``."""
        with s.loop("step", steps) as at:
            step = narrow(s, at)
            number = s.share(before + step)
            slot = ring.slot(s, number)
            place, full = ring.place(s, slot), s.share(ring.full(slot))
            # A slot that nobody has filled yet counts as empty: its barrier has completed the phase before the first.
            _call(s, "await", _AWAIT, ring.empty(slot), ring.turn(number) ^ i32(1))
            _call(s, "expect", _EXPECT, full, i32(ring.bytes))
            start = 0
            for each, top in zip(self.maps, corner, strict=True):
                deep, far = step * self.shape.depth, tirx.Cast("int32", top)
                column, line = (deep, far) if each.operand.along else (far, deep)
                others = [tirx.Cast("int32", variables[r]) for r in each.ranks]
                panel = each.operand.panel
                for box in range(each.boxes):
                    to = beyond(place, i32(start + box * panel.lines * SLAB))
                    _bring(s, each, to, full, [column + box * (SLAB // panel.size), line, *others])
                start += panel.bytes

    def _multiply(
        self, s: DeviceStatements, ring: _Ring, before: tirx.Expr, steps: tirx.Expr, work: wgmma.Groups, leads: tirx.Expr
    ) -> tirx.Expr:
        """All steps of a tile, of which two are under way, after so many ``before``. The slot of the last one, which is not
        said to be empty; ``leads``: whether the thread may say so for its warp."""
        starts = (0, self.maps[0].operand.panel.bytes)
        with s.loop("step", steps) as at:
            step = narrow(s, at)
            number = s.share(before + step)
            slot = ring.slot(s, number)
            place = ring.place(s, slot)
            _call(s, "await", _AWAIT, ring.full(slot), ring.turn(number))
            a, b = (
                Staged(panel=each.operand.panel, along=each.operand.along, address=beyond(place, i32(start)))
                for each, start in zip(self.maps, starts, strict=True)
            )
            work.multiply(s, a, b)
            # The step before is done. No branch: products under way would be waited for.
            done = ring.slot(s, number + (ring.slots - 1))
            _call(s, "arrive", _ARRIVE, ring.empty(done), leads & tirx.Cast("int32", step > 0))
        work.wait(s, 0)
        return ring.slot(s, before + tirx.Cast("int32", steps) + (ring.slots - 1))


def _together(shape: Shape, room: int) -> int:
    """Columns of sums that fit in so many bytes at a time."""
    return next(columns for columns in (64, 32) if exchanged(shape, columns) <= room)


def _call(s: Statements, name: str, source: str, *arguments: tirx.Expr) -> None:
    s.evaluate(cuda_func_call(f"einfall_{name}", *arguments, source_code=source))


def _bring(s: Statements, each: Mapped, to: tirx.Expr, barrier: tirx.Expr, corner: list[tirx.Expr]) -> None:
    """One box, whose first element has the coordinates ``corner``; its bytes are counted at ``barrier``."""
    rank = len(corner)
    source = (
        _BRING.replace("RANK", str(rank))
        .replace("PARAMETERS", ", ".join(f"int c{i}" for i in range(rank)))
        .replace("PLACES", ", ".join(f"%{i + 3}" for i in range(rank)))
        .replace("VALUES", ", ".join(f'"r"(c{i})' for i in range(rank)))
    )
    _call(s, f"bring_{rank}", source, to, tirx.address_of(each.handle), barrier, *corner)
