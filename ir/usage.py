"""What a CUDA kernel takes of its multiprocessor, as the toolkit's assembler tells it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """32-bit ``registers`` of a thread, bytes of static ``shared`` memory of a block, and bytes of local memory of a thread
    (``stack``), of which ``spill_stores`` and ``spill_loads`` go there for registers that ran out."""

    kernel: str
    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int
