"""What TVM's compiler says of itself."""

from __future__ import annotations


def llvm_version() -> int | None:
    """The major version of the LLVM inside TVM; None if this TVM was built without it.

    Raises whatever a broken installation of TVM raises when it is imported.
    """
    import tvm.target.codegen

    version = int(tvm.target.codegen.llvm_version_major(allow_none=True) or 0)
    return version or None
