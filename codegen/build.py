"""TensorIR to machine code: the one place that calls TVM's compiler."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import tvm

from ..ir.machine import Machine
from ..ir.target import Target
from ..ir.tile import TileProgram
from ..ir.tile_printer import tile_to_source
from .launcher import launcher_object
from .lower import lower
from .pipeline import NAME
from .tvm_target import to_tvm


@dataclass(kw_only=True)
class Built:
    """A compiled kernel: the loaded module, and its text on every level."""

    program: TileProgram = field(repr=False)
    lowered: tvm.IRModule = field(repr=False)
    module: object = field(repr=False)

    @cached_property
    def sources(self) -> dict[str, str]:
        """The texts ``tile``, ``tir``, ``llvm`` and ``asm``."""
        module = self.module
        return {
            "tile": tile_to_source(self.program),
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


def build(program: TileProgram, target: Target) -> Built:
    """Compiles a tile program for a CPU target."""
    launcher_object()  # is compiled meanwhile
    chosen, lowered = to_tvm(target), lower(program, Machine(target=target))
    with chosen:
        executable = tvm.compile(lowered, target=chosen, tir_pipeline=NAME)
    return Built(program=program, lowered=lowered, module=executable.mod)
