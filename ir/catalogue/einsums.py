"""Codes E05: reductions, absence and the meaning of one Einsum."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = ()
