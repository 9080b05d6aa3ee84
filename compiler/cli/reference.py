"""Commands about einfall itself: explain-error, cache, doctor."""

from __future__ import annotations

import argparse

from ...ir.catalogue import CATALOGUE
from ...ir.diagnostics import did_you_mean, error
from .output import console, out, out_json
from .parser import Subparsers, add_command


def register(commands: Subparsers) -> None:
    """Add the commands."""
    explain = add_command(
        commands,
        "explain-error",
        _explain_error,
        help="say what an error code means and how to put it right",
        examples="einfall explain-error E0101\neinfall explain-error",
    )
    explain.add_argument("code", nargs="?", metavar="CODE", help="such as E0101; without it all codes are listed")
    cache = add_command(
        commands,
        "cache",
        _cache,
        help="look at, or empty, the cache of compiled kernels",
        examples="einfall cache\neinfall cache clear\neinfall cache path",
    )
    cache.add_argument("what", nargs="?", default="info", choices=("info", "clear", "path"), metavar="info|clear|path")
    doctor = add_command(
        commands,
        "doctor",
        _doctor,
        help="report what this machine and installation can do",
        examples="einfall doctor\neinfall doctor --measure",
    )
    doctor.add_argument("--measure", action="store_true", help="measure the machine's limits and keep them")


def _explain_error(options: argparse.Namespace) -> int:
    if options.code is None:
        if options.json:
            out_json({code: kind.title for code, kind in sorted(CATALOGUE.items())})
        else:
            out("\n".join(f"{code}  {kind.title}" for code, kind in sorted(CATALOGUE.items())))
        return 0
    kind = CATALOGUE.get(options.code.strip().upper())
    if kind is None:
        raise error(
            "E1302",
            f"there is no error code {options.code!r}",
            help=did_you_mean(options.code.upper(), CATALOGUE) or "einfall explain-error lists all codes",
        )
    if options.json:
        out_json(
            {
                "code": kind.code,
                "title": kind.title,
                "explanation": kind.explanation,
                "wrong": kind.wrong,
                "fixed": kind.fixed,
            }
        )
        return 0
    out(f"{kind.code}: {kind.title}\n")
    console().print(kind.explanation, markup=False, soft_wrap=False)
    out(f"\nwrong:\n{_indented(kind.wrong)}\n\nright:\n{_indented(kind.fixed)}")
    return 0


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.rstrip().splitlines())


def _cache(options: argparse.Namespace) -> int:
    from .. import cache

    if options.what == "clear":
        count = cache.clear()
        if options.json:
            out_json({"removed": count})
        else:
            out(f"removed {count} kernel{'' if count == 1 else 's'}")
        return 0
    found = cache.info()
    if options.what == "path":
        out(str(found.folder))
    elif options.json:
        out_json(
            {
                "folder": str(found.folder),
                "enabled": found.enabled,
                "kernels": found.kernels,
                "bytes": found.size,
                "limit": found.limit,
            }
        )
    else:
        state = "" if found.enabled else " (turned off by EINFALL_CACHE)"
        out(f"folder   {found.folder}{state}")
        out(f"kernels  {found.kernels}")
        out(f"size     {found.size / 1e6:.1f} MB of {found.limit / 1e6:.0f} MB")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from ..doctor import run_doctor

    return run_doctor(options.json, options.measure)
