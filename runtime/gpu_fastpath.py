"""The short way of a call of a kernel for a GPU: that of `fastpath.py`, for PyTorch's tensors and those of one more library.

The combinations that are known hold the device besides the shapes: its code has been looked at, and may differ from that of
another GPU. The kernel is put on the library's current stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType

from ..ir.types import DType, value_type
from .fastpath import PREFIX, FastPath, NoTensor
from .gpu_libraries import Library, spelled
from .streams import enter, hand_over, leave
from .torch_arrays import current_stream


class GpuFastPath(FastPath):
    """The generated function and the table of combinations that it knows. ``workspace``: the kernel takes scratch memory."""

    workspace: bool

    def learn_torch(self, torch: ModuleType, dtypes: Mapping[str, object]) -> None:
        current = current_stream(torch)

        def begin(gpu: int, _: object) -> int:
            return self._begin(gpu, current(gpu), None)

        self.namespace[f"{PREFIX}torch_begin"] = begin
        super().learn_torch(torch, dtypes)

    def learn(self, library: Library, kind: type) -> None:
        """Let the function recognise the arrays of a library, those of the class ``kind``, from now on."""

        def begin(gpu: int, value: object) -> int:
            return self._begin(gpu, *library.stream(value, gpu))

        def new(result: int, shape: tuple[int, ...], gpu: int) -> object:
            return library.empty(shape, value_type(self.signature.results[result].dtype), gpu)

        known = {
            "begin": begin,
            "new": new,
            "dense": library.is_dense,
            "view": library.exported,
            "made": library.made,
            "given": library.given,
        }
        self.namespace.update({f"{PREFIX}{name}": value for name, value in known.items()})
        self.namespace[f"{PREFIX}Other"] = kind  # last: other threads may be calling

    def key(self, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, object], device: object) -> tuple[object, ...]:
        return (*super().key(shapes, given, device), device)

    def _begin(self, gpu: int, stream: int, owner: object) -> int:
        if self.workspace:
            hand_over(gpu, stream, owner)
        return enter(gpu, stream)

    def _first(self, names: Mapping[str, str]) -> str | None:
        return next((names[p.name] for p in self.open if not p.is_scalar), None)

    def _parts(self, names: Mapping[str, str]) -> list[str]:
        first = self._first(names)
        return [*super()._parts(names), f"{first}.device" if first else "None"]

    def _branches(self, names: Mapping[str, str]) -> Iterator[str]:
        first = self._first(names)
        if first is None:
            return
        new = {"Other": NoTensor, "enter": enter, "leave": leave, "str": str}
        self.namespace.update({f"{PREFIX}{name}": value for name, value in new.items()})
        yield f"    if threads is not None: {self._general(names)}"
        yield from self._torch(names, device=f", device={first}.device")
        yield from self._others(names)

    def _others(self, names: Mapping[str, str]) -> Iterator[str]:
        """What the function itself refuses is not asked here, as for PyTorch's tensors: another type or device."""
        e = PREFIX
        views = {p.name: f"{e}v{i}" for i, p in enumerate(self.open) if not p.is_scalar}
        yield "    try:"
        tests = []
        for p in self.open:
            if not p.is_scalar:
                tests += self._plain(names[p.name])
        yield f"      if {' and '.join(tests)}:"
        for p in self.open:
            if not p.is_scalar:
                yield f"        {views[p.name]} = {e}view({names[p.name]})"
                yield from self._readable(value_type(p.dtype), views[p.name])
        shown = {name: views.get(name, each) for name, each in names.items()}
        yield f"        if not ({self._aligned(shown, '{}.data_ptr()')}): raise {e}Exception"
        outs = [f"{e}r{i}" for i in range(len(self.signature.results))]
        written = [f"{e}w_{i}" for i in range(len(outs))]
        yield "        if out is None:"
        for i, (out, view) in enumerate(zip(outs, written, strict=True)):
            yield f"            {out} = {e}new({i}, {e}shapes[{i}], {e}scale)"
            yield f"            {view} = {e}made({out})"
        tests, given = self._given()
        for i, out in enumerate(given):
            tests += [*self._plain(out), f"{out}.shape == {e}shapes[{i}]"]
        yield f"        elif {' and '.join(tests)}:"
        yield f"            {', '.join(outs)} = out"
        for result, out, view in zip(self.signature.results, outs, written, strict=True):
            yield f"            {view} = {e}view({out})"
            yield from (f"    {line}" for line in self._readable(value_type(result.dtype), view))
        yield from self._apart(shown, written, "{}.data_ptr()", aligned=True)
        yield f"        else: raise {e}Exception"
        yield from self._launch(names, shown, outs, written, given="given")
        yield f"    except {e}Exception: pass"

    @staticmethod
    def _plain(name: str) -> list[str]:
        return [f"{PREFIX}type({name}) is {PREFIX}Other", f"{PREFIX}dense({name})"]

    @staticmethod
    def _readable(dtype: DType, view: str) -> Iterator[str]:
        """Of a byte the function does not know what it means."""
        if dtype.bits <= 8:
            yield f"        if {PREFIX}str({view}.dtype) != {spelled(dtype)[0]!r}: raise {PREFIX}Exception"

    def _invoke(self, names: Mapping[str, str], outs: Sequence[str], *, torch: bool) -> Iterator[str]:
        assert torch
        return self._launch(names, names, outs, outs, given="")

    def _launch(
        self, names: Mapping[str, str], passed: Mapping[str, str], outs: Sequence[str], written: Sequence[str], *, given: str
    ) -> Iterator[str]:
        """The call of the function with ``passed`` and ``written``; ``given`` makes the caller's arrays of ``outs``."""
        e = PREFIX
        carrier: Callable[[DType, str], str] = _same if given else _torch_carrier
        arguments, scalars = self._passed(passed, written, carrier)
        yield f"        {e}s = ({''.join(f'{s}, ' for s in scalars)})"
        yield f"        {e}before = {e}{'begin' if given else 'torch_begin'}({e}scale, {self._first(names)})"
        yield f"        try: {e}function({', '.join([*arguments, f'*{e}s', f'*{e}sizes'])})"
        yield f"        finally: {e}leave({e}scale, {e}before)"
        found = [f"({out} if out is not None else {e}given({out}))" if given else out for out in outs]
        yield f"        return {found[0]}" if len(found) == 1 else f"        return {e}results({', '.join(found)})"


def _same(dtype: DType, array: str) -> str:
    return array


def _torch_carrier(dtype: DType, array: str) -> str:
    return f"{array}.view({PREFIX}torch_u8)" if dtype.is_float and dtype.bits <= 8 else array
