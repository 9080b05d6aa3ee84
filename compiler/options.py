"""The options of `compile`, in one table: what may be said besides the program, the target and the sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ..ir.diagnostics import error


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``cache``: look in, and add to, the cache on disk. ``online``: let reductions be done in fewer passes over the data
    than the program has. ``verify_each``: check the IR after every pass."""

    cache: bool = True
    online: bool = True
    verify_each: bool = False

    @staticmethod
    def checked(values: Mapping[str, object]) -> Options:
        """The options with these names and values. Raises EinfallError E1110 for a value of the wrong kind."""
        for each in fields(Options):
            value = values.get(each.name, each.default)
            if not isinstance(value, bool):
                raise error("E1110", f"the option `{each.name}` is True or False, not {value!r}")
        return Options(**{name: bool(value) for name, value in values.items()})


NAMES = tuple(each.name for each in fields(Options))
