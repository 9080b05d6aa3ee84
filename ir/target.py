"""What a kernel is compiled for: the vector unit, registers, caches and limits of a machine, as data.

The machines are the files of ``targets/``; one more machine is one more file. The host's record is made in
``compiler/host.py``, which detects features and caches and adds what was measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias, Union

from .diagnostics import EinfallError, did_you_mean, error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kind: TypeAlias = Literal["cpu", "cuda"]
Level: TypeAlias = Literal["l1", "l2", "l3", "dram"]
TargetLike: TypeAlias = Union[str, Mapping[str, str], "Target"]

LEVELS: tuple[Level, ...] = ("l1", "l2", "l3", "dram")
_FOLDER = Path(__file__).with_name("targets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Rates that no kernel exceeds.

    ``ops`` are operations per second by element type (a multiply-add counts two), ``read`` and ``copy`` bytes per
    second by level of the memory (a copy counts the bytes read plus the bytes written).
    """

    ops: Mapping[str, float] = field(default_factory=dict, hash=False)
    read: Mapping[str, float] = field(default_factory=dict, hash=False)
    copy: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """The limits of one core (a CUDA device has one entry for both) and of all cores together."""

    core: Limits
    chip: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixTiles:
    """A matrix unit with architectural tile registers (AMX): ``count`` tiles of ``rows`` rows of ``row_bytes``."""

    count: int
    rows: int
    row_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What bounds the launch of a CUDA kernel. Memory sizes are bytes, ``registers`` are 32-bit, per multiprocessor."""

    multiprocessors: int
    warp: int
    max_threads_per_block: int
    max_threads_per_multiprocessor: int
    blocks_per_multiprocessor: int
    registers: int
    shared_per_block: int
    shared_per_multiprocessor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A machine.

    ``mcpu`` is LLVM's name of the processor or the CUDA architecture (``sm_90``), ``extra`` the features (LLVM's
    names) that it has beyond that processor's. ``features`` holds all of them. Cache sizes are bytes as seen by one
    core, 0 where a level does not exist. ``nominal`` limits come from the maker's documents, ``measured`` ones from
    ``einfall doctor --measure``; two targets that differ only in what was measured are equal.
    """

    kind: Kind
    name: str
    arch: str
    mcpu: str
    vendor: str = ""
    features: frozenset[str] = frozenset()
    extra: tuple[str, ...] = ()
    vector_bits: int
    vector_registers: int
    cores: int = 1
    l1d: int
    l2: int
    l3: int
    cache_line: int = 64
    tiles: MatrixTiles | None = None
    gpu: Gpu | None = None
    nominal: Roof
    measured: Roof | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    @staticmethod
    def parse(spec: TargetLike, *, host: Callable[[], Target] | None = None, gpu: Callable[[], Target] | None = None) -> Target:
        """The target that ``spec`` names: ``"cpu"``, ``"cpu:haswell"``, ``{"cpu": "haswell"}``, ``"cuda:sm_90"``.

        ``host`` supplies what a bare ``"cpu"`` (or ``"cpu:native"``) means; without it that is the x86-64 baseline. ``gpu``
        does so for ``"cuda"``, which is not understood without it.
        Raises EinfallError E1201 for an unknown target, E1202 for a specification of the wrong form.
        """
        match spec:
            case Target():
                return spec
            case str():
                kind, _, name = spec.strip().partition(":")
            case Mapping() if len(spec) == 1:
                kind, name = next(iter(spec.items()))
            case _:
                raise error(
                    "E1202",
                    f"a target is a string such as 'cpu' or 'cuda:sm_90', or a dict with one entry, not {spec!r}",
                    help="write target='cpu', target='cpu:haswell' or target={'cpu': 'haswell'}",
                )
        if not isinstance(kind, str) or not isinstance(name, str):
            raise error("E1202", f"the parts of a target are strings, not {kind!r} and {name!r}")
        if kind == "cpu" and name in ("", "native"):
            return host() if host is not None else named("cpu", "x86-64")
        if kind not in ("cpu", "cuda"):
            raise _unknown(spec if isinstance(spec, str) else kind)
        if kind == "cuda" and name in ("", "native") and gpu is not None:
            return gpu()
        if not name:
            raise error(
                "E1202",
                "a CUDA target needs an architecture, such as 'cuda:sm_90'",
                help=f"known architectures: {', '.join(known('cuda'))}",
            )
        return named("cuda" if kind == "cuda" else "cpu", name)

    def has(self, *features: str) -> bool:
        """Whether the machine has every one of these features (LLVM's names: ``avx2``, ``avx512vnni``, ``i8mm``)."""
        return self.features.issuperset(features)

    def lanes(self, bits: int) -> int:
        """How many elements of ``bits`` bits one vector register holds."""
        return max(1, self.vector_bits // bits)

    def capacity(self, level: Level) -> int:
        """Bytes that one core can keep at a level; for DRAM a number larger than any size."""
        return {"l1": self.l1d, "l2": self.l2, "l3": self.l3, "dram": sys.maxsize}[level]

    def level_of(self, size: int) -> Level:
        """The nearest level of the memory that holds ``size`` bytes."""
        return next(level for level in LEVELS if size <= self.capacity(level))

    def peak_ops(self, dtype: str = "f32", *, cores: int | None = None) -> float:
        """Operations per second on ``cores`` cores (all by default). A type without its own limit has f32's."""
        roof = self.measured or self.nominal
        key = dtype if dtype in roof.core.ops else "f32"
        return self._on_cores(roof.core.ops[key], roof.chip.ops.get(key), cores)

    def bandwidth(self, level: Level, *, cores: int | None = None) -> float:
        """Bytes per second that ``cores`` cores (all by default) read from a level, or the next one that exists."""
        roof = self.measured or self.nominal
        for candidate in LEVELS[LEVELS.index(level) :]:
            if candidate in roof.core.read:
                return self._on_cores(roof.core.read[candidate], roof.chip.read.get(candidate), cores)
        raise AssertionError(f"{self}: no bandwidth is known for DRAM")

    def _on_cores(self, one: float, all_cores: float | None, cores: int | None) -> float:
        """Rates grow with the cores up to the chip's limit."""
        wanted = self.cores if cores is None else min(cores, self.cores)
        if all_cores is None or wanted == 1:
            return one * wanted
        return min(one * wanted, all_cores)


def known(kind: Kind) -> tuple[str, ...]:
    """The names of the machines of one kind, sorted."""
    return tuple(sorted(name for (k, name) in _records() if k == kind))


def named(kind: Kind, name: str) -> Target:
    """The machine of that name. Raises EinfallError E1201 when there is none."""
    try:
        return _records()[kind, name]
    except KeyError:
        raise _unknown(f"{kind}:{name}") from None


def best_match(arch: str, features: frozenset[str], *, vendor: str = "", cores: int = 1) -> Target:
    """The known CPU of an architecture that is richest in features, all of which are in ``features``.

    Machines of another vendor are not considered. Features that the known CPU lacks become ``extra``, so that LLVM
    may use them. Falls back to a baseline with no requirement; architectures without a table get scalar code.
    """
    fitting = [
        target
        for (kind, _), target in _records().items()
        if kind == "cpu" and target.arch == arch and target.features <= features and target.vendor in ("", vendor)
    ]
    if not fitting:
        return replace(named("cpu", "generic"), arch=arch, cores=cores)
    base = max(fitting, key=lambda target: (len(target.features), target.vendor != "", target.name))
    return with_features(base, features, cores=cores)


def with_features(base: Target, features: frozenset[str], *, cores: int) -> Target:
    """``base`` with more features: wider vectors and matrix tiles follow from them."""
    wider = "avx512f" in features and base.vector_bits < 512
    return replace(
        base,
        features=base.features | features,
        extra=tuple(sorted(features - base.features)),
        vector_bits=512 if wider else base.vector_bits,
        vector_registers=32 if wider else base.vector_registers,
        tiles=MatrixTiles(count=8, rows=16, row_bytes=64) if "amx-tile" in features else base.tiles,
        cores=cores,
        nominal=_scaled(base.nominal.core, cores, base.nominal.chip.read["dram"]),
    )


def _unknown(spec: str) -> EinfallError:
    names = [f"{kind}:{name}" for kind, name in sorted(_records())]
    hint = did_you_mean(spec, ["cpu", *names]) or did_you_mean(f"cpu:{spec}", names)
    listing = f"known targets: cpu, {', '.join(names)}"
    return error("E1201", f"there is no target `{spec}`", help=f"{hint} {listing}" if hint else listing)


@lru_cache(maxsize=1)
def _records() -> dict[tuple[Kind, str], Target]:
    targets = (_read(path) for path in sorted(_FOLDER.glob("*.toml")))
    return {(target.kind, target.name): target for target in targets}


def _read(path: Path) -> Target:
    data = tomllib.loads(path.read_text("utf-8"))
    nominal = data.pop("nominal")
    core = Limits(
        ops={key: rate * 1e9 for key, rate in nominal["gops"].items()},
        read={key: rate * 1e9 for key, rate in nominal["read"].items()},
        copy={key: rate * 1e9 for key, rate in nominal.get("copy", {}).items()},
    )
    chip_dram = nominal.get("chip_dram", nominal["read"]["dram"]) * 1e9
    return Target(
        name=path.stem,
        features=frozenset(data.pop("features", ())),
        tiles=MatrixTiles(**data.pop("tiles")) if "tiles" in data else None,
        gpu=Gpu(**data.pop("gpu")) if "gpu" in data else None,
        nominal=_scaled(core, data.get("cores", 1), chip_dram),
        **data,
    )


def _scaled(core: Limits, cores: int, chip_dram: float) -> Roof:
    """All cores together: everything but the DRAM is private or scales with the cores."""
    read = {key: rate * cores for key, rate in core.read.items()}
    read["dram"] = chip_dram if cores > 1 else core.read["dram"]
    chip = Limits(ops={key: rate * cores for key, rate in core.ops.items()}, read=read)
    return Roof(core=core, chip=chip)
