"""Looks at the innermost loops of compiled kernels: what they spill, call, gather and move about.

`python tools/hot_loops.py [FILE.ecs …]` compiles every kernel of the files (default: all of examples/) for the host, at the
sizes of its `check`s scaled to a few hundred, and prints one line for each: the instructions of all innermost loops that hold
vector arithmetic, and of these the ones that should not be there:

  spills   moves to and from the stack
  calls    of functions (a library's exp, the allocator)
  gathers  vector gathers and scatters
  scalar   floating-point arithmetic on single elements
  moves    copies from register to register

Loops are read from the assembly: a backward jump closes one, and it is innermost if none lies inside.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import einfall
from einfall.compiler.program import read_program

EXAMPLES = Path(__file__).parents[1] / "examples"

LABEL = re.compile(r"^(\.LBB\w+):")
JUMP = re.compile(r"^\tj\w+\t(\.LBB\w+)")
VECTOR = re.compile(r"^\tv\w+\t.*%[xyz]mm")
KINDS = {
    "spills": re.compile(r"^\tv?mov\w*\t(?:%[xyz]mm\d+, -?\d*\(%r[sb]p|-?\d*\(%r[sb]p[^,]*\), %[xyz]mm)"),
    "calls": re.compile(r"^\tcall"),
    "gathers": re.compile(r"^\tvp?(?:gather|scatter)"),
    "scalar": re.compile(r"^\tv(?:add|sub|mul|div|max|min|fn?m(?:add|sub)\d+|sqrt)s[sd]\t"),
    "moves": re.compile(r"^\tvmov[au]p[sd]\t%[xyz]mm\d+, %[xyz]mm\d+(?! \{)"),
}
"""By column of the table: the instructions (AT&T syntax) that it counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loops:
    """Counts over the innermost vector loops of one kernel."""

    loops: int
    instructions: int
    found: dict[str, int]


def innermost(assembly: str) -> Iterator[list[str]]:
    """The lines of every innermost loop."""
    lines = assembly.splitlines()
    labels = {m[1]: at for at, line in enumerate(lines) if (m := LABEL.match(line))}
    spans = [(labels[m[1]], at) for at, line in enumerate(lines) if (m := JUMP.match(line)) and labels.get(m[1], at + 1) <= at]
    for first, last in sorted(set(spans)):
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in spans):
            yield [line for line in lines[first : last + 1] if line.startswith("\t") and not line.startswith("\t.")]


def look(assembly: str) -> Loops:
    """The counts of one kernel's assembly."""
    bodies = [body for body in innermost(assembly) if any(VECTOR.match(line) for line in body)]
    arithmetic = [b for b in bodies if any(re.match(r"^\tv\w*(?:add|mul|fma|fn?m|max|min|exp|scale)\w*\t", line) for line in b)]
    found = {name: sum(bool(p.match(line)) for b in arithmetic for line in b) for name, p in KINDS.items()}
    return Loops(loops=len(arithmetic), instructions=sum(map(len, arithmetic)), found=found)


def main() -> None:
    """Prints the table."""
    files = [Path(name) for name in sys.argv[1:]] or sorted(EXAMPLES.glob("*/*.ecs"))
    print(f"{'kernel':44} loops  instr " + " ".join(f"{kind:>8}" for kind in KINDS))
    for file in files:
        for name in read_program(file).cascades():
            kernel = f"{file.parent.name}/{name}"
            try:
                seen = look(einfall.compile(file, kernel=name).source("asm"))
            except einfall.EinfallError as refused:
                print(f"{kernel:44} {str(refused).splitlines()[0]}", flush=True)
                continue
            counts = " ".join(f"{n or '':>8}" for n in seen.found.values())
            print(f"{kernel:44} {seen.loops:5} {seen.instructions:6} {counts}", flush=True)


if __name__ == "__main__":
    main()
