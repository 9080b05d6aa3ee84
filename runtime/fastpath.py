"""The short way of a call: a Python function written for one signature.

A call whose arguments are of a combination of shapes that was validated before needs only a dictionary look-up and a
check of types and layout. That is all that the generated function does; everything else it leaves to the general way
(``calling.py``). Its text is kept in ``linecache``, so that debuggers and profilers can show it.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import TypeAlias

import numpy as np

from ..ir.types import DType, value_type
from .arrays import travels_as_bytes, window
from .dltensor import bfloat16_handle
from .numpy_arrays import empty_array
from .signature import Parameter, Signature, usable_keyword
from .threads import Pool, available_threads

FastPlan: TypeAlias = "tuple[tuple[int, ...], tuple[tuple[int, ...], ...], int, tuple[tuple[int, ...], ...], tuple[int, ...]]"
"""The sizes that the function takes, the shapes of the results, the scale of the call (on a GPU: its number), the strides of
the results, and the bytes of the open tensors and of the results."""

PREFIX = "_einfall_"
_RESERVED = frozenset({"out", "threads"})


class NoTensor:
    """Stands for ``torch.Tensor`` until a PyTorch tensor is seen."""


class FastPath:
    """The generated function and the table of combinations that it knows."""

    def __init__(
        self,
        *,
        signature: Signature,
        bound: Mapping[str, object],
        sizes: Sequence[str],
        threads: int,
        pool: Pool,
        function: Callable[..., object],
        packed: Sequence[object],
        general: Callable[..., object],
        failed: Callable[[Exception], Exception],
        convert_scalar: Callable[[Parameter, object], int | float],
        results: Callable[..., object],
        kept: Mapping[str, tuple[int, int]],
    ) -> None:
        self.plans: dict[tuple[object, ...], FastPlan] = {}
        self.signature = signature
        self.open = [p for p in signature.parameters if p.name not in bound]
        self.sizes = list(sizes)
        self.kept = {name: (low, high) for name, (low, high) in kept.items() if low < high}
        self.namespace: dict[str, object] = {
            f"{PREFIX}{key}": value
            for key, value in {
                "plans": self.plans,
                "general": general,
                "function": function,
                "failed": failed,
                "current": pool.current,
                "use": pool.use,
                "threads": threads,
                "most": available_threads(),
                "int": int,
                "ndarray": np.ndarray,
                "type": type,
                "len": len,
                "Exception": Exception,
                "empty": empty_array,
                "may_share": np.may_share_memory,
                "bf16": bfloat16_handle,
                "u8": np.uint8,
                "Tensor": NoTensor,
                "results": results,
                "scalar": convert_scalar,
            }.items()
        }
        for position, parameter in enumerate(signature.parameters):
            self.namespace[f"{PREFIX}p{position}"] = parameter
            self.namespace[f"{PREFIX}d{position}"] = value_type(parameter.dtype).storage
            if parameter.name in bound:
                self.namespace[f"{PREFIX}b{position}"] = bound[parameter.name]
            if parameter.name in self.kept:
                self.namespace[f"{PREFIX}k{position}"] = window(*self.kept[parameter.name])
        self.packed = [f"{PREFIX}w{position}" for position in range(len(packed))]
        self.namespace.update(zip(self.packed, packed, strict=True))
        for position, result in enumerate(signature.results):
            self.namespace[f"{PREFIX}o{position}"] = value_type(result.dtype).storage
        self.source = "\n".join(self._lines()) + "\n"
        file = f"<einfall call of {signature.name} {id(self):x}>"
        exec(compile(self.source, file, "exec"), self.namespace)  # the text below, names of the program checked
        linecache.cache[file] = (len(self.source), None, self.source.splitlines(True), file)
        self.call: Callable[..., object] = self.namespace[f"{PREFIX}call"]  # type: ignore[assignment]

    def learn_torch(self, torch: ModuleType, dtypes: Mapping[str, object]) -> None:
        """Let the function recognise PyTorch's tensors from now on."""
        new: dict[str, object] = {
            f"{PREFIX}torch_empty": torch.empty_strided,  # half the time of torch.empty
            f"{PREFIX}torch_u8": torch.uint8,
        }
        for position, parameter in enumerate(self.signature.parameters):
            new[f"{PREFIX}td{position}"] = dtypes.get(value_type(parameter.dtype).name)
        for position, result in enumerate(self.signature.results):
            new[f"{PREFIX}to{position}"] = dtypes.get(value_type(result.dtype).name)
        self.namespace.update(new)
        self.namespace[f"{PREFIX}Tensor"] = torch.Tensor  # last: other threads may be calling

    def key(self, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, object], device: object) -> tuple[object, ...]:
        """The key of ``plans`` for a combination of shapes and given sizes. ``device`` is that of the first open tensor."""
        return (
            *(shapes[p.name] for p in self.open if not p.is_scalar),
            *(given.get(name) for name in self.sizes),
        )

    def variable(self, parameter: Parameter) -> str:
        """The Python name of a parameter: its own, where that can be written as a keyword."""
        if _usable(parameter.name):
            return parameter.name
        return f"{PREFIX}a{self.signature.parameters.index(parameter)}"

    def _lines(self) -> Iterator[str]:
        e = PREFIX
        names = {p.name: self.variable(p) for p in self.open}
        sizes = [name for name in self.sizes if _usable(name)]
        keywords = [*(f"{name}=None" for name in sizes), "out=None", "threads=None"]
        yield f"def {e}call({', '.join([*names.values(), '*', *keywords])}):"
        parts = self._parts(names)
        general = self._general(names)
        yield "    try:"
        found = ", ".join(f"{e}{each}" for each in ("sizes", "shapes", "scale", "strides", "bytes"))
        yield f"        {found} = {e}plans[{''.join(f'{part}, ' for part in parts) or '()'}]"
        yield f"    except {e}Exception: {general}"
        yield from self._branches(names)
        yield f"    {general}"

    def _parts(self, names: Mapping[str, str]) -> list[str]:
        """The parts of a call's key, as expressions."""
        parts = [f"{names[p.name]}.shape" for p in self.open if not p.is_scalar]
        return parts + [name if _usable(name) else "None" for name in self.sizes]

    def _branches(self, names: Mapping[str, str]) -> Iterator[str]:
        """What is done for each library of arrays; whatever none of them takes is left."""
        e = PREFIX
        yield f"    if threads is None: {e}setting = {e}threads + {e}scale"
        yield f"    elif {e}type(threads) is {e}int and 0 < threads <= {e}most: {e}setting = threads + {e}scale"
        yield f"    else: {self._general(names)}"
        yield from self._numpy(names)
        if any(not p.is_scalar for p in self.open):
            yield from self._torch(names)

    def _numpy(self, names: Mapping[str, str]) -> Iterator[str]:
        e = PREFIX
        tests = []
        for position, p in enumerate(self.signature.parameters):
            if p.name in names and not p.is_scalar:
                a = names[p.name]
                tests += [f"{e}type({a}) is {e}ndarray", f"{a}.dtype is {e}d{position}", f"{a}.flags.carray"]
        yield f"    if {' and '.join(tests) or 'True'}:"
        outs = [f"{e}r{i}" for i in range(len(self.signature.results))]
        yield "        if out is None:"
        yield "            try:"
        for i, out in enumerate(outs):
            yield f"                {out} = {e}empty({e}shapes[{i}], {e}o{i})"
        yield f"            except {e}Exception as {e}failure: raise {e}failed({e}failure) from None"
        tests, given = self._given()
        for i, out in enumerate(given):
            tests += [f"{e}type({out}) is {e}ndarray", f"{out}.dtype is {e}o{i}", f"{out}.flags.carray"]
            tests.append(f"{out}.shape == {e}shapes[{i}]")
            others = [names[p.name] for p in self.open if not p.is_scalar]
            others += [f"{e}k{position}" for position in self._kept_positions()]
            tests += [f"not {e}may_share({out}, {other})" for other in [*others, *given[:i]]]
        yield f"        elif {' and '.join(tests)}: {', '.join(outs)} = out"
        yield f"        else: {self._general(names)}"
        yield from self._invoke(names, outs, torch=False)

    def _torch(self, names: Mapping[str, str], *, device: str = "") -> Iterator[str]:
        """What the function itself refuses before it does anything is not asked here: tensors of another type or device, and
        those without elements in memory. It is tried, and what went wrong is found in the general way."""
        e = PREFIX
        tests = []
        for position, p in enumerate(self.signature.parameters):
            if p.name in names and not p.is_scalar:
                tests += _plain_tensor(names[p.name], value_type(p.dtype), f"{e}td{position}")
        if device:
            tests.append(self._aligned(names, "{}.data_ptr()"))
        yield "    try:"
        yield f"      if {' and '.join(tests) or 'True'}:"
        outs = [f"{e}r{i}" for i in range(len(self.signature.results))]
        yield "        if out is None:"
        for i, out in enumerate(outs):
            yield f"            {out} = {e}torch_empty({e}shapes[{i}], {e}strides[{i}], dtype={e}to{i}{device})"
        tests, given = self._given()
        for i, out in enumerate(given):
            tests += [*_plain_tensor(out, value_type(self.signature.results[i].dtype), f"{e}to{i}")]
            tests.append(f"{out}.shape == {e}shapes[{i}]")
        yield f"        elif {' and '.join(tests)}:"
        yield from self._apart(names, given, "{}.data_ptr()", aligned=bool(device))
        yield f"            {', '.join(outs)} = out"
        yield f"        else: raise {e}Exception"
        yield from self._invoke(names, outs, torch=True)
        yield f"    except {e}Exception: pass"

    def _apart(self, names: Mapping[str, str], given: Sequence[str], address: str, *, aligned: bool) -> Iterator[str]:
        """Raises where an array that was given for a result shares memory with another one; ``address`` is the expression of an
        array's, with braces for the array."""
        e = PREFIX
        others = [names[p.name] for p in self.open if not p.is_scalar]
        for i, each in enumerate([*others, *given]):
            yield f"            {e}m{i} = {address.format(each)}"
        bounds = [self.kept[self.signature.parameters[position].name] for position in self._kept_positions()]
        tests = []
        for i, result in zip(range(len(others), len(others) + len(given)), self.signature.results, strict=True):
            first, end = f"{e}m{i}", f"{e}m{i} + {e}bytes[{i}]"
            tests += [f"({first} >= {e}m{j} + {e}bytes[{j}] or {end} <= {e}m{j})" for j in range(i)]
            tests += [f"({first} >= {high} or {end} <= {low})" for low, high in bounds]
            if aligned and (size := value_type(result.dtype).storage.itemsize) > 1:
                tests.append(f"not {first} & {size - 1}")
        yield f"            if not ({' and '.join(tests) or 'True'}): raise {e}Exception"

    def _aligned(self, names: Mapping[str, str], address: str) -> str:
        """Whether the arrays lie where a GPU can read their elements."""
        tests = []
        for size in (2, 4, 8):
            held = [names[p.name] for p in self.open if not p.is_scalar and value_type(p.dtype).storage.itemsize == size]
            if held:
                tests.append(f"not ({' | '.join(map(address.format, held))}) & {size - 1}")
        return " and ".join(tests) or "True"

    def _given(self) -> tuple[list[str], list[str]]:
        """(what to ask of ``out=`` as a whole, the expressions of its arrays): one array, or a tuple of several."""
        count = len(self.signature.results)
        if count == 1:
            return [], ["out"]
        return [f"{PREFIX}type(out) is tuple", f"{PREFIX}len(out) == {count}"], [f"out[{i}]" for i in range(count)]

    def _kept_positions(self) -> list[int]:
        """Which parameters are bound arrays, that results must not overlap."""
        return [position for position, p in enumerate(self.signature.parameters) if p.name in self.kept]

    def _general(self, names: Mapping[str, str]) -> str:
        values = "".join(f"{name}, " for name in names.values())
        given = "{" + ", ".join(f"{name!r}: {name}" for name in self.sizes if _usable(name)) + "}"
        return f"return {PREFIX}general(({values}), {given}, out, threads)"

    def _passed(
        self, names: Mapping[str, str], outs: Sequence[str], carrier: Callable[[DType, str], str]
    ) -> tuple[list[str], list[str]]:
        """(the arrays that are passed to the function, the scalars), as expressions."""
        e = PREFIX
        arguments: list[str] = []
        scalars: list[str] = []
        for position, p in enumerate(self.signature.parameters):
            if p.name not in names:
                (scalars if p.is_scalar else arguments).append(f"{e}b{position}")
            elif p.is_scalar:
                scalars.append(f"{e}scalar({e}p{position}, {names[p.name]})")
            else:
                arguments.append(carrier(value_type(p.dtype), names[p.name]))
        for r, out in zip(self.signature.results, outs, strict=True):
            arguments.append(carrier(value_type(r.dtype), out))
        return arguments + self.packed, scalars

    def _invoke(self, names: Mapping[str, str], outs: Sequence[str], *, torch: bool) -> Iterator[str]:
        e = PREFIX
        arguments, scalars = self._passed(names, outs, partial(_carrier, torch=torch))
        yield f"        if {e}current.setting != {e}setting: {e}use({e}setting)"
        passed = ", ".join([*arguments, *scalars, f"*{e}sizes"])
        if scalars:  # their errors are the user's, those of the function ours
            yield f"        {e}s = ({''.join(f'{s}, ' for s in scalars)})"
            passed = ", ".join([*arguments, f"*{e}s", f"*{e}sizes"])
        if torch:
            yield f"        {e}function({passed})"
        else:
            yield f"        try: {e}function({passed})"
            yield f"        except {e}Exception as {e}failure: raise {e}failed({e}failure) from None"
        yield f"        return {outs[0]}" if len(outs) == 1 else f"        return {e}results({', '.join(outs)})"


def _usable(name: str) -> bool:
    return usable_keyword(name) and name not in _RESERVED and not name.startswith(PREFIX)


def _plain_tensor(name: str, dtype: DType, spelled: str) -> list[str]:
    """The conditions under which a PyTorch tensor is passed as it is. Of a byte its function does not know what it means."""
    return [
        f"{PREFIX}type({name}) is {PREFIX}Tensor",
        *([f"{name}.dtype is {spelled}"] if dtype.bits <= 8 else []),
        f"not {name}.requires_grad",
        f"{name}.is_contiguous()",
        f"not {name}.is_neg()",
    ]


def _carrier(dtype: DType, array: str, *, torch: bool) -> str:
    if travels_as_bytes(dtype):
        return f"{array}.view({PREFIX}{'torch_u8' if torch else 'u8'})"
    return f"{PREFIX}bf16({array})" if dtype.name == "bf16" and not torch else array
