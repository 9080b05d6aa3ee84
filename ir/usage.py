"""What a CUDA kernel takes of its multiprocessor, and how many of its blocks fit on one."""

from __future__ import annotations

from dataclasses import dataclass

from .target import Gpu

_REGISTERS = 256
"""Registers are given to a warp in so many at a time."""

_SHARED, _SYSTEM = 128, 1024
"""Bytes of shared memory that are given to a block at a time, and those that each block holds for the system."""

_TOGETHER = 4
"""Warps are shared out among the schedulers of a multiprocessor in so many at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """32-bit ``registers`` of a thread, bytes of static ``shared`` memory of a block, and bytes of local memory of a thread
    (``stack``), of which ``spill_stores`` and ``spill_loads`` go there for registers that ran out: as the toolkit's assembler
    tells. ``threads`` of a block and bytes of ``dynamic`` shared memory are those of the launch, 0 where it is not known."""

    kernel: str
    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int
    threads: int = 0
    dynamic: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """How many ``blocks`` and ``warps`` of a kernel a multiprocessor holds at once, the ``share`` of the warps that it could
    hold, and what keeps it from more: "registers", "shared memory", "warps" or "blocks"."""

    blocks: int
    warps: int
    share: float
    limit: str


def occupancy(usage: Usage, gpu: Gpu) -> Occupancy:
    """The occupancy of a kernel whose launch is known.

    Source: the arithmetic of NVIDIA's occupancy calculator for compute capabilities 8 and 9; the limits are those of the table
    Technical Specifications per Compute Capability of the CUDA C++ Programming Guide.
    """
    warps = -(-usage.threads // gpu.warp)
    most = gpu.max_threads_per_multiprocessor // gpu.warp
    # The registers lie with the four schedulers, each of which holds whole warps.
    held = gpu.registers // _TOGETHER // max(1, _rounded(usage.registers * gpu.warp, _REGISTERS)) * _TOGETHER
    shared = _rounded(usage.shared + usage.dynamic + _SYSTEM, _SHARED)
    limits = {
        "registers": held // max(1, warps),
        "shared memory": gpu.shared_per_multiprocessor // shared,
        "warps": most // max(1, warps),
        "blocks": gpu.blocks_per_multiprocessor,
    }
    limit = min(limits, key=lambda name: limits[name])
    blocks = limits[limit]
    return Occupancy(blocks=blocks, warps=blocks * warps, share=blocks * warps / most, limit=limit)


def _rounded(amount: int, unit: int) -> int:
    return -(-amount // unit) * unit
