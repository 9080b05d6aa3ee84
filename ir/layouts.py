"""How a constant lies in memory once it is packed for the micro-kernel that reads it: data that passes, code generation and
the runtime share.
"""

from __future__ import annotations

from dataclasses import dataclass

from .expr import Expr, integer, op
from .index import simplify


def packers(count: int) -> tuple[str, ...]:
    """The names of the functions that pack so many constants of one kernel."""
    return tuple(f"pack_{i}" for i in range(count))


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelLayout:
    """A right operand [k, n] of elements of ``bits`` bits as panels of ``columns`` columns, one panel after the other.

    In a panel all of k follows, in the micro-kernel's own order, up to a multiple of ``steps`` (at least once so many). With
    ``notes`` a 32-bit integer for each panel stands behind all of them.
    """

    columns: int
    steps: int
    bits: int
    notes: bool = False

    @property
    def words(self) -> bool:
        """Whether neighbours along k share a 32-bit word, as the dot-product kernels read them."""
        return self.bits < 32

    def size(self, k: int, n: int) -> int:
        """Bytes of the whole operand."""
        panel = self.columns * self.bits // 8 * self.steps * max(-(-k // self.steps), 1)
        return -(-n // self.columns) * (panel + (4 if self.notes else 0))

    def size_over(self, k: Expr, n: Expr) -> Expr:
        """The same over the sizes of a program."""
        turns = op("max", op("ceildiv", k, integer(self.steps)), integer(1))
        panel = op("mul", integer(self.columns * self.bits // 8 * self.steps), turns)
        if self.notes:
            panel = op("add", panel, integer(4))
        return simplify(op("mul", op("ceildiv", n, integer(self.columns)), panel))
