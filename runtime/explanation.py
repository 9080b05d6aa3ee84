"""What `kernel.explain()` shows: passes over the data, groups, decisions, memory, FLOPs and bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..ir.expr import Const, Expr, integer, op, sizes_of
from ..ir.index import simplify
from ..ir.printer import expr_to_source
from ..ir.sizes import evaluate
from .benchmark import Roofline
from .signature import Json, expr_from_json, expr_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One decision of a pass: what it was about, what was chosen, and why.

    ``taken`` is False for the steps towards a form that was found and then not chosen.
    """

    made_by: str
    subject: str
    chosen: str
    because: str
    taken: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Passes over the data along one rank: of the program as written, and of the form with the fewest that was derived.

    Where that is not the form that was compiled, because it costs more, the decision of ``select`` says so.
    """

    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """``elements`` of a tensor that stay live along ``rank`` because the passes numbered ``levels`` all visit them.

    ``in_tile`` tells that the rank is the inside of one tile, whose data stays in a cache.
    """

    rank: str
    tensor: str
    levels: tuple[int, ...]
    elements: Expr
    in_tile: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tensors that one loop nest computes.

    ``over`` names the ranks that are spread over the threads, ``in_tiles`` the tensors that never leave a thread's tile.
    ``condition`` is the text of the test of the sizes under which the group runs, None where it always does.
    """

    tensors: tuple[str, ...]
    in_tiles: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    condition: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What was done to a kernel.

    ``passes`` gives, for each rank variable of the program, the passes over the data along it; ``live_before`` and
    ``live_after`` what several passes visit, as written and as compiled. ``flops`` counts the scalar operations of
    the mathematics as written (a multiply-add counts two, functions by the weights of the operator table), ``traffic``
    the bytes of all inputs and results, which any implementation moves at least once. ``workspace`` are the bytes
    that one call takes from the pool, ``tiles`` the bytes of the tiles of one thread, ``packed`` those that are kept of bound
    constants besides the constants themselves. All are expressions over the sizes.
    ``threads`` and ``limits`` (the machine's, for a number of threads and of bytes) belong to the machine at hand.
    """

    kernel: str
    einsums: tuple[str, ...]
    groups: tuple[Group, ...]
    decisions: tuple[Choice, ...]
    flops: Expr
    traffic: Expr
    workspace: Expr
    tiles: Expr = field(default_factory=lambda: integer(0))
    packed: Expr = field(default_factory=lambda: integer(0))
    passes: Mapping[str, Passes] = field(default_factory=dict, hash=False)
    live_before: tuple[Live, ...] = ()
    live_after: tuple[Live, ...] = ()
    threads: int = field(default=1, compare=False)
    limits: Callable[[int, int], Roofline] | None = field(default=None, compare=False, repr=False)

    @property
    def memory(self) -> Expr:
        """Bytes of scratch memory of one call: the workspace and the tiles of all threads."""
        return simplify(op("add", self.workspace, op("mul", integer(self.threads), self.tiles)))

    @property
    def as_written(self) -> bool:
        """Whether the cost model kept the passes of the program although a form with fewer was derived."""
        return any(d.made_by == "select" and d.chosen == "as written" for d in self.decisions)

    @property
    def sizes(self) -> tuple[str, ...]:
        """The sizes on which the counts depend."""
        counts = (self.flops, self.traffic, self.workspace, self.tiles, self.packed)
        return tuple(dict.fromkeys(n for e in counts for n in sizes_of(e)))

    @property
    def intensity(self) -> float | None:
        """FLOPs for each byte of traffic, where both are numbers."""
        match self.flops, self.traffic:
            case Const(value=flops), Const(value=traffic) if traffic:
                return flops / traffic
            case _:
                return None

    @property
    def bound(self) -> tuple[float, str] | None:
        """(least seconds of a call, "compute" or "memory") by the machine's limits, where all sizes are known."""
        match self.flops, self.traffic:
            case Const(value=flops), Const(value=traffic) if self.limits is not None and (flops or traffic):
                roof = self.limits(self.threads, int(traffic))
                by_compute = flops / roof.peak >= traffic / roof.bandwidth
                return roof.seconds(int(flops), int(traffic)), "compute" if by_compute else "memory"
            case _:
                return None

    def at(self, **sizes: int) -> dict[str, int]:
        """FLOPs, bytes of traffic, of workspace, of one thread's tiles and of packed constants for these sizes. Raises KeyError
        for a size that lacks."""
        names = ("flops", "traffic", "workspace", "tiles", "packed")
        wanted: dict[str, Expr] = {name: getattr(self, name) for name in names}
        return {name: evaluate(expr, sizes) for name, expr in wanted.items()}

    def summary(self) -> dict[str, Json]:
        """What `einfall explain --json` prints of a kernel: ``passes``, ``groups``, ``decisions`` and ``workspace_bytes``
        (:attr:`memory`; a number, or the text of an expression over the sizes that are not known)."""
        memory = self.memory
        return {
            "passes": _passes_json(self.passes),
            "groups": [_group_json(group) for group in self.groups],
            "decisions": [_choice_json(choice) for choice in self.decisions],
            "workspace_bytes": int(memory.value) if isinstance(memory, Const) else expr_to_source(memory),
        }

    def to_json(self) -> dict[str, Json]:
        return {
            "kernel": self.kernel,
            "einsums": list(self.einsums),
            "passes": _passes_json(self.passes),
            "live_before": [_live_json(live) for live in self.live_before],
            "live_after": [_live_json(live) for live in self.live_after],
            "groups": [_group_json(group) for group in self.groups],
            "decisions": [_choice_json(choice) for choice in self.decisions],
            "flops": expr_json(self.flops),
            "traffic": expr_json(self.traffic),
            "workspace": expr_json(self.workspace),
            "tiles": expr_json(self.tiles),
            "packed": expr_json(self.packed),
        }

    @staticmethod
    def from_json(data: Json) -> Explanation:
        """Raises ValueError for anything that :meth:`to_json` does not write."""
        match data:
            case {
                "kernel": str(kernel),
                "einsums": list(einsums),
                "passes": dict(passes),
                "live_before": list(live_before),
                "live_after": list(live_after),
                "groups": list(groups),
                "decisions": list(decisions),
                "flops": flops,
                "traffic": traffic,
                "workspace": workspace,
                "tiles": tiles,
                "packed": packed,
            }:
                return Explanation(
                    kernel=kernel,
                    einsums=_texts(einsums),
                    passes={name: _passes(each) for name, each in passes.items()},
                    live_before=tuple(map(_live, live_before)),
                    live_after=tuple(map(_live, live_after)),
                    groups=tuple(map(_group, groups)),
                    decisions=tuple(map(_choice, decisions)),
                    flops=expr_from_json(flops),
                    traffic=expr_from_json(traffic),
                    workspace=expr_from_json(workspace),
                    tiles=expr_from_json(tiles),
                    packed=expr_from_json(packed),
                )
        raise ValueError("not an explanation")

    def __str__(self) -> str:
        from .remarks import remarks

        return "\n".join("".join(part.text for part in line) for line in remarks(self))

    def _repr_html_(self) -> str:
        from .remarks import remarks_html

        return remarks_html(self)


def _texts(data: Sequence[Json]) -> tuple[str, ...]:
    return tuple(str(each) for each in data)


def _passes_json(passes: Mapping[str, Passes]) -> dict[str, Json]:
    return {name: {"before": each.before, "after": each.after} for name, each in passes.items()}


def _passes(data: Json) -> Passes:
    match data:
        case {"before": int(before), "after": int(after)}:
            return Passes(before=before, after=after)
        case _:
            raise ValueError("no numbers of passes")


def _live_json(live: Live) -> Json:
    return {
        "rank": live.rank,
        "tensor": live.tensor,
        "levels": list(live.levels),
        "elements": expr_json(live.elements),
        "in_tile": live.in_tile,
    }


def _live(data: Json) -> Live:
    match data:
        case {"rank": str(rank), "tensor": str(tensor), "levels": list(levels), "elements": elements, "in_tile": bool(inside)}:
            numbers = tuple(level for level in levels if isinstance(level, int))
            return Live(rank=rank, tensor=tensor, levels=numbers, elements=expr_from_json(elements), in_tile=inside)
        case _:
            raise ValueError("not a live tensor")


def _group_json(group: Group) -> Json:
    return {
        "tensors": list(group.tensors),
        "in_tiles": list(group.in_tiles),
        "over": list(group.over),
        "condition": group.condition,
    }


def _group(data: Json) -> Group:
    match data:
        case {"tensors": list(tensors), "in_tiles": list(inside), "over": list(over), "condition": str() | None as condition}:
            return Group(tensors=_texts(tensors), in_tiles=_texts(inside), over=_texts(over), condition=condition)
        case _:
            raise ValueError("not a group")


def _choice_json(choice: Choice) -> Json:
    return {
        "made_by": choice.made_by,
        "subject": choice.subject,
        "chosen": choice.chosen,
        "because": choice.because,
        "taken": choice.taken,
    }


def _choice(data: Json) -> Choice:
    match data:
        case {
            "made_by": str(made_by),
            "subject": str(subject),
            "chosen": str(chosen),
            "because": str(because),
            "taken": bool(taken),
        }:
            return Choice(made_by=made_by, subject=subject, chosen=chosen, because=because, taken=taken)
        case _:
            raise ValueError("not a decision")
