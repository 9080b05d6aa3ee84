"""The way of a program through the compiler: text, cascade, tile program, code, kernel."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from .. import __version__
from ..ir.diagnostics import did_you_mean, error
from ..ir.target import Target, TargetLike
from ..runtime.artifact import Artifact
from ..runtime.families import as_numpy
from ..runtime.kernel import Compiled, Kernel
from ..runtime.results import result_tuple
from ..runtime.signature import Json, Signature
from ..runtime.threads import checked_threads
from . import cache as disk
from .building import build, from_artifact
from .collection import without_collection
from .host import host_target, resolve_target
from .internal import reporting_defects
from .options import NAMES, Options
from .program import Program, Source, read_program
from .specialise import specialise

if TYPE_CHECKING:
    from ..ir.cascade import Cascade

_MOST_IN_MEMORY = 256
_memory: OrderedDict[str, Compiled] = OrderedDict()
_lock = threading.Lock()


def compile(
    source: Source,
    *,
    kernel: str | None = None,
    target: TargetLike = "cpu",
    threads: int | None = None,
    tolerance: float | None = None,
    **sizes_and_options: object,
) -> Kernel:
    """Compile a kernel.

    ``source`` is the path of an `.ecs` file, the text of a program, or a kernel (which is compiled again); ``kernel``
    names one of several in it. Sizes given by name (``H=16, E=64``) are fixed, which can make the code faster; the
    others stay symbolic. ``threads`` is the default number of threads of a call. ``tolerance`` stands for the kernel's
    `@tolerance`: the relative error, in the Frobenius norm, that it may have. The further options are those of
    :class:`.options.Options`: ``cache=False`` neither reads nor writes the cache, ``verify_each=True`` checks the IR
    after every pass.

    Raises EinfallError with every mistake of the program (E01 to E07), E0705 for a wrong tolerance, E1001 and E1012 for wrong
    sizes, E11xx for files and options, E12xx for targets.
    """
    if threads is not None:
        checked_threads(threads)
    options = Options.checked({n: v for n, v in sizes_and_options.items() if n in NAMES})
    sizes = {name: value for name, value in sizes_and_options.items() if name not in NAMES}
    program = read_program(source).permitting(tolerance)
    goal = resolve_target(target)
    compiled = _find_or_build(program, kernel, goal, sizes, options)
    return Kernel(compiled, threads=threads)


def interpret(
    source: Source, /, *, kernel: str | None = None, mode: Literal["exact", "typed"] = "exact", **named: object
) -> object:
    """Evaluate a kernel as it is written, without compiling it: the reference for what a compiled kernel gives.

    Arrays, numbers and sizes are given by name, as in a call. ``mode`` is "exact" (float64, exact integers) or "typed"
    (rounded to its type after every Einsum). Returns one NumPy array, or a named tuple of several.

    Raises EinfallError as :func:`compile` and calls of a kernel do.
    """
    from ..ir.interpreter import interpret as run

    if mode not in ("exact", "typed"):
        raise error("E1110", f'`mode` is "exact" or "typed", not {mode!r}')
    cascade = read_program(source).select(kernel)
    parameters = {p.name for p in cascade.parameters}
    unknown = [name for name in named if name not in parameters and name not in cascade.sizes]
    if unknown:
        known = [*parameters, *cascade.sizes, "kernel", "mode"]
        raise error("E1001", f"`{cascade.name}` has no argument `{unknown[0]}`", help=did_you_mean(unknown[0], known))
    arguments = {name: as_numpy(name, value) for name, value in named.items() if name in parameters}
    specialise(cascade, {name: value for name, value in named.items() if name not in parameters})  # checks them
    sizes = {name: int(np.asarray(value)) for name, value in named.items() if name not in parameters}
    with reporting_defects(f"interpreting `{cascade.name}`"), np.errstate(all="ignore"):
        found = run(cascade, arguments, sizes=sizes, mode=mode)
    values = [found[r.name] for r in cascade.results]
    return values[0] if len(values) == 1 else result_tuple(cascade.name, [r.name for r in cascade.results])(*values)


def check(source: Source) -> tuple[Signature, ...]:
    """The signatures of a program's kernels. Raises EinfallError with every independent mistake of the program."""
    return tuple(Signature.of(cascade) for cascade in read_program(source).cascades().values())


def load(path: str | Path, *, threads: int | None = None) -> Kernel:
    """A kernel that `kernel.save` wrote. Needs no compiler.

    Raises EinfallError E1101, E1102 for files that cannot be read, E1104 for damaged ones, E1105 for those of another
    version, E1106 for those of another machine.
    """
    if not isinstance(path, str | Path):
        raise error("E1109", f"a kernel is loaded from a path, not a {type(path).__name__}")
    artifact = Artifact.read(Path(path))
    host = host_target()
    artifact.check_host(host.arch, host.features, str(path))
    return Kernel(from_artifact(artifact, host), threads=threads)


def _find_or_build(
    program: Program, kernel: str | None, goal: Target, sizes: Mapping[str, object], options: Options
) -> Compiled:
    """From memory, from disk, or from scratch."""
    given: dict[str, Json] = {n: repr(v) for n, v in sorted(sizes.items())}
    rest: dict[str, Json] = {"sizes": given, "tolerance": program.tolerance, **_relevant(options)}
    name = kernel if kernel is not None else program.kernel
    text_key = disk.key("text", program.text, kernel=name, target=goal, rest=rest, version=__version__)
    with _lock:
        known = _memory.get(text_key) if options.cache else None
        if known is not None:
            _memory.move_to_end(text_key)
            return known
    use_disk = options.cache and disk.enabled()
    found = disk.lookup(text_key) if use_disk else None
    if found is not None:
        compiled = from_artifact(found, goal, lambda: _cascade(program, kernel, sizes), online=options.online)
    else:
        with reporting_defects(f"compiling {program.file}"), without_collection():
            cascade = _cascade(program, kernel, sizes)
            compiled = _from_cascade(cascade, goal, sizes, options, text_key, use_disk=use_disk)
    if options.cache:
        with _lock:
            _memory[text_key] = compiled
            while len(_memory) > _MOST_IN_MEMORY:
                _memory.popitem(last=False)
    return compiled


def _cascade(program: Program, kernel: str | None, sizes: Mapping[str, object]) -> Cascade:
    return specialise(program.select(kernel), sizes, options=NAMES)


def _from_cascade(
    cascade: Cascade,
    goal: Target,
    sizes: Mapping[str, object],
    options: Options,
    text_key: str,
    *,
    use_disk: bool,
) -> Compiled:
    from ..ir.printer import to_source

    text = to_source(cascade)
    fixed = {name: int(np.asarray(value)) for name, value in sizes.items()}
    rest: dict[str, Json] = {"fixed": dict(sorted(fixed.items())), **_relevant(options)}
    canonical_key = disk.key("cascade", text, kernel=cascade.name, target=goal, rest=rest, version=__version__)
    found = disk.lookup_canonical(canonical_key) if use_disk else None
    if found is not None:
        disk.link(text_key, canonical_key)
        return from_artifact(found, goal, lambda: cascade, online=options.online)
    compiled, artifact = build(cascade, text, fixed, goal, options, link=use_disk)
    if artifact is not None:
        disk.store(canonical_key, artifact)
        disk.link(text_key, canonical_key)
    return compiled


def _relevant(options: Options) -> dict[str, Json]:
    """The options that the code depends on."""
    ignored = ("cache", "verify_each")
    return {name: value for name, value in asdict(options).items() if name not in ignored}
