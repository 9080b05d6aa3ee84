"""The blocking of a matrix product, from the machine's registers and caches (no search).

The scheme is that of K. Goto and R. van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (ACM TOMS
34(3), 2008); the way of deriving sizes follows T. M. Low et al., "Analytical Modeling Is Enough for High-Performance
BLIS" (ACM TOMS 43(2), 2016), here with row-major results: vectors run along the columns of C.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import Protocol

from .layouts import PanelLayout
from .machine import Machine
from .microkernels import BY_NAME, FEW_ROWS, PANEL, WORDS
from .target import Target
from .types import F32, DType

BYTES = {"float32": 4, "float64": 8}

WAYS = 16
"""Lines of a set of L2; caches with 8 are taken for half as large."""


class CpuFacts(Protocol):
    """What the plan needs to know of a CPU. Caches in bytes per core; `threads` is how many workers share one
    product."""

    @property
    def vector_bits(self) -> int: ...
    @property
    def vector_registers(self) -> int: ...
    @property
    def has_fma(self) -> bool: ...
    @property
    def l1_bytes(self) -> int: ...
    @property
    def l2_bytes(self) -> int: ...
    @property
    def threads(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmPlan:
    """Knobs of one product, in elements. Every value only changes speed, except `kc`, `lanes` and `fused`, which fix
    the rounding."""

    lanes: int
    """Elements of a vector register."""
    mr: int
    """Rows of the register tile."""
    nv: int
    """Vectors in a row of the register tile."""
    kc: int
    """Depth of a packed block: a panel of B (kc × nr) stays in L1."""
    mc: int
    """Rows of a block of C (mc × nc), which stays in L2 while the depth passes."""
    nc: int
    """Columns of a block of C."""
    threads: int
    """Tasks that the result is cut into when the product runs in parallel."""
    unroll: int
    """Steps of k in one turn of the innermost loop."""
    skinny: int
    """Products with at most so many rows or columns go over the large operand once, unpacked; 0: none."""
    fused: bool
    """Whether a · b + c is rounded once."""
    alias: int = 0
    """Distance of elements that share a set of L2, each set with WAYS lines; 0: not known."""
    keep: int = 1 << 22
    """Elements of a packed operand that one task keeps for the next block of C."""
    unit: int = 1
    """What the depth of every block is a multiple of; it divides kc and the whole depth."""
    shallow: bool = False
    """Whether k never exceeds kc: sums are complete after one block of the depth."""
    near: int = 0
    """Elements that a quarter of L2 holds: sums that wait for the next block of the depth."""
    again: bool = False
    """Whether the product is repeated with the same large operand, which then lies in a cache and is not asked for ahead."""

    @property
    def nr(self) -> int:
        """Columns of the register tile."""
        return self.nv * self.lanes

    def crowds(self, stride: int) -> bool:
        """Whether a block of C whose rows are ``stride`` elements apart takes more than half of the lines of those sets of L2
        that it falls upon: strides that are powers of two do."""
        return self.alias > 0 and self.mc * gcd(stride, self.alias) > WAYS // 2 * self.alias


@dataclass(frozen=True, slots=True, kw_only=True)
class DotPlan:
    """Knobs of one product, in elements; none of them changes a bit of the result."""

    kc: int
    """Depth of a block of B."""
    nc: int
    """Columns of a block of B (kc × nc): it stays in L2 while A's panels stream past."""
    packed: int
    """Bytes that the packed rows of A may take; more rows are done in turns."""
    threads: int
    """Tasks that the result is cut into when the product runs in parallel."""
    mr: int = PANEL
    """Rows of a block of sums."""


