"""How a matrix product is dealt out to threads: as a grid of rectangles of its result, or as strips of columns.

Who computes an element never changes how it is computed, so the cut may depend on the number of tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from tvm import tirx
from tvm.tirx.stmt import ForKind

from .statements import Statements, ceil_div, constant, index, maximum, minimum, round_up

SLOTS = 64
"""Tasks of a parallel loop on two threads, as the launcher cuts it (FINE in launcher.c)."""

SHARES, DEARER = 4, 2
"""Tasks for each thread, if all together cost at most so many hundredths more than one for each."""


@contextmanager
def spread(s: Statements, name: str, total: tirx.Expr, after: tirx.Expr | None = None) -> Iterator[tirx.Expr]:
    """A parallel loop over few steps, evenly among all tasks that the launcher makes.

    It gives each thread a range of tasks; steps that are fewer than tasks would all lie in the first thread's range, where the
    others take them in any order. So a thread meets its steps again in the next launch, their data in its cache.
    """
    known = constant(total)
    if known is None or not 1 < known < SLOTS:
        with s.loop(name, total, kind=ForKind.PARALLEL, after=after) as step:
            yield step
        return
    with s.loop("slot", SLOTS, kind=ForKind.PARALLEL, after=after) as slot:
        first = s.bind("first", tirx.truncdiv(slot * known, index(SLOTS)))
        with s.when(tirx.truncdiv((slot + 1) * known, index(SLOTS)) > first):
            yield first


class Rectangle(Protocol):
    """Emits the ``height`` × ``width`` elements of a result from (``row``, ``col``) on."""

    def __call__(self, *, row: tirx.Expr, height: tirx.Expr, col: tirx.Expr, width: tirx.Expr) -> None: ...


Cost = Callable[[tirx.Expr, tirx.Expr], tirx.Expr]
"""What x rows and y columns cost one task for each step of k, in multiplications."""


def packing_cost(row: int, column: int) -> Cost:
    """x · y multiplications, and the packing of x and of y elements, each as much as so many of them."""
    return lambda x, y: x * y + x * row + y * column


def emit_grid(
    s: Statements,
    body: Rectangle,
    *,
    m: tirx.Expr,
    n: tirx.Expr,
    threads: int,
    units: tuple[int, int],
    cost: Cost,
) -> None:
    """All m × n elements: ``body`` once, or in a parallel loop of ``threads`` tasks; of SHARES times as many where that costs
    little more, which is known where all sizes are: a thread whose core is slow leaves some to the others.

    Of all grids of so many tasks the one whose largest task, of x rows and y columns, multiples of ``units``, costs least.
    """
    if threads == 1:
        body(row=index(0), height=m, col=index(0), width=n)
        return
    rows, cols, whole = _cut(s, m, n, threads, units, cost)
    tasks = threads
    if whole is not None:
        fine = _cut(s, m, n, SHARES * threads, units, cost)
        if fine[2] is not None and fine[2] * SHARES * 100 <= whole * (100 + DEARER):
            rows, cols, _ = fine
            tasks = SHARES * threads
    across = s.bind("across", maximum(ceil_div(n, cols), 1))
    with s.loop("task", tasks, kind=ForKind.PARALLEL) as task:
        row = s.bind("row", tirx.truncdiv(task, across) * rows)
        col = s.bind("col", tirx.truncmod(task, across) * cols)
        with s.when(row < m):
            height, width = s.bind("height", minimum(rows, m - row)), s.bind("width", minimum(cols, n - col))
            body(row=row, height=height, col=col, width=width)


def _cut(
    s: Statements, m: tirx.Expr, n: tirx.Expr, threads: int, units: tuple[int, int], cost: Cost
) -> tuple[tirx.Expr, tirx.Expr, int | None]:
    """The rows and columns of one task, and what the largest costs where that is known."""
    down_all, across_all = (s.bind("units", ceil_div(size, unit)) for size, unit in zip((m, n), units, strict=True))
    grids: list[tuple[tirx.Expr, tirx.Expr, tirx.Expr]] = []
    for down in (d for d in range(1, threads + 1) if threads % d == 0):
        x = s.bind("x", maximum(ceil_div(down_all, down), 1) * units[0])
        y = s.bind("y", maximum(ceil_div(across_all, threads // down), 1) * units[1])
        grids.append((s.bind("cost", cost(x, y)), x, y))
    known = [total for grid in grids if (total := constant(grid[0])) is not None]
    if len(known) == len(grids):
        _, rows, cols = grids[known.index(min(known))]
        return rows, cols, min(known)
    # Kept in memory: TVM replaces bound variables by their values, of which each would hold the last one three times.
    best = [s.allocate(name, (1,), "int64", scope="local") for name in ("cost", "rows", "cols")]
    for i, grid in enumerate(grids):
        with s.when(True if i == 0 else grid[0] < tirx.BufferLoad(best[0], [index(0)])):
            for buffer, value in zip(best, grid, strict=True):
                s.store(buffer, 0, value)
    rows, cols = (tirx.BufferLoad(buffer, [index(0)]) for buffer in best[1:])
    return s.bind("rows", rows), s.bind("cols", cols), None


def emit_strips(s: Statements, body: Callable[[tirx.Expr, tirx.Expr], None], *, n: tirx.Expr, threads: int, lanes: int) -> None:
    """All n columns: ``body(first, width)`` once, or in a parallel loop over strips of whole vectors of ``lanes``."""
    if threads == 1:
        body(index(0), n)
        return
    cols = s.bind("cols", maximum(round_up(ceil_div(n, threads), lanes), lanes))
    with spread(s, "task", ceil_div(n, cols)) as task:
        first = s.bind("first", task * cols)
        body(first, s.bind("width", maximum(minimum(cols, n - first), 0)))
