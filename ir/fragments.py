"""Which tiles of a thread block are held in registers: those that products on tensor cores make and that never change hands.

A warp has whole rows of every such tile, in the layout in which ``mma`` leaves its sums: then what is done point by point, or
along a row, needs nobody else's values, and the sums of one product are the left operand of the next (FlashAttention-2, Dao
2023, section 3.3, arXiv 2307.08691: warps split over the queries).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from .expr import Expr, Rank, Read, ranks_of, reads_of
from .index import upper_bound
from .microkernels import BY_NAME
from .operators import REDUCTIONS
from .target import Gpu
from .tile import Buffer, Compute, Loop, Node, When, walk
from .types import DTYPES

ROWS = 16
"""Rows of one fragment of sums (PTX ISA, section Matrix Fragments for mma.m16n8k16)."""

WIDTH = 16
"""Columns of a tile in registers are a multiple of this: the depth of one instruction whose left operand they are."""

REGISTERS = 224
"""32-bit registers of a thread for all its tiles together, of 255; the others are for operands and addresses."""

FEWER_REGISTERS = 192
"""The same where operands of 32 bits all come from memory, and where the block has other matrices of as many rows in shared
memory, on which its threads work one by one: with 220 and 216, causal attention of width 128 spilled 880 bytes of a thread
(nvcc 13.0, sm_90)."""

SPARE = 16
"""Registers of a thread beside those of its tiles with which three blocks are held: causal attention of width 64 has 152 for
tiles and takes 168 then without spilling, left to itself 170 (nvcc 13.0, sm_90)."""

RESIDENT = 3
"""Blocks of which some compute while others wait."""

DEEPEST = 256
"""The depth to which the operands of such a product are staged in one piece."""

FEWEST_WARPS, MOST_WARPS = 4, 8
"""Of a block, where its rows are as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The tiles of a parallel loop that its block has in registers.

    ``tiles`` gives the columns of each (None: one number for each row), ``warps`` share their ``rows``, each ``fragments``
    times 16 of them. Those that are left operands of other products are ``multiplied``. The operands that are not in registers
    take ``staged`` bytes of shared memory, the tiles ``numbers`` registers of a thread.
    """

    tiles: Mapping[str, int | None]
    rows: int
    warps: int
    fragments: int
    multiplied: frozenset[str] = frozenset()
    staged: int = 0
    numbers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The ranks of a Compute that run along the rows and the columns of tiles in registers."""

    row: str
    column: str | None


