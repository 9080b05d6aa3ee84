"""The machine that we run on: instruction sets, caches and cores, found without TVM and in a few milliseconds."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..ir.diagnostics import error
from ..ir.target import Target, TargetLike, best_match, known, named
from ..runtime.driver import Device, driver
from ..runtime.threads import available_threads, default_threads
from ..runtime.tiles import request_tiles
from .measurements import stored_roof

_X86 = {  # flag in /proc/cpuinfo -> LLVM's name of the feature
    "sse2": "sse2",
    "sse4_2": "sse4.2",
    "popcnt": "popcnt",
    "avx": "avx",
    "avx2": "avx2",
    "bmi1": "bmi",
    "bmi2": "bmi2",
    "f16c": "f16c",
    "fma": "fma",
    "abm": "lzcnt",
    "movbe": "movbe",
    "vaes": "vaes",
    "gfni": "gfni",
    "avx_vnni": "avxvnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512_bf16": "avx512bf16",
    "avx512_bitalg": "avx512bitalg",
    "avx512_fp16": "avx512fp16",
    "avx512_vbmi2": "avx512vbmi2",
    "avx512_vnni": "avx512vnni",
    "avx512_vpopcntdq": "avx512vpopcntdq",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "amx_tile": "amx-tile",
    "amx_bf16": "amx-bf16",
    "amx_int8": "amx-int8",
}

_ARM = {  # feature in /proc/cpuinfo -> LLVM's name
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fullfp16",
    "asimdfhm": "fp16fml",
    "bf16": "bf16",
    "i8mm": "i8mm",
    "sve": "sve",
}

_SYSCTL = {  # key of macOS' sysctl -> LLVM's name
    "hw.optional.neon": "neon",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_FP16": "fullfp16",
    "hw.optional.arm.FEAT_FHM": "fp16fml",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.fma": "fma",
    "hw.optional.f16c": "f16c",
    "hw.optional.bmi1": "bmi",
    "hw.optional.bmi2": "bmi2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512bw": "avx512bw",
    "hw.optional.avx512cd": "avx512cd",
    "hw.optional.avx512dq": "avx512dq",
    "hw.optional.avx512vl": "avx512vl",
}

_MAC_X86_BASELINE = frozenset({"sse2", "sse4.2", "popcnt", "avx", "lzcnt", "movbe"})  # every Mac with AVX2 has these

_VENDORS = {
    "GenuineIntel": "intel",
    "AuthenticAMD": "amd",
    "0x41": "arm",
    "0x61": "apple",
}

_ARCHITECTURES = {"amd64": "x86_64", "x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo:
    """What the operating system says of the processor. Cache sizes are bytes, 0 where unknown."""

    model: str
    arch: str
    vendor: str = ""
    features: frozenset[str] = frozenset()
    l1d: int = 0
    l2: int = 0
    l3: int = 0
    cache_line: int = 64

    @property
    def key(self) -> str:
        """A name for measurements of this processor: the model with the sizes that tell its variants apart."""
        return f"{self.model}|{self.arch}|{self.l1d}|{self.l2}|{self.l3}|{','.join(sorted(self.features))}"


def resolve_target(spec: TargetLike) -> Target:
    """The target that ``spec`` names; a bare ``"cpu"`` is the host, a bare ``"cuda"`` its first GPU.

    Raises EinfallError E1201, E1202, E1203, and E1207 for ``"cuda"`` on a machine without a GPU.
    """
    return Target.parse(spec, host=host_target, gpu=present_gpu)


def present_gpu() -> Target:
    """The target of the first GPU of this machine. Raises EinfallError E1207 where there is none, or none that is known."""
    found = driver()
    if not found.devices:
        raise error(
            "E1207",
            f"the target `cuda` is the GPU of this machine, but {found.reason}",
            help="name an architecture: target='cuda:sm_90' compiles without a GPU",
        )
    target = target_of(found.devices[0])
    if target is None:
        first = found.devices[0]
        raise error(
            "E1207",
            f"there is no target for GPU 0, {first.name} (compute capability {first.capability})",
            help=f"known architectures: {', '.join(known('cuda'))}",
        )
    return target


def target_of(device: Device) -> Target | None:
    """The target whose code runs on a GPU: of the same major version, and the nearest minor one that is not above the GPU's."""
    versions = {name: divmod(int(name.removeprefix("sm_")), 10) for name in known("cuda")}
    fitting = [name for name, (major, minor) in versions.items() if major == device.major and minor <= device.minor]
    return named("cuda", max(fitting, key=lambda name: versions[name])) if fitting else None


def host_target() -> Target:
    """The host as a target. Its cores are those that this process may use: how many threads a call takes
    (EINFALL_NUM_THREADS) is no property of the machine, and changes no bit of a result.

    Raises EinfallError E1203 when EINFALL_NUM_THREADS is not a positive number.
    """
    default_threads()  # said at once rather than at the first call
    return _host_target(available_threads())


