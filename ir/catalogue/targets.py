"""Codes E12: targets and building."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = (
    ErrorKind(
        code="E1201",
        title="unknown target",
        explanation=(
            "A kernel is compiled for the host (`cpu`), for a CPU that einfall has a description of (`cpu:haswell`), "
            "or for a CUDA architecture (`cuda:sm_90`), which needs no GPU. Each known machine is a file in "
            "`ir/targets`; the error lists them. A CPU that is not among them is compiled for by a baseline that it "
            "meets, such as `cpu:x86-64-v3`."
        ),
        wrong='ef.compile("attention.ecs", target="cpu:haswel")',
        fixed='ef.compile("attention.ecs", target="cpu:haswell")',
    ),
    ErrorKind(
        code="E1202",
        title="malformed target",
        explanation=(
            "A target is a string `KIND` or `KIND:NAME`, a dict `{KIND: NAME}` with one entry, or an `einfall.Target`. "
            "`cpu` alone is the host; `cuda` needs the name of an architecture, because kernels differ between them."
        ),
        wrong='ef.compile("attention.ecs", target="cuda")',
        fixed='ef.compile("attention.ecs", target="cuda:sm_90")',
    ),
    ErrorKind(
        code="E1203",
        title="bad number of threads",
        explanation=(
            "The environment variable EINFALL_NUM_THREADS limits how many cores kernels use. It is a positive "
            "integer; a number above that of the cores that the process may run on has no effect."
        ),
        wrong="EINFALL_NUM_THREADS=all einfall run attention.ecs --random H=4,P=100,M=100,E=64,F=64",
        fixed="EINFALL_NUM_THREADS=2 einfall run attention.ecs --random H=4,P=100,M=100,E=64,F=64",
    ),
    ErrorKind(
        code="E1204",
        title="cannot be compiled yet",
        explanation=(
            "The program is correct and the interpreter may evaluate it, but no code generator handles this type or this "
            "kind of target so far."
        ),
        wrong='ef.compile("attention.ecs", target="cuda:sm_90")',
        fixed='ef.compile("attention.ecs", target="cpu")',
    ),
)
