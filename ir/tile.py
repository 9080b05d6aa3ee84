"""The tile program: loop nests over buffers, with every choice that tuning may vary as a named field.

It stands between the cascade and TensorIR. Absence is gone: reads are guarded by explicit conditions, and a
reduction filters its points with an explicit predicate. What is left implicit is the inner iteration of a
:class:`Compute`, which code generation spells out for the target (vectors, registers, micro-kernels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

from .cascade import Cascade, Let, Origin, RankExtent
from .expr import Expr, Read, integer, op, ranks_of, reads_of
from .layouts import PanelLayout
from .microkernels import FMA, packs_before
from .plans import DotPlan, GemmPlan
from .types import DType


class Scope(Enum):
    """Where a buffer lives."""

    INPUT = "input"  # an argument that is read; rows may be strided, the last dimension is dense
    OUTPUT = "output"  # an argument that is written
    WORKSPACE = "workspace"  # allocated for each call from a pool
    TILE = "tile"  # allocated inside a loop, private to one thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """A dense row-major block of elements of one storage type (``dtype``), of extents ``shape``.

    ``parts`` tells of an argument how many of these dimensions make up one of the caller's, () where each is one.
    """

    name: str
    dtype: DType
    shape: tuple[Expr, ...]
    scope: Scope
    parts: tuple[int, ...] = ()


class Method(Enum):
    """How the inner iteration of a :class:`Compute` is carried out."""

    SCALAR = "scalar"  # nested loops over single elements
    LANES = "lanes"  # vectors along an output rank
    FOLD = "fold"  # vectors along a reduced rank, folded at the end
    CONTRACTION = "contraction"  # a matrix product on a micro-kernel
    WINDOW = "window"  # a convolution on the micro-kernel of matrix products


SUM = "Σ"
"""The name under which an epilogue reads the finished sum of its product (no tensor of a program is called so)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Ranks that the roles of an implicit product run through together, the last one of each fastest: its ``rows``, its
    ``columns``, and ``taps``, at each of which it is added up along its depth (a convolution's window)."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    taps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixProduct:
    """The roles of an Einsum's ranks in the matrix product C[m, n] += A[m, k] · B[k, n].

    ``rows``, ``columns`` and ``inner`` name the rank of each role (None: of extent 1); every other rank is iterated
    outside: output ranks as a batch, reduced ranks as further accumulation. ``left`` and ``right`` are the two operands
    and ``scale`` the factors that no reduced rank indexes, which whoever makes a Compute of the product turns into its
    ``epilogue``: what is stored in the place of the finished sum, a scalar read of :data:`SUM`. It is evaluated on the
    registers that hold the sums; of its Compute's target it may read the element that it is about to write. ``kernel`` is the
    name of the micro-kernel (:mod:`.microkernels`), ``packed`` that of the :class:`Prepacked` form of the right operand.
    ``joined`` tells of an implicit product, on a GPU, all ranks of its roles; its operands are reads, perhaps 0 where a
    condition does not hold. Knobs: ``plan`` has the sizes of blocks and register tiles on multiply-adds, ``dot_plan`` those on
    the micro-kernel.
    """

    rows: str | None
    columns: str | None
    inner: str
    left: Expr
    right: Expr
    scale: tuple[tuple[str, Expr], ...] = ()  # ("mul" | "div", factor)
    epilogue: Expr | None = None
    kernel: str = FMA
    packed: str | None = None
    joined: Joined | None = None
    plan: GemmPlan | None = None
    dot_plan: DotPlan | None = None

    @property
    def row_ranks(self) -> tuple[str, ...]:
        """All ranks of its rows."""
        return _given(self.rows) if self.joined is None else self.joined.rows

    @property
    def column_ranks(self) -> tuple[str, ...]:
        """All ranks of its columns."""
        return _given(self.columns) if self.joined is None else self.joined.columns


def _given(name: str | None) -> tuple[str, ...]:
    return () if name is None else (name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The roles of a convolution's ranks in C[m, n] += A[m, k] · B[k, n], whose B is never stored as a whole.

    ``weights`` is A: its rows are the rank ``rows`` (a channel of the result), its columns the reduced ranks in the order of
    its last dimensions, ``channel`` (None: there is none) and then ``taps``. The columns of C are the points of ``columns``,
    the last dimensions of the target. B has the elements of ``image`` that the taps meet there; those outside are 0, as the
    filter of the Compute tells. All other output ranks are a batch. ``otherwise`` is the method for calls to which none of
    this applies: arguments with gaps between their rows, and weights that are not finite. ``kernel`` is the name of the
    micro-kernel, ``packed`` that of the :class:`Prepacked` form of the weights; ``plan`` has the micro-kernel's knobs on
    multiply-adds, ``dot_plan`` those on others.
    """

    rows: str
    columns: tuple[str, ...]
    channel: str | None
    taps: tuple[str, ...]
    weights: Read
    image: Read
    otherwise: Method
    kernel: str = FMA
    packed: str | None = None
    plan: GemmPlan | None = None
    dot_plan: DotPlan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """An input whose later elements a loop asks for while it is at those of ``read``, where ``when`` (over sizes) holds: what
    comes next, or at least ``distance`` elements later."""

    read: Read
    when: Expr
    distance: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """``target[indices] = value`` over ``ranks``, reduced by ``reduction`` over ``reduced`` where ``filter`` holds.

    ``condition`` decides, per output point, between the value and zero, which absent points hold. ``within`` tells which
    output points lie inside the target at all: nothing is stored for the others. Knobs: ``method``, ``vector`` (the rank
    that fills the lanes) and ``parallel`` (the output ranks spread over threads, outermost first). ``along`` are Computes over
    the same ranks that store their value at every point before it is reduced. ``streams`` tells, from the sizes, whether the
    target is written past the caches (None: never), ``ahead`` which inputs are prefetched.
    """

    target: str
    indices: tuple[Expr, ...]
    value: Expr
    ranks: tuple[RankExtent, ...]
    reduction: str | None = None
    reduced: tuple[str, ...] = ()
    filter: Expr | None = None
    condition: Expr | None = None
    within: Expr | None = None
    scatter: bool = False
    accumulator: DType
    method: Method = Method.SCALAR
    vector: str | None = None
    parallel: tuple[str, ...] = ()
    product: MatrixProduct | None = None
    window: Window | None = None
    along: tuple[Compute, ...] = ()
    streams: Expr | None = None
    ahead: tuple[Ahead, ...] = ()
    origin: Origin = field(default_factory=Origin, compare=False, repr=False)

    @property
    def output_ranks(self) -> tuple[str, ...]:
        return tuple(r.name for r in self.ranks if r.name not in self.reduced)

    @property
    def targets(self) -> tuple[str, ...]:
        """All that is written, ``along`` included."""
        return (self.target, *(inner.target for inner in self.along))

    def reads(self) -> tuple[Read, ...]:
        """All reads of tensors, those of ``along`` included."""
        found: list[Read] = []
        for each in (self, *self.along):
            product = each.product
            more = () if product is None else (product.left, product.right, product.epilogue)
            parts = (each.value, each.filter, each.condition, each.within, *each.indices, *more)
            found += (r for e in parts if e is not None for r in reads_of(e) if r.tensor != SUM)
        return tuple(found)

    def extent(self, rank: str) -> Expr:
        """The extent of ``rank``. Raises KeyError for a rank that is not iterated here."""
        for r in self.ranks:
            if r.name == rank:
                return r.extent
        raise KeyError(rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """Sets every element of a buffer to one value."""

    target: str
    value: int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """``body`` for each value of ``variable``, 0 … extent - 1 (from the end when ``reverse``).

    ``buffers`` are allocated anew in every iteration (of a parallel loop: in every thread). ``inner`` are further
    variables that the loop runs through for each value of the first: one flat iteration, so that threads share it evenly.
    """

    variable: str
    extent: Expr
    body: tuple[Node, ...]
    inner: tuple[RankExtent, ...] = ()
    parallel: bool = False
    reverse: bool = False
    buffers: tuple[Buffer, ...] = ()

    @property
    def variables(self) -> tuple[str, ...]:
        """All that it runs through, the outermost first."""
        return (self.variable, *(r.name for r in self.inner))

    @property
    def extents(self) -> tuple[Expr, ...]:
        """Those of the variables."""
        return (self.extent, *(r.extent for r in self.inner))


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """``body`` where ``condition`` (over sizes and the variables of the loops around it) holds."""

    condition: Expr
    body: tuple[Node, ...]


Node = Compute | Fill | Loop | When


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepacked:
    """A constant in the order in which micro-kernels read it, made when it is bound.

    ``parameter`` is the right operand [k, n] = ``shape`` of products, [n, k] where ``transposed``. With further dimensions
    before these, ``lead``, it is a stack of such matrices, each with whole panels of its own. The weights of a window are one
    [n, k] whose k is all of the last ``joined`` dimensions; in words as many channels as a chunk has steps follow one another,
    with one of their ``taps``, then with the next, and the last are filled up. The form is an argument beside the parameter
    itself; a caller that has not bound the constant passes one byte, and it is packed in the call where it is needed.
    """

    name: str
    parameter: str
    shape: tuple[Expr, Expr]
    transposed: bool
    layout: PanelLayout
    lead: tuple[Expr, ...] = ()
    joined: int = 1
    taps: int = 1

    @property
    def size(self) -> Expr:
        """Bytes, over the sizes."""
        k, n = self.shape
        if self.lead:
            n = op("mul", op("ceildiv", n, integer(self.layout.columns)), integer(self.layout.columns))
        for extent in self.lead:
            n = op("mul", n, extent)
        return self.layout.size_over(k, n)


@dataclass(frozen=True, kw_only=True)
class TileProgram:
    """A whole kernel. ``cascade`` keeps the signature (parameters, results, sizes, lets) and the mathematics.

    ``derived`` are sizes that the passes introduced (the rows of a tile), computed once at the start of a call.
    ``prepacked`` are constants in another form, arguments that follow the results.
    """

    cascade: Cascade
    buffers: tuple[Buffer, ...]
    body: tuple[Node, ...]
    derived: tuple[Let, ...] = ()
    decisions: tuple[Decision, ...] = ()
    prepacked: tuple[Prepacked, ...] = ()

    @property
    def lets(self) -> dict[str, Expr]:
        """How sizes that are no arguments are computed."""
        return {let.name: let.value for let in (*self.cascade.lets, *self.derived)}

    @property
    def by_name(self) -> dict[str, Buffer]:
        return {b.name: b for b in all_buffers(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One choice of a pass, for ``kernel.explain()``: what it was about, what was chosen, and why."""

    made_by: str
    subject: str
    chosen: str
    because: str


def map_computes(nodes: tuple[Node, ...], rule: Callable[[Compute], Compute]) -> tuple[Node, ...]:
    """The nodes with every Compute replaced by what ``rule`` makes of it, in the order of the program."""

    def mapped(node: Node) -> Node:
        match node:
            case Compute():
                return rule(node)
            case Loop(body=body) | When(body=body):
                return replace(node, body=map_computes(body, rule))
            case _:
                return node

    return tuple(map(mapped, nodes))


def walk(nodes: tuple[Node, ...]) -> Iterator[Node]:
    """All nodes, a loop before its body."""
    for node in nodes:
        yield node
        if isinstance(node, Loop | When):
            yield from walk(node.body)


def accesses(node: Node) -> tuple[set[str], set[str]]:
    """(the tensors that a node by itself reads, those that it writes); the bodies of loops are nodes of their own."""
    match node:
        case Compute():
            reads = {r.tensor for r in node.reads()}
            extents = {r.tensor for e in node.ranks for r in reads_of(e.extent)}
            own = {node.target} if node.scatter else set()
            return reads | extents | own, set(node.targets)
        case Fill(target=target):
            return set(), {target}
        case When(condition=condition):
            return {r.tensor for r in reads_of(condition)}, set()
        case Loop():
            return {r.tensor for e in node.extents for r in reads_of(e)}, set()


def packed_before(loop: Loop) -> tuple[Compute, ...]:
    """The matrix products directly in the body of a serial loop whose right operand and depth the loop does not vary: they are
    packed once, before the loop."""
    if loop.parallel:
        return ()
    inside = list(_directly(loop.body))
    own = {loop.variable, *(r.name for r in loop.inner)}
    made = {n.target for n in walk(loop.body) if isinstance(n, Compute | Fill)}
    made |= {a.target for n in inside for a in n.along}
    found: list[Compute] = []
    for node in inside:
        product = node.product
        if product is None or node.method is not Method.CONTRACTION or product.packed is not None:
            continue
        if not packs_before(product.kernel):
            continue
        if product.rows is None or product.columns is None:
            continue
        extents = [node.extent(name) for name in (product.columns, product.inner)]
        batch = {r.name for r in node.ranks} - {product.rows, product.columns, product.inner}
        varying = {name for e in (product.right, *extents) for name in ranks_of(e)}
        if not (own | batch) & varying and not batch and not made & {r.tensor for r in reads_of(product.right)}:
            found.append(node)
    return tuple(found)


def _directly(nodes: tuple[Node, ...]) -> Iterator[Compute]:
    for node in nodes:
        match node:
            case Compute():
                yield node
            case When(body=body):
                yield from _directly(body)


def all_buffers(program: TileProgram) -> tuple[Buffer, ...]:
    """The program's buffers and those of its loops."""
    inner = (b for node in walk(program.body) if isinstance(node, Loop) for b in node.buffers)
    return (*program.buffers, *inner)