def held_in_registers(loop: Loop, lets: Mapping[str, Expr], shared: int) -> Held | None:
    """The tiles of a parallel loop that can be in registers; None where none is the result of a product, or they are too
    many, or ``shared`` bytes are too few for what the products stage."""
    inside = list(walk((loop,)))
    sums = {node.target for node in inside if isinstance(node, Compute) and _on_tensor_cores(node)}
    buffers = {b.name: b for node in inside if isinstance(node, Loop) for b in node.buffers}
    heights = {_extents(buffers[name], lets)[0] for name in sums if name in buffers}
    if len(heights) != 1 or (height := heights.pop()) is None or height == 1:
        return None  # one row is for threads that each have a part of it
    tiles = {name: columns for name, buffer in buffers.items() for columns in _columns(buffer, height, lets)}
    matrices = {name for name, columns in tiles.items() if columns is not None}
    while wrong := {name for node in inside for name in _unfit(node, tiles, lets)} & set(tiles):
        tiles = {name: columns for name, columns in tiles.items() if name not in wrong}
    if not sums & set(tiles):
        return None
    fragments = -(-height // ROWS)
    # A fragment of 16 rows gives each of a warp's threads half a number for each column, and two for a vector. Shorter numbers
    # take the place of those that they are rounded from.
    numbers = sum(columns or 4 for name, columns in tiles.items() if buffers[name].dtype.bits > 16) // 2
    products = [n for n in inside if isinstance(n, Compute) and n.product is not None and n.target in tiles]
    lefts = frozenset(n for p in products if (n := left_in_registers(p, tiles)) is not None)
    alone = matrices <= set(tiles) and (lefts or all(_operand_bits(p) < 32 for p in products))
    most = REGISTERS if alone else FEWER_REGISTERS
    for each in (2, 1):
        warps = 1 << (fragments // each - 1).bit_length()  # as other products of the block deal their tiles
        if numbers * each <= most and fragments % each == 0 and (each == 1 or warps >= FEWEST_WARPS) and warps <= MOST_WARPS:
            held = Held(tiles=tiles, rows=height, warps=warps, fragments=each, multiplied=lefts, numbers=numbers * each)
            staged = sum(staged_bytes(n, held, lets) for n in products)
            return replace(held, staged=staged) if staged <= shared else None
    return None


def resident_blocks(held: Held, gpu: Gpu) -> int | None:
    """The blocks that a multiprocessor is to hold at a time, where registers suffice for three; None: as many as there are."""
    blocks = gpu.registers // (held.warps * gpu.warp * (held.numbers + SPARE))
    return RESIDENT if blocks >= RESIDENT and RESIDENT * held.staged <= gpu.shared_per_multiprocessor else None


def staged_bytes(compute: Compute, held: Held, lets: Mapping[str, Expr]) -> int:
    """The shared memory that the operands of a product are staged in, whose sums are in registers."""
    sides = panel_sides(compute, held, lets)
    left = 0 if left_in_registers(compute, held.tiles) is not None else sides["left"]
    return (left + sides["right"]) * sides["depth"] * _operand_bits(compute) // 8


def panel_sides(compute: Compute, held: Held, lets: Mapping[str, Expr]) -> dict[str, int]:
    """The rows of a product (``left``), its columns (``right``) and its ``depth`` as they are staged, powers of two; its
    ``steps`` of 32 bytes along the depth."""
    assert compute.product is not None
    deep = padded(compute.extent(compute.product.inner), lets)
    sides = {"left": held.warps * held.fragments * ROWS, "right": held.tiles[compute.target] or 0, "depth": deep}
    return {
        **{name: 1 << (side - 1).bit_length() for name, side in sides.items()},
        "steps": deep * _operand_bits(compute) // 256,
    }


def _on_tensor_cores(compute: Compute) -> bool:
    return compute.product is not None and compute.product.kernel.startswith(("mma ", "tf32 "))


def _operand_bits(compute: Compute) -> int:
    """Of an element of a product's operands."""
    assert compute.product is not None
    return DTYPES[BY_NAME[compute.product.kernel].left].bits


def _extents(buffer: Buffer, lets: Mapping[str, Expr]) -> tuple[int | None, ...]:
    return tuple(upper_bound(e, lets) for e in buffer.shape)


def _columns(buffer: Buffer, height: int, lets: Mapping[str, Expr]) -> Iterator[int | None]:
    """The padded columns of a buffer, None for a vector; nothing where it is no tile of so many rows."""
    if buffer.dtype.is_bool or buffer.dtype.bits > 32:
        return
    match _extents(buffer, lets):
        case (rows,) if rows == height:
            yield None
        case (rows, int(columns)) if rows == height:
            yield _padded(columns)


def _padded(columns: int) -> int:
    return -(-max(1, columns) // WIDTH) * WIDTH


def padded(extent: Expr, lets: Mapping[str, Expr]) -> int:
    """The columns of a tile in registers for a rank of an extent that is bounded."""
    return _padded(upper_bound(extent, lets) or 1)


def _unfit(node: Node, tiles: Mapping[str, int | None], lets: Mapping[str, Expr]) -> set[str]:
    """The tiles that cannot be in registers because of what a node does with them."""
    match node:
        case Compute():
            touched = {*node.targets, *(r.tensor for r in node.reads())} & set(tiles)
            return touched if touched and not _fits(node, tiles, lets) else set()
        case Loop():
            return {r.tensor for e in node.extents for r in reads_of(e)}
        case When(condition=condition):
            return {r.tensor for r in reads_of(condition)}
        case _:
            return set()


def roles(compute: Compute, tiles: Mapping[str, int | None]) -> Roles | None:
    """The ranks along the rows and columns of the tiles that a Compute touches; None where it touches none, or they differ."""
    row: str | None = None
    columns: set[str] = set()
    for name, indices in _accesses(compute):
        if name not in tiles:
            continue
        names = [i.name for i in indices if isinstance(i, Rank)]
        if len(names) != len(indices) or len(set(names)) != len(names) or (row is not None and names[0] != row):
            return None
        row = names[0]
        columns.update(names[1:])
    if row is None:
        return None
    if compute.product is not None:
        if left_in_registers(compute, tiles) is not None:
            columns.discard(compute.product.inner)
        columns.add(compute.product.columns or "")
    elif not columns:
        columns.update(r.name for r in compute.ranks if r.name != row)
    if len(columns) > 1:
        return None
    return Roles(row=row, column=next(iter(columns), None))


def left_in_registers(compute: Compute, tiles: Mapping[str, int | None]) -> str | None:
    """The name of the tile in registers that is the left operand of a product."""
    product = compute.product
    left = None if product is None else product.left
    return left.tensor if isinstance(left, Read) and left.tensor in tiles else None


def _accesses(compute: Compute) -> Iterator[tuple[str, tuple[Expr, ...]]]:
    """All tensors that are read and written, with their indices."""
    for each in (compute, *compute.along):
        yield each.target, each.indices
    for read in compute.reads():
        yield read.tensor, read.indices


def _fits(compute: Compute, tiles: Mapping[str, int | None], lets: Mapping[str, Expr]) -> bool:
    """Whether every thread can do its points of a Compute with what it holds."""
    at = roles(compute, tiles)
    if at is None or compute.scatter or compute.window is not None or compute.within is not None:
        return False
    ranks = {r.name for r in compute.ranks}
    inner = set() if compute.product is None else {compute.product.inner}
    if at.row not in ranks or not ranks <= {at.row, at.column} | inner:
        return False
    if any(set(ranks_of(r.extent)) & ranks or any(True for _ in reads_of(r.extent)) for r in compute.ranks):
        return False
    if at.column is not None:
        along = {n for n, indices in _accesses(compute) if any(isinstance(i, Rank) and i.name == at.column for i in indices)}
        widths = {tiles[name] for name in along if name in tiles}
        most = upper_bound(compute.extent(at.column), lets)
        if most is None or widths - {_padded(most)}:
            return False
    return _points_fit(compute, at) if compute.product is None else _product_fits(compute, at, tiles, lets)


def _product_fits(compute: Compute, at: Roles, tiles: Mapping[str, int | None], lets: Mapping[str, Expr]) -> bool:
    product = compute.product
    assert product is not None
    if not _on_tensor_cores(compute) or compute.condition is not None or compute.filter is not None or compute.along:
        return False
    if compute.reduced != (product.inner,) or (product.rows, product.columns) != (at.row, at.column):
        return False
    depth = upper_bound(compute.extent(product.inner), lets)
    if depth is None or depth > DEEPEST or compute.target not in tiles:
        return False
    left = left_in_registers(compute, tiles)
    if left is not None and (tiles[left] != _padded(depth) or product.left.dtype.bits != _operand_bits(compute)):
        return False
    beside = [product.right, *(() if left is not None else (product.left,))]
    return not any(r.tensor in tiles for e in beside for r in reads_of(e))


def _points_fit(compute: Compute, at: Roles) -> bool:
    if compute.reduction is None:
        return not compute.along and set(compute.output_ranks) == {at.row, at.column} - {None}
    if REDUCTIONS[compute.reduction].coordinate or compute.output_ranks != (at.row,):
        return False
    return at.column is not None and compute.reduced == (at.column,)
