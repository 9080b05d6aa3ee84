"""Codes E13 and E90: the command line, and internal errors."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = ()
