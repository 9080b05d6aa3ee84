"""Commands about programs: check, fmt, source."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from ...ir.diagnostics import EinfallError
from ..program import read_program_file
from ..testing import programs
from .output import errors_json, log, out, out_json, report
from .parser import Subparsers, add_command, add_kernel, add_target, add_tolerance


def register(commands: Subparsers) -> None:
    """Add the commands."""
    check = add_command(
        commands,
        "check",
        _check,
        help="find the mistakes of programs, without compiling them",
        examples="einfall check attention.ecs\neinfall check examples/ --json",
    )
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".ecs files, or folders of them")
    fmt = add_command(
        commands,
        "fmt",
        _fmt,
        help="bring programs into the canonical format, comments kept",
        examples="einfall fmt attention.ecs\neinfall fmt --check examples/\ncat attention.ecs | einfall fmt -",
        json=False,
    )
    fmt.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".ecs files, folders of them, or - for stdin")
    fmt.add_argument("--check", action="store_true", help="change nothing; exit with 1 if something would change")
    fmt.add_argument("--diff", action="store_true", help="change nothing; print what would change")
    source = add_command(
        commands,
        "source",
        _source,
        help="print a kernel at one stage of its compilation",
        examples="einfall source attention.ecs --kind tile\neinfall source attention.ecs --kind asm --target cpu:haswell",
        json=False,
    )
    source.add_argument("file", type=Path, metavar="FILE")
    source.add_argument("--kind", default="cascade", metavar="KIND", help="cascade, tile, tir, llvm or asm (default: cascade)")
    add_kernel(source)
    add_target(source)
    add_tolerance(source)


def _check(options: argparse.Namespace) -> int:
    results: list[dict[str, object]] = []
    wrong = 0
    for path in programs(options.files):
        try:
            found = read_program_file(path).cascades()
        except EinfallError as failure:
            wrong += 1
            results.append({"file": str(path), "ok": False, "errors": errors_json(failure)})
            if not options.json:
                report(failure)
                log("")
            continue
        results.append({"file": str(path), "ok": True, "kernels": list(found)})
        if not options.json:
            out(f"{path}: {', '.join(found)}")
    if options.json:
        out_json({"files": results})
    elif wrong:
        log(f"{wrong} of {len(results)} files have errors")
    return 1 if wrong else 0


def _fmt(options: argparse.Namespace) -> int:
    from ...frontend.formatter import format_source

    if [str(path) for path in options.files] == ["-"]:
        text = sys.stdin.buffer.read().decode("utf-8", errors="replace")
        sys.stdout.write(_formatted(format_source, text, "<stdin>"))
        return 0
    changed = 0
    failures: list[EinfallError] = []
    for path in programs(options.files):
        try:
            text = read_program_file(path).text
            new = _formatted(format_source, text, str(path))
        except EinfallError as failure:
            failures.append(failure)
            continue
        if new == text:
            continue
        changed += 1
        if options.diff:
            lines = difflib.unified_diff(
                text.splitlines(keepends=True), new.splitlines(keepends=True), str(path), f"{path} (formatted)"
            )
            sys.stdout.writelines(lines)
        elif options.check:
            out(str(path))
        else:
            _write(path, new)
            out(f"formatted {path}")
    for each in failures:
        report(each)
    return 1 if failures or (changed and (options.check or options.diff)) else 0


def _formatted(format_source: object, text: str, file: str) -> str:
    try:
        new: str = format_source(text, file)  # type: ignore[operator]
    except EinfallError as failure:
        raise failure.with_source(file, text) from None
    return new


def _write(path: Path, text: str) -> None:
    from ...ir.diagnostics import error
    from ..paths import atomic_write

    try:
        mode = path.stat().st_mode
        atomic_write(path.resolve(), text.encode())
        path.chmod(mode & 0o7777)
    except OSError as failure:
        raise error("E1107", f"{path} cannot be written: {failure.strerror or failure}") from None


def _source(options: argparse.Namespace) -> int:
    from ..driver import compile

    kernel = compile(options.file, kernel=options.kernel, target=options.target, tolerance=options.tolerance)
    out(kernel.source(options.kind))
    return 0
