"""The general way of a call: match and check the arguments, find all sizes, run the function, hand back the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod

from ..ir.diagnostics import EinfallError, did_you_mean, error
from ..ir.expr import integer
from ..ir.types import value_type
from .arrays import Family, Memory, overlap
from .device_arrays import DeviceFamily, anywhere
from .devices import check_device, explained, gpu_memory, missing_driver, no_device
from .extents import determined_sizes, resolve
from .families import NUMPY, family_of
from .fastpath import FastPath, FastPlan
from .gpu_fastpath import GpuFastPath
from .packing import missing, packed
from .results import result_tuple
from .scalars import checked_scalar
from .signature import Parameter, Signature
from .streams import enter, hand_over, leave
from .threads import TVM_POOL, Pool, checked_threads, scale_of
from .torch_arrays import TorchFamily

_MOST_PLANS = 4096
"""Combinations of shapes that are remembered; beyond it (sizes that never repeat) the table starts anew."""

_ELEMENT = 4  # bytes, near enough for the scale of a call


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The functions of a compiled kernel: the kernel itself, one for each constant that it takes packed, and where their
    parallel loops run. Without ``packers`` no constant is packed. ``device`` is the CUDA architecture that it needs, None for
    the CPU."""

    function: Callable[..., object]
    packers: tuple[Callable[..., object], ...] = ()
    pool: Pool = TVM_POOL
    device: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundTensor:
    """An input that was bound: what is passed to the function, its shape, and the array it came from. ``packed`` are its forms
    by their places among the signature's."""

    carrier: object
    shape: tuple[int, ...]
    value: object
    family: Family
    packed: Mapping[int, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A call that is ready to be made, once or many times: the function's arguments, the arrays it will fill, its scale, the
    number of the GPU that it runs on (None: on the CPU), and what tells the stream there with what keeps it alive."""

    arguments: tuple[object, ...]
    sizes: Mapping[str, int]
    scale: int
    results: tuple[object, ...]
    convert: Callable[[object], object]
    stream: Callable[[], tuple[int, object]]
    gpu: int | None = None


class Caller:
    """Calls one compiled function with a user's arguments.

    ``tensors`` and ``scalars`` are the parameters that were bound, ``sizes`` the free sizes that were. The function
    takes the input tensors, the results, the packed constants, the scalars and the sizes, in the order of the signature.
    """

    def __init__(
        self,
        signature: Signature,
        code: Code,
        *,
        tensors: Mapping[str, BoundTensor],
        scalars: Mapping[str, int | float],
        sizes: Mapping[str, int],
        threads: int,
    ) -> None:
        self.signature = signature
        self.code = code
        self.function = code.function
        self.pool = code.pool
        self.tensors = dict(tensors)
        self.scalars = dict(scalars)
        self.sizes = dict(sizes)
        self.threads = threads
        self.open = [p for p in signature.parameters if p.name not in tensors and p.name not in scalars]
        determined = determined_sizes(signature)
        self.undetermined = [s for s in signature.sizes if s not in determined and s not in sizes]
        self.packed = [
            (tensors[form.parameter].packed if form.parameter in tensors else {}).get(i) or missing()
            for i, form in enumerate(signature.packed)
        ]
        self.results = result_tuple(signature.name, [r.name for r in signature.results])
        path: type[FastPath] = FastPath if code.device is None else GpuFastPath
        self.fast = path(
            signature=signature,
            bound={**{name: t.carrier for name, t in tensors.items()}, **scalars},
            sizes=self.undetermined,
            threads=threads,
            pool=code.pool,
            function=code.function,
            packed=self.packed,
            general=self.call,
            failed=self.failed,
            convert_scalar=_scalar,
            results=self.results,
            kept={name: t.family.memory(t.value).bounds for name, t in tensors.items()},
        )
        self.workspace = signature.workspace != integer(0)
        if isinstance(self.fast, GpuFastPath):
            self.fast.workspace = self.workspace

    def packing(self, tensor: BoundTensor, name: str) -> BoundTensor:
        """A bound tensor, whose shape has been checked, with the packed forms in which the kernel takes it."""
        forms = {
            i: (form, packer)
            for i, (form, packer) in enumerate(zip(self.signature.packed, self.code.packers, strict=False))
            if form.parameter == name
        }
        if not forms:
            return tensor
        self.pool.use(scale_of(_ELEMENT * prod(tensor.shape)) + self.threads)
        try:
            made = {i: packed(form, packer, tensor.shape, tensor.carrier) for i, (form, packer) in forms.items()}
        except Exception as failure:
            raise self.failed(failure) from None
        return replace(tensor, packed=made)

    def slow(self, args: Sequence[object], named: Mapping[str, object]) -> object:
        """A call whose arguments do not fit the generated function's: odd names, or a mistake."""
        values, given, out, threads = self.match(args, named)
        return self.call(values, given, out, threads)

    def match(
        self, args: Sequence[object], named: Mapping[str, object]
    ) -> tuple[list[object], dict[str, object], object, object]:
        """(values of the open parameters, sizes, out, threads). Raises EinfallError E1001, E1002, E1007."""
        kernel = self.signature.name
        names = [p.name for p in self.open]
        rest = dict(named)
        out, threads = rest.pop("out", None), rest.pop("threads", None)
        if len(args) > len(names):
            wanted = f"{len(names)} ({', '.join(names)})" if names else "none"
            raise error(
                "E1007",
                f"`{kernel}` takes {wanted} by position, {len(args)} were given",
                help="sizes, out= and threads= are given by name",
            )
        found = dict(zip(names, args, strict=False))
        for name in names:
            if name in rest:
                if name in found:
                    raise error("E1007", f"`{name}` is given twice, by position and by name")
                found[name] = rest.pop(name)
        sizes = {name: rest.pop(name) for name in list(rest) if self._is_size(name)}
        for name in rest:
            if name in self.tensors or name in self.scalars:
                raise error("E1007", f"`{name}` is bound already", help="call the kernel that `bind` was called on")
            known = [*names, *self.signature.sizes, "out", "threads"]
            raise error(
                "E1001",
                f"`{kernel}` has no argument `{name}`",
                help=did_you_mean(name, known) or f"it takes {', '.join(known)}",
            )
        missing = [name for name in names if name not in found]
        if missing:
            raise error(
                "E1002",
                f"`{kernel}` needs {', '.join(f'`{name}`' for name in missing)}",
                notes=[str(self.signature)],
            )
        return [found[name] for name in names], sizes, out, threads

    def call(self, values: Sequence[object], given: Mapping[str, object], out: object, threads: object) -> object:
        """The whole call; ``values`` are those of the open parameters, ``given`` sizes (None: not given)."""
        run = self.prepare(values, given, out)
        self.pool.use(run.scale + (self.threads if threads is None else checked_threads(threads)))
        try:
            with self.stream(run):
                self.function(*run.arguments)
        except Exception as failure:
            raise self.failed(failure) from None
        results = [run.convert(each) for each in run.results]
        return results[0] if len(results) == 1 else self.results(*results)

    @contextmanager
    def stream(self, run: Run) -> Iterator[None]:
        """Inside, what is launched goes on the stream of a call; of one on the CPU there is none."""
        if run.gpu is None:
            yield
            return
        stream, owner = run.stream()
        if self.workspace:
            hand_over(run.gpu, stream, owner)
        before = enter(run.gpu, stream)
        try:
            yield
        finally:
            leave(run.gpu, before)

    def prepare(self, values: Sequence[object], given: Mapping[str, object], out: object = None) -> Run:
        """Everything but the call itself: arguments checked, sizes found, results allocated."""
        given = {name: value for name, value in given.items() if value is not None}
        carriers = {name: t.carrier for name, t in self.tensors.items()}
        shapes = {name: t.shape for name, t in self.tensors.items()}
        arrays: list[tuple[str, Family, object]] = [(n, t.family, t.value) for n, t in self.tensors.items()]
        numbers = dict(self.scalars)
        on_gpu = self.code.device is not None
        if on_gpu and (reason := missing_driver()) is not None:
            raise no_device(self.signature.name, self.code.device or "", reason)
        start, first = anywhere() if on_gpu else NUMPY, None
        if on_gpu:
            start, first = next(((t.family, t.value) for t in self.tensors.values()), (start, first))
        home = start
        for parameter, value in zip(self.open, values, strict=True):
            name, dtype = parameter.name, value_type(parameter.dtype)
            if parameter.is_scalar:
                numbers[name] = checked_scalar(name, parameter.dtype, value)
                continue
            family = family_of(name, value, on_gpu=on_gpu)
            if home is start:
                home, first = family, value
            carriers[name], shapes[name] = family.input(name, dtype, value)
            arrays.append((name, family, value))
        gpu = self._checked_gpu(home, [(name, family) for name, family, _ in arrays]) if on_gpu else None
        self._learn(home, first)  # the next call takes the short way
        sizes, extents, scale, *_ = self.plan(shapes, given, gpu=gpu, device=getattr(first, "device", None))
        if out is None:
            results, passed = self.allocate(home, extents)
        else:
            results = self.split_out(out)
            passed = self.check_out(results, extents, arrays)
        inputs = [carriers[p.name] for p in self.signature.tensors]
        scalars = [numbers[p.name] for p in self.signature.scalars]
        return Run(
            arguments=(*inputs, *passed, *self.packed, *scalars, *sizes),
            sizes=dict(zip(self.signature.sizes, sizes, strict=True)),
            scale=scale,
            results=tuple(results),
            convert=home.converted if out is None else _same,
            gpu=gpu,
            stream=lambda: home.stream(first),
        )

    def _learn(self, home: Family, first: object) -> None:
        match home, self.fast:
            case TorchFamily(), _:
                self.fast.learn_torch(home.torch, home.dtypes)
            case DeviceFamily(), GpuFastPath() if first is not None:
                self.fast.learn(home.library, type(first))

    def _checked_gpu(self, home: Family, arrays: Sequence[tuple[str, Family]]) -> int:
        """The GPU of a call. Raises EinfallError E1010 where arrays are on several, E1106 or E1207 where theirs cannot run the
        code."""
        used: dict[int, str] = {}
        for name, family in [*arrays, ("the result", home)]:
            used.setdefault(_gpu_of(family), name)
        if len(used) > 1:
            (first, one), (second, other) = sorted(used.items())[:2]
            raise error(
                "E1010",
                f"`{one}` is on GPU {first} and `{other}` on GPU {second}; a kernel runs on one",
                help="move them to the same GPU",
            )
        (gpu,) = used
        check_device(self.signature.name, self.code.device or "", gpu)
        return gpu

    def plan(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        given: Mapping[str, object],
        *,
        gpu: int | None = None,
        device: object = None,
    ) -> FastPlan:
        """The sizes and shapes of a call, remembered for the next one. ``device`` is what the first array says of its own."""
        known = all(name in self.undetermined for name in given)
        key = self.fast.key(shapes, given, device)
        plans = self.fast.plans
        try:
            if known and key in plans:
                return plans[key]
        except TypeError:  # something unhashable was given as a size
            known = False
        clash = [name for name, value in self.sizes.items() if name in given and given[name] != value]
        if clash:
            raise error("E1007", f"the size `{clash[0]}` is bound to {self.sizes[clash[0]]} already")
        kept = {i for t in self.tensors.values() for i in t.packed}
        memory = None if gpu is None else gpu_memory(gpu)
        found = resolve(self.signature, shapes, {**self.sizes, **given}, kept=kept, memory=memory)
        elements = sum(prod(shape) for shape in (*shapes.values(), *found.shapes))
        stored = [(p.dtype, shapes[p.name]) for p in self.open if not p.is_scalar]
        stored += [(r.dtype, shape) for r, shape in zip(self.signature.results, found.shapes, strict=True)]
        sizes_in_bytes = tuple(prod(shape) * value_type(dtype).storage.itemsize for dtype, shape in stored)
        scale = scale_of(_ELEMENT * elements + found.workspace) if gpu is None else gpu
        plan = (found.arguments, found.shapes, scale, tuple(map(_strides, found.shapes)), sizes_in_bytes)
        # The short way cannot pass arrays without elements (see dltensor.py).
        if known and not any(0 in shape for shape in (*shapes.values(), *found.shapes)):
            if len(plans) >= _MOST_PLANS:
                plans.clear()
            plans[key] = plan
        return plan

    def allocate(self, home: Family, shapes: Sequence[tuple[int, ...]]) -> tuple[list[object], list[object]]:
        """New results of the caller's family, and what is passed for them."""
        targets: list[object] = []
        passed: list[object] = []
        for result, shape in zip(self.signature.results, shapes, strict=True):
            dtype = value_type(result.dtype)
            try:
                targets.append(home.empty(shape, dtype))
            except (MemoryError, RuntimeError) as failure:
                raise self.failed(failure) from None
            passed.append(home.carrier(dtype, targets[-1]))
        return targets, passed

    def split_out(self, out: object) -> list[object]:
        """The arrays of ``out=`` in the order of the results. Raises EinfallError E1015."""
        results = self.signature.results
        names = [r.name for r in results]
        match out:
            case dict():
                if set(out) != set(names):
                    wrong = sorted(str(key) for key in set(out) ^ set(names))
                    raise error("E1015", f"out= must name {', '.join(names)} and nothing else; {', '.join(wrong)} do not match")
                return [out[name] for name in names]
            case tuple() | list():
                if len(out) != len(results):
                    raise error("E1015", f"out= holds {len(out)} arrays, the kernel has {len(results)} results")
                return list(out)
            case _ if len(results) == 1:
                return [out]
            case _:
                raise error("E1015", f"the kernel has {len(results)} results: out= is a tuple ({', '.join(names)}) or a dict")

    def check_out(
        self,
        results: Sequence[object],
        shapes: Sequence[tuple[int, ...]],
        arrays: Sequence[tuple[str, Family, object]],
    ) -> list[object]:
        """What is passed for the arrays of ``out=``. Raises EinfallError E1008 to E1011 and E1015 to E1017."""
        passed: list[object] = []
        written: list[tuple[str, Memory]] = []
        read = [(name, family.memory(value)) for name, family, value in arrays]
        for result, shape, value in zip(self.signature.results, shapes, results, strict=True):
            name = "out" if len(results) == 1 else f"out of {result.name}"
            family = family_of(name, value, on_gpu=self.code.device is not None)
            carrier, found = family.output(name, value_type(result.dtype), value)
            if found != shape:
                raise error("E1015", f"`{name}` has the shape {found}, but `{result.name}` is {shape}")
            memory = family.memory(value)
            for other, place in (*read, *written):
                if overlap(memory, place):
                    raise error(
                        "E1017",
                        f"`{name}` shares memory with `{other}`",
                        help="a kernel does not work in place: pass another array, or leave out= away",
                    )
            written.append((name, memory))
            passed.append(carrier)
        return passed

    def failed(self, failure: Exception) -> EinfallError:
        """What the user is told when the function, or an allocation, failed."""
        if isinstance(failure, EinfallError):
            return failure
        text = str(failure).strip()
        if self.code.device is not None and (told := explained(self.signature.name, self.code.device, text)) is not None:
            return told
        if isinstance(failure, MemoryError) or "alloc" in text:
            return error("E1013", f"there is not enough memory for `{self.signature.name}` with these sizes")
        first = next((line for line in text.splitlines() if line.strip()), type(failure).__name__)
        return error("E9001", f"`{self.signature.name}` failed while it ran: {first.strip()}")

    def _is_size(self, name: str) -> bool:
        return name in self.signature.sizes or name in self.signature.fixed


def bind_tensor(parameter: Parameter, value: object, *, on_gpu: bool = False) -> BoundTensor:
    """An array checked against the parameter's element type. Raises EinfallError E1008 to E1011."""
    family = family_of(parameter.name, value, on_gpu=on_gpu)
    carrier, shape = family.input(parameter.name, value_type(parameter.dtype), value)
    return BoundTensor(carrier=carrier, shape=shape, value=value, family=family)


def _gpu_of(family: Family) -> int:
    match family:
        case DeviceFamily(device=int(gpu)) | TorchFamily(gpu=int(gpu)):
            return gpu
        case _:
            raise AssertionError(f"{family.name} arrays are not on a GPU")


def _scalar(parameter: Parameter, value: object) -> int | float:
    return checked_scalar(parameter.name, parameter.dtype, value)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a compact array, in elements."""
    return tuple(prod(shape[d + 1 :]) for d in range(len(shape)))


def _same(value: object) -> object:
    return value
