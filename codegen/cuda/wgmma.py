"""Products on the tensor cores of sm_90 by groups of four warps, which read their operands from shared memory themselves.

A group multiplies 64 rows of a tile of C by all of its columns: ``wgmma`` m64nNk16 of 16-bit floats, m64nNk32 of bytes,
m64nNk8 of tf32 (PTX ISA, section Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions). The sums of a warp are
those of :mod:`.mma`, 16 rows of them. Panels lie in the order that descriptors call a swizzle of 128 bytes, so ``cp.async``
brings them as for ``mma.sync``; lines of k as well as those along the rows or columns, which the instruction transposes where
elements have 16 bits. What a thread has copied or stored must be fenced for it to see.

One product stays under way while the next step's copies begin, so its slot is filled again one turn later than for
``mma.sync``. Limits, by arithmetic: for 64 of k a tile of 128 × 256 takes 1024 cycles of the tensor cores of an H100 (2048
multiply-adds a cycle), reads 80 KB of shared memory and writes 48 KB, which at 128 bytes a cycle take as long; a tile of 128
× 128 would take 640 cycles for the memory and 512 for the products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call

from ..microkernels.statements import Statements
from .mma import PTX, Fragments
from .operand_loads import STEP, Staged, register
from .staging import SLAB, commit, i32, narrow, ordered, wait
from .statements import WARP, DeviceStatements

ROWS = 64
"""Of one instruction."""

COLUMNS = (256, 128)
"""Of the tiles that are worth it."""

GROUP = 4 * WARP
"""Threads that multiply together."""

ALIGNED = 8 * SLAB
"""Bytes after which the order of chunks repeats: panels begin at multiples of as many."""

_DESCRIBE = """
__device__ __forceinline__ unsigned long long einfall_described(unsigned address, unsigned leading, unsigned stride) {
  return (1ull << 62) | (static_cast<unsigned long long>(stride >> 4) << 32) |
         (static_cast<unsigned long long>(leading >> 4) << 16) | ((address & 0x3ffff) >> 4);
}
"""

_MULTIPLY = """
__device__ __forceinline__ void einfall_wgmma_NAME(KIND* c, unsigned long long a, unsigned long long b) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %ONE, 0; "
               "wgmma.mma_async.sync.aligned.m64nCOLUMNSkDEPTH.TOTAL.TYPES {SUMS}, %LEFT, %RIGHT, pFLAGS; }"
               : PLACES
               : "l"(a), "l"(b), "r"(1));
}
"""


def described(s: Statements, staged: Staged, address: tirx.Expr) -> tirx.Expr:
    """The descriptor of the part of a panel from ``address`` (uint32) on: 64 bits."""
    # Along k eight lines follow eight others. Where lines are of rows, eight steps of k follow eight others, and a slab of 64
    # rows the one before.
    leading = 16 if staged.along else staged.panel.lines * SLAB
    call = cuda_func_call(
        "einfall_described",
        address,
        tirx.IntImm("uint32", leading),
        tirx.IntImm("uint32", ALIGNED),
        source_code=_DESCRIBE,
        return_type="uint64",
    )
    return s.share(call)


@dataclass(frozen=True, slots=True)
class Groups(Fragments):
    """The sums of a warp of a group: 16 rows of all columns of the tile."""

    def multiply(self, s: DeviceStatements, a: Staged, b: Staged) -> None:
        """Begins to add the products of a step of the depth."""
        group = narrow(s, self.team.thread) >> i32(GROUP.bit_length() - 1)
        # All threads of the group must give the same descriptor, and the compiler know it.
        group = s.share(uniform(group))
        rows = group * (ROWS * SLAB if a.along else a.panel.lines * SLAB)
        first = a.address + tirx.Cast("uint32", rows)
        left, right = described(s, a, first), described(s, b, b.address)
        columns = self.shape.columns
        turned = (int(not a.along), int(not b.along))
        types = tuple(PTX.get(each, each) for each in (self.kernel.left, self.kernel.right))
        name = "_".join(map(str, (*types, columns, *turned)))
        whole, turns = self.numbers == "int32", a.panel.size == 2
        assert turns or not any(turned)
        count = columns // 2
        words = {
            "NAME": name, "KIND": "int" if whole else "float", "DEPTH": str(STEP // a.panel.size),
            "TOTAL": "s32" if whole else "f32", "TYPES": ".".join(types), "COLUMNS": str(columns),
            "FLAGS": "" if whole else ", 1, 1" + (f", {turned[0]}, {turned[1]}" if turns else ""),
            "%ONE": f"%{count + 2}", "%LEFT": f"%{count}", "%RIGHT": f"%{count + 1}",
            "SUMS": ", ".join(f"%{i}" for i in range(count)),
            "PLACES": ", ".join(f'"+{"r" if whole else "f"}"(c[{i}])' for i in range(count)),
        }  # fmt: skip
        source = _MULTIPLY
        for word, meaning in words.items():
            source = source.replace(word, meaning)
        ordered(s, "group_begin", "wgmma.fence.sync.aligned")
        for k in range(self.shape.depth * a.panel.size // STEP):
            x, y = (
                d + tirx.IntImm("uint64", k * (STEP if each.along else STEP // each.panel.size * SLAB) >> 4)
                for d, each in ((left, a), (right, b))
            )
            s.evaluate(cuda_func_call(f"einfall_wgmma_{name}", register(self.sums, 0), x, y, source_code=source))
        ordered(s, "group_end", "wgmma.commit_group.sync.aligned")
        self.wait(s, 1)

    def wait(self, s: DeviceStatements, left: int) -> None:
        """Until at most so many steps of the group are under way."""
        ordered(s, f"group_wait_{left}", f"wgmma.wait_group.sync.aligned {left}")


_UNIFORM = """
__device__ __forceinline__ int einfall_uniform(int value) {
  return __shfl_sync(0xffffffffu, value, 0);
}
"""


def uniform(value: tirx.Expr) -> tirx.Expr:
    """An int32 that all lanes of a warp have, so that the compiler knows it."""
    return cuda_func_call("einfall_uniform", value, source_code=_UNIFORM, return_type="int32")


def pipeline(
    s: DeviceStatements,
    steps: tirx.Expr,
    stages: int,
    stage: Callable[[DeviceStatements, tirx.Expr, tirx.Expr], None],
    use: Callable[[DeviceStatements, tirx.Expr], None],
) -> None:
    """As :func:`.staging.pipeline`; what ``use`` begins may go on through the next turn. The first slots are filled ahead of
    the loop: between products there may be no other branch."""
    ahead = stages - 2

    def fetch(s: DeviceStatements, step: tirx.Expr) -> None:
        with s.when(step < steps):
            stage(s, step, s.share(tirx.truncmod(narrow(s, step), i32(stages))))
        commit(s)

    s.barrier()  # nobody reads what the slots held before
    with s.loop("fill", ahead) as step:
        fetch(s, step)
    with s.loop("step", steps) as step:
        wait(s, ahead - 1)  # the step that is used in this turn has arrived, for this thread
        ordered(s, "seen", "fence.proxy.async.shared::cta")
        s.barrier()  # and for all; and all products but those of the turn before are done with their slots
        fetch(s, s.bind("next", step + ahead))
        use(s, s.share(tirx.truncmod(narrow(s, step), i32(stages))))
