"""What `kernel.explain()` shows: the Einsums, the groups they were fused into, the decisions, FLOPs and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from ..ir.expr import Expr, sizes_of
from ..ir.printer import expr_to_source
from ..ir.sizes import evaluate
from .signature import Json, expr_from_json, expr_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One decision of a pass: what it was about, what was chosen, and why."""

    made_by: str
    subject: str
    chosen: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What was done to a kernel.

    ``groups`` name the tensors that are computed together in one loop nest. ``flops`` counts the scalar operations of
    the mathematics as written (a multiply-add counts two, functions by the weights of the operator table), ``traffic``
    the bytes of all inputs and results, which any implementation moves at least once, ``workspace`` the bytes of
    scratch memory of one call; all are expressions over the sizes.
    """

    kernel: str
    einsums: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    decisions: tuple[Choice, ...]
    flops: Expr
    traffic: Expr
    workspace: Expr

    def at(self, **sizes: int) -> dict[str, int]:
        """FLOPs, bytes of traffic and bytes of workspace for these sizes. Raises KeyError for a size that lacks."""
        wanted = {"flops": self.flops, "traffic": self.traffic, "workspace": self.workspace}
        return {name: evaluate(expr, sizes) for name, expr in wanted.items()}

    def to_json(self) -> dict[str, Json]:
        return {
            "kernel": self.kernel,
            "einsums": list(self.einsums),
            "groups": [list(group) for group in self.groups],
            "decisions": [
                {"made_by": d.made_by, "subject": d.subject, "chosen": d.chosen, "because": d.because} for d in self.decisions
            ],
            "flops": expr_json(self.flops),
            "traffic": expr_json(self.traffic),
            "workspace": expr_json(self.workspace),
        }

    @staticmethod
    def from_json(data: Json) -> Explanation:
        """Raises ValueError for anything that :meth:`to_json` does not write."""
        match data:
            case {
                "kernel": str(kernel),
                "einsums": list(einsums),
                "groups": list(groups),
                "decisions": list(decisions),
                "flops": flops,
                "traffic": traffic,
                "workspace": workspace,
            }:
                return Explanation(
                    kernel=kernel,
                    einsums=tuple(str(e) for e in einsums),
                    groups=tuple(tuple(str(n) for n in g) for g in groups if isinstance(g, list)),
                    decisions=tuple(map(_choice, decisions)),
                    flops=expr_from_json(flops),
                    traffic=expr_from_json(traffic),
                    workspace=expr_from_json(workspace),
                )
        raise ValueError("not an explanation")

    def __str__(self) -> str:
        lines = [f"kernel {self.kernel}", "  Einsums"]
        lines += [f"    {line}" for line in self.einsums]
        lines += ["  computed together"]
        lines += [f"    {i}. {', '.join(group)}" for i, group in enumerate(self.groups, 1)] or ["    nothing"]
        if self.decisions:
            lines += ["  decisions"]
            lines += [f"    {d.subject}: {d.chosen}, because {d.because} ({d.made_by})" for d in self.decisions]
        lines += [f"  {name}: {expr_to_source(expr)}" for name, expr in self._counts().items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(d.subject)}</td><td>{escape(d.chosen)}</td><td>{escape(d.because)}</td></tr>"
            for d in self.decisions
        )
        groups = "".join(f"<li>{escape(', '.join(group))}</li>" for group in self.groups)
        counts = "".join(f"<li>{name}: <code>{escape(expr_to_source(e))}</code></li>" for name, e in self._counts().items())
        table = f"<table><tr><th>what</th><th>chosen</th><th>because</th></tr>{rows}</table>" if rows else ""
        einsums = escape("\n".join(self.einsums))
        head = f"<b>{escape(self.kernel)}</b><pre>{einsums}</pre>"
        return f"{head}computed together<ol>{groups}</ol>{table}<ul>{counts}</ul>"

    def _counts(self) -> Mapping[str, Expr]:
        return {"FLOPs": self.flops, "bytes in and out": self.traffic, "workspace bytes": self.workspace}

    @property
    def sizes(self) -> tuple[str, ...]:
        """The sizes on which the counts depend."""
        return tuple(dict.fromkeys(n for e in self._counts().values() for n in sizes_of(e)))


def _choice(data: Json) -> Choice:
    match data:
        case {"made_by": str(made_by), "subject": str(subject), "chosen": str(chosen), "because": str(because)}:
            return Choice(made_by=made_by, subject=subject, chosen=chosen, because=because)
        case _:
            raise ValueError("not a decision")
