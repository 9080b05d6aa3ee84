"""TensorIR to a kernel for a GPU: the host's part by LLVM, the device's as CUDA C++, which the toolkit compiles.

TVM would compile the device's part itself where it finds a driver, and keep it as text where it doesn't; here it is text in
both cases, and machine code is made for the target whatever machine this is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import PointerType
from tvm.tirx.build import codegen_build, split_host_device_mods
from tvm.tirx.type import TensorMapType

from ...ir.target import Target
from ...ir.tile import TileProgram
from ...ir.tile_printer import tile_to_source
from ...ir.usage import Usage
from ..pipeline import einfall
from ..tvm_target import to_tvm
from . import toolkit
from .lower import lower

COMPILE = "tvm_callback_cuda_compile"
"""TVM's name of the function that it asks to compile CUDA C++."""


@dataclass(kw_only=True)
class DeviceBuilt:
    """A kernel for a GPU: the host's module without its kernels, their code, and the texts on every level.

    ``launches`` tells the runtime, in TVM's JSON form, of each kernel its arguments and how it is launched; ``launched`` are
    the threads of a block of each, and its bytes of dynamic shared memory.
    """

    program: TileProgram = field(repr=False)
    lowered: tvm.IRModule = field(repr=False)
    host: object = field(repr=False)
    source: str = field(repr=False)
    arch: str
    launches: str = field(repr=False)
    launched: Mapping[str, tuple[int, int]] = field(repr=False)

    @cached_property
    def code(self) -> toolkit.DeviceCode:
        """The machine code. Raises EinfallError E1205, E1206."""
        made = toolkit.compile_source(self.source, self.arch)
        return replace(made, usage=tuple(self.with_launch(each) for each in made.usage))

    def with_launch(self, usage: Usage) -> Usage:
        """What a kernel takes, with what its launch asks for."""
        threads, dynamic = self.launched.get(usage.kernel, (0, 0))
        return replace(usage, threads=threads, dynamic=dynamic)

    def export(self, path: Path) -> None:
        """Writes the host's part as a shared library. Needs a C compiler."""
        self.host.export_library(str(path))  # type: ignore[attr-defined]

    @cached_property
    def sources(self) -> dict[str, str]:
        """The texts ``tile``, ``tir``, ``cuda``, ``ptx`` and ``llvm`` (the host's part)."""
        return {
            "tile": tile_to_source(self.program),
            "tir": "\n".join(function.script() for function in self.lowered.functions.values()),
            "cuda": self.source,
            "ptx": self.code.ptx,
            "llvm": self.host.inspect_source("ll"),  # type: ignore[attr-defined]
        }


def build(program: TileProgram, target: Target) -> DeviceBuilt:
    """Compiles a tile program for a CUDA target, up to CUDA C++."""
    chosen, lowered = to_tvm(target), lower(program, target)
    host_target = chosen.host
    with chosen, tvm.transform.PassContext(config={"tirx.UnrollLoop": {"explicit_unroll": False}}):  # nvcc does it
        module = tirx.transform.BindTarget(chosen)(lowered)
        steps, finish_host, finish_device = einfall()
        host, devices = split_host_device_mods(steps(module))
        (device,) = [finish_device()(each) for each in devices.values()] or [tvm.IRModule({})]  # type: ignore[operator]
        compiled = codegen_build(finish_host()(host), host_target)  # type: ignore[operator]
        source = _cuda_source(device, chosen)
    launched = {str(name.name_hint): _sizes(function.body) for name, function in device.functions.items()}
    launches = {str(name.name_hint): _launch(function) for name, function in device.functions.items()}
    return DeviceBuilt(
        program=program,
        lowered=lowered,
        host=compiled,
        source=source,
        arch=str(chosen.attrs["arch"]),
        launches=json.dumps({"tvm_version": tvm.__version__, "func_info": launches}),
        launched=launched,
    )


def _cuda_source(device: tvm.IRModule, target: tvm.target.Target) -> str:
    seen: list[str] = []
    with _compiling_nothing(seen):
        made = codegen_build(device, target)
    return seen[0] if seen else str(made.inspect_source())


@contextmanager
def _compiling_nothing(seen: list[str]) -> Iterator[None]:
    """Inside, TVM's wish to compile CUDA C++ is noted and not fulfilled."""
    before = tvm_ffi.get_global_func(COMPILE, allow_missing=True)

    def note(source: str) -> bytes:
        seen.append(source)
        return b"\0"

    tvm_ffi.register_global_func(COMPILE, note, override=True)
    try:
        yield
    finally:
        if before is not None:
            tvm_ffi.register_global_func(COMPILE, before, override=True)


def _sizes(body: tirx.Stmt) -> tuple[int, int]:
    """(threads of a block, bytes of dynamic shared memory) of a kernel."""
    threads, dynamic = 1, 0
    waiting = [body]
    while waiting:
        node = waiting.pop()
        match node:
            case tirx.AttrStmt() if node.attr_key == "thread_extent" and str(node.node.thread_tag).startswith("threadIdx"):
                threads *= int(node.value)
            case tirx.AllocBuffer() if str(node.buffer.scope()) == "shared.dyn":
                dynamic += math.prod(map(int, node.buffer.shape)) * tvm_ffi.dtype(str(node.buffer.dtype)).itemsize
        waiting.extend(getattr(node, "seq", ()))
        waiting.extend(each for name in ("body", "then_case", "else_case") if (each := getattr(node, name, None)) is not None)
    return threads, dynamic


def _launch(function: tirx.PrimFunc) -> dict[str, object]:
    """What the runtime must know of a kernel."""
    return {
        "name": str(function.attrs["global_symbol"]),
        "arg_types": [str(p.ty.dtype) if hasattr(p.ty, "dtype") else "handle" for p in function.params],
        "arg_extra_tags": [int(_is_tensor_map(p)) for p in function.params],
        "launch_param_tags": [str(tag) for tag in function.attrs["tirx.kernel_launch_params"]],
    }


def _is_tensor_map(parameter: tirx.Var) -> bool:
    """Whether a kernel takes it as 128 bytes, to which the host has a pointer."""
    return isinstance(parameter.ty, PointerType) and isinstance(parameter.ty.element_type, TensorMapType)
