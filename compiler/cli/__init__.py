"""The command `einfall`. Exit codes: 0 fine, 1 a mistake in the input, 2 in the command line, 70 in einfall itself."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ... import __version__
from ...ir.diagnostics import EinfallError, error
from ..internal import defect
from . import inspection, kernels, passes, programs, reference, testing
from .output import errors_json, out_json, report
from .parser import Parser, UsageError, parse

_FINE, _MISTAKE, _USAGE, _INTERNAL, _INTERRUPTED, _PIPE = 0, 1, 2, 70, 130, 141

_EXAMPLES = """examples:
  einfall check attention.ecs
  einfall run attention.ecs --random H=4,P=100,M=100,E=64,F=64
  einfall test examples/
  einfall COMMAND --help

environment:
  EINFALL_NUM_THREADS  the most threads that a kernel uses     NO_COLOR       print without colours
  EINFALL_CACHE_DIR    where compiled kernels are kept         EINFALL_DEBUG  show where an internal error happened
  EINFALL_CACHE        0 turns the cache off"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (``sys.argv`` by default) and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(given)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED


def _run(given: Sequence[str]) -> int:
    as_json = "--json" in given
    try:
        options = parse(_parser(), given)
        code: int = options.run(options)
        return code
    except SystemExit as end:  # --help and --version
        return int(end.code or 0)
    except UsageError as failure:
        problem = error("E1301", failure.message, help=failure.hint, notes=[failure.usage])
        return _failed(problem, as_json, _USAGE)
    except EinfallError as failure:
        code = _INTERNAL if failure.code.startswith("E90") else _MISTAKE
        return _failed(failure, as_json, code)
    except BrokenPipeError:
        raise
    except Exception as failure:
        return _failed(defect(failure, "running this command"), as_json, _INTERNAL)


def _failed(failure: EinfallError, as_json: bool, code: int) -> int:
    if as_json:
        out_json({"errors": errors_json(failure)})
    else:
        report(failure)
    return code


def _parser() -> Parser:
    parser = Parser(
        prog="einfall",
        description="Write a kernel as a cascade of Einsums, get a fused, checked and fast implementation of it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"einfall {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True, parser_class=Parser)
    for group in (programs, passes, kernels, inspection, testing, reference):
        group.register(commands)
    return parser
