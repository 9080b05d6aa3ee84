"""argparse, with mistakes reported as einfall reports them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol

from ...ir.diagnostics import did_you_mean
from .values import pair


class UsageError(Exception):
    """A command line that cannot be understood: the message, and the usage to show."""

    def __init__(self, message: str, usage: str, hint: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.usage = usage
        self.hint = hint


class Parser(argparse.ArgumentParser):
    """Raises :class:`UsageError` where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        hint = None
        if message.startswith("argument COMMAND: invalid choice: "):
            wrong = message.split("'")[1]
            message = f"there is no command `{wrong}`"
            hint = did_you_mean(wrong, COMMANDS) or f"the commands are {', '.join(COMMANDS)}"
        elif message.startswith("unrecognized arguments: "):
            wrong = message.partition(": ")[2].split()[0]
            known = _options(self)
            hint = did_you_mean(wrong.partition("=")[0], known)
        raise UsageError(message, self.format_usage().strip(), hint)


def parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line. NAME=VALUE pairs may stand anywhere (argparse takes them only before options).

    Raises :class:`UsageError`.
    """
    options, rest = parser.parse_known_args(arguments)
    wanted = getattr(options, "pairs", None)
    if wanted is not None:
        for text in [each for each in rest if "=" in each and not each.startswith("-")]:
            rest.remove(text)
            try:
                getattr(options, wanted).append(pair(text))
            except argparse.ArgumentTypeError as failure:
                parser.error(str(failure))
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def add_pairs(parser: argparse.ArgumentParser, dest: str, *, metavar: str, help: str) -> None:
    """NAME=VALUE arguments, gathered in ``dest``."""
    parser.add_argument(dest, nargs="*", type=pair, metavar=metavar, help=help)
    parser.set_defaults(pairs=dest)


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """The options of a parser and of all its commands."""
    found = [option for action in parser._actions for option in action.option_strings]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [option for inner in action.choices.values() for option in _options(inner)]
    return found


class Subparsers(Protocol):
    """What ``add_subparsers`` gives."""

    def add_parser(self, name: str, **options: object) -> argparse.ArgumentParser: ...


COMMANDS: list[str] = []
"""The names of all commands, in the order in which they were added."""


def add_command(
    commands: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    help: str,
    examples: str,
    json: bool = True,
) -> argparse.ArgumentParser:
    """A command with its help, ending in examples."""
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if json:
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)
    if name not in COMMANDS:
        COMMANDS.append(name)
    return parser


def add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target",
        default="cpu",
        metavar="TARGET",
        help="the machine, such as cpu:haswell, cuda (the GPU of this one) or cuda:sm_90 (default: this CPU)",
    )


def add_tolerance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="the relative error that a kernel may have, instead of its @tolerance: 1e-2 permits tf32 on tensor cores",
    )


def add_kernel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernel", metavar="NAME", help="the kernel that is meant, where a file has several")
