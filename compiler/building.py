"""From a cascade, or from an artifact, to what the runtime calls. The seam between the driver and code generation."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..ir.diagnostics import EinfallError, error
from ..ir.layouts import packers
from ..ir.target import Target
from ..runtime.artifact import Artifact, DevicePart, device_code, tool_versions
from ..runtime.calling import Code
from ..runtime.kernel import Compiled
from ..runtime.signature import PackedForm, Signature
from ..runtime.threads import NO_POOL
from ..runtime.tiles import request_tiles
from ..runtime.tvm_runtime import importing_tvm
from .explaining import explain
from .host import host_target
from .options import Options
from .roofs import roofline

if TYPE_CHECKING:
    from ..codegen.build import Built
    from ..ir.cascade import Cascade
    from ..ir.tile import TileProgram

_log = logging.getLogger("einfall")

_TEXTS = {"cpu": ("tile", "tir", "llvm", "asm"), "cuda": ("tile", "tir", "cuda", "ptx", "llvm")}


def build(
    cascade: Cascade, text: str, fixed: Mapping[str, int], goal: Target, options: Options, *, link: bool
) -> tuple[Compiled, Artifact | None]:
    """Passes and code generation; with ``link`` also the artifact, None where no C compiler links it.

    ``text`` is the cascade as a program, ``fixed`` the sizes that were put into it. A linked kernel runs from its
    library, so that machine code is made once. Raises EinfallError E1204 for what no code generator can do yet.
    """
    from ..ir.verifier import verify
    from ..passes.pipeline import lower
    from .accounting import rows_reading

    if options.verify_each:
        verify(cascade)
    form = lower(cascade, target=goal, online=options.online)
    program = form.program
    explanation = explain(cascade, text, form, online=options.online)
    # Before a call its memory is held against the machine's: at least one thread holds tiles.
    packed = tuple(
        PackedForm(
            parameter=form.parameter,
            transposed=form.transposed,
            layout=form.layout,
            rows=rows_reading(form, program),
            joined=form.joined,
        )
        for form in program.prepacked
    )
    signature = Signature.of(cascade, workspace=explanation.memory, fixed=fixed, packed=packed)
    built = _generate(program, goal)

    device = built.part if isinstance(built, OnDevice) else None
    kept = {"cascade": text} if device is None else {"cascade": text, **built.sources}

    def make() -> Artifact:
        return Artifact(
            signature=signature,
            explanation=explanation,
            target=str(goal),
            arch=goal.arch if device is None else host_target().arch,
            features=goal.features if device is None else frozenset(),
            library=_library(built, cascade.name, goal),
            device=device,
            sources=kept,
            versions=tool_versions(__version__),
        )

    artifact: Artifact | None = None
    if link and _links_here(goal):
        try:
            artifact = make()
        except EinfallError as failure:
            _say_once(f"compiled kernels are not cached: {failure.diagnostics[0].message}")
    if device is not None:
        code = device_code(cascade.name, lambda: built.module, device) if artifact is None else artifact.load_code()
    elif not _runs_here(goal):
        code = Code(function=_refusal(cascade.name, goal))
    elif artifact is not None:
        code = artifact.load_code()
    else:
        main, *pack = (built.module[name] for name in ("main", *packers(len(packed))))  # type: ignore[index]
        code = Code(function=main, packers=tuple(pack))
    compiled = Compiled(
        signature=signature,
        code=code,
        explanation=explanation,
        target=str(goal),
        sources={"cascade": text, **{kind: _text(lambda: built, kind) for kind in _TEXTS[goal.kind]}},
        artifact=make if artifact is None else lambda: artifact,
        roofline=roofline(goal, signature),
    )
    return compiled, artifact


@lru_cache(maxsize=8)
def _say_once(message: str) -> None:
    _log.warning(message)


def from_artifact(
    artifact: Artifact, machine: Target, again: Callable[[], Cascade] | None = None, *, online: bool = True
) -> Compiled:
    """A saved or cached kernel for use on ``machine``. ``again`` gives its cascade where the compiler is at hand: what
    the artifact does not hold (such as the assembly text) is then made when it is asked for, ``online`` as the kernel was.
    """
    sources: dict[str, str | Callable[[], str]] = dict(artifact.sources)
    if again is not None:

        @lru_cache(maxsize=1)
        def rebuild() -> Built | OnDevice:
            from ..passes.pipeline import lower

            return _generate(lower(again(), target=machine, online=online).program, machine)

        sources |= {kind: _text(rebuild, kind) for kind in _TEXTS[machine.kind] if kind not in sources}
    if artifact.device is not None:
        return _compiled(artifact, artifact.load_code(), sources, machine)
    runs = artifact.arch == host_target().arch and artifact.features <= host_target().features
    if runs and any(feature.startswith("amx") for feature in artifact.features):
        request_tiles()
    code = artifact.load_code() if runs else Code(function=_refusal(artifact.signature.name, machine), pool=NO_POOL)
    return _compiled(artifact, code, sources, machine)


def _compiled(artifact: Artifact, code: Code, sources: Mapping[str, str | Callable[[], str]], machine: Target) -> Compiled:
    return Compiled(
        signature=artifact.signature,
        code=code,
        explanation=artifact.explanation,
        target=artifact.target,
        sources=sources,
        artifact=lambda: artifact,
        roofline=roofline(machine, artifact.signature),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDevice:
    """A kernel for a GPU: its host part as a module, its device part, and the texts on every level."""

    module: object
    sources: Mapping[str, str]
    export: Callable[[Path], None]
    part: DevicePart


def _generate(program: TileProgram, goal: Target) -> Built | OnDevice:
    with importing_tvm():
        from ..codegen.build import build as generate

    if goal.kind == "cuda":
        from ..codegen.cuda.build import build as generate_for_device

        made = generate_for_device(program, goal)
        code = made.code
        part = DevicePart(arch=code.arch, cubin=code.cubin, launches=made.launches, usage=code.usage)
        return OnDevice(module=made.host, sources=made.sources, export=made.export, part=part)
    if any(feature.startswith("amx") for feature in goal.features):
        request_tiles()
    return generate(program, goal)


def _links_here(goal: Target) -> bool:
    """Whether a C compiler may be expected to link for the target: this machine's own, or one that the user names."""
    return goal.kind == "cuda" or goal.arch in ("any", host_target().arch) or "CXX" in os.environ


