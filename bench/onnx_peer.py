"""ONNX Runtime as a peer: a graph with constant weights, its inputs and results bound to memory that is there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from field import Array, Call

from einfall.runtime.threads import default_threads

if TYPE_CHECKING:
    from onnx import NodeProto

_OPSET, _IR = 23, 10
MICROSOFT = "com.microsoft"


def node(kind: str, inputs: str, results: str, domain: str = "", **attributes: object) -> NodeProto:
    """One operator; names of values are separated by blanks, ``_`` stands for an input that is left out."""
    from onnx import helper

    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(kind, names, results.split(), domain=domain, **attributes)


def session(
    nodes: Sequence[NodeProto],
    *,
    inputs: Mapping[str, Array],
    results: Mapping[str, Array],
    weights: Mapping[str, Array | np.generic] | None = None,
) -> Call:
    """A call that runs the graph into the arrays of ``results`` and returns them. ``weights`` are constants, so that the
    runtime packs them. Raises ImportError where onnx or onnxruntime is not installed."""
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    def described(arrays: Mapping[str, Array]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for name, x in arrays.items()
        ]

    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "workload", described(inputs), described(results), constants)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = default_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    running = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = running.io_binding()
    for name, x in inputs.items():
        binding.bind_input(name, "cpu", 0, x.dtype, x.shape, x.ctypes.data)
    for name, x in results.items():
        binding.bind_output(name, "cpu", 0, x.dtype, x.shape, x.ctypes.data)
    kept = (*inputs.values(), *results.values())  # the binding holds addresses only
    found = tuple(results.values())

    def call() -> object:
        assert kept
        running.run_with_iobinding(binding)
        return found if len(found) > 1 else found[0]

    return call
