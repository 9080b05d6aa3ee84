"""What a workload is: its mathematics in figures, who computes it, and what is to be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from field import Field


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table.

    ``flops`` counts the operations of the mathematics (a multiply-add is two, exp is one), ``reads`` and ``writes`` the
    bytes of inputs and results, each once. ``dtype`` is the type that the arithmetic multiplies in. ``make`` draws the
    inputs and registers the contestants. ``goal`` is the wanted ratio of the best peer's time to ours, ``share`` the
    wanted share of the machine's limit. ``tolerance`` is the relative difference, in the Frobenius norm, up to which a
    peer's result counts as the same. ``family`` names the kind of workload in the picture.
    """

    name: str
    family: str
    make: Callable[[Field], None]
    flops: float
    reads: float
    writes: float
    dtype: str = "f32"
    goal: float | None = None
    share: float | None = None
    tolerance: float = 1e-4
    quick: bool = False

    @property
    def traffic(self) -> float:
        """Bytes that have to be moved."""
        return self.reads + self.writes

    @property
    def intensity(self) -> float:
        """Operations for each of these bytes."""
        return self.flops / self.traffic


def all_cases() -> Iterator[Case]:
    """The rows of the table, in its order."""
    from cpu import attention, convolution, decode, elementary, layers, products, recurrences, rows, skinny

    for group in (products, skinny, layers, attention, decode, rows, recurrences, convolution, elementary):
        yield from group.cases()
