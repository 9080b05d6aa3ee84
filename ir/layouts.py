"""How a constant lies in memory once it is packed for the micro-kernel that reads it: data that passes, code generation and
the runtime share.
"""

from __future__ import annotations

from dataclasses import dataclass

from .expr import Expr, integer, op
from .index import simplify
from .sizes import evaluate


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

    @property
    def held(self) -> int:
        """Bits of an element as it is read."""
        return 32 if self.words else self.bits

    @property
    def width(self) -> int:
        """Elements, as they are read, of a panel for each step of k."""
        return self.columns * self.bits // self.held

    @property
    def noted(self) -> int:
        """Elements, as they are read, that a panel has beside them."""
        return int(self.notes)

    def size(self, k: int, n: int) -> int:
        """Bytes of the whole operand."""
        return evaluate(self.size_over(integer(k), integer(n)), {})

    def stacked(self, count: int, n: int) -> int:
        """Columns of ``count`` matrices of n columns behind one another: each begins with a panel of its own."""
        return count * -(-n // self.columns) * self.columns

    def size_over(self, k: Expr, n: Expr) -> Expr:
        """The same over the sizes of a program."""
        height = op("mul", op("max", op("ceildiv", k, integer(self.steps)), integer(1)), integer(self.steps))
        panel = op("add", op("mul", height, integer(self.width)), integer(self.noted))
        return simplify(op("mul", op("mul", op("ceildiv", n, integer(self.columns)), panel), integer(self.held // 8)))
