"""Intel's matrix tiles (AMX): instructions, configuration, and the product of two panels.

Eight tile registers of 16 rows of 64 bytes. A block of the result is 2 × 2 tiles of sums; a step multiplies two chunks of A by
two chunks of B, so that every tile that is loaded is used twice. Loading takes about as long as multiplying on today's cores.
The process must have been given the use of tiles (``runtime/tiles.py``); every thread configures its own. Source: Intel
Architecture Instruction Set Extensions Programming Reference, chapter 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import tirx

from .panels import Panels
from .statements import Statements, constant, index, negation
from .vector import prefetch
from .words import CHUNK, LINES

_ROW_BYTES = 64
_LEFT, _RIGHT = 4, 6
"""The first of the tiles that hold chunks of A and of B; the sums are tiles 0 to 3."""

_AHEAD = 2
"""Steps by which chunks are asked for before they are loaded: about the latency of L2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Multiplies panels by an instruction of the tile unit, such as ``tdpbf16ps``."""

    instruction: str
    dtype: str
    """The type of the sums."""

    @property
    def flip(self) -> int:
        """What is xored onto every word of A."""
        return 0

    def mirrored(self) -> Tiles:
        """The kernel of the transposed product, whose operands change places."""
        swapped = {"tdpbsud": "tdpbusd", "tdpbusd": "tdpbsud"}
        return replace(self, instruction=swapped.get(self.instruction, self.instruction))

    def configure(self, s: Statements) -> None:
        """Gives the thread its eight tiles. To be paired with :meth:`release`."""
        config = s.allocate("tile_config", (64,), "uint8")
        with s.loop("i", 64) as i:
            s.store(config, i, tirx.IntImm("uint8", 0))
        s.store(config, 0, tirx.IntImm("uint8", 1))
        with s.loop("tile", 8) as tile:
            s.store(config, tile * 2 + 16, tirx.IntImm("uint8", _ROW_BYTES))
            s.store(config, tile + 48, tirx.IntImm("uint8", LINES))
        s.evaluate(tirx.call_llvm_intrin("void", "llvm.x86.ldtilecfg", config.data))

    def release(self, s: Statements) -> None:
        s.evaluate(tirx.call_llvm_intrin("void", "llvm.x86.tilerelease"))

    def emit(self, s: Statements, panels: Panels, *, down: int, across: int) -> None:
        """sums (+)= A-panel · B-panel: `down` × `across` tiles (1 or 2 each) of the block."""
        with s.when(panels.more):
            self._sums(s, "tileloadd64", panels, down, across)
        with s.when(negation(panels.more)):
            self.clear(s, down=down, across=across)
        with s.loop("step", panels.chunks) as step:
            self.multiply(s, panels, step, down=down, across=across)
        self.keep(s, panels, down=down, across=across)

    def clear(self, s: Statements, *, down: int = 2, across: int = 2) -> None:
        """The sums in the registers become 0."""
        for i, j in _cells(down, across):
            s.evaluate(tirx.call_llvm_intrin("void", "llvm.x86.tilezero", _tile(2 * i + j)))

    def multiply(self, s: Statements, panels: Panels, step: tirx.Expr, *, down: int = 2, across: int = 2) -> None:
        """Adds the product of one chunk of each line of the panels to the sums in the registers."""
        right = s.bind("right", panels.b_at + step * (2 * CHUNK))
        loaded: set[int] = set()
        for i, j in _cells(down, across):
            if _LEFT + i not in loaded:
                at = s.bind("left", panels.left(step, i))
                self._memory(s, "tileloadd64", _LEFT + i, panels.a, at, index(panels.left_bytes))
                if panels.a_pitch is None and panels.moves is None:
                    self._ask(s, panels.a, at)
            if _RIGHT + j not in loaded:
                at = right + j * CHUNK
                self._memory(s, "tileloadd64", _RIGHT + j, panels.b, at, index(_ROW_BYTES))
                if panels.a_pitch is None and not panels.near:
                    self._ask(s, panels.b, at)
            loaded |= {_LEFT + i, _RIGHT + j}
            name = f"llvm.x86.{self.instruction}"
            s.evaluate(tirx.call_llvm_intrin("void", name, _tile(2 * i + j), _tile(_LEFT + i), _tile(_RIGHT + j)))

    def keep(self, s: Statements, panels: Panels, *, down: int = 2, across: int = 2) -> None:
        """Stores the sums."""
        self._sums(s, "tilestored64", panels, down, across)

    def _sums(self, s: Statements, name: str, panels: Panels, down: int, across: int) -> None:
        for i, j in _cells(down, across):
            at = panels.sums_at + (i * LINES * panels.sums_pitch + j * LINES)
            self._memory(s, name, 2 * i + j, panels.sums, at, index(4 * panels.sums_pitch))

    def _ask(self, s: Statements, buffer: tirx.Buffer, at: tirx.Expr) -> None:
        """Asks for the chunk that comes some steps after one."""
        for line in range(0, CHUNK, LINES):
            s.evaluate(prefetch(buffer, at + (_AHEAD * 2 * CHUNK + line)))

    def _memory(self, s: Statements, name: str, tile: int, buffer: tirx.Buffer, at: tirx.Expr, pitch: tirx.Expr) -> None:
        assert constant(pitch) is not None
        address = tirx.address_of(tirx.BufferLoad(buffer, [at]))
        s.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", _tile(tile), address, pitch))


def _cells(down: int, across: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(down) for j in range(across)]


def _tile(number: int) -> tirx.Expr:
    return tirx.IntImm("uint8", number)
