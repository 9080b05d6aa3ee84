"""The right operand of a convolution's matrix product: made from the image where it is packed, block by block.

Its element (k, n) is that of the image which tap k meets at point n of the result, 0 outside of the image. A vector of
columns keeps its places in the image in registers while all taps and channels pass: a tap moves them by one distance and has
one mask, a channel moves them by one distance. Where the result is as wide as the image, neighbours in the result are
neighbours in the image also at the end of a line, and a vector is one masked load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx

from ...ir.plans import GemmPlan
from .statements import Statements, as_index, both, ceil_div, index, negation
from .vector import first_lanes, load_masked, load_scalar, splat, zeros

_LANE = "int32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A dimension of the image that the window moves along: a point reads at Σ column · by_column + Σ tap · by_tap + start.

    ``extent`` and ``stride`` are the dimension's; what lies outside of 0 … extent - 1 is 0.
    """

    extent: tirx.Expr
    stride: tirx.Expr
    start: tirx.Expr
    by_column: tuple[int, ...]
    by_tap: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOperand:
    """A window's view of an image: rows (channel, taps…), of which the last moves fastest; columns likewise.

    ``columns`` and ``taps`` are their extents, ``channel_stride`` is the distance of two channels. ``offset`` is the place of
    the first channel's element at 0 in all dimensions.
    """

    buffer: tirx.Buffer
    offset: tirx.Expr
    axes: tuple[Axis, ...]
    columns: tuple[tirx.Expr, ...]
    taps: tuple[int, ...]
    channel_stride: tirx.Expr

    @property
    def unit(self) -> int:
        """The rows of one channel."""
        total = 1
        for tap in self.taps:
            total *= tap
        return total

    def emit_pack(
        self,
        s: Statements,
        *,
        target: tirx.Buffer,
        base: tirx.Expr,
        start: tirx.Expr,
        depth: tirx.Expr,
        col: tirx.Expr,
        cols: tirx.Expr,
        plan: GemmPlan,
        dtype: str,
        height: tirx.Expr | int,
    ) -> None:
        """Writes rows start : start + depth, whole channels, of columns col : col + cols, as panels of nr columns."""
        dense = self.dense(s)
        first = s.bind("channel", tirx.truncdiv(start, index(self.unit)))
        channels = s.bind("channels", tirx.truncdiv(depth, index(self.unit)))
        lanes = plan.lanes
        with s.loop("panel", ceil_div(cols, plan.nr)) as panel, s.loop("v", plan.nv) as v:
            at = s.bind("at", panel * plan.nr + v * lanes)
            point = s.bind("point", col + at)
            count = s.bind("count", cols - at)
            held = s.bind("held", base + panel * (height * plan.nr) + v * lanes)
            places = self.places(s, point, lanes)
            steps = self.steps(places, lanes)
            # The first lane's place; the others follow it where the image is as dense as the result.
            origin = s.bind("origin", as_index(self.offset) + first * self.channel_stride + self.origin(s, point))
            with s.loop("tap", self.unit) as tap:
                moves = self.moves(s, tap)
                mask = self.inside(steps, moves, count, lanes)
                far = self.far(steps, lanes)
                moved = s.bind("moved", self.shift(moves))
                row = s.bind("row", held + tap * plan.nr)
                with s.when(dense), s.loop("c", channels) as c:
                    source = s.bind("source", origin + moved + c * self.channel_stride)
                    value = load_masked(self.buffer, source, mask, dtype, lanes)
                    s.store(target, _ramp(row + c * (self.unit * plan.nr), lanes), value)
                with s.when(negation(dense)):
                    corner = s.bind("corner", as_index(self.offset) + first * self.channel_stride + moved)
                    # Lanes outside read the first element of the image, and are 0.
                    safe = s.share(tirx.Select(mask, far, splat(tirx.IntImm(_LANE, 0), lanes)))
                    with s.loop("c", channels) as c:
                        behind = s.bind("behind", corner + c * self.channel_stride)
                        anywhere = s.bind("anywhere", as_index(self.offset))
                        where = tirx.Select(mask, splat(behind, lanes), splat(anywhere, lanes))
                        loaded = load_scalar(self.buffer, where + tirx.Cast(f"int64x{lanes}", safe), dtype)
                        value = tirx.Select(mask, loaded, zeros(dtype, lanes))
                        s.store(target, _ramp(row + c * (self.unit * plan.nr), lanes), value)

    def dense(self, s: Statements) -> tirx.Expr | bool:
        """Whether one column to the right is one element to the right in the image, also at the end of every line."""
        found: tirx.Expr | bool = True
        wanted: tirx.Expr = index(1)
        for i in reversed(range(len(self.columns))):
            distance = s.bind("distance", self._distance(i))
            found = both(found, distance == wanted)
            wanted = s.bind("wanted", wanted * self.columns[i])
        return found

    def _distance(self, column: int) -> tirx.Expr:
        """How far apart two neighbours along a column rank lie in the image."""
        total: tirx.Expr = index(0)
        for axis in self.axes:
            if axis.by_column[column]:
                total = total + axis.stride * axis.by_column[column]
        return total

    def places(self, s: Statements, point: tirx.Expr, lanes: int) -> list[tirx.Expr]:
        """The coordinates of ``lanes`` columns from ``point`` on, by column rank."""
        rest: tirx.Expr = splat(tirx.Cast(_LANE, point), lanes)
        if lanes > 1:
            rest = rest + tirx.Ramp(tirx.IntImm(_LANE, 0), tirx.IntImm(_LANE, 1), lanes)
        found: list[tirx.Expr] = []
        for extent in reversed(self.columns[1:]):
            width = splat(tirx.Cast(_LANE, extent), lanes)
            rest = s.share(rest)
            found.insert(0, s.share(tirx.truncmod(rest, width)))
            rest = tirx.truncdiv(rest, width)
        return [s.share(rest), *found]

    def origin(self, s: Statements, point: tirx.Expr) -> tirx.Expr:
        """How far the first lane's column moves the place in the image."""
        total: tirx.Expr = index(0)
        rest = point
        for i in reversed(range(len(self.columns))):
            here = rest
            if i > 0:
                here = s.bind("here", tirx.truncmod(rest, self.columns[i]))
                rest = s.bind("rest", tirx.truncdiv(rest, self.columns[i]))
            total = total + here * self._distance(i)
        return total

    def moves(self, s: Statements, tap: tirx.Expr) -> list[tirx.Expr]:
        """What a tap adds to the position along each axis."""
        places: list[tirx.Expr] = []
        rest = tap
        for i in reversed(range(len(self.taps))):
            here = rest
            if i > 0:
                here = s.bind("tap_at", tirx.truncmod(rest, index(self.taps[i])))
                rest = s.bind("tap_rest", tirx.truncdiv(rest, index(self.taps[i])))
            places.insert(0, here)
        moves: list[tirx.Expr] = []
        for axis in self.axes:
            total = as_index(axis.start)
            for place, factor in zip(places, axis.by_tap, strict=True):
                total = total + place * factor if factor else total
            moves.append(s.bind("move", total))
        return moves

    def steps(self, places: Sequence[tirx.Expr], lanes: int) -> list[tirx.Expr]:
        """What columns at ``places`` add to the position along each axis."""
        return [_scaled(places, axis.by_column, lanes) for axis in self.axes]

    def inside(self, steps: Sequence[tirx.Expr], moves: Sequence[tirx.Expr], count: tirx.Expr, lanes: int) -> tirx.Expr:
        """The mask of the lanes below ``count`` whose columns meet an element of the image at a tap."""
        mask = first_lanes(count, lanes)
        for axis, step, move in zip(self.axes, steps, moves, strict=True):
            position = step + splat(tirx.Cast(_LANE, move), lanes)
            below = position < splat(tirx.Cast(_LANE, axis.extent), lanes)
            mask = tirx.And(mask, tirx.And(position >= splat(tirx.IntImm(_LANE, 0), lanes), below))
        return mask

    def far(self, steps: Sequence[tirx.Expr], lanes: int) -> tirx.Expr:
        """How far each lane's column moves the place in the image."""
        total: tirx.Expr = splat(tirx.IntImm(_LANE, 0), lanes)
        for axis, step in zip(self.axes, steps, strict=True):
            total = total + step * splat(tirx.Cast(_LANE, axis.stride), lanes)
        return total

    def shift(self, moves: Sequence[tirx.Expr]) -> tirx.Expr:
        """How far a tap moves the place in the image."""
        total: tirx.Expr = index(0)
        for axis, move in zip(self.axes, moves, strict=True):
            total = total + move * axis.stride
        return total


def _scaled(places: Sequence[tirx.Expr], factors: Sequence[int], lanes: int) -> tirx.Expr:
    total: tirx.Expr = splat(tirx.IntImm(_LANE, 0), lanes)
    for place, factor in zip(places, factors, strict=True):
        if factor:
            total = total + (place if factor == 1 else place * splat(tirx.IntImm(_LANE, factor), lanes))
    return total


def _ramp(start: tirx.Expr, lanes: int) -> tirx.Expr:
    return tirx.Ramp(start, index(1), lanes)
