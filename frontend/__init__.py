"""From `.ecs` text to a checked cascade: grammar, parser, names, extents and types, formatter."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..ir.cascade import Cascade


def load(text: str, file: str = "<string>") -> dict[str, Cascade]:
    """The cascades of all kernels of an `.ecs` program, by name, in the order of the text.

    ``file`` is the name that spans and messages carry; nothing is read from disk. Raises EinfallError with every
    independent mistake of the program (codes E01 to E07).
    """
    from .lowering import lower
    from .parser import parse

    return lower(parse(text, file))
