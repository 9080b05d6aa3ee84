"""Commands about what the passes make of a program, without generating code: explain, opt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.diagnostics import did_you_mean, error
from ..program import Program, read_program_file
from .output import colored, console, log, out, out_json
from .parser import Subparsers, add_command, add_kernel, add_pairs, add_target, add_tolerance
from .values import sizes_of

if TYPE_CHECKING:
    from ...ir.cascade import Cascade
    from ...passes.rewriting import Rewriting
    from ...runtime.explanation import Explanation

_STYLES = {"title": "bold", "heading": "bold", "name": "cyan", "better": "bold green", "quiet": "dim", "plain": ""}


def register(commands: Subparsers) -> None:
    """Add the commands."""
    explain = add_command(
        commands,
        "explain",
        _explain,
        help="show what the compiler makes of a kernel: passes over the data, groups, decisions, memory, FLOPs, bytes",
        examples="einfall explain attention.ecs\neinfall explain attention.ecs H=16 P=2048 M=2048 E=64 F=64\n"
        "einfall explain attention.ecs --json",
    )
    explain.add_argument("file", type=Path, metavar="FILE")
    add_pairs(explain, "sizes", metavar="SIZE=N", help="sizes to fix; the others stay symbolic")
    add_kernel(explain)
    add_target(explain)
    add_tolerance(explain)
    opt = add_command(
        commands,
        "opt",
        _opt,
        help="print what a pass makes of a program, as a program",
        examples="einfall opt attention.ecs --pass fuse\neinfall opt attention.ecs --pass defer > deferred.ecs",
        json=False,
    )
    opt.add_argument("file", type=Path, metavar="FILE")
    opt.add_argument(
        "--pass",
        dest="name",
        required=True,
        choices=tuple(_PASSES),
        help="; ".join(f"{name}: {about}" for name, (about, _) in _PASSES.items()),
    )
    add_pairs(opt, "sizes", metavar="SIZE=N", help="sizes to fix; the others stay symbolic")
    add_kernel(opt)
    add_tolerance(opt)


def _explain(options: argparse.Namespace) -> int:
    kernels = {c.name: _explanation(c, options.target) for c in _cascades(options)}
    if options.json:
        out_json({"kernels": {name: each.summary() for name, each in kernels.items()}})
        return 0
    if colored(sys.stdout):
        _print_styled(list(kernels.values()))
    else:
        out("\n\n".join(map(str, kernels.values())))
    return 0


def _print_styled(explanations: list[Explanation]) -> None:
    from rich.text import Text

    from ...runtime.remarks import remarks

    shown = console()
    for number, each in enumerate(explanations):
        if number:
            out()
        for line in remarks(each):
            shown.print(Text.assemble(*((part.text, _STYLES[part.style]) for part in line)), soft_wrap=True)


def _explanation(cascade: Cascade, target: str) -> Explanation:
    from dataclasses import replace

    from ...ir.printer import to_source
    from ...passes.pipeline import lower
    from ...runtime.signature import Signature
    from ...runtime.threads import default_threads
    from ..explaining import explain
    from ..host import host_target, resolve_target
    from ..internal import reporting_defects
    from ..roofs import roofline

    machine = resolve_target(target)
    with reporting_defects(f"explaining `{cascade.name}`"):
        found = explain(cascade, to_source(cascade), lower(cascade, target=machine))
    threads = default_threads() if machine == host_target() else machine.cores
    limits = roofline(machine, Signature.of(cascade)) if machine.kind == "cpu" else None
    return replace(found, threads=threads, limits=limits)


def _opt(options: argparse.Namespace) -> int:
    from ...ir.printer import to_source
    from ..internal import reporting_defects

    texts = []
    for cascade in _cascades(options):
        with reporting_defects(f"rewriting `{cascade.name}`"):
            _, rewrite = _PASSES[options.name]
            found = rewrite(cascade)
            texts.append(to_source(found.cascade))
        log(f"{cascade.name}: {'rewritten' if found.cascade != cascade else 'nothing to rewrite'}")
        for each in found.decisions:
            log(f"  {each.subject}: {each.chosen}, because {each.because} [{each.made_by}]")
    out("\n".join(texts).rstrip("\n"))
    return 0


def _simplify(cascade: Cascade) -> Rewriting:
    from ...passes.simplification.simplify import simplify

    return simplify(cascade)


def _normalize(cascade: Cascade) -> Rewriting:
    from ...passes.pipeline import prepare

    return _then(prepare(cascade), _defer)


def _defer(cascade: Cascade) -> Rewriting:
    from ...passes.analysis.structure import Structure
    from ...passes.online.defer import defer_explained
    from ...passes.rewriting import Rewriting

    found, decisions = defer_explained(Structure(cascade))
    return Rewriting(cascade=found.cascade, decisions=decisions)


def _fuse(cascade: Cascade) -> Rewriting:
    from ...passes.pipeline import prepare

    return _then(prepare(cascade), _derive)


def _derive(cascade: Cascade) -> Rewriting:
    from ...passes.online.derive import derive
    from ...passes.rewriting import Rewriting

    found = derive(cascade)
    return Rewriting(cascade=found.cascade, decisions=found.decisions)


def _split(cascade: Cascade) -> Rewriting:
    from ...passes.either import most_parts
    from ...passes.online.derive import derive
    from ...passes.online.split import split
    from ...passes.rewriting import Rewriting
    from ..host import host_target

    found = derive(cascade)
    return split(found, most=most_parts(host_target())) or Rewriting(cascade=cascade, decisions=found.decisions)


def _chunk(cascade: Cascade) -> Rewriting:
    from ...passes.recurrences.chunk import chunked
    from ...passes.rewriting import Rewriting

    return chunked(cascade) or Rewriting(cascade=cascade)


def _pairs(cascade: Cascade) -> Rewriting:
    from ...passes.shifting.pairs import paired

    return paired(cascade)


def _unify(cascade: Cascade) -> Rewriting:
    from ...passes.shifting.unified import unified

    return unified(cascade)


def _then(first: Rewriting, rewrite: Callable[[Cascade], Rewriting]) -> Rewriting:
    from ...passes.rewriting import Rewriting

    second = rewrite(first.cascade)
    return Rewriting(cascade=second.cascade, decisions=(*first.decisions, *second.decisions))


_PASSES: Mapping[str, tuple[str, Callable[[Cascade], Rewriting]]] = {
    "simplify": ("constants folded, equal work done once, nothing that no result needs", _simplify),
    "defer": ("factors that are finished reductions move out of sums", _defer),
    "normalize": ("simplify, means that are provably zero, defer", _normalize),
    "fuse": ("the form with the fewest passes over the data", _fuse),
    "split": ("long rows dealt out to parts that run side by side, and are merged", _split),
    "chunk": ("linear recurrences in chunks of steps, each chunk in parallel", _chunk),
    "pairs": ("sums of exponentials as pairs of mantissa and exponent, without the maximum first", _pairs),
    "unify": ("sums of exponentials under one shift, checked afterwards (needs @tolerance)", _unify),
}


def _cascades(options: argparse.Namespace) -> list[Cascade]:
    """The kernel that is meant, or all of the file, with the given sizes put in.

    Raises EinfallError E1001 for a size that none of them has, E1012, E0701.
    """
    from ..specialise import specialise

    program = read_program_file(options.file).permitting(options.tolerance)
    chosen = [program.select(options.kernel)] if options.kernel else list(program.cascades().values())
    _check_sizes(program, chosen, [name for name, _ in options.sizes])
    return [specialise(c, sizes_of(c, _own(c, options.sizes, several=len(chosen) > 1))) for c in chosen]


def _own(cascade: Cascade, given: list[tuple[str, str]], *, several: bool) -> Iterator[tuple[str, str]]:
    return (pair for pair in given if not several or pair[0] in cascade.sizes)


def _check_sizes(program: Program, chosen: list[Cascade], names: list[str]) -> None:
    known = list(dict.fromkeys(name for c in chosen for name in c.sizes))
    for name in names:
        if len(chosen) > 1 and name not in known:
            raise error("E1001", f"no kernel of {program.file} has a size `{name}`", help=did_you_mean(name, known))
