"""The command that shows what a saved kernel holds: inspect."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...ir.diagnostics import did_you_mean, error
from ...ir.microkernels import PRODUCTS
from ...ir.target import Target
from ...runtime.artifact import FORMAT, SUFFIX, Artifact
from ..device_figures import KernelFigures, figures
from .output import console, out, out_json
from .parser import Subparsers, add_command


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
                "notes": _notes(artifact),
                "device": None
                if artifact.device is None
                else {"arch": artifact.device.arch, "kernels": [each.to_json() for each in kernels]},
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
    for note in _notes(artifact):
        out(f"note:    {note}")
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


def _notes(artifact: Artifact) -> list[str]:
    """What the compiler has said about tensor cores and f32."""
    said = [each for each in artifact.explanation.decisions if each.made_by == PRODUCTS and each.taken]
    return [f"{each.subject}: {each.chosen}: {each.because}" for each in said]


def _kernels(artifact: Artifact) -> tuple[KernelFigures, ...]:
    """What each GPU kernel takes, and its instructions."""
    gpu = Target.parse(artifact.target).gpu if artifact.device is not None else None
    if artifact.device is None or gpu is None:
        return ()
    texts = {kind: artifact.sources.get(kind, "") for kind in ("ptx", "cuda")}
    return figures(artifact.device.usage, gpu, **texts)


def _table(kernels: Sequence[KernelFigures]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("kernel", "threads", "registers", "shared", "spills", "blocks", "occupancy"):
        table.add_column(name, justify="left" if name == "kernel" else "right", no_wrap=True)
    for each in kernels:
        usage, held = each.usage, each.occupancy
        table.add_row(
            usage.kernel,
            str(usage.threads or "?"),
            str(usage.registers),
            _bytes(usage.shared + usage.dynamic),
            f"[red]{each.spills} B[/]" if each.spills else "none",
            "?" if held is None else str(held.blocks),
            "?" if held is None else f"{held.share:.0%} ({held.limit})",
        )
    console().print(table)
    for each in kernels:
        out(f"{each.usage.kernel}({', '.join(each.parameters)})")
        for name, count in each.tensor_cores.items():
            out(f"    {count} × {name}")
        if each.instructions:
            out(f"    {', '.join(f'{count} × {name}' for name, count in each.instructions.items())}")


def _bytes(count: int) -> str:
    return f"{count} B" if count < 1024 else f"{count / 1024:.3g} KB"
