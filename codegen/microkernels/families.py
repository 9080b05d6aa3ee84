"""What multiplies panels for each micro-kernel of the table in ``ir/microkernels.py``."""

from __future__ import annotations

from ...ir.microkernels import MicroKernel
from .panels import PanelProduct
from .tiles import Tiles
from .vnni import ByteDots


def byte_dots(kernel: MicroKernel) -> ByteDots:
    """The dot products of bytes in vector registers that multiply what a micro-kernel does."""
    return ByteDots(signed=(kernel.left == "i8", kernel.right == "i8"))


def panel_product(kernel: MicroKernel, dtype: str) -> PanelProduct:
    """The instructions of a micro-kernel whose sums are of ``dtype``."""
    return byte_dots(kernel) if kernel.instruction == "vpdpbusd" else Tiles(instruction=kernel.instruction, dtype=dtype)
