"""The catalogue of errors: every code that einfall can report, one module per range of codes.

A new kind of error is a new entry in the module of its range; a test checks that every code raised anywhere in the
package has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from . import (
    arguments,
    artifacts,
    commands,
    contracts,
    einsums,
    iteration,
    names,
    shapes,
    syntax,
    targets,
    types,
)
from .kinds import ErrorKind

__all__ = ["CATALOGUE", "ErrorKind"]

_MODULES = (
    syntax,
    names,
    shapes,
    types,
    einsums,
    iteration,
    contracts,
    arguments,
    artifacts,
    targets,
    commands,
)


def _collect() -> Mapping[str, ErrorKind]:
    kinds: dict[str, ErrorKind] = {}
    for module in _MODULES:
        for kind in module.KINDS:
            if kind.code in kinds:
                raise ValueError(f"error code {kind.code} is defined twice")
            kinds[kind.code] = kind
    return MappingProxyType(kinds)


CATALOGUE: Mapping[str, ErrorKind] = _collect()
