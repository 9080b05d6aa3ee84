"""Codes E10: the arguments of a call."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = (
    ErrorKind(
        code="E1001",
        title="unknown argument",
        explanation=(
            "A call names a parameter or a size that the kernel does not have. Parameters are called as in the "
            "program; a size can be given by name whether or not an array determines it."
        ),
        wrong="kernel(q, k, v, lenght=5)",
        fixed="kernel(q, k, v, P=5)",
    ),
    ErrorKind(
        code="E1002",
        title="missing argument",
        explanation="Every parameter of the kernel is given in the call, by position or by name, unless it was bound.",
        wrong="kernel(q, k)",
        fixed="kernel(q, k, v)",
    ),
    ErrorKind(
        code="E1003",
        title="wrong number of dimensions",
        explanation=(
            "An array has as many dimensions as its parameter declares. Nothing is broadcast or squeezed: a missing "
            "batch dimension is more often a mistake than a wish."
        ),
        wrong="kernel(q[0], k, v)  # Q: f32[H, P, E]",
        fixed="kernel(q, k, v)",
    ),
    ErrorKind(
        code="E1004",
        title="sizes disagree",
        explanation=(
            "A size has one value in a call. Two arrays give it different values, or an array's extent is not the one "
            "that the declaration computes from the other sizes."
        ),
        wrong="kernel(q, k[:, :, :32], v)  # both are [.., E], but Q's E is 64",
        fixed="kernel(q, k, v)",
    ),
    ErrorKind(
        code="E1005",
        title="size not determined",
        explanation=(
            "A size that occurs in no argument's shape, such as the extent of a convolution's result, is given by "
            "name: to compile, which fixes it, or in the call."
        ),
        wrong="convolve(image, filters)",
        fixed="convolve(image, filters, P=62, Q=62)",
    ),
    ErrorKind(
        code="E1006",
        title="size without a value",
        explanation="A size that is computed from others has no value for those given, such as `M // M0` with M0 = 0.",
        wrong="kernel(x, M0=0)  # let M1 = M // M0",
        fixed="kernel(x, M0=64)",
    ),
    ErrorKind(
        code="E1007",
        title="argument given twice",
        explanation=(
            "A parameter was given by position and by name, or there are more arguments than parameters, or what is "
            "given was bound before."
        ),
        wrong="kernel(q, k, v, Q=q)",
        fixed="kernel(q, k, v)",
    ),
    ErrorKind(
        code="E1008",
        title="not an array",
        explanation=(
            "A tensor parameter takes an array: NumPy's, PyTorch's, JAX's, or any other that offers DLPack. Lists and "
            "numbers are not converted, since their element type would be a guess."
        ),
        wrong="kernel([[1.0, 2.0]], k, v)",
        fixed="kernel(np.asarray([[1.0, 2.0]], dtype=np.float32), k, v)",
    ),
    ErrorKind(
        code="E1009",
        title="wrong element type",
        explanation=(
            "An array has the element type that its parameter declares, in the byte order of the machine. Types are "
            "not converted silently: that would cost a pass over the data, and often precision."
        ),
        wrong="kernel(np.ones((4, 8)))  # X: f32[M, N], but NumPy makes float64",
        fixed="kernel(np.ones((4, 8), dtype=np.float32))",
    ),
    ErrorKind(
        code="E1010",
        title="array on another device",
        explanation="A kernel for the CPU reads arrays in the CPU's memory; data is not moved between devices silently.",
        wrong="kernel(x.cuda())",
        fixed="kernel(x)",
    ),
    ErrorKind(
        code="E1011",
        title="array that a kernel cannot read",
        explanation=(
            "Sparse, quantised and masked arrays, and tensors that record gradients, hold more than their elements, "
            "and a kernel would ignore that. Tensors inside of torch.func.vmap, or of a tracer, have no elements. "
            "On a GPU elements must lie at multiples of their size."
        ),
        wrong="kernel(torch.nn.Linear(4, 4).weight)",
        fixed="kernel(torch.nn.Linear(4, 4).weight.detach())",
    ),
    ErrorKind(
        code="E1012",
        title="not a size",
        explanation="A size is a whole number from 0 to 2**63 - 1, and no extent that follows from it may be negative.",
        wrong="kernel(x, P=-1)",
        fixed="kernel(x, P=1)",
    ),
    ErrorKind(
        code="E1013",
        title="too large",
        explanation=(
            "An array or the intermediates of the kernel would need more bytes than can be addressed, or than the "
            "machine or the GPU has. `kernel.workspace_bytes(...)` tells what the intermediates need. A large constant that is "
            "not bound is packed in each call, which takes about its size again."
        ),
        wrong="kernel(x, P=10**15)",
        fixed="kernel(x, P=1000)",
    ),
    ErrorKind(
        code="E1014",
        title="wrong scalar argument",
        explanation=(
            "A parameter without dimensions takes a number: a whole one, within its range, for integer types, True or "
            "False for bool. Arrays without dimensions are numbers too."
        ),
        wrong="kernel(x, scale='0.5')",
        fixed="kernel(x, scale=0.5)",
    ),
    ErrorKind(
        code="E1015",
        title="out= does not fit",
        explanation=(
            "`out=` is one array for a kernel with one result, else a tuple in the order of the results or a dict by "
            "their names; each array has exactly the shape of its result."
        ),
        wrong="kernel(x, out=np.empty((3,), np.float32))  # the result has shape (4,)",
        fixed="kernel(x, out=np.empty((4,), np.float32))",
    ),
    ErrorKind(
        code="E1016",
        title="out= cannot be written",
        explanation=(
            "What is given as `out=` is written in place: it must be writable, and the elements of its last dimension "
            "must be adjacent in memory. (Inputs without that property are copied; results would have to be copied "
            "back.)"
        ),
        wrong="kernel(x, out=y[:, ::2])",
        fixed="y[:, ::2] = kernel(x)",
    ),
    ErrorKind(
        code="E1017",
        title="out= overlaps with another array",
        explanation=(
            "A fused kernel reads its inputs again after it has begun to write, so that a result may share no memory "
            "with an input or another result."
        ),
        wrong="kernel(x, out=x)",
        fixed="x = kernel(x)",
    ),
    ErrorKind(
        code="E1019",
        title="kernels cannot be pickled",
        explanation="A kernel holds machine code. Save it as an artifact and load that where it is needed.",
        wrong="pickle.dumps(kernel)",
        fixed='kernel.save("attention.efk"); kernel = einfall.load("attention.efk")',
    ),
    ErrorKind(
        code="E1020",
        title="no such source",
        explanation=(
            "`kernel.source(kind)` gives the stages of compilation that were kept. A kernel loaded from a file has "
            "those that the file holds."
        ),
        wrong='kernel.source("assembly")',
        fixed='kernel.source("asm")',
    ),
    ErrorKind(
        code="E1022",
        title="wrong number of threads",
        explanation="`threads=` is a positive whole number. More threads than cores are not started.",
        wrong="kernel(x, threads=0)",
        fixed="kernel(x, threads=1)",
    ),
)
