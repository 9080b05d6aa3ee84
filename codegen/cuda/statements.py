"""Statements that run on a GPU: what is private to a thread, what its block shares, and how a block's threads meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Range
from tvm.tirx import op

from ..microkernels.statements import Statements, ceil_div, constant, identifier, index

WARP = 32
"""Threads of a warp, on every architecture (CUDA C++ Programming Guide, section SIMT Architecture)."""


class DeviceStatements(Statements):
    """Builds the body of a kernel. ``local`` allocations are a thread's registers, ``shared`` ones its block's."""

    def allocate(self, name: str, shape: Sequence[int], dtype: str, *, scope: str = "global") -> tirx.Buffer:
        """A buffer that lives to the end of the scope, of scope `local`, `shared` or `shared.dyn`."""
        assert scope in ("local", "shared", "shared.dyn"), scope
        buffer = tirx.decl_buffer([index(extent) for extent in shape], dtype, name=identifier(name), scope=scope)
        self.add(tirx.AllocBuffer(buffer))
        return buffer

    def barrier(self) -> None:
        """Every thread of the block has come here, and sees what the others wrote."""
        self.evaluate(op.tvm_storage_sync("shared"))


def exchanged(value: tirx.Expr, distance: int) -> tirx.Expr:
    """The value of the thread of the warp whose number differs in the bit ``distance``; all threads of the warp take part.

    Values of 32 and 64 bits travel; narrower integers are widened.
    """
    dtype = str(value.ty.dtype)
    carried = value if dtype.endswith(("32", "64")) else tirx.Cast("int32", value)
    everyone = tirx.IntImm("uint32", 0xFFFFFFFF)
    moved = op.tvm_warp_shuffle_xor(everyone, carried, tirx.IntImm("int32", distance), WARP, WARP)
    return moved if carried is value else tirx.Cast(dtype, moved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """The threads that share the points of a Compute: those of a block, or of all blocks of a launch.

    ``thread`` and ``block`` are their numbers, ``threads`` how many a block has (whole warps). ``launch`` tells that all blocks
    share the points, each thread one.
    """

    thread: tirx.Expr
    block: tirx.Expr
    threads: int
    launch: bool = False

    @property
    def warps(self) -> int:
        return self.threads // WARP

    @property
    def warp(self) -> tirx.Expr:
        """The number of this thread's warp in its block."""
        return tirx.truncdiv(self.thread, index(WARP))

    @property
    def lane(self) -> tirx.Expr:
        """The number of this thread in its warp."""
        return tirx.truncmod(self.thread, index(WARP))

    @contextmanager
    def each(self, s: Statements, total: tirx.Expr, width: tirx.Expr, own: tirx.Expr) -> Iterator[tirx.Expr]:
        """The numbers below ``total`` that fall to one of ``width`` workers of a block, the ``own``-th. Of a launch each has
        one."""
        if self.launch:
            at = s.bind("point", self.block * width + own)
            with s.when(at < total):
                yield at
            return
        count, most = constant(total), constant(width)
        if count is not None and most is not None and count % most == 0:
            with s.loop("turn", index(count // most)) as turn:
                yield s.bind("point", turn * width + own)
            return
        with s.loop("turn", ceil_div(total, width)) as turn:
            at = s.bind("point", turn * width + own)
            with s.when(at < total):
                yield at


def launched(body: tirx.Stmt, team: Team, blocks: tirx.Expr, resident: int | None = None) -> tirx.Stmt:
    """A kernel of so many blocks of a team's threads; the compiler leaves registers for ``resident`` of them at a time (None:
    it may take all of a multiprocessor's)."""
    thread, block = team.thread, team.block
    assert isinstance(thread, tirx.Var) and isinstance(block, tirx.Var)
    threads = index(team.threads)
    if resident is not None:
        body = tirx.AttrStmt(index(0), "tirx.launch_bounds_min_blocks_per_sm", index(resident), body)
    inner = tirx.AttrStmt(tirx.IterVar(Range(index(0), threads), thread, 1, "threadIdx.x"), "thread_extent", threads, body)
    return tirx.AttrStmt(tirx.IterVar(Range(index(0), blocks), block, 1, "blockIdx.x"), "thread_extent", blocks, inner)
