"""The lowering of our TensorIR to what LLVM's code generator takes: the passes that it needs, and no optimiser.

TVM's default pipeline inlines every binding and simplifies the resulting trees again and again; on kernels of a few hundred
vector statements that takes seconds to minutes, and undoes the sharing that the code generator made. All that it would find
LLVM finds too, in milliseconds.
"""

from __future__ import annotations

import tvm
from tvm import tirx

NAME = "einfall"


def _finalize_host() -> tvm.transform.Pass:
    return tvm.transform.Sequential([tirx.transform.LowerTVMBuiltin(), tirx.transform.LowerIntrin()])


def _finalize_device() -> tvm.transform.Pass:
    return tvm.transform.Sequential([tirx.transform.LowerIntrin()])


def einfall() -> tuple[tvm.transform.Pass, object, object]:
    """The pass that lowers a module, and the makers of the two that finish its halves, as TVM's build expects them."""

    @tvm.transform.module_pass(opt_level=0)
    def lower(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        steps = [
            tirx.transform.BF16ComputeLegalize(),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.UnrollLoop(),
            tirx.transform.AnnotateEntryFunc(),
            tirx.transform.SplitHostDevice(),
            tirx.transform.MakePackedAPI(),
            tirx.transform.BF16StorageLegalize(),
        ]
        return tvm.transform.Sequential(steps)(module)

    return lower, _finalize_host, _finalize_device


tirx.register_tir_pipeline(NAME, einfall)
