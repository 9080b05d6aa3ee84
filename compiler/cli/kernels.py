"""Commands that compile and run one kernel: compile, run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ...ir.cascade import Cascade
from ...ir.diagnostics import error
from ...runtime.artifact import SUFFIX
from ...runtime.benchmark import Benchmark
from ...runtime.extents import check_sizes, known_sizes
from ...runtime.kernel import Kernel
from ...runtime.signature import Signature
from ...runtime.threads import checked_threads
from ..checking import Comparison, compare
from ..program import Program, read_program_file
from ..samples import sample_arguments
from ..testing import passed_to, results_of
from .output import console, log, out, out_json
from .parser import Subparsers, add_command, add_kernel, add_pairs, add_target, add_tolerance
from .values import pairs, read_arrays, sizes_of, sort_arguments, store_arrays

_MOST_POINTS = 200_000_000
"""Operations that the interpreter is asked for by default: some seconds."""


def register(commands: Subparsers) -> None:
    """Add the commands."""
    compile = add_command(
        commands,
        "compile",
        _compile,
        help="compile a kernel, and save it",
        examples="einfall compile attention.ecs\neinfall compile attention.ecs -o attention.efk E=64 F=64\n"
        "einfall compile attention.ecs --target cpu:x86-64-v3 -o portable.efk",
    )
    compile.add_argument("file", type=Path, metavar="FILE")
    add_pairs(compile, "sizes", metavar="SIZE=N", help="sizes to fix; the others stay symbolic")
    compile.add_argument("-o", "--output", type=Path, metavar=f"OUT{SUFFIX}", help="where to save the kernel")
    add_kernel(compile)
    add_target(compile)
    add_tolerance(compile)
    run = add_command(
        commands,
        "run",
        _run,
        help="run a kernel on arrays from files, or on random ones, compare it with the interpreter, and time it",
        examples="einfall run attention.ecs --random H=4,P=100,M=100,E=64,F=64\n"
        "einfall run attention.ecs Q=q.npy K=k.npy V=v.npy -o av.npy\n"
        "einfall run attention.efk --inputs qkv.npz -o result.npz",
    )
    run.add_argument("file", type=Path, metavar="FILE", help=f"an .ecs program or a saved kernel ({SUFFIX})")
    add_pairs(run, "values", metavar="NAME=VALUE", help="a .npy file, a number or a size for each argument")
    run.add_argument("--inputs", type=Path, metavar="FILE.npz", help="arrays by name")
    run.add_argument(
        "--random",
        nargs="?",
        const=[],
        type=pairs,
        metavar="SIZE=N,…",
        help="random arguments of these sizes (without any: those of the kernel's first check)",
    )
    run.add_argument("--seed", type=int, default=0, metavar="N", help="of the random arguments (default: 0)")
    run.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to write the results: .npz, or .npy for one")
    run.add_argument("--threads", type=int, metavar="N", help="threads to use (default: all cores)")
    run.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        help="compare with the interpreter (default: if that is quick)",
    )
    run.add_argument("--bench", action=argparse.BooleanOptionalAction, default=True, help="time repeated calls (default: yes)")
    add_kernel(run)
    add_target(run)
    add_tolerance(run)


def _compile(options: argparse.Namespace) -> int:
    from ..driver import compile

    program = read_program_file(options.file).permitting(options.tolerance)
    cascade = program.select(options.kernel)
    sizes = sizes_of(cascade, options.sizes)
    kernel = compile(program.text, kernel=cascade.name, target=options.target, tolerance=program.tolerance, **sizes)
    saved = kernel.save(options.output) if options.output else None
    if options.json:
        out_json(
            {
                "kernel": kernel.name,
                "signature": str(kernel.signature),
                "target": kernel.target,
                "saved": str(saved) if saved else None,
            }
        )
    else:
        out(f"{kernel.signature} for {kernel.target}")
        if saved:
            log(f"saved {saved} ({saved.stat().st_size / 1e3:.0f} kB)")
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A kernel with everything that one call needs."""

    kernel: Kernel
    cascade: Cascade
    arguments: Mapping[str, np.ndarray | int | float | bool]
    given: Mapping[str, int]
    sizes: Mapping[str, int]


def _run(options: argparse.Namespace) -> int:
    if options.output:
        _check_output(options.output)
    cascade, make = _program(options)
    arrays, sizes, known = _arguments(cascade, options)
    kernel = make()
    call = _Call(kernel=kernel, cascade=cascade, arguments=arrays, given=sizes, sizes=known)
    passed = passed_to(kernel, call.arguments)
    results = results_of(kernel, kernel(**passed, **call.given))
    comparison = _comparison(call, results, options.check)
    bench = kernel.benchmark(**passed, **call.given, seconds=0.3) if options.bench else None
    if options.output:
        _write(options.output, {r.name: value for r, value in zip(cascade.results, results, strict=True)})
    if options.json:
        out_json(_json(call, results, comparison, bench))
    else:
        _print(call, results, comparison, bench)
    return 0 if comparison is None or comparison.passed else 1


