"""The picture: each kernel's rate over its operational intensity, under the roofs that were measured in the same run.

Williams, Waterman, Patterson: Roofline, CACM 52 (2009). A filled dot is einfall, the ring on its line the best peer. Two
panels keep the labels apart: kernels that the memory bounds on the left, those that arithmetic bounds on the right. Needs
matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import atan2, degrees
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox
from report import Results, Row

from einfall.ir.target import Target

_COLOURS = {"f32": "#1f5fa8", "bf16": "#c2571a", "i8": "#2e7d32"}
_MARKERS = {
    "product": "o",
    "skinny product": "v",
    "layer": "D",
    "attention": "s",
    "decode": "^",
    "rows": "p",
    "recurrence": "X",
    "convolution": "P",
    "elementary": "h",
}
_ROOF, _LABEL = "#777777", "#222222"
_LEVELS = {"l1": "L1", "l2": "L2", "l3": "L3", "dram": "DRAM"}
_SIZE = (19.0, 11.0)  # inches
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "einfall", "font.size": 8.0, "font.family": "sans-serif"}


class _Point(NamedTuple):
    """A kernel: operations for each byte, operations per second of ours and of the best peer."""

    row: Row
    intensity: float
    rate: float
    peer: float | None


def draw(results: Results, machine: Target, path: Path) -> None:
    """Write the picture; the ending of ``path`` says in which format (.svg, .png, .pdf)."""
    points = [_point(row) for row in results.rows]
    memory = [p for p in points if p.row.limit is None or p.row.limit.bound != p.row.case.dtype]
    arithmetic = [p for p in points if p not in memory]
    groups = [group for group in (memory, arithmetic) if group]
    matplotlib.use("Agg")
    with pyplot.rc_context(_STYLE):
        figure, panels = pyplot.subplots(1, len(groups), figsize=_SIZE, squeeze=False)
        figure.subplots_adjust(left=0.04, right=0.99, bottom=0.05, top=0.94, wspace=0.06)
        figure.suptitle(
            f"{results.facts['processor']}, {results.facts['threads']} threads, {results.facts['date']}: "
            "einfall (filled) and the best peer (ring) under the measured roofs",
            fontsize=12,
        )
        for axes, group in zip(panels[0], groups, strict=True):
            _panel(axes, group, machine)
        panels[0][0].set_ylabel("10⁹ operations a second")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        pyplot.close(figure)


def _point(row: Row) -> _Point:
    peer = None if row.best_peer is None else row.case.flops / row.timings[row.best_peer].median / 1e9
    return _Point(row, row.case.intensity, row.case.flops / row.seconds / 1e9, peer)


def _panel(axes: Axes, points: Sequence[_Point], machine: Target) -> None:
    rates = [rate for p in points for rate in (p.rate, p.peer) if rate is not None]
    low, high = min(p.intensity for p in points), max(p.intensity for p in points)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low / 2.5, high * 4)
    axes.set_ylim(min(rates) / 2, max(rates) * 4)
    axes.set_xlabel("operations for each byte of inputs and results")
    axes.grid(which="major", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    for p in points:
        colour = _COLOURS.get(p.row.case.dtype, "#555555")
        if p.peer is not None:
            axes.plot([p.intensity] * 2, [p.rate, p.peer], color=colour, linewidth=0.7, alpha=0.6, zorder=2)
            axes.plot(p.intensity, p.peer, "o", markersize=5, markerfacecolor="white", markeredgecolor=colour, zorder=3)
        axes.plot(p.intensity, p.rate, _marker(p), markersize=6, color=colour, zorder=4)
    taken = [*_roofs(axes, machine), _legend(axes, points)]
    _labels(axes, points, taken)


def _legend(axes: Axes, points: Sequence[_Point]) -> Bbox:
    """The kinds of workload, in the corner below the roofs."""
    families = dict.fromkeys(p.row.case.family for p in points)
    dots = {name: _MARKERS.get(name, "o") for name in families}
    handles = [Line2D([], [], linestyle="", color=_LABEL, marker=marker, label=name) for name, marker in dots.items()]
    legend = axes.legend(handles=handles, loc="lower right", fontsize=8, framealpha=1.0)
    return legend.get_window_extent(_renderer(axes))


def _marker(p: _Point) -> str:
    return _MARKERS.get(p.row.case.family, "o")


def _roofs(axes: Axes, machine: Target) -> Iterator[Bbox]:
    """Draws bandwidths as diagonals up to the highest peak, peaks as horizontals; gives the places of their labels."""
    if machine.measured is None:
        return
    limits = machine.measured.chip
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    peaks = {dtype: limits.ops[dtype] / 1e9 for dtype in _COLOURS if dtype in limits.ops}
    for dtype, peak in peaks.items():
        if bottom < peak < top:
            axes.plot([left, right], [peak, peak], color=_COLOURS[dtype], linewidth=1.1, zorder=1)
            yield _text(axes, right, peak, f"{dtype} {peak:.0f} Gop/s ", _COLOURS[dtype], horizontal="right")
    highest = max(peaks.values())
    for level, name in _LEVELS.items():
        if level not in limits.read:
            continue
        rate = limits.read[level] / 1e9
        start, end = max(left, bottom / rate), min(right, highest / rate, top / rate)
        if start < end:
            axes.plot([start, end], [start * rate, end * rate], color=_ROOF, linewidth=0.9, zorder=1)
            inside = 1.08 * start
            yield _text(axes, inside, inside * rate, f"read {name} {rate:.0f} GB/s", _ROOF, slope=_slope(axes))


def _slope(axes: Axes) -> float:
    """The angle, in degrees, of a line of constant bandwidth."""
    (x0, y0), (x1, y1) = axes.transData.transform([(1.0, 1.0), (10.0, 10.0)])
    return degrees(atan2(y1 - y0, x1 - x0))


def _text(axes: Axes, x: float, y: float, text: str, colour: str, *, horizontal: str = "left", slope: float = 0.0) -> Bbox:
    label = axes.text(
        x, y, text, color=colour, fontsize=8, ha=horizontal, va="bottom", rotation=slope, rotation_mode="anchor", clip_on=True
    )
    return label.get_window_extent(_renderer(axes))


def _renderer(axes: Axes) -> RendererBase:
    """What measures texts."""
    return axes.figure.canvas.get_renderer()


def _labels(axes: Axes, points: Sequence[_Point], taken: list[Bbox]) -> None:
    """Names each dot, where nothing else is: the nearest free place of rings around it, joined by a line."""
    at = {id(p): axes.transData.transform((p.intensity, p.rate)) for p in points}
    frame, renderer = axes.get_window_extent(), _renderer(axes)
    for p in points:
        for rate in (p.rate, p.peer):
            if rate is not None:
                x, y = axes.transData.transform((p.intensity, rate))
                taken.append(Bbox.from_extents(x - 4, y - 4, x + 4, y + 4))
    for p in sorted(points, key=lambda p: (-p.rate, p.intensity)):
        x, y = at[id(p)]
        label = axes.annotate(
            p.row.case.name,
            (p.intensity, p.rate),
            xytext=(0, 0),
            textcoords="offset pixels",
            fontsize=7,
            color=_LABEL,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            arrowprops={"arrowstyle": "-", "color": "#aaaaaa", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
            annotation_clip=False,
        )
        size = label.get_window_extent(renderer)
        dx, dy = _free_place(x, y, size.width, size.height, frame, taken)
        label.set_position((dx, dy))
        taken.append(Bbox.from_bounds(x + dx - 1, y + dy - 1, size.width + 2, size.height + 2))


def _free_place(x: float, y: float, width: float, height: float, frame: Bbox, taken: Sequence[Bbox]) -> tuple[float, float]:
    """The offset of a label's lower left corner from the dot, in pixels."""
    for distance in range(6, 900, 5):
        for dx, dy in _around(distance, width, height):
            box = Bbox.from_bounds(x + dx - 1, y + dy - 1, width + 2, height + 2)
            inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                return dx, dy
    return 6.0, -height / 2


def _around(distance: float, width: float, height: float) -> Iterator[tuple[float, float]]:
    """Right, left, above and below first, then between."""
    yield distance, -height / 2
    yield -distance - width, -height / 2
    for part in (0.3, 0.6, 1.0):
        for sign in (1, -1):
            shift = sign * distance * part - height / 2
            yield distance, shift
            yield -distance - width, shift
    for sign in (1, -1):
        yield -width / 2, sign * distance - height / 2