@lru_cache(maxsize=1)
def host_info() -> HostInfo:
    """Features and caches of this machine; the baseline of its architecture where the system tells nothing."""
    arch = _ARCHITECTURES.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform == "linux":
        try:
            return read_linux(arch, Path("/proc/cpuinfo").read_text("utf-8"), Path("/sys/devices/system/cpu"))
        except OSError:
            pass
    elif sys.platform == "darwin":
        try:
            listing = subprocess.run(["sysctl", "hw", "machdep.cpu"], capture_output=True, text=True, timeout=10)
            return read_sysctl(arch, listing.stdout)
        except (OSError, subprocess.SubprocessError):
            pass
    return HostInfo(model=platform.processor() or arch, arch=arch, features=_baseline(arch))


def read_linux(arch: str, cpuinfo: str, sys_cpu: Path) -> HostInfo:
    """From the text of /proc/cpuinfo and the folder /sys/devices/system/cpu (which may be missing in a sandbox)."""
    first: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            first.setdefault(key.strip(), value.strip())
    if arch == "x86_64":
        features = _translated(first.get("flags", "").split(), _X86)
        vendor = _VENDORS.get(first.get("vendor_id", ""), "")
        model = first.get("model name", arch)
        if "cpu family" in first:  # clouds hide the name behind "Intel(R) Xeon(R) Processor"
            model += f" family {first['cpu family']} model {first.get('model', '?')} step {first.get('stepping', '?')}"
    else:
        features = _translated(first.get("Features", "").split(), _ARM)
        vendor = _VENDORS.get(first.get("CPU implementer", ""), "")
        model = f"{arch} implementer {first.get('CPU implementer', '?')} part {first.get('CPU part', '?')}"
    caches = _linux_caches(sys_cpu)
    return HostInfo(
        model=model,
        arch=arch,
        vendor=vendor,
        features=features | _baseline(arch),
        l1d=caches.get(1, 0),
        l2=caches.get(2, 0),
        l3=caches.get(3, 0),
        cache_line=caches.get(0, 64),
    )


def read_sysctl(arch: str, listing: str) -> HostInfo:
    """From what ``sysctl hw machdep.cpu`` prints on macOS. Apple's cores are described by their fast ones."""
    values: dict[str, str] = {}
    for line in listing.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            values[key.strip()] = value.strip()

    def size(*keys: str) -> int:
        return next((int(values[key]) for key in keys if values.get(key, "").isdigit()), 0)

    features = _translated((key for key, value in values.items() if value == "1"), _SYSCTL) | _baseline(arch)
    if "avx2" in features:
        features |= _MAC_X86_BASELINE
    return HostInfo(
        model=values.get("machdep.cpu.brand_string", arch),
        arch=arch,
        vendor="apple" if arch == "aarch64" else "intel",
        features=features,
        l1d=size("hw.perflevel0.l1dcachesize", "hw.l1dcachesize"),
        l2=size("hw.perflevel0.l2cachesize", "hw.l2cachesize"),
        l3=size("hw.l3cachesize"),
        cache_line=size("hw.cachelinesize") or 64,
    )


@lru_cache(maxsize=8)
def _host_target(cores: int) -> Target:
    info = host_info()
    features = info.features
    if any(feature.startswith("amx") for feature in features) and not request_tiles():
        features = frozenset(f for f in features if not f.startswith("amx"))  # the kernel keeps the tile registers to itself
    base = best_match(info.arch, features, vendor=info.vendor, cores=cores)
    return replace(
        base,
        l1d=info.l1d or base.l1d,
        l2=info.l2 or base.l2,
        l3=info.l3 if info.l2 else base.l3,  # a machine that tells its L2 and no L3 has none
        cache_line=info.cache_line,
        measured=stored_roof(info.key, cores),
    )


def _translated(flags: Iterable[str], names: Mapping[str, str]) -> frozenset[str]:
    return frozenset(names[flag] for flag in flags if flag in names)


def _baseline(arch: str) -> frozenset[str]:
    return frozenset({"x86_64": {"sse2"}, "aarch64": {"neon"}}.get(arch, set()))


def _linux_caches(sys_cpu: Path) -> dict[int, int]:
    """Level -> bytes of the data caches of the first CPU that has them listed; level 0 -> the line's size."""
    found: dict[int, int] = {}
    for index in sorted(sys_cpu.glob("cpu0/cache/index*")):
        try:
            kind = (index / "type").read_text("ascii").strip()
            level = int((index / "level").read_text("ascii"))
            size = _bytes((index / "size").read_text("ascii"))
            line = int((index / "coherency_line_size").read_text("ascii"))
        except (OSError, ValueError):
            continue
        if kind in ("Data", "Unified"):
            found[level] = size
            found[0] = line
    return found


def _bytes(text: str) -> int:
    """``"48K"`` -> 49152. Raises ValueError."""
    unit = text.strip()[-1:]
    shift = {"K": 10, "M": 20, "G": 30}.get(unit, 0)
    return int(text.strip().removesuffix(unit) if shift else text) << shift
