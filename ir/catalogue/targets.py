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
            "`cpu` alone is the host, `cuda` alone its GPU; `cuda:sm_90` names an architecture, and needs none."
        ),
        wrong='ef.compile("attention.ecs", target=["cuda", "sm_90"])',
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
            "The program is correct and the interpreter may evaluate it, but no code generator handles one of its types so "
            "far: quantised storage (`type w4 = quant(…)`) is dequantised before the call."
        ),
        wrong="kernel f(X: f32[M, K], W: w4[N, K]) -> (Y: f32[M, N]) { Y[m, n] = X[m, k] * W[n, k] }",
        fixed="kernel f(X: f32[M, K], W: f32[N, K]) -> (Y: f32[M, N]) { Y[m, n] = X[m, k] * W[n, k] }",
    ),
    ErrorKind(
        code="E1205",
        title="no CUDA compiler",
        explanation=(
            "Kernels for `cuda:…` become CUDA C++, which nvcc or NVRTC compiles. They are looked for in CUDA_HOME, CUDA_PATH, "
            "PATH, /usr/local/cuda and among pip's packages; NVRTC needs CUDA's headers besides. Neither a GPU nor a "
            "driver is needed to compile."
        ),
        wrong='ef.compile("attention.ecs", target="cuda:sm_90")  # on a machine without the CUDA toolkit',
        fixed="CUDA_HOME=/opt/cuda-13.0 einfall compile attention.ecs --target cuda:sm_90",
    ),
    ErrorKind(
        code="E1206",
        title="CUDA toolkit too old for the target",
        explanation=(
            "The compiler that was found (nvcc or NVRTC) makes no code for this architecture. Newer toolkits know newer "
            "architectures."
        ),
        wrong='ef.compile("attention.ecs", target="cuda:sm_90")  # with the toolkit of CUDA 11.0',
        fixed='ef.compile("attention.ecs", target="cuda:sm_80")',
    ),
    ErrorKind(
        code="E1207",
        title="no GPU to run on",
        explanation=(
            "A kernel for a GPU was called where the process has no driver for it or no such GPU, or was to be compiled for "
            "`cuda`, the GPU that is there. It can be compiled for a named architecture, saved, and looked at everywhere."
        ),
        wrong='ef.load("attention_sm90.efk")(q, k, v)  # on a machine without a GPU',
        fixed='ef.compile("attention.ecs", target="cpu")(q, k, v)',
    ),
)
