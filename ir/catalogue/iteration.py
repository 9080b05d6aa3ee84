"""Codes E06: iterative ranks and dependences."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = ()
