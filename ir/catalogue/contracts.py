"""Codes E07: checks, requires, tolerances and sizes."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = ()
