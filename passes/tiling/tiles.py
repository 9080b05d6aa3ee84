"""Which ranks of a group its loops go through whole, which one is cut into tiles, and how many points a tile has.

Requires: explicit Einsums. Guarantees: every core of the target gets a tile where there are enough points; what a thread
holds fits its second-level cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...ir.cascade import Cascade, Let
from ...ir.expr import Expr, integer, op, size
from ...ir.index import constant_value
from ...ir.microkernels import packs_before
from ...ir.target import Target
from ..analysis.presence import Explicit
from . import contraction
from .blocking import TILE_ROWS, deepest_panel, rows_of_block
from .grouping import Group, is_parts, numbers_chunks
from .independent import Independent
from .methods import choose
from .placement import Local, read_again
from .realise import compute_of

ROWS_OF_A_PRODUCT = 128
"""Points of the cut rank in one tile, where a matrix product is done tile by tile: its operand is packed anew for each."""

ROWS_IN_BLOCKS = 512
"""The same where the rows of a loop's body are done in blocks: its operands are packed once for all of them."""

ROWS_ON_TILES = 1024
"""The same where the products are done on matrix tiles, beside which packing takes a larger part."""

STEPS_TOGETHER = 64
"""Points of the cut rank that one task carries through a recurrence: a few vectors."""

TILE_ELEMENTS = 1 << 16
"""Elements of all tiles of a thread together: a quarter of a megabyte of f32, within its L2 cache."""

LONGEST_RUN = 4096
"""Points of one task when the only rank of a group is the one that fills the vectors."""

FEWEST_ROWS, FEWEST_LANES, SHORTEST_RUN = 16, 16, 512
"""The least points of a tile of a product, of a recurrence and of a run, where there are few: a tile on the micro-kernel, a
vector, the waking of a thread."""


ROWS_OF_A_BLOCK, ROWS_ON_CORES = 64, 128
"""Points of the cut rank in one tile of a GPU's thread block, where a matrix product is done tile by tile, and where that is on
tensor cores: each of four warps then reads an operand for 32 rows."""

RUN_OF_A_BLOCK = 1024
"""Points of a thread block where the only rank of a group is the one whose points lie side by side."""

SHORT_ROW, SHORT_ROWS_OF_A_BLOCK = 1024, 8
"""Elements of a row up to which a warp does for it, and how many of them a thread block takes; of longer ones it takes one."""


