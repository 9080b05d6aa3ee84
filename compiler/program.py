"""Where a program comes from: a file, text, or a kernel that is compiled again."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from ..ir.diagnostics import EinfallError, did_you_mean, error
from ..runtime.artifact import SUFFIX, read_file
from ..runtime.kernel import Kernel
from .internal import reporting_defects

if TYPE_CHECKING:
    from ..ir.cascade import Cascade

Source: TypeAlias = Union[str, "os.PathLike[str]", Kernel]

_ITEM = re.compile(r"\s*(#|(kernel|def|let|type|check)\b|@\s*tolerance\b)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The text of a program, the name that messages give it, and the kernel that is meant, if that is known. ``tolerance``
    stands for those of the text's kernels."""

    text: str
    file: str = "<string>"
    kernel: str | None = None
    tolerance: float | None = None

    def permitting(self, tolerance: object) -> Program:
        """The program with a relative error, in the Frobenius norm, that its kernels may have instead of what they say
        (None: what they say). Raises EinfallError E0705 unless it is a positive, finite number."""
        if tolerance is None:
            return self
        numeric = isinstance(tolerance, Real) and not isinstance(tolerance, bool)
        if not numeric or not math.isfinite(value := float(tolerance)) or value <= 0:  # type: ignore[arg-type]
            raise error(
                "E0705",
                f"a tolerance is a positive relative error, not {tolerance!r}",
                help="for example tolerance=1e-2, or --tolerance 1e-2",
            )
        return replace(self, tolerance=value)

    def cascades(self) -> dict[str, Cascade]:
        """All kernels by name. Raises EinfallError with every mistake of the program, and lines to show."""
        from ..frontend import load

        try:
            with reporting_defects(f"reading {self.file}"):
                found = load(self.text, self.file)
        except EinfallError as failure:
            raise failure.with_source(self.file, self.text) from None
        if self.tolerance is None:
            return found
        return {name: replace(cascade, tolerance=self.tolerance) for name, cascade in found.items()}

    def select(self, name: str | None) -> Cascade:
        """The kernel of that name, or the only one. Raises EinfallError E1108, and what :meth:`cascades` raises."""
        found = self.cascades()
        wanted = name if name is not None else self.kernel
        if wanted is None and len(found) == 1:
            return next(iter(found.values()))
        names = ", ".join(found)
        if wanted is None:
            raise error(
                "E1108",
                f"{self.file} has several kernels: {names}",
                help=f'choose one: kernel="{min(found)}", in a shell --kernel {min(found)}',
            )
        if wanted not in found:
            raise error(
                "E1108",
                f"{self.file} has no kernel `{wanted}`",
                help=did_you_mean(wanted, found) or f"it has {names}",
            )
        return found[wanted]


def read_program(source: Source) -> Program:
    """The program that ``source`` stands for: a path, the text of a program, or a kernel.

    Raises EinfallError E1101, E1102, E1103 for files that cannot be read, E1109 for anything else.
    """
    match source:
        case Kernel():
            return Program(text=source.source("cascade"), file=f"<kernel {source.name}>", kernel=source.name)
        case str() if is_program_text(source):
            return Program(text=source)
        case str() | os.PathLike():
            return read_program_file(Path(source))
        case _:
            raise error(
                "E1109",
                f"a program is a path, a text or a kernel, not a {type(source).__name__}",
                help='einfall.compile("attention.ecs")',
            )


def read_program_file(path: Path) -> Program:
    """The program in a file. Raises EinfallError E1101, E1102, E1103."""
    content = read_file(path)
    if path.suffix == SUFFIX or content.startswith(b"PK\x03\x04"):
        raise error("E1103", f"{path} is a compiled kernel, not a program", help=f'einfall.load("{path}")')
    try:
        return Program(text=content.decode("utf-8-sig"), file=str(path))
    except UnicodeDecodeError as failure:
        line = content.count(b"\n", 0, failure.start) + 1
        raise error(
            "E1103",
            f"{path} is not UTF-8 text: byte {failure.start} (line {line}) is 0x{content[failure.start]:02x}",
            help="save it as UTF-8",
        ) from None


def is_program_text(source: str) -> bool:
    """Whether a string is a program rather than a path: it has several lines, or begins like one and goes on."""
    return "\n" in source or "\r" in source or (_ITEM.match(source) is not None and not source.endswith(".ecs"))
