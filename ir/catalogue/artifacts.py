"""Codes E11: files, artifacts and the cache."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = (
    ErrorKind(
        code="E1101",
        title="file not found",
        explanation=(
            "The path names no file. Text that holds a line break or begins with an item of the language is taken as "
            "a program, everything else as a path."
        ),
        wrong='einfall.compile("atention.ecs")',
        fixed='einfall.compile("attention.ecs")',
    ),
    ErrorKind(
        code="E1102",
        title="file cannot be read",
        explanation="The path names a folder, or the system does not let the file be read.",
        wrong='einfall.compile("examples/")',
        fixed='einfall.compile("examples/attention/attention.ecs")',
    ),
    ErrorKind(
        code="E1103",
        title="file is not text",
        explanation="Programs are text in UTF-8. The file has bytes that are not.",
        wrong='einfall.compile("photo.png")',
        fixed='einfall.compile("attention.ecs")',
    ),
    ErrorKind(
        code="E1104",
        title="damaged kernel file",
        explanation=(
            "A saved kernel is an archive whose members have the hashes that its manifest states. This file is none, "
            "or was cut off or changed since it was written."
        ),
        wrong='einfall.load("attention.ecs")',
        fixed='einfall.load("attention.efk")',
    ),
    ErrorKind(
        code="E1105",
        title="kernel file of another version",
        explanation=(
            "The format of kernel files, and the code in them, belong to the version of einfall and TVM that wrote "
            "them. The source of the kernel is inside (`kernel.ecs` in the zip archive)."
        ),
        wrong='einfall.load("written-by-another-version.efk")',
        fixed='einfall.compile("attention.ecs").save("attention.efk")',
    ),
    ErrorKind(
        code="E1106",
        title="kernel file for another machine",
        explanation=(
            "The machine code in the file needs an architecture or features that this processor lacks. Kernels that "
            "travel are compiled for a baseline."
        ),
        wrong='einfall.compile("attention.ecs").save("for-everyone.efk")',
        fixed='einfall.compile("attention.ecs", target="cpu:x86-64-v3").save("for-everyone.efk")',
    ),
    ErrorKind(
        code="E1107",
        title="file cannot be written",
        explanation="The folder does not exist, or the system does not let the file be written. Nothing was changed.",
        wrong='kernel.save("/no/such/folder/attention.efk")',
        fixed='kernel.save("attention.efk")',
    ),
    ErrorKind(
        code="E1108",
        title="which kernel",
        explanation="The program has several kernels, or none of the name that was asked for.",
        wrong='einfall.compile("norms.ecs")  # has layer_norm and rms_norm',
        fixed='einfall.compile("norms.ecs", kernel="rms_norm")',
    ),
    ErrorKind(
        code="E1109",
        title="not a program",
        explanation="A program is given as a path, as text, or as a kernel object (which is compiled again).",
        wrong="einfall.compile(42)",
        fixed='einfall.compile("attention.ecs")',
    ),
    ErrorKind(
        code="E1110",
        title="wrong option",
        explanation="An option of `compile` has a value of the wrong kind. Sizes are given in upper case, by name.",
        wrong='einfall.compile("attention.ecs", cache="no")',
        fixed='einfall.compile("attention.ecs", cache=False)',
    ),
    ErrorKind(
        code="E1111",
        title="kernel cannot be saved",
        explanation=(
            "An artifact holds code, not data: bound arguments are bound again after loading. Making one needs a C "
            "compiler, which links the library."
        ),
        wrong='kernel.bind(W=w).save("linear.efk")',
        fixed='kernel.save("linear.efk"); kernel = einfall.load("linear.efk").bind(W=w)',
    ),
    ErrorKind(
        code="E1112",
        title="input file does not fit",
        explanation=(
            "Inputs are read from `.npy` files (one array) and `.npz` files (arrays by name). Files with pickled "
            "objects are refused."
        ),
        wrong="einfall run attention.ecs Q=q.txt",
        fixed="einfall run attention.ecs Q=q.npy K=k.npy V=v.npy",
    ),
    ErrorKind(
        code="E1113",
        title="TVM or another package is missing",
        explanation=(
            "Kernels are compiled by Apache TVM, and compiled ones run on its runtime library. It is not installed, or does "
            "not load. `apache-tvm` and `apache-tvm-ffi` belong together: einfall pins the pair. The compiler needs further "
            "packages (lark, networkx, scipy, sympy); kernels that were saved need none of these."
        ),
        wrong="pip uninstall apache-tvm; python app.py",
        fixed="pip install --force-reinstall einfall; python app.py",
    ),
)