@dataclass(kw_only=True)
class Tiling:
    """The tiles of a cascade's groups. ``derived`` collects the sizes that they bring along, named from ``prefix`` on."""

    cascade: Cascade
    explicit: Mapping[int, Explicit]
    target: Target
    prefix: str
    derived: list[Let] = field(default_factory=list)

    @property
    def lets(self) -> dict[str, Expr]:
        return {let.name: let.value for let in self.cascade.lets}

    def around(self, group: Group) -> tuple[list[Independent], Independent | None]:
        """The independent ranks that the loops go through whole, and the one that is cut into tiles.

        The rank that most Einsums vectorise stays inside, if there is another. Beside the parts of a long rank, all others
        are short: only the rows of a product are worth keeping together.
        """
        classes = list(group.classes)
        parts = [c for c in classes if is_parts(self.cascade, c)]
        voters = [i for i in group.members if not parts or self._goes_further(group, i)]
        wanted = Counter(chosen.vector for i in voters for chosen in (choose(compute_of(self.explicit[i])),) if chosen.vector)
        if len(classes) > 1:
            votes = [0 if c in parts else sum(wanted[v] for v in set(c.variables.values())) for c in classes]
            if max(votes) * 2 > len(voters):
                del classes[votes.index(max(votes))]
        if not parts:
            *whole, cut = classes
            if self.target.gpu is not None and numbers_chunks(self.cascade, cut):
                return classes, None
            return whole, cut
        rows = [c for c in classes if any(self._cuts_product(i, c.variables[i]) for i in group.members) and c not in parts]
        return [c for c in classes if c not in rows[-1:]], rows[-1] if rows else None

    def _goes_further(self, group: Group, member: int) -> bool:
        """Whether an Einsum has a rank beside the independent ones and that of the group's loop."""
        outside = {c.variables[member] for c in group.classes}
        if group.sequence is not None:
            outside.add(group.sequence.variables.get(member, ""))
        return any(r.name not in outside for r in self.cascade.einsums[member].ranks)

    def points(self, group: Group, whole: list[Independent], cut: Independent, local: dict[str, Local]) -> tuple[Expr, Expr]:
        """The points of the cut rank in one tile, and a limit to them that the sizes of the tiles' buffers take.

        They are a fixed number, or what a thread's tiles leave room for; less where the target's cores would not all get
        one, but never so few that what a tile does once outweighs them.
        """
        lanes = [choose(compute_of(self.explicit[i])).vector == cut.variables[i] for i in group.members]
        product = any(self._cuts_product(i, cut.variables[i]) and not self._reads_state(i, group) for i in group.members)
        if group.sequence is not None and not product:
            # What the loop repeats most decides: the Einsums of its body with the most ranks.
            body = group.sequence.body
            most = max(self._ranks(i) for i in body)
            heavy = (lane for i, lane in zip(group.members, lanes, strict=True) if i in body and self._ranks(i) == most)
            if not any(heavy):
                return integer(1), integer(1)
            return self._shared(whole, cut, integer(STEPS_TOGETHER), FEWEST_LANES), integer(STEPS_TOGETHER)
        if all(lanes) and self.target.gpu is not None:
            merges = any(self.cascade.einsums[i].reduction is not None for i in group.members)
            run = 1 if merges else RUN_OF_A_BLOCK
            return integer(run), integer(run)
        if all(lanes):
            return self._shared(whole, cut, integer(LONGEST_RUN), SHORTEST_RUN), integer(LONGEST_RUN)
        if self.target.gpu is not None:
            return self._of_block(group, cut, product=product)
        few = constant_value(cut.extent, self.lets)
        if product and few is not None and few <= FEWEST_ROWS:
            return integer(max(1, few)), integer(max(1, few))
        blocked = self.rows_of_block(group, cut)
        on_tiles = blocked == TILE_ROWS
        largest = ROWS_ON_TILES if on_tiles else ROWS_IN_BLOCKS if blocked else ROWS_OF_A_PRODUCT if product else STEPS_TOGETHER
        row: Expr = integer(1)
        for name, held in local.items():
            if blocked and held.generation is not None and held.written == 0:
                continue  # a tile of a block
            extents = [
                e
                for d, e in enumerate(self.cascade.by_name[name].shape)
                if d not in held.dropped and d not in (held.cut, held.generation)
            ]
            total: Expr = integer(1)
            for extent in extents:
                total = op("mul", total, extent)
            row = op("add", row, total)
        elements = 2 * TILE_ELEMENTS if on_tiles else TILE_ELEMENTS
        if not product and self._goes_by_rows(group, lanes):
            for total in read_again(self.cascade, group.members, group.classes, cut, local):
                row = op("add", row, total)
            elements = (self.target.l1d or 32 * 1024) * 3 // 4 // 4
        room = op("floordiv", integer(elements), op("max", row, integer(1)))
        limit = op("min", integer(largest), room)
        if blocked:
            points = self._in_blocks(whole, cut, limit, blocked)
            return points, points
        points = self._shared(whole, cut, limit, FEWEST_ROWS if product else 1)
        return points, points

    def _of_block(self, group: Group, cut: Independent, *, product: bool) -> tuple[Expr, Expr]:
        """The same for a thread block: fixed numbers, because shared memory is of fixed sizes."""
        if not product:
            most = SHORT_ROWS_OF_A_BLOCK if self._rows_are_short(group, cut) else 1
        else:
            members = (self.cascade.einsums[i] for i in group.members)
            cores = any(contraction.on_tensor_cores(self.cascade, einsum, self.target) for einsum in members)
            most = ROWS_ON_CORES if cores else ROWS_OF_A_BLOCK
        few = constant_value(cut.extent, self.lets)
        points = integer(most if few is None else max(1, min(most, few)))
        return points, points

    def _rows_are_short(self, group: Group, cut: Independent) -> bool:
        """Whether one warp does for a row of each Einsum."""
        for member in group.members:
            elements = 1
            for r in self.cascade.einsums[member].ranks:
                if all(r.name != c.variables[member] for c in group.classes):
                    extent = constant_value(r.extent, self.lets)
                    if extent is None:
                        return False
                    elements *= extent
            if elements > SHORT_ROW:
                return False
        return True

    def _goes_by_rows(self, group: Group, lanes: Sequence[bool]) -> bool:
        """Whether the Einsums with the most ranks, which take the time, all have their vectors along the rows of a tile."""
        most = max(self._ranks(i) for i in group.members)
        return not any(lane and self._ranks(i) == most for i, lane in zip(group.members, lanes, strict=True))

    def rows_of_block(self, group: Group, cut: Independent) -> int | None:
        """The rows of a block of a group's loop, where its body has a product of the rows that are cut (``blocking.py``); else
        None."""
        if group.sequence is None or group.sequence.reverse or self.target.gpu is not None:
            return None
        members = [
            i for i in group.sequence.body if self._cuts_product(i, cut.variables[i]) and not self._reads_state(i, group)
        ]
        kernels = {contraction.kernel_as_held(self.cascade, self.cascade.einsums[i], self.target) for i in members}
        if len(kernels) != 1:
            return None
        (kernel,) = kernels
        if kernel is None or not packs_before(kernel) or not all(self._is_shallow(i, kernel) for i in members):
            return None
        rows, few = rows_of_block(self.target, kernel), constant_value(cut.extent, self.lets)
        return None if few is not None and few <= rows else rows

    def _is_shallow(self, member: int, kernel: str) -> bool:
        """Whether all of a product's right operand is packed at once, as is known beforehand."""
        einsum = self.cascade.einsums[member]
        product = contraction.product_of(einsum)
        if product is None or product.columns is None:
            return False
        width, depth = (constant_value(einsum.extent(r), self.lets) for r in (product.columns, product.inner))
        if width is None or depth is None:
            return False
        return max(width, depth) <= deepest_panel(self.target, einsum.accumulator, kernel)

    def _shared(self, whole: list[Independent], cut: Independent, most: Expr, least: int) -> Expr:
        """A size: at most ``most`` points of the cut rank, fewer where not every core of the target would have a tile."""
        rows: Expr = integer(1)
        for found in whole:
            rows = op("mul", rows, found.extent)
        tiles = op("ceildiv", integer(self.target.cores), op("max", rows, integer(1)))
        name = f"{self.prefix}tile.{len(self.derived) + 1}"
        value = op("max", integer(least), op("min", most, op("ceildiv", cut.extent, tiles)))
        self.derived.append(Let(name=name, value=value))
        return size(name)

    def _in_blocks(self, whole: list[Independent], cut: Independent, most: Expr, held: int) -> Expr:
        """The same in whole blocks of ``held`` rows, in tiles of nearly one size: a block of few rows costs as much as a full
        one."""
        rows: Expr = integer(1)
        for found in whole:
            rows = op("mul", rows, found.extent)
        block = integer(held)
        tiles = op("ceildiv", integer(self.target.cores), op("max", rows, integer(1)))
        count = op("max", op("ceildiv", cut.extent, op("max", most, block)), op("min", tiles, op("ceildiv", cut.extent, block)))
        even = op("ceildiv", cut.extent, op("max", count, integer(1)))
        name = f"{self.prefix}tile.{len(self.derived) + 1}"
        self.derived.append(Let(name=name, value=op("mul", op("max", op("ceildiv", even, block), integer(1)), block)))
        return size(name)

    def _ranks(self, member: int) -> int:
        return len(self.cascade.einsums[member].ranks)

    def _reads_state(self, member: int, group: Group) -> bool:
        """Whether an Einsum of a loop's body is a vector times the loop's state, which is added up where it is updated."""
        product = contraction.product_of(self.cascade.einsums[member])
        if group.sequence is None or product is None or None not in (product.rows, product.columns):
            return False
        read = {r.tensor for r in self.cascade.einsums[member].reads()}
        return any(self.cascade.by_name[t].iterative_dims and t in group.sequence.dims for t in read)

    def _cuts_product(self, member: int, variable: str) -> bool:
        """Whether ``variable`` runs along the rows or the columns of a matrix product."""
        product = contraction.product_of(self.cascade.einsums[member])
        return product is not None and variable in (product.rows, product.columns)
