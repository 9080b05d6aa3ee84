"""The command that shows what a saved kernel holds: inspect."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from ...ir.diagnostics import did_you_mean, error
from ...runtime.artifact import FORMAT, SUFFIX, Artifact
from .output import console, out, out_json
from .parser import Subparsers, add_command

_ENTRY = re.compile(r"^\.visible \.entry (\w+)\(", re.MULTILINE)
_TENSOR_CORES = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async)[\w.:]*")


def register(commands: Subparsers) -> None:
    """Add the command."""
    inspect = add_command(
        commands,
        "inspect",
        _inspect,
        help="show what a saved kernel holds: signature, target, machine code, and what its GPU kernels take",
        examples="einfall inspect attention.efk\neinfall inspect attention.efk --source ptx",
    )
    inspect.add_argument("file", type=Path, metavar="FILE", help=f"a saved kernel ({SUFFIX})")
    inspect.add_argument("--source", metavar="KIND", help="print a text that it holds: cascade, tile, tir, cuda, ptx, …")


def _inspect(options: argparse.Namespace) -> int:
    artifact = Artifact.read(options.file)
    if options.source:
        return _source(artifact, options.source)
    kernels = _kernels(artifact)
    if options.json:
        out_json(
            {
                "format": FORMAT,
                "signature": str(artifact.signature),
                "target": artifact.target,
                "arch": artifact.arch,
                "features": sorted(artifact.features),
                "versions": dict(artifact.versions),
                "bytes": _sizes(artifact),
                "sources": sorted(artifact.sources),
                "device": None if artifact.device is None else {"arch": artifact.device.arch, "kernels": kernels},
            }
        )
        return 0
    out(f"{artifact.signature} for {artifact.target}")
    versions = ", ".join(f"{name} {version}" for name, version in artifact.versions.items())
    out(f"format {FORMAT}, made by {versions}")
    out(f"host:    {artifact.arch} {', '.join(sorted(artifact.features))}".rstrip())
    out(f"holds:   {', '.join(f'{name} ({size / 1e3:.0f} kB)' for name, size in _sizes(artifact).items())}")
    out(f"sources: {', '.join(artifact.sources)}")
    if artifact.device is not None:
        out(f"device:  {artifact.device.arch}, {len(kernels)} kernel{'s' if len(kernels) > 1 else ''}")
        _table(kernels)
    return 0


def _source(artifact: Artifact, kind: str) -> int:
    text = artifact.sources.get(kind)
    if text is None:
        known = ", ".join(artifact.sources)
        hint = did_you_mean(kind, artifact.sources) or f"it holds: {known}"
        raise error("E1020", f"the file holds no source {kind!r} of `{artifact.signature.name}`", help=hint)
    out(text)
    return 0


def _sizes(artifact: Artifact) -> dict[str, int]:
    """Bytes of machine code by part."""
    found = {"library": len(artifact.library)}
    if artifact.device is not None:
        found["cubin"] = len(artifact.device.cubin)
    return found


def _kernels(artifact: Artifact) -> list[dict[str, object]]:
    """What each GPU kernel takes, and its instructions for tensor cores."""
    if artifact.device is None:
        return []
    parts = _ENTRY.split(artifact.sources.get("ptx", ""))
    bodies = dict(zip(parts[1::2], parts[2::2], strict=False))
    found: list[dict[str, object]] = []
    for usage in artifact.device.usage:
        cores = Counter(_TENSOR_CORES.findall(bodies.get(usage.kernel, "")))
        found.append(
            {
                "name": usage.kernel,
                "registers": usage.registers,
                "static_shared_bytes": usage.shared,
                "stack_bytes": usage.stack,
                "spill_bytes": usage.spill_stores + usage.spill_loads,
                "tensor_core_instructions": dict(cores),
            }
        )
    return found


def _table(kernels: list[dict[str, object]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("kernel", "registers", "static shared", "stack", "spills", "tensor cores"):
        table.add_column(name, justify="left" if name in ("kernel", "tensor cores") else "right")
    for each in kernels:
        cores = each["tensor_core_instructions"]
        assert isinstance(cores, dict)
        table.add_row(
            str(each["name"]),
            str(each["registers"]),
            f"{each['static_shared_bytes']} B",
            f"{each['stack_bytes']} B",
            f"{each['spill_bytes']} B",
            ", ".join(f"{count} {name}" for name, count in cores.items()) or "none",
        )
    console().print(table)
