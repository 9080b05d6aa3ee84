"""A box of an image: some channels of it, as far as the windows at some points reach, in floats and with zeros around it.

Where the image's border lies is settled once, when the box is copied: what reads it needs neither masks nor bounds, and finds
every point and every tap by one sum of two distances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from .statements import Statements, as_index, both, ceil_div, constant, index, negation
from .vector import load_masked, load_scalar, splat, store_masked, zeros
from .window import Axis, WindowOperand

_LANE = "int32"

Line = Callable[[tirx.Expr, tirx.Expr, tirx.Expr | bool], None]
"""Makes one line of a box: of where position 0 along it is in the image, where it begins in the box, and whether the image has
such a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What a box holds along one axis of the image: ``extent`` positions from ``low`` on, ``stride`` elements apart.

    ``first`` is where the columns are that lie lowest, without the taps and the window's start; ``reach`` is what the taps add
    at least.
    """

    axis: Axis
    low: tirx.Expr
    extent: tirx.Expr
    stride: tirx.Expr
    first: tirx.Expr
    reach: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The box around some points of the result; a channel of it takes ``size`` elements."""

    image: WindowOperand
    sides: tuple[Side, ...]
    size: tirx.Expr

    @staticmethod
    def around(s: Statements, image: WindowOperand, first: tirx.Expr, count: tirx.Expr) -> Box:
        """The box of the points from number ``first`` on, of which there is at least one."""
        ranges = _ranges(s, image.columns, first, s.bind("last", first + count - 1))
        sides: list[Side] = []
        size: tirx.Expr = index(1)
        for axis in reversed(image.axes):
            near, far = _span(axis.by_column, ranges)
            taps = [(index(0), index(tap - 1)) for tap in image.taps]
            low, high = (constant(end) or 0 for end in _span(axis.by_tap, taps))
            near = s.bind("near", near)
            extent = s.bind("extent", far - near + (high - low + 1))
            start = s.bind("low", near + as_index(axis.start) + low)
            sides.insert(0, Side(axis=axis, low=start, extent=extent, stride=size, first=near, reach=low))
            size = s.bind("size", size * extent)
        return Box(image=image, sides=tuple(sides), size=size)

    def tap(self, s: Statements, tap: tirx.Expr) -> tirx.Expr:
        """How far a tap, by its number, moves the place in the box."""
        places: list[tirx.Expr] = []
        for extent in reversed(self.image.taps[1:]):
            places.insert(0, s.bind("tap_at", tirx.truncmod(tap, index(extent))))
            tap = s.bind("tap_rest", tirx.truncdiv(tap, index(extent)))
        places.insert(0, tap)
        total: tirx.Expr = index(0)
        for side in self.sides:
            moved: tirx.Expr = index(-side.reach)
            for place, factor in zip(places, side.axis.by_tap, strict=True):
                moved = moved + place * factor if factor else moved
            total = total + moved * side.stride
        return total

    def points(self, s: Statements, first: tirx.Expr, lanes: int) -> tirx.Expr:
        """Where ``lanes`` points, from number ``first`` on, are in a channel of the box at the lowest tap."""
        places = self.image.places(s, first, lanes)
        total: tirx.Expr = splat(tirx.IntImm(_LANE, 0), lanes)
        for side, step in zip(self.sides, self.image.steps(places, lanes), strict=True):
            moved = step - splat(tirx.Cast(_LANE, side.first), lanes)
            total = total + moved * splat(tirx.Cast(_LANE, side.stride), lanes)
        return tirx.Cast(f"int64x{lanes}" if lanes > 1 else "int64", total)

    def emit_copy(
        self, s: Statements, *, target: tirx.Buffer, first: tirx.Expr, channels: tirx.Expr, dtype: str, lanes: int
    ) -> None:
        """Fills ``target`` with ``channels`` channels from number ``first`` on; up to a vector behind them may be written."""
        side, whole = self.sides[-1], tirx.Broadcast(tirx.IntImm("bool", 1), lanes)

        def line(source: tirx.Expr, held: tirx.Expr, inside: tirx.Expr | bool) -> None:
            with s.when(inside), s.loop("chunk", ceil_div(side.extent, lanes)) as chunk:
                step = s.bind("step", chunk * lanes)
                value = self._line(s, side, s.bind("from", side.low + step), source, dtype, lanes)
                s.evaluate(store_masked(target, held + step, whole, value))
            with s.when(negation(inside)), s.loop("chunk", ceil_div(side.extent, lanes)) as chunk:
                s.evaluate(store_masked(target, held + chunk * lanes, whole, zeros(dtype, lanes)))

        with s.loop("channel", channels) as channel:
            origin = as_index(self.image.offset) + (first + channel) * self.image.channel_stride
            self.each_line(s, s.bind("origin", origin), s.bind("held", channel * self.size), line)

    def each_line(self, s: Statements, source: tirx.Expr, held: tirx.Expr, line: Line) -> None:
        """Calls ``line`` for all lines along the last axis, in ascending order: of the channel at ``source`` in the image,
        whose box begins at ``held``."""
        self._lines(s, 0, source, held, True, line)

    def _lines(
        self, s: Statements, depth: int, source: tirx.Expr, held: tirx.Expr, inside: tirx.Expr | bool, line: Line
    ) -> None:
        side = self.sides[depth]
        if depth + 1 == len(self.sides):
            line(source, held, inside)
            return
        with s.loop("position", side.extent) as position:
            at = s.bind("at", side.low + position)
            here = both(at >= 0, at < side.axis.extent)
            found = s.bind("source", source + at * side.axis.stride)
            self._lines(s, depth + 1, found, s.bind("held", held + position * side.stride), both(inside, here), line)

    def _line(self, s: Statements, side: Side, position: tirx.Expr, source: tirx.Expr, dtype: str, lanes: int) -> tirx.Expr:
        """Neighbours along the last axis; those outside of the image are 0. A later line overwrites what is too much."""
        ramp = s.share(neighbours(position, lanes))
        mask = inside_of(ramp, side.axis.extent, lanes)
        if constant(side.axis.stride) == 1:
            return load_masked(self.image.buffer, source + position, mask, dtype, lanes)
        loaded = load_scalar(self.image.buffer, self.scattered(s, side, source, ramp, mask, lanes), dtype)
        return tirx.Select(mask, loaded, zeros(dtype, lanes))

    def scattered(
        self, s: Statements, side: Side, source: tirx.Expr, ramp: tirx.Expr, mask: tirx.Expr, lanes: int
    ) -> tirx.Expr:
        """Where the positions ``ramp`` along an axis are in the image; those outside of the mask are its first element's."""
        far = splat(source, lanes) + tirx.Cast(f"int64x{lanes}", ramp) * splat(side.axis.stride, lanes)
        return tirx.Select(mask, far, splat(s.bind("anywhere", as_index(self.image.offset)), lanes))


