"""The kernel object: what `ef.compile` and `ef.load` give, and what a user calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import NoReturn

import numpy as np

from ..ir.diagnostics import did_you_mean, error
from ..ir.expr import sizes_of
from .arrays import as_tensors
from .artifact import Artifact
from .benchmark import Benchmark, Roofline, measure
from .calling import BoundTensor, Caller, Code, bind_tensor
from .devices import finish
from .explanation import Explanation
from .extents import checked_size, known_sizes, value_of
from .scalars import checked_scalar
from .signature import Signature
from .threads import checked_threads, default_threads


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What compilation gives to the runtime.

    The function of ``code`` takes the input tensors, the results, the packed constants (DLPack tensors), the scalars and the
    sizes (numbers), in the order of ``signature``. ``sources`` holds texts, or functions that make them when
    they are asked for. ``artifact`` makes the saved form. ``roofline`` gives the limits of the machine for a number of
    threads and of bytes.
    """

    signature: Signature
    code: Code
    explanation: Explanation
    target: str
    sources: Mapping[str, str | Callable[[], str]] = field(default_factory=dict)
    artifact: Callable[[], Artifact] | None = None
    roofline: Callable[[int, int], Roofline] | None = None


class Kernel:
    """A compiled kernel. Calls are independent of one another and may be made from several threads at once."""

    __slots__ = ("_call", "_caller", "_compiled")

    def __init__(
        self,
        compiled: Compiled,
        *,
        threads: int | None = None,
        tensors: Mapping[str, BoundTensor] | None = None,
        scalars: Mapping[str, int | float] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self._compiled = compiled
        self._caller = Caller(
            compiled.signature,
            compiled.code,
            tensors=tensors or {},
            scalars=scalars or {},
            sizes=sizes or {},
            threads=default_threads() if threads is None else checked_threads(threads),
        )
        self._call = self._caller.fast.call

    def __call__(self, *args: object, **named: object) -> object:
        """Run the kernel.

        Arrays and numbers are given by position in the order of the parameters, or by name; sizes that no array
        determines by name. NumPy arrays, PyTorch tensors and other DLPack arrays on the CPU are read in place; an input
        whose innermost elements are not adjacent in memory is copied. Returns one array, or a named tuple of several,
        of the kind of the first array that is not NumPy's; absent points of a result are 0. ``out=`` (an array, or a
        tuple or dict for several results) is written instead and returned; ``threads=`` sets the threads of this call.

        Raises EinfallError E1001 to E1017, E1022 and E0701; see ``einfall explain-error``.
        """
        try:
            return self._call(*args, **named)
        except TypeError:
            return self._caller.slow(args, named)

    @property
    def name(self) -> str:
        return self._compiled.signature.name

    @property
    def signature(self) -> Signature:
        """Parameters that are still to be given, results, sizes."""
        bound = (*self._caller.tensors, *self._caller.scalars)
        return self._compiled.signature.without(bound).with_sizes(self._known())

    @property
    def sizes(self) -> tuple[str, ...]:
        """The sizes that are still free."""
        known = self._known()
        return tuple(s for s in self._compiled.signature.sizes if s not in known)

    @property
    def target(self) -> str:
        """The machine that the kernel was compiled for."""
        return self._compiled.target

    @property
    def on_gpu(self) -> bool:
        """Whether it takes arrays of a GPU."""
        return self._compiled.code.device is not None

    @property
    def threads(self) -> int:
        """The threads of a call that does not say: EINFALL_NUM_THREADS, else all cores of this process."""
        return self._caller.threads

    def with_threads(self, threads: int) -> Kernel:
        """The same kernel with another default number of threads. Raises EinfallError E1022."""
        return self._with(threads=threads)

    def bind(self, **values: object) -> Kernel:
        """A kernel with fewer parameters: some arrays, numbers and sizes are given once and for all.

        Arrays are kept, not copied, and must not be changed afterwards. Of a constant that the kernel reads in an order of its
        own (:meth:`explain` tells) a copy in that order is kept besides.
        Raises EinfallError E1001, E1003, E1004, E1007 to E1012, E1014.
        """
        caller, signature = self._caller, self._compiled.signature
        tensors, scalars = dict(caller.tensors), dict(caller.scalars)
        sizes: dict[str, object] = dict(caller.sizes)
        parameters = {p.name: p for p in signature.parameters}
        for name, value in values.items():
            parameter = parameters.get(name)
            if name in tensors or name in scalars or name in caller.sizes:
                raise error("E1007", f"`{name}` is bound already")
            if parameter is not None and parameter.is_scalar:
                scalars[name] = checked_scalar(name, parameter.dtype, value)
            elif parameter is not None:
                tensors[name] = bind_tensor(parameter, value, on_gpu=self.on_gpu)
            elif name in signature.sizes or name in signature.fixed:
                sizes[name] = checked_size(name, value)
            else:
                known = [*signature.names, *signature.sizes]
                raise error("E1001", f"`{self.name}` has nothing to bind named `{name}`", help=did_you_mean(name, known))
        found = known_sizes(signature, {name: t.shape for name, t in tensors.items()}, sizes)
        chosen = {name: found[name] for name in sizes if name in found}
        for name in set(tensors) - set(caller.tensors):
            tensors[name] = caller.packing(tensors[name], name)
        return self._with(tensors=tensors, scalars=scalars, sizes=chosen)

    def workspace_bytes(self, **sizes: int) -> int:
        """Bytes of scratch memory of one call: its workspace and the tiles of all its threads.

        The blocks of operands that matrix products pack, some tens of MB in each thread for large ones, come on top; so does,
        for each constant that is not bound, its packed form, which the calling thread keeps (``explain()`` has its size).
        Raises EinfallError E1001, E1005, E1012.
        """
        signature = self._compiled.signature
        memory = self.explain().memory
        bound = {name: t.shape for name, t in self._caller.tensors.items()}
        values = known_sizes(signature, bound, {**self._caller.sizes, **sizes})
        for name, expr in signature.lets:
            if all(n in values for n in sizes_of(expr)):
                values[name] = value_of(expr, values, name)
        missing = [name for name in sizes_of(memory) if name not in values]
        if missing:
            raise error(
                "E1005",
                f"the workspace of `{self.name}` depends on {', '.join(missing)}",
                help=f"kernel.workspace_bytes({', '.join(f'{name}=…' for name in missing)})",
            )
        return value_of(memory, values, "workspace")

    def source(self, kind: str = "cascade") -> str:
        """The text of one stage of compilation, such as "cascade", "tile", "tir", "llvm", "asm". Raises EinfallError E1020."""
        found = self._compiled.sources.get(kind)
        if found is None:
            known = ", ".join(self._compiled.sources)
            raise error(
                "E1020",
                f"there is no source {kind!r} of `{self.name}`",
                help=did_you_mean(kind, self._compiled.sources) or f"there are: {known}",
            )
        return found if isinstance(found, str) else found()

    @property
    def source_kinds(self) -> tuple[str, ...]:
        """What :meth:`source` can give."""
        return tuple(self._compiled.sources)

    def explain(self) -> Explanation:
        """What was done to the kernel: passes over the data, groups, decisions, memory, FLOPs and bytes."""
        return replace(self._compiled.explanation, threads=self.threads, limits=self._compiled.roofline)

    def benchmark(self, *args: object, seconds: float = 0.5, **named: object) -> Benchmark:
        """Time repeated calls with these arguments for about ``seconds``. Takes and raises what a call does."""
        caller = self._caller
        values, given, out, wanted = caller.match(args, named)
        run = caller.prepare(values, given, out)
        threads = caller.threads if wanted is None else checked_threads(wanted)
        caller.pool.use(run.scale + threads)
        function, arguments = caller.function, as_tensors(run.arguments)

        def once() -> None:
            function(*arguments)
            if run.gpu is not None:
                finish(run.gpu)

        try:
            with caller.stream(run):
                times, calls = measure(once, seconds)
        except Exception as failure:
            raise caller.failed(failure) from None
        counts = self.explain().at(**run.sizes, **self.let_values(run.sizes))
        roof = self._compiled.roofline(threads, counts["traffic"]) if self._compiled.roofline else None
        p10, median, p90 = (float(x) for x in np.percentile(times, (10, 50, 90)))
        return Benchmark(
            kernel=self.name,
            threads=threads,
            calls=calls,
            median=median,
            p10=p10,
            p90=p90,
            flops=counts["flops"],
            traffic=counts["traffic"],
            limit=roof.seconds(counts["flops"], counts["traffic"]) if roof else None,
            limit_is_measured=roof.measured if roof else False,
        )

    def save(self, path: str | Path) -> Path:
        """Write the kernel to a file, which `ef.load` reads where no compiler is installed. Replaces the file at once.

        Raises EinfallError E1107 where the file cannot be written, E1111 where the kernel cannot be saved.
        """
        if self._caller.tensors or self._caller.scalars or self._caller.sizes:
            raise error(
                "E1111",
                f"`{self.name}` has bound arguments, which an artifact does not hold",
                help="save the kernel that `bind` was called on, and bind again after loading",
            )
        if self._compiled.artifact is None:
            raise error("E1111", f"`{self.name}` exists in this process only")
        return self._compiled.artifact().write(Path(path))

    def __reduce__(self) -> NoReturn:
        raise error(
            "E1019",
            f"`{self.name}` is machine code and cannot be pickled",
            help="kernel.save(path) and einfall.load(path) carry it to another process",
        )

    def __repr__(self) -> str:
        bound = [*self._caller.tensors, *self._caller.scalars]
        suffix = f", bound: {', '.join(bound)}" if bound else ""
        return f"<einfall kernel {self.signature} for {self.target}{suffix}>"

    def _repr_html_(self) -> str:
        text = self._compiled.sources.get("cascade")
        source = f"<pre>{escape(text)}</pre>" if isinstance(text, str) else ""
        return f"<b>einfall kernel</b> <code>{escape(str(self.signature))}</code> for {escape(self.target)}{source}"

    def _known(self) -> dict[str, int]:
        """The sizes that the bound arguments determine."""
        caller = self._caller
        return known_sizes(caller.signature, {n: t.shape for n, t in caller.tensors.items()}, caller.sizes)

    def let_values(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The sizes that ``let`` defines, for given values of the free ones. Raises EinfallError E1006."""
        values = dict(sizes)
        for name, expr in self._compiled.signature.lets:
            values[name] = value_of(expr, values, name)
        return {name: values[name] for name, _ in self._compiled.signature.lets}

    def _with(
        self,
        *,
        threads: int | None = None,
        tensors: Mapping[str, BoundTensor] | None = None,
        scalars: Mapping[str, int | float] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> Kernel:
        caller = self._caller
        return Kernel(
            self._compiled,
            threads=caller.threads if threads is None else threads,
            tensors=caller.tensors if tensors is None else tensors,
            scalars=caller.scalars if scalars is None else scalars,
            sizes=caller.sizes if sizes is None else sizes,
        )
