"""What a thread block of a GPU holds: which tiles of a parallel loop its shared memory takes."""

from __future__ import annotations

from collections.abc import Mapping

from .expr import Expr
from .fragments import Held, held_in_registers
from .index import upper_bound
from .target import Target
from .tile import Buffer, Loop, TileProgram, walk

ALIGNED = 64
"""TVM aligns every allocation to so many bytes."""

RESERVED = 33 << 10
"""Bytes of shared memory for what products stage, and what the threads of a block combine."""


def tile_bytes(buffer: Buffer, lets: Mapping[str, Expr]) -> int | None:
    """The bytes of a tile at its largest; None where that depends on free sizes."""
    total = max(1, buffer.dtype.bits // 8)
    for extent in buffer.shape:
        most = upper_bound(extent, lets)
        if most is None:
            return None
        total *= max(1, most)
    return -(-total // ALIGNED) * ALIGNED


def held_by_block(loop: Loop, target: Target, lets: Mapping[str, Expr]) -> tuple[list[Buffer], list[Buffer]]:
    """(the tiles of a parallel loop that the shared memory of a block holds, the smallest first, those that are too large for
    it); those in registers are in neither."""
    assert target.gpu is not None
    registers = registers_of_block(loop, target, lets)
    free = target.gpu.shared_per_block - max(RESERVED, 0 if registers is None else registers.staged + ALIGNED)
    held: list[Buffer] = []
    large: list[Buffer] = []
    buffers = (b for b in loop.buffers if registers is None or b.name not in registers.tiles)
    for buffer in sorted(buffers, key=lambda b: tile_bytes(b, lets) or 0):
        size = tile_bytes(buffer, lets)
        if size is None or size > free:
            large.append(buffer)
        else:
            free -= size
            held.append(buffer)
    return held, large


def registers_of_block(loop: Loop, target: Target, lets: Mapping[str, Expr]) -> Held | None:
    """The tiles of a parallel loop that are in registers."""
    assert target.gpu is not None
    return held_in_registers(loop, lets, target.gpu.shared_per_block - RESERVED)


def fits_blocks(program: TileProgram, target: Target) -> bool:
    """Whether the tiles of every parallel loop fit in shared memory."""
    loops = (node for node in walk(program.body) if isinstance(node, Loop) and node.parallel)
    return not any(held_by_block(loop, target, program.lets)[1] for loop in loops)
