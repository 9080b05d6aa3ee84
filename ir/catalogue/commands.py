"""Codes E13 and E90: the command line, and internal errors."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = (
    ErrorKind(
        code="E1301",
        title="wrong command line",
        explanation=(
            "The command, an option or its value is not one that `einfall` knows. `einfall --help` lists the commands, "
            "`einfall COMMAND --help` shows one of them with examples."
        ),
        wrong="einfall chekc attention.ecs",
        fixed="einfall check attention.ecs",
    ),
    ErrorKind(
        code="E1302",
        title="unknown error code",
        explanation="`einfall explain-error` takes a code of the catalogue; without one it lists them all.",
        wrong="einfall explain-error E9999",
        fixed="einfall explain-error E0101",
    ),
    ErrorKind(
        code="E1303",
        title="no programs found",
        explanation="The files and folders that were named hold no `.ecs` program.",
        wrong="einfall test docs/",
        fixed="einfall test examples/",
    ),
    ErrorKind(
        code="E1304",
        title="check failed",
        explanation=(
            "The compiled kernel gave a result that differs from the interpreter's by more than rounding explains. "
            "That is a defect of the compiler (please report it), unless the program is ill-conditioned for random "
            "inputs."
        ),
        wrong="einfall test kernel-that-divides-by-small-differences.ecs",
        fixed="einfall test attention.ecs",
    ),
    ErrorKind(
        code="E9001",
        title="internal error",
        explanation=(
            "Something went wrong inside einfall that no input should cause. Please report it with the program; "
            "EINFALL_DEBUG=1 shows where it happened."
        ),
        wrong="a defect of einfall",
        fixed="EINFALL_DEBUG=1 einfall run attention.ecs ...",
    ),
)
