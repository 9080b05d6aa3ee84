"""Compiled kernels on disk, so that the same program for the same machine is compiled once.

An entry is an artifact named after the hash of everything that it depends on: the canonical text of the IR, the target,
the options, the versions of the tool chain and the compiler's own files. A second, smaller file leads from the hash of
the text as written to that entry, so that a hit needs no front end. Writes are atomic; a damaged entry is a miss and is
removed; the entries used longest ago go first when the limit is reached.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..ir.diagnostics import EinfallError
from ..ir.target import Target
from ..runtime.artifact import FORMAT, SUFFIX, Artifact, tool_versions
from ..runtime.signature import Json
from .paths import atomic_write, cache_dir

_DEFAULT_LIMIT = 1 << 30
_LINK = ".link"
_KEY = re.compile(r"[0-9a-f]{64}")
_COMPILER = ("frontend", "ir", "passes", "codegen")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInfo:
    """Where the cache is and what it holds. ``limit`` and ``size`` are bytes."""

    folder: Path
    enabled: bool
    kernels: int
    size: int
    limit: int


def enabled() -> bool:
    """Whether the cache on disk is used at all: EINFALL_CACHE=0 turns it off."""
    return os.environ.get("EINFALL_CACHE", "").strip().lower() not in ("0", "false", "off", "no")


def key(kind: str, text: str, *, kernel: str | None, target: Target, rest: Mapping[str, Json], version: str) -> str:
    """The hash of a program (``kind`` tells text as written from canonical IR) with all that its code depends on."""
    content = {
        "kind": kind,
        "format": FORMAT,
        "text": text,
        "kernel": kernel,
        "target": describe(target),
        "rest": dict(sorted(rest.items())),
        "versions": dict(tool_versions(version)),
        "compiler": _compiler_files(),
        "toolkit": _toolkit() if target.kind == "cuda" else "",
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _toolkit() -> str:
    from ..codegen.cuda.toolkit import identity

    return identity()


def describe(target: Target) -> Json:
    """Everything of a target that code generation may look at, in a stable form."""
    roof = target.measured or target.nominal
    limits: dict[str, Json] = {
        f"{name}.{kind}": {key: float(f"{rate:.3g}") for key, rate in sorted(rates.items())}
        for name, each in (("core", roof.core), ("chip", roof.chip))
        for kind, rates in (("ops", each.ops), ("read", each.read), ("copy", each.copy))
    }
    numbers: list[Json] = [
        target.vector_bits,
        target.vector_registers,
        target.cores,
        target.l1d,
        target.l2,
        target.l3,
        target.cache_line,
    ]
    names: list[Json] = [target.kind, target.arch, target.mcpu, *sorted(target.features), *target.extra]
    return {"names": names, "numbers": numbers, "limits": limits}


def lookup(text_key: str) -> Artifact | None:
    """The artifact that the program with this hash was compiled to."""
    link = _folder() / f"{text_key}{_LINK}"
    try:
        found = link.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    if not _KEY.fullmatch(found):
        link.unlink(missing_ok=True)
        return None
    return lookup_canonical(found)


def lookup_canonical(canonical_key: str) -> Artifact | None:
    """The entry of this name, marked as used now; a damaged one is removed."""
    path = _folder() / f"{canonical_key}{SUFFIX}"
    try:
        artifact = Artifact.read(path)
        os.utime(path)
    except EinfallError as failure:
        if failure.code in ("E1104", "E1105"):
            _remove(path)
        return None
    except OSError:  # somebody removed it meanwhile: what was read is good
        return artifact
    return artifact


def link(text_key: str, canonical_key: str) -> None:
    """Remember that a program as written has this canonical form. Failures to write are no errors of a compilation."""
    try:
        atomic_write(_folder() / f"{text_key}{_LINK}", canonical_key.encode("ascii"))
    except OSError:
        return


def store(canonical_key: str, artifact: Artifact) -> None:
    """Add an entry and make room for it. Failures to write are no errors of a compilation."""
    try:
        atomic_write(_folder() / f"{canonical_key}{SUFFIX}", artifact.to_bytes())
    except OSError:
        return
    _evict(limit())


def limit() -> int:
    """The most bytes that the cache keeps: EINFALL_CACHE_LIMIT (such as 200M or 2G), else 1 GiB."""
    match = re.fullmatch(r"(\d{1,15})\s*([kmgt]?)b?", os.environ.get("EINFALL_CACHE_LIMIT", "").strip().lower())
    if match is None:
        return _DEFAULT_LIMIT
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[match[2]]


def info() -> CacheInfo:
    entries = _entries()
    return CacheInfo(
        folder=_folder(),
        enabled=enabled(),
        kernels=sum(path.suffix == SUFFIX for path, _, _ in entries),
        size=sum(size for _, size, _ in entries),
        limit=limit(),
    )


def clear() -> int:
    """Remove every entry; returns how many kernels there were."""
    entries = _entries()
    for path, _, _ in entries:
        _remove(path)
    return sum(path.suffix == SUFFIX for path, _, _ in entries)


def _folder() -> Path:
    return cache_dir() / "kernels"


def _entries() -> list[tuple[Path, int, float]]:
    """(file, bytes, time of last use) of all that belongs to the cache; nothing else in the folder is touched."""
    found = []
    try:
        for path in _folder().iterdir():
            if path.suffix in (SUFFIX, _LINK) and _KEY.fullmatch(path.stem):
                status = path.stat()
                found.append((path, status.st_size, status.st_mtime))
    except OSError:
        return found
    return found


def _evict(most: int) -> None:
    entries = sorted(_entries(), key=lambda entry: entry[2])
    total = sum(size for _, size, _ in entries)
    for path, size, _ in entries[:-1]:  # never the one that was just written
        if total <= most:
            return
        _remove(path)
        total -= size


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


@lru_cache(maxsize=1)
def _compiler_files() -> str:
    """Changes whenever a file of the compiler does, so that work on einfall itself never meets stale kernels."""
    root = Path(__file__).parents[1]
    stamps: list[str] = []
    for folder in _COMPILER:
        for parent, _, names in os.walk(root / folder):
            for name in names:
                if name.endswith((".py", ".lark", ".toml", ".json", ".c")):
                    status = Path(parent, name).stat()
                    stamps.append(f"{parent[len(str(root)) :]}/{name}:{status.st_size}:{status.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(stamps)).encode()).hexdigest()
