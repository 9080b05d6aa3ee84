"""Codes E11: artifacts, files and the cache."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = ()
