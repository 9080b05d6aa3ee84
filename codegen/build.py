"""TensorIR to machine code: the one place that calls TVM's compiler."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import tvm

from ..ir.target import Target
from ..ir.tile import TileProgram
from .launcher import launcher_object
from .lower import lower
from .machine import Machine
from .pipeline import NAME


@dataclass(kw_only=True)
class Built:
    """A compiled kernel: the loaded module, and its text on every level."""

    lowered: tvm.IRModule = field(repr=False)
    module: object = field(repr=False)
    machine: Machine

    @cached_property
    def sources(self) -> dict[str, str]:
        """The texts ``tir``, ``llvm`` and ``asm``."""
        module = self.module
        return {
            "tir": "\n".join(function.script() for function in self.lowered.functions.values()),
            "llvm": module.inspect_source("ll"),  # type: ignore[attr-defined]
            "asm": module.inspect_source("asm"),  # type: ignore[attr-defined]
        }

    def export(self, path: Path) -> None:
        """Writes a shared library, with the launcher of its threads. Needs a C compiler."""
        addons: list[str] = []
        if (launcher := launcher_object().result()) is not None:
            beside = path.with_name("launcher.o")
            beside.write_bytes(launcher)
            addons.append(str(beside))
        self.module.export_library(str(path), addons=addons)  # type: ignore[attr-defined]


def build(program: TileProgram, target: Target, *, threads: int | None = None) -> Built:
    """Compiles a tile program for a CPU target; ``threads`` is how many workers it plans for (default: its cores)."""
    launcher_object()  # is compiled meanwhile
    machine = Machine(target=target, threads=threads or target.cores)
    lowered = lower(program, machine)
    with machine.tvm():
        executable = tvm.compile(lowered, target=machine.tvm(), tir_pipeline=NAME)
    return Built(lowered=lowered, module=executable.mod, machine=machine)
