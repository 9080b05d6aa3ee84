"""A window's view of an image of bytes or bf16 as panels for dot-product instructions, made where it is packed.

Step k of the depth is a channel and a tap, and a word holds four steps (two of bf16). Four channels have as many words as the
window has taps, each with the same taps in it for every group of four: two small tables, of distances in the image and of which
lanes lie inside of it, serve the whole depth. A word of 32 columns is four loads of 32 neighbours, interleaved byte by byte.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from ...ir.microkernels import PANEL
from .statements import Statements, as_index, ceil_div, index, negation
from .vector import lane_type, shuffle, splat, zeros
from .window import WindowOperand
from .words import CHUNK, LINES, noted, reinterpreted, smallest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLines:
    """The columns of a window's view as lines along k, packed as :func:`.words.emit_pack_panel` packs those of B."""

    window: WindowOperand
    raw: str
    """The unsigned type of an element's bits."""

    def prepared(self, s: Statements) -> WindowPanels:
        """Makes the table that all panels of a task share."""
        window, unit = self.window, self.window.unit
        group = 32 // int(self.raw.removeprefix("uint"))
        shifts = s.allocate("shifts", (group * unit,), "int64")
        with s.loop("channel", group) as channel, s.loop("tap", unit) as tap:
            moved = window.shift(window.moves(s, tap))
            s.store(shifts, channel * unit + tap, channel * window.channel_stride + moved)
        return WindowPanels(window=window, shifts=shifts, raw=self.raw, group=group)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPanels:
    """Packs panels of a window's view. ``shifts`` are the distances in the image of the steps of ``group`` channels, as many as
    elements fit a word."""

    window: WindowOperand
    shifts: tirx.Buffer
    raw: str
    group: int

    def emit_pack(
        self,
        s: Statements,
        *,
        target: tirx.Buffer,
        at: tirx.Expr,
        first: tirx.Expr,
        inside: tirx.Expr,
        start: tirx.Expr,
        depth: tirx.Expr,
        subnormal: tirx.Buffer | None = None,
        flag: tirx.Expr | None = None,
    ) -> None:
        """Packs ``inside`` columns (at most a panel) from ``first`` on and ``depth`` steps from ``start`` on, where a chunk
        begins, to the words from ``at`` on. Columns from ``inside`` on, and steps from ``depth`` on, are zero.

        With ``subnormal``, of bf16 elements, element ``flag`` tells afterwards (by 1) that there is a subnormal number."""
        window, steps = self.window, self.group * self.window.unit
        least = None
        if subnormal is not None:
            least = s.allocate("least", (1,), "uint16x32", scope="local")
            s.store(least, 0, splat(tirx.IntImm("uint16", 0xFFFF), PANEL))
        masks = s.allocate("masks", (2 * (steps + 1),), "uint16")
        far = s.allocate("far", (PANEL,), "int32")
        self._look(s, masks, far, first, inside)
        origin = s.bind("origin", as_index(window.offset) + window.origin(s, first))
        words = s.bind("words", ceil_div(depth, (self.group * LINES)) * LINES)
        whole = s.bind("whole", tirx.truncdiv(depth, index(self.group)))
        dense = window.dense(s)

        def emit(word: tirx.Expr, *, ragged: bool, neighbours: bool) -> None:
            number = s.bind("number", tirx.truncdiv(start, index(self.group)) + word)
            group = s.bind("group", tirx.truncdiv(number, index(window.unit)))
            local = s.bind("local", (number - group * window.unit) * self.group)
            base = origin if neighbours else as_index(window.offset)
            corner = s.bind("corner", base + group * (window.channel_stride * self.group))
            parts = []
            for part in range(self.group):
                source = s.bind("source", corner + tirx.BufferLoad(self.shifts, [local + part]))
                row: tirx.Expr = local + part
                if ragged:
                    row = s.bind("row", tirx.Select(word * self.group + part < depth, row, index(steps)))
                both = tirx.call_intrin("uint32", "tirx.reinterpret", tirx.BufferLoad(masks, [_ramp(row * 2, 2)]))
                mask = tirx.call_intrin(f"boolx{PANEL}", "tirx.reinterpret", both)
                parts.append(self._neighbours(s, source, mask) if neighbours else self._scattered(s, source, mask, far))
            place = s.bind(
                "place", at + tirx.truncdiv(word, index(LINES)) * (2 * CHUNK) + tirx.truncmod(word, index(LINES)) * LINES
            )
            for half, value in enumerate(self._woven(s, parts)):
                if least is not None:
                    noted(s, least, reinterpreted(value, "uint16", PANEL))
                s.store(target, _ramp(place + half * CHUNK, LINES), value)

        with s.when(dense):
            with s.loop("word", whole) as word:
                emit(word, ragged=False, neighbours=True)
            with s.loop("rest", words - whole) as rest:
                emit(s.bind("word", whole + rest), ragged=True, neighbours=True)
        with s.when(negation(dense)), s.loop("word", words) as word:
            emit(word, ragged=True, neighbours=False)
        if subnormal is not None and flag is not None and least is not None:
            s.store(subnormal, flag, smallest_of(least))

    def _look(self, s: Statements, masks: tirx.Buffer, far: tirx.Buffer, first: tirx.Expr, inside: tirx.Expr) -> None:
        """Fills in which columns meet an element of the image at each step of a group (the last row: none does), and how far
        each one moves the place in the image."""
        window, unit = self.window, self.window.unit
        with s.loop("half", PANEL // LINES) as half:
            lane = s.bind("lane", half * LINES)
            steps = window.steps(window.places(s, s.bind("point", first + lane), LINES), LINES)
            steps = [s.share(step) for step in steps]
            s.store(far, _ramp(lane, LINES), window.far(steps, LINES))
            count = s.bind("count", inside - lane)
            with s.loop("tap", unit) as tap:
                mask = window.inside(steps, window.moves(s, tap), count, LINES)
                held = s.share(tirx.call_intrin("uint16", "tirx.reinterpret", mask))
                for channel in range(self.group):
                    s.store(masks, (channel * unit + tap) * 2 + half, held)
            s.store(masks, 2 * self.group * unit + half, tirx.IntImm("uint16", 0))

    def _neighbours(self, s: Statements, source: tirx.Expr, mask: tirx.Expr) -> tirx.Expr:
        """The elements of the image from ``source`` on."""
        address = tirx.address_of(tirx.BufferLoad(self.window.buffer, [source]))
        dtype = lane_type(self.raw, PANEL)
        return s.share(tirx.call_llvm_pure_intrin(dtype, "llvm.masked.load", address, mask, zeros(self.raw, PANEL)))

    def _scattered(self, s: Statements, source: tirx.Expr, mask: tirx.Expr, far: tirx.Buffer) -> tirx.Expr:
        """The elements at the columns' places behind ``source``; lanes outside read the first element of the image."""
        buffer = self.window.buffer
        behind = splat(source, PANEL) + tirx.Cast(f"int64x{PANEL}", tirx.BufferLoad(far, [_ramp(index(0), PANEL)]))
        where = tirx.Select(mask, behind, splat(s.bind("anywhere", as_index(self.window.offset)), PANEL))
        value = reinterpreted(tirx.BufferLoad(buffer, [where]), self.raw, PANEL)
        return s.share(tirx.Select(mask, value, zeros(self.raw, PANEL)))

    def _woven(self, s: Statements, parts: list[tirx.Expr]) -> list[tirx.Expr]:
        """Words of the elements of some vectors, the first in the lowest bits: two vectors of words."""
        if self.group == 4:
            order = [lane // 2 + (lane % 2) * PANEL for lane in range(2 * PANEL)]
            parts = [s.share(shuffle(pair, order)) for pair in (parts[:2], parts[2:])]
        pairs = [reinterpreted(value, "uint16", PANEL) for value in parts]
        found = []
        for half in range(PANEL // LINES):
            chosen = [half * LINES + lane // 2 + (lane % 2) * PANEL for lane in range(PANEL)]
            found.append(s.share(reinterpreted(shuffle(pairs, chosen), "uint32", LINES)))
        return found


def _ramp(start: tirx.Expr, lanes: int) -> tirx.Expr:
    return tirx.Ramp(start, index(1), lanes)