def _program(options: argparse.Namespace) -> tuple[Cascade, Callable[[], Kernel]]:
    """What is to be computed, and how to get its kernel: the arguments are looked at before that takes time."""
    from ..driver import compile, load

    threads = None if options.threads is None else checked_threads(options.threads)
    if options.file.suffix == SUFFIX:
        if options.tolerance is not None:
            raise error(
                "E1110",
                f"{options.file} keeps the tolerance for which it was compiled",
                help="einfall compile FILE.ecs --tolerance X",
            )
        kernel = load(options.file, threads=threads)
        return Program(text=kernel.source("cascade"), file=str(options.file)).select(None), lambda: kernel
    program = read_program_file(options.file).permitting(options.tolerance)
    cascade = program.select(options.kernel)
    wanted, tolerance = cascade.name, program.tolerance
    return cascade, lambda: compile(program.text, kernel=wanted, target=options.target, threads=threads, tolerance=tolerance)


_Arguments: TypeAlias = "dict[str, np.ndarray | int | float | bool]"


def _arguments(cascade: Cascade, options: argparse.Namespace) -> tuple[_Arguments, dict[str, int], dict[str, int]]:
    """(arguments, sizes that were given, all sizes that are known)."""
    arrays, scalars, sizes = sort_arguments(cascade, options.values)
    if options.inputs is not None:
        arrays = {**read_arrays(options.inputs), **arrays}
        unknown = [name for name in arrays if name not in cascade.by_name or not cascade.by_name[name].is_parameter]
        for name in unknown:
            log(f"{options.inputs}: `{name}` is not used")
            del arrays[name]
    arrays = store_arrays(cascade, arrays)
    if options.random is not None:
        sizes = {**_random_sizes(cascade, options.random), **sizes}
    signature = Signature.of(cascade)
    known = known_sizes(signature, {n: a.shape for n, a in arrays.items() if cascade.by_name[n].shape}, sizes)
    found: _Arguments = {**arrays, **scalars}
    if options.random is not None:
        missing = [name for name in cascade.sizes if name not in known]
        if missing:
            raise error(
                "E1005",
                f"random arguments of `{cascade.name}` need the size{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
                help=f"--random {','.join(f'{name}=…' for name in cascade.sizes)}",
            )
        check_sizes(signature, known)
        return {**sample_arguments(cascade, known, options.seed, scalars=scalars), **found}, sizes, known
    needed = [p.name for p in cascade.parameters if p.name not in found]
    if needed:
        files = [f"{n}={n.lower()}.npy" if cascade.by_name[n].shape else f"{n}=1.0" for n in needed]
        raise error(
            "E1002",
            f"`{cascade.name}` needs {', '.join(f'`{n}`' for n in needed)}",
            notes=[str(signature)],
            help=f"give {' '.join(files)}, or --random",
        )
    return found, sizes, known


def _random_sizes(cascade: Cascade, given: list[tuple[str, str]]) -> dict[str, int]:
    if given:
        return sizes_of(cascade, given)
    if not cascade.checks:
        return {}
    sizes = {name: int(value) for name, value in cascade.checks[0].values if name in cascade.sizes}
    log(f"sizes of the first check: {', '.join(f'{n} = {v}' for n, v in sizes.items())}")
    return sizes


def _comparison(call: _Call, results: list[np.ndarray], wanted: bool | None) -> Comparison | None:
    """The comparison with the interpreter: if it is asked for, or by default if it takes seconds at most."""
    if wanted is False:
        return None
    if wanted is None:
        work = call.kernel.explain().at(**call.sizes, **call.kernel.let_values(call.sizes))["flops"]
        if work > _MOST_POINTS:
            log(f"not compared with the interpreter ({work:.1e} operations); --check compares")
            return None
    return compare(call.cascade, call.arguments, results, sizes=call.sizes)


def _check_output(path: Path) -> None:
    if path.suffix not in (".npy", ".npz"):
        raise error("E1107", f"{path}: results are written as .npz, or as .npy if there is one", help="-o result.npz")


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    try:
        with path.open("wb") as file:
            if path.suffix == ".npy" and len(arrays) == 1:
                np.save(file, next(iter(arrays.values())), allow_pickle=False)
            else:
                np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as failure:
        raise error("E1107", f"{path} cannot be written: {failure.strerror or failure}") from None


def _json(call: _Call, results: list[np.ndarray], comparison: Comparison | None, bench: Benchmark | None) -> dict[str, object]:
    return {
        "kernel": call.kernel.name,
        "target": call.kernel.target,
        "sizes": dict(call.sizes),
        "results": [
            {"name": r.name, "dtype": str(r.dtype), "shape": list(value.shape)}
            for r, value in zip(call.cascade.results, results, strict=True)
        ],
        "comparison": comparison.to_json() if comparison else None,
        "time": bench.to_json() if bench else None,
    }


def _print(call: _Call, results: list[np.ndarray], comparison: Comparison | None, bench: Benchmark | None) -> None:
    for tensor, value in zip(call.cascade.results, results, strict=True):
        out(f"{tensor.name}: {tensor.dtype}{list(value.shape)}")
        if 0 < value.size <= 16:
            out(np.array2string(np.asarray(value), precision=6, suppress_small=True))
    if comparison is not None:
        shown = console()
        style = "[green]agrees[/]" if comparison.passed else "[red]differs[/]"
        errors = ", ".join(f"{r.name} {r.error:.2g} (allowed {r.allowed:.2g})" for r in comparison.results)
        shown.print(f"interpreter: {style}, largest error {errors}", soft_wrap=True)
        for each in comparison.results:
            if not each.passed:
                log(str(each))
    if bench is not None:
        out(f"time: {str(bench).partition(': ')[2]}")
