"""What the accesses of a kernel cost: bank conflicts in shared memory, sectors of global memory, by line of the source.

Counted from the addresses that a run of the emulator sees; caches are not modelled, and g++ may merge or split accesses
that nvcc does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .emulator import library


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The accesses of one line (0 where it is not known) of one kind: `read`, `write` or `atomic`, to `shared` or `global`.

    `requests` are instructions of a warp. `moved` counts cycles of shared memory, or 32-byte sectors of global memory;
    `least` is what the same requests would need without bank conflicts, or for adjacent bytes.
    """

    line: int
    text: str
    space: str
    kind: str
    requests: int
    moved: int
    least: int

    @property
    def excess(self) -> float:
        """1.0 is the best: no conflicts, or whole sectors."""
        return self.moved / max(self.least, 1)


def counted(run: Callable[[], object]) -> list[Traffic]:
    """The traffic of the launches in `run`, the most expensive first. Runs in the process that has the emulator."""
    library().emulation_count_traffic(1)
    try:
        run()
        text = library().emulation_traffic().decode(errors="replace")
    finally:
        library().emulation_count_traffic(0)
    merged: dict[tuple[int, str, str, str], list[int]] = {}
    for each in text.splitlines():
        space, kind, requests, moved, least, place = each.split("\t", 5)
        found = re.match(r" \(line (\d+)(?:: `(.*)`)?\)", place)
        key = (int(found[1]) if found else 0, (found[2] or "") if found else "", space, kind)
        total = merged.setdefault(key, [0, 0, 0])
        for i, number in enumerate((requests, moved, least)):
            total[i] += int(number)
    result = [
        Traffic(line=line, text=text, space=space, kind=kind, requests=total[0], moved=total[1], least=total[2])
        for (line, text, space, kind), total in merged.items()
    ]
    return sorted(result, key=lambda each: each.moved, reverse=True)


def table(traffic: Sequence[Traffic]) -> str:
    """One line for each, for reading."""
    rows = [f"{'excess':>7} {'moved':>9} {'requests':>9}  access         line"]
    rows += [
        f"{each.excess:7.2f} {each.moved:9d} {each.requests:9d}  {each.space:6} {each.kind:6}  {each.line:4d} {each.text[:70]}"
        for each in traffic
    ]
    return "\n".join(rows)