def _library(built: Built | OnDevice, name: str, goal: Target) -> bytes:
    """The shared library. Raises EinfallError E1111 where no C compiler links it."""
    if not _links_here(goal):
        raise error(
            "E1111",
            f"the library of `{name}` cannot be linked: this machine's C compiler makes no code for {goal.arch}",
            help=f"name a cross compiler in the environment variable CXX, such as {goal.arch}-linux-gnu-g++; "
            'kernel.source("asm") needs none',
        )
    with tempfile.TemporaryDirectory(prefix="einfall-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "kernel.so"
        try:
            built.export(path)
            return path.read_bytes()
        except (OSError, RuntimeError, ValueError) as failure:
            reason = str(failure).strip().partition("\n")[0] or type(failure).__name__
            raise error(
                "E1111",
                f"the library of `{name}` cannot be linked: {reason}",
                help="install a C compiler (gcc or clang), or name one in the environment variable CXX",
            ) from None


def _text(built: Callable[[], Built | OnDevice], kind: str) -> Callable[[], str]:
    return lambda: built().sources[kind]


def _runs_here(goal: Target) -> bool:
    host = host_target()
    return goal.arch == host.arch and goal.features <= host.features


def _refusal(name: str, goal: Target) -> Callable[..., object]:
    """Stands for the function of a kernel for another machine: it can be looked at and saved, but not called."""

    def refuse(*_: object) -> object:
        raise _foreign(name, goal)

    return refuse


def _foreign(name: str, goal: Target) -> EinfallError:
    return error("E1106", f"`{name}` was compiled for {goal}, and cannot run on this machine", help='target="cpu"')
