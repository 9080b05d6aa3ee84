"""What a function of a kernel begins with, on every target: its arguments, its sizes, and the tensors reached through them."""

from __future__ import annotations

from tvm import tirx

from ..ir.cascade import Cascade, Role
from ..ir.expr import Expr, sizes_of
from ..ir.tile import Buffer, Scope, TileProgram
from ..ir.types import DType
from .argument import Argument
from .context import Variables
from .element import computed
from .expressions import Evaluator
from .microkernels.statements import Statements, as_index
from .views import View


class Frame:
    """The parameters of one function: input tensors, results, whatever follows them, scalar parameters and free sizes.

    ``sizes`` and ``scalars`` are values by name, ``views`` the tensors. They are bound in ``statements``.
    """

    def __init__(self, program: TileProgram) -> None:
        self.program, self.lets = program, program.lets
        self.statements = Statements()
        self.sizes: dict[str, tirx.Expr] = {}
        self.scalars: dict[str, tirx.Expr] = {}
        self.views: dict[str, View] = {}

    def parameters(self) -> tuple[list[tirx.Buffer], list[tirx.Var]]:
        """(the tensors, the numbers), declared and bound."""
        cascade = self.program.cascade
        sizes = [tirx.Var(name, "int64") for name in cascade.sizes]
        self.sizes.update(zip(cascade.sizes, sizes, strict=True))
        scalars = [t for t in cascade.parameters if t.role is Role.SCALAR]
        numbers = [tirx.Var(t.name, _scalar_type(t.value)) for t in scalars]
        s = self.statements
        for let in _in_order(cascade):
            self.sizes[let] = s.bind(let, as_index(self.size(_definition(cascade, let), {})))
        for derived in self.program.derived:
            self.sizes[derived.name] = s.bind(derived.name, as_index(self.size(derived.value, {})))
        arguments = [self._argument(b) for b in self.program.buffers if b.scope in (Scope.INPUT, Scope.OUTPUT)]
        for tensor, number in zip(scalars, numbers, strict=True):
            held = computed(tensor.value)
            value = number if str(number.ty.dtype) == held else tirx.Cast(held, number)
            # A kernel of a GPU is given signed numbers of 32 and 64 bits: others it makes of them itself.
            if tensor.value.is_bool:
                value = tirx.NE(s.bind(tensor.name, tirx.Cast("int32", number)), tirx.IntImm("int32", 0))
            elif held in ("int32", "int64", "float32", "float64"):
                value = s.bind(tensor.name, value)
            self.scalars[tensor.name] = value
        return arguments, [*numbers, *sizes]

    def size(self, expr: Expr, variables: Variables) -> tirx.Expr:
        """An expression over sizes, and the variables of loops."""
        return Evaluator(self.statements, self.views, self.sizes, variables, None, self.scalars).value(expr)

    def _argument(self, buffer: Buffer) -> tirx.Buffer:
        """An argument, and the flat view through which its elements are reached.

        Its declared extents are variables of their own: the runtime has checked the shape, and an expression in the sizes
        would have to be known before the function's first statement.
        """
        shape = [self.statements.bind("extent", as_index(self.size(e, {}))) for e in buffer.shape]
        parts = buffer.parts or (1,) * len(shape)
        found = Argument.declare(self.statements, buffer.name, buffer.dtype, len(parts))
        self.views[buffer.name] = View(
            flat=found.flat,
            strides=tuple(self._cut(list(found.strides), parts, shape)),
            extents=tuple(shape),
            dtype=buffer.dtype,
            dense=False,
            typed=found.typed,
        )
        return found.declared

    def _cut(self, strides: list[tirx.Expr], parts: tuple[int, ...], shape: list[tirx.Expr]) -> list[tirx.Expr]:
        """The strides of all dimensions, from those of the caller's: parts of one dimension lie in it in a row."""
        made: list[tirx.Expr] = []
        for stride, count in zip(strides, parts, strict=True):
            own = [stride]
            for extent in reversed(shape[len(made) + 1 : len(made) + count]):
                own.insert(0, self.statements.bind("stride", own[0] * extent))
            made += own
        return made


def _scalar_type(dtype: DType) -> str:
    if dtype.is_bool:
        return "bool"
    return "float64" if dtype.is_float else "int64"


def _definition(cascade: Cascade, name: str) -> Expr:
    return next(let.value for let in cascade.lets if let.name == name)


def _in_order(cascade: Cascade) -> list[str]:
    """The let-defined sizes, each after those that it uses."""
    waiting = {let.name: set(sizes_of(let.value)) - set(cascade.sizes) for let in cascade.lets}
    order: list[str] = []
    while waiting:
        ready = [name for name, needs in waiting.items() if needs <= set(order)]
        if not ready:
            raise ValueError(f"circular lets: {', '.join(waiting)}")
        order += ready
        for name in ready:
            del waiting[name]
    return order
