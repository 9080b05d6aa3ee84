"""Finished sums of a block's tile on their way to global memory: four neighbours of a row by one thread, in one store where
they may lie side by side. Lanes of a warp then write whole lines of memory.

Fragments have two neighbours in a thread (``mma.py``); sums are exchanged through shared memory, 16 rows of a warp at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx.stmt import ForKind

from ...ir.expr import Read
from ...ir.tile import Compute
from ..context import Context, Variables
from ..element import stored
from ..microkernels.statements import Statements, index
from .staging import aligned, i32, lies_along, source_of
from .statements import DeviceStatements

TOGETHER = 4
"""Neighbours of a row that one thread writes."""

_STORE = """
__device__ __forceinline__ void einfall_store_BYTES(void* to, const void* from) {
  TYPE held;
  memcpy(&held, from, BYTES);
  *static_cast<TYPE*>(to) = held;
}
"""

_MEET = """
__device__ __forceinline__ void einfall_warp() {
  __syncwarp();
}
"""

_MOVE = """
__device__ __forceinline__ void einfall_move_TYPECOUNT(TYPE* to, const TYPE* from) {
  *reinterpret_cast<TYPECOUNT*>(to) = *reinterpret_cast<const TYPECOUNT*>(from);
}
"""

_WORDS = {4: "unsigned", 8: "uint2", 16: "uint4"}


def pitch(columns: int, apart: int) -> int:
    """Words from one row of a warp's sums to the next, of so many columns: ``apart``, modulo 32."""
    return columns + (apart - columns) % 32


def meet(s: Statements) -> None:
    """The threads of a warp have come here, and see what the others wrote."""
    s.evaluate(cuda_func_call("einfall_warp", source_code=_MEET))


def move(s: Statements, numbers: str, count: int, to: tirx.Expr, from_: tirx.Expr) -> None:
    """``count`` words, 2 or 4, of float32 or int32 ``numbers`` from one address to another, in one access each; both are
    multiples of as many words."""
    kind = numbers.removesuffix("32")
    source = _MOVE.replace("TYPE", kind).replace("COUNT", str(count))
    s.evaluate(cuda_func_call(f"einfall_move_{kind}{count}", to, from_, source_code=source))


def can_store(size: int) -> bool:
    """Whether there is a store of so many bytes."""
    return size in _WORDS


def store_together(s: Statements, flat: tirx.Buffer, place: tirx.Expr, made: tirx.Buffer, size: int) -> None:
    """All of ``made``, ``size`` bytes in registers (:func:`can_store`), to ``flat`` from element ``place`` on, aligned."""
    source = _STORE.replace("BYTES", str(size)).replace("TYPE", _WORDS[size])
    to, from_ = (tirx.address_of(tirx.BufferLoad(b, [at])) for b, at in ((flat, place), (made, index(0))))
    s.evaluate(cuda_func_call(f"einfall_store_{size}", to, from_, source_code=source))


Value = Callable[[Statements, Variables, tirx.Expr], tirx.Expr]
"""What becomes of a finished sum at a point, as its target holds it."""

Finish = Callable[[Statements, Variables, tirx.Expr], None]
"""Stores the finished sum of a point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Writes sums of C[m, n] into the target of a Compute, :data:`TOGETHER` of a row at a time; ``rows`` and ``columns`` are
    the extents of C."""

    context: Context
    compute: Compute
    variables: Variables
    rows: tirx.Expr
    columns: tirx.Expr
    value: Value
    finish: Finish
    together: tirx.Expr | None  # whether four neighbours may be stored at once: an int32; None: never

    @staticmethod
    def at(
        s: Statements, context: Context, compute: Compute, variables: Variables, extents: tuple[tirx.Expr, tirx.Expr],
        value: Value, finish: Finish,
    ) -> Rows:  # fmt: skip
        """At one point of the batch."""
        product = compute.product
        assert product is not None and product.rows is not None and product.columns is not None
        target = Read(tensor=compute.target, indices=compute.indices, dtype=context.views[compute.target].dtype)
        size = target.dtype.bits // 8
        together = None
        plain = compute.condition is None and compute.within is None and can_store(TOGETHER * size)
        if plain and lies_along(context, target, product.rows, product.columns):
            source = source_of(s, context, target, product.rows, product.columns, variables, *extents)
            together = s.share(aligned(source, TOGETHER * size))
        return Rows(
            context=context, compute=compute, variables=variables, rows=extents[0], columns=extents[1], value=value,
            finish=finish, together=together,
        )  # fmt: skip

    def write(self, s: DeviceStatements, i: tirx.Expr, j: tirx.Expr, sums: tirx.Buffer) -> None:
        """The four sums of row ``i`` from column ``j`` on."""
        product = self.compute.product
        assert product is not None and product.rows is not None and product.columns is not None
        here = {**self.variables, product.rows: i}
        with s.when(i < self.rows):
            if self.together is None:
                with s.loop("e", TOGETHER, kind=ForKind.UNROLLED) as e, s.when(j + e < self.columns):
                    at = {**here, product.columns: s.bind("j", j + e)}
                    self.finish(s, at, s.share(tirx.BufferLoad(sums, [e])))
                return
            view = self.context.views[self.compute.target]
            made = s.allocate("made", (TOGETHER,), stored(view.dtype), scope="local")
            with s.loop("e", TOGETHER, kind=ForKind.UNROLLED) as e, s.when(j + e < self.columns):
                at = {**here, product.columns: s.bind("j", j + e)}
                s.store(made, e, self.value(s, at, s.share(tirx.BufferLoad(sums, [e]))))
            first = self.context.evaluator(s, {**here, product.columns: j})
            place = s.bind("place", first.offset(self.compute.target, self.compute.indices))
            whole = s.share(tirx.Select(j + TOGETHER <= self.columns, self.together, i32(0)))
            with s.when(tirx.NE(whole, i32(0))):
                store_together(s, view.flat, place, made, TOGETHER * view.dtype.bits // 8)
            alone = tirx.EQ(whole, i32(0))
            with s.loop("e", TOGETHER, kind=ForKind.UNROLLED) as e, s.when(tirx.And(alone, j + e < self.columns)):
                s.store(view.flat, place + e, tirx.BufferLoad(made, [e]))
