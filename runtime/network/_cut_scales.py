"""Multiplications by one number, which a tensor of one channel leaves of those by one a channel."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from ._graph import Graph

__all__ = ["part_scales"]


def part_scales(graph: Graph) -> bool:
    """After: no tensor that others read too stands between two multiplications by one number.

    Of ``y = a · x, z = b · y`` the second becomes ``z = (a · b) · x``. ONNX Runtime 1.32 moves such
    factors into the MatMuls behind them (MatMulScaleFusion), and where there are MatMuls behind
    both `y` and `z` it loses `y` and refuses the network.
    """
    producers, uses, changed = graph.producers(), graph.uses(), False
    for node in graph.nodes:
        outer = _scale(graph, node)
        before = None if outer is None else producers.get(outer[0])
        inner = None if before is None or uses[before.output[0]] < 2 else _scale(graph, before)
        if outer is None or inner is None:
            continue
        factor = graph.unique(f"{node.output[0]}.scale")
        graph.constants[factor] = np.asarray(inner[1] * outer[1], np.float32)
        node.CopyFrom(onnx.helper.make_node("Mul", [inner[0], factor], node.output, node.name))
        changed = True
    return changed and graph.remove_dead()


def _scale(graph: Graph, node: onnx.NodeProto) -> tuple[str, NDArray[np.float32]] | None:
    """The activation that a node multiplies by one number, and the number."""
    if node.op_type not in ("Mul", "Div"):
        return None
    activations = graph.activations(node)
    if len(activations) != 1 or (node.op_type == "Div" and node.input[0] != activations[0]):
        return None
    value = graph.constants[next(name for name in node.input if name in graph.constants)]
    if value.size != 1 or value.ndim > len(graph.shapes.get(activations[0], ())):
        return None
    if value.dtype != np.float32 or not value.all():
        return None
    factor = value if node.op_type == "Mul" else np.reciprocal(value)
    return activations[0], np.asarray(factor, np.float32)