def plan_gemm(facts: CpuFacts, dtype: str, m: int | None = None, n: int | None = None, k: int | None = None) -> GemmPlan:
    """The plan for C[m, n] = A[m, k] · B[k, n] accumulated in `dtype` ("float32" or "float64"); None is a size known
    at run time; others are upper bounds.

    - Register tile: nv = 4 vectors where there are 32 registers, else 2, and the most rows mr (even) that leave a register
      for the broadcast element of A and nv for B. Its mr · nv independent sums must exceed latency times FMA units, 8 on
      today's cores; of the shapes that do, wide ones need the fewest instructions for a multiply-add.
    - kc: a panel of B fills two thirds of L1; A's panel, which streams past it, and C take the rest.
    - mc, nc: a step of B (kc × nc) takes a quarter of L2, and so do the block of C (mc × nc) and, at most, that of
      A (mc × kc); the last quarter is for what has been asked for ahead of its use.

    The fractions are ours: near them speed hardly changes.
    """
    size = BYTES[dtype]
    lanes = max(1, facts.vector_bits // (8 * size))
    nv = 4 if facts.vector_registers >= 32 else 2
    mr = max(1, (facts.vector_registers - nv - 1) // nv)
    mr -= mr % 2 if mr > 2 else 0
    nr = nv * lanes
    kc = max(lanes, _down(2 * facts.l1_bytes // 3 // (nr * size), lanes))
    if k is not None:
        kc = max(1, min(kc, -(-k // max(1, -(-k // kc)))))
    nc = max(nr, _down(facts.l2_bytes // 4 // (kc * size), nr))
    if n is not None:
        nc = min(nc, _up(max(n, 1), nr))
    mc = max(mr, _down(facts.l2_bytes // 4 // (max(nc, kc) * size), mr))
    if m is not None:
        mc = min(mc, _up(max(m, 1), mr))
    return GemmPlan(
        lanes=lanes,
        mr=mr,
        nv=nv,
        kc=kc,
        mc=mc,
        nc=nc,
        threads=facts.threads,
        unroll=4,
        skinny=FEW_ROWS,
        fused=facts.has_fma,
        shallow=k is not None and k <= kc,
        alias=facts.l2_bytes // WAYS // size,
    )


def plan_window(facts: CpuFacts, dtype: str, taps: int, n: int | None = None) -> GemmPlan:
    """The plan for a product whose steps come in groups of ``taps``, which no block of the depth may part.

    Where all columns fit one panel, A is read once, in rows of kc elements: long ones are what the hardware asks for ahead.
    A block of C has one panel of columns: it is multiplied by all rows while it lies in L1, where it was packed.
    """
    plan = plan_gemm(facts, dtype)
    deep = max(taps, _down(plan.kc if n is None or n > plan.nr else 4 * plan.kc, taps))
    mc = max(plan.mr, _down(facts.l2_bytes // 4 // (max(plan.nr, plan.kc) * BYTES[dtype]), plan.mr))
    return replace(plan, kc=deep, nc=plan.nr, mc=mc, unit=taps, skinny=0)


def plan_points(facts: CpuFacts, dtype: str, taps: int) -> GemmPlan:
    """The plan for a window whose weights are packed: points are in the rows of the register tile, a panel of weights in L1.

    No block of the depth parts the ``taps`` of a channel.
    """
    plan = plan_gemm(facts, dtype)
    deep = max(taps, _down(plan.kc, taps))
    unroll = 3 if taps % 3 == 0 else plan.unroll  # which divides the depth of a block where that is possible
    return replace(plan, kc=deep, unit=taps, skinny=0, unroll=unroll, near=facts.l2_bytes // 4 // BYTES[dtype])


def plan_dot(*, bits: int, l2_bytes: int, threads: int, n: int | None = None, k: int | None = None) -> DotPlan:
    """The plan for operands of `bits` bits an element; `n` and `k` are upper bounds of the sizes where these are known.

    A block of B takes half of L2; its depth is such that at least four panels fit, because a panel of A is read from beyond
    L2 once for each block. Packed A may be eight times L2: it is read in long ascending streams.
    """
    step = WORDS * 32 // bits
    bytes_of = bits // 8
    kc = max(step, l2_bytes // 2 // (4 * PANEL * bytes_of) // step * step)
    if k is not None:
        kc = min(kc, -(-max(k, 1) // step) * step)
    nc = max(PANEL, l2_bytes // 2 // (kc * bytes_of) // PANEL * PANEL)
    if n is not None:
        nc = min(nc, -(-max(n, 1) // PANEL) * PANEL)
    return DotPlan(kc=kc, nc=nc, packed=8 * l2_bytes, threads=threads)


def panels(target: Target, kernel: str, right: DType, accumulator: DType) -> PanelLayout | None:
    """The layout in which a micro-kernel takes a right operand that was packed ahead of time; None where it takes none.

    Multiply-adds take one of the type of the sums only: a narrower one would be held at twice its size. The weights of a window
    are, by :func:`weight_panels`.
    """
    if kernel in BY_NAME:
        return PanelLayout(columns=PANEL, steps=WORDS * 32 // right.bits, bits=right.bits, notes=right.is_float)
    if right != accumulator or right.name not in ("f32", "f64"):
        return None
    plan = plan_gemm(Machine(target=target), summed(right))
    return PanelLayout(columns=plan.nr, steps=plan.lanes, bits=right.bits)


def weight_panels(target: Target, kernel: str, weights: DType, accumulator: DType) -> PanelLayout | None:
    """The same for the weights of a window: those of narrower floats are held as they are summed up."""
    narrow = kernel not in BY_NAME and accumulator == F32 and weights.is_float and weights.bits < 32
    return panels(target, kernel, F32 if narrow else weights, accumulator)


def is_panels(layout: PanelLayout, right: DType) -> bool:
    """Whether :func:`panels` or :func:`weight_panels` gives such a layout for elements of a type, for some machine."""
    if right.is_float and right.bits < 32 and layout.bits == 32:
        right = F32
    if layout.bits != right.bits or layout.notes != (layout.words and right.is_float):
        return False
    if layout.words:
        return layout == PanelLayout(columns=PANEL, steps=WORDS * 32 // right.bits, bits=right.bits, notes=right.is_float)
    vector = layout.steps * layout.bits
    return right.name in ("f32", "f64") and vector.bit_count() == 1 and layout.columns in (2 * layout.steps, 4 * layout.steps)


def summed(accumulator: DType) -> str:
    """The type in which multiply-adds sum up floats that are accumulated in another."""
    return "float64" if accumulator.bits == 64 else "float32"


def plan_dot_window(*, bits: int, l2_bytes: int, threads: int, n: int | None = None, k: int | None = None) -> DotPlan:
    """The plan for a product whose B is a window's view of an image. A block of it takes an eighth of L2: it is packed where it
    is used, and the weights that stream past it are seldom more than L2 holds."""
    plan = plan_dot(bits=bits, l2_bytes=l2_bytes, threads=threads, n=n, k=k)
    return replace(plan, nc=min(plan.nc, max(PANEL, _down(l2_bytes // 8 * 8 // (plan.kc * bits), PANEL))))


def _down(value: int, multiple: int) -> int:
    return value // multiple * multiple


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