def neighbours(position: tirx.Expr, lanes: int) -> tirx.Expr:
    """``lanes`` positions from one on."""
    return splat(tirx.Cast(_LANE, position), lanes) + tirx.Ramp(tirx.IntImm(_LANE, 0), tirx.IntImm(_LANE, 1), lanes)


def inside_of(positions: tirx.Expr, extent: tirx.Expr, lanes: int) -> tirx.Expr:
    """The mask of the positions from 0 to below ``extent``."""
    return tirx.And(positions >= splat(tirx.IntImm(_LANE, 0), lanes), positions < splat(tirx.Cast(_LANE, extent), lanes))


def _ranges(
    s: Statements, extents: Sequence[tirx.Expr], first: tirx.Expr, last: tirx.Expr
) -> list[tuple[tirx.Expr, tirx.Expr]]:
    """The least and the greatest place along each column rank of the points first … last."""
    names = [f"column_{i}" for i in range(len(extents))]
    begin, end = (s.coordinates(point, names, extents) for point in (first, last))
    found: list[tuple[tirx.Expr, tirx.Expr]] = []
    same: tirx.Expr | bool = True
    for name, extent in zip(names, extents, strict=True):
        low, high = begin[name], end[name]
        if same is not True:
            low, high = s.bind("least", tirx.Select(same, low, index(0))), s.bind("most", tirx.Select(same, high, extent - 1))
        found.append((low, high))
        same = both(same, begin[name] == end[name])
    return found


def _span(factors: Sequence[int], ranges: Sequence[tuple[tirx.Expr, tirx.Expr]]) -> tuple[tirx.Expr, tirx.Expr]:
    """The least and the greatest of Σ factor · place."""
    least, most = index(0), index(0)
    for factor, (low, high) in zip(factors, ranges, strict=True):
        if factor:
            least = least + (low if factor > 0 else high) * factor
            most = most + (high if factor > 0 else low) * factor
    return least, most
