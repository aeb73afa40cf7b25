"""An artifact as a plain graph: gains, shifts, masks and re-fitted weights folded in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ._ort import make_session, run
from .artifact import Artifact
from .network._graph import Graph, from_model, read_names
from .network._ranges import note_ranges
from .network._shapes import infer_shapes

__all__ = ["plain_graph"]

WEIGHT_NODE = "edgeprune/"
Tensors = Mapping[str, NDArray[Any]]


def plain_graph(artifact: Artifact, tensors: Tensors) -> Graph:
    """Before: `tensors` holds every external tensor. After: a graph of the same function.

    Its nodes are those on the path of the data; what they computed from tensors alone is constant,
    and shapes are known.
    """
    nodes = [node for node in artifact.model.graph.node if not _of_weights(node)]
    read = {name for node in nodes for name in read_names(node)}
    folded = _folded(artifact, tensors, read)
    graph = from_model(_data_path(artifact.model, nodes, read, [*folded, *tensors]))
    known = {name: tensors[name] for name in tensors if name in read} | folded
    graph.constants |= {name: np.asarray(value) for name, value in known.items()}
    graph.remove_dead()
    note_ranges(graph)
    infer_shapes(graph)
    return graph


def _of_weights(node: onnx.NodeProto) -> bool:
    return str(node.name).startswith(WEIGHT_NODE)


def _folded(artifact: Artifact, tensors: Tensors, read: set[str]) -> dict[str, NDArray[Any]]:
    """What the weight expressions give to the nodes of the data path.

    ONNX Runtime computes them, with the operators that it folds with in use: the same bits.
    """
    source = artifact.model.graph
    nodes = [node for node in source.node if _of_weights(node)]
    outputs = [name for node in nodes for name in node.output if name in read]
    if not outputs:
        return {}
    used = {name for node in nodes for name in node.input}
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs]
    initializers = [item for item in source.initializer if item.name in used]
    graph = helper.make_graph(nodes, "weights", [], values, initializers)
    model = helper.make_model(
        graph, opset_imports=artifact.model.opset_import, ir_version=artifact.model.ir_version
    )
    given = {name: value for name, value in tensors.items() if name in used}
    session = make_session(model.SerializeToString(), given, optimize=False)
    return dict(zip(outputs, run(session, outputs, {}), strict=True))


def _data_path(
    source: onnx.ModelProto, nodes: list[onnx.NodeProto], read: set[str], later: list[str]
) -> onnx.ModelProto:
    """The model without its weight expressions; constants of the names `later` are still empty."""
    graph = source.graph
    own = [item for item in graph.initializer if item.name in read and item.name not in set(later)]
    empty = [numpy_helper.from_array(np.zeros(0, np.float32), n) for n in set(later) & read]
    path = helper.make_graph(nodes, graph.name, graph.input, graph.output, [*own, *empty])
    return helper.make_model(path, opset_imports=source.opset_import, ir_version=source.ir_version)
