"""The limits of a machine for one kernel."""

from __future__ import annotations

from collections.abc import Callable

from ..ir.target import Target
from ..ir.types import accumulator, value_type
from ..runtime.benchmark import Roofline
from ..runtime.signature import Signature


def roofline(machine: Target, signature: Signature) -> Callable[[int, int], Roofline]:
    """The machine's limits for a number of threads and of bytes: for the type of the kernel's first result, and the level
    of the memory that holds the data."""
    dtype = accumulator(value_type(signature.results[0].dtype)).name

    def limits(threads: int, traffic: int) -> Roofline:
        return Roofline(
            peak=machine.peak_ops(dtype, cores=threads),
            bandwidth=machine.bandwidth(machine.level_of(traffic), cores=threads),
            measured=machine.measured is not None,
        )

    return limits
