"""Tensors that no longer depend on the input, because all that they were computed from is gone.

A dense operator that has lost all of its input answers with its bias, everywhere. What is computed
from such tensors alone is evaluated here. A fixed tensor is kept with size one along the axes on
which it does not change, and is written out only for readers that need it whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import ExportError
from ._cut_edit import Edit
from ._cut_remains import Remains
from ._graph import Graph, Shape, constant_model
from ._session import Runner
from ._units import compressed

__all__ = ["Fixed"]

_STRETCHING = """
    Add Sub Mul Div Min Max Pow Sum Mean Mod
    Where Greater GreaterOrEqual Less LessOrEqual Equal And Or Xor
"""
_RANDOM = """
    RandomNormal RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial
"""
_LARGEST = 1 << 16
"""Elements of a constant that is worth its bytes; above that it is computed at run time."""


class Fixed:
    """The fixed tensors of a graph that is being cut.

    Before: nodes are given to `settle` in topological order, already rewritten.
    """

    def __init__(self, edit: Edit, remains: Remains) -> None:
        self._edit = edit
        self._remains = remains
        self._values: dict[str, NDArray[Any]] = {}
        self._stored: dict[str, str] = {}
        self._whole: set[str] = set()
        self._batch: str | None = None
        self._axes = {
            dense.node.name: 1 if "Conv" in dense.node.op_type else -1
            for dense in remains.layout.dense
            if dense.kind == "dense"
        }

    def settle(self, node: onnx.NodeProto) -> None:
        """Add a node to the graph, or fix what it writes."""
        if node.name in self._axes and self._remains.vanished(node.input[0]):
            self._values[node.output[0]] = self._bias(node)
            return
        activations = self._edit.graph.activations(node)
        fixed = [name for name in dict.fromkeys(activations) if name in self._values]
        known = all(name in self._remains.graph.shapes for name in (*activations, *_outputs(node)))
        if fixed and known and len(fixed) == len(set(activations)) and self._evaluate(node):
            return
        if fixed and known and self._broadcasts(node):
            _read_instead(node, {name: self._store(name) for name in fixed})
        else:
            for name in fixed:
                self.write_out(name)
        self._edit.graph.nodes.append(node)

    def _bias(self, node: onnx.NodeProto) -> NDArray[Any]:
        """What a dense operator without input answers, of size one along all other axes."""
        shape = self._remains.sizes(node.output[0])
        axis = self._axes[node.name] % len(shape)
        bias = self._edit.value(node, 2)
        value = np.zeros(shape[axis], np.float32) if bias is None else bias
        return np.broadcast_to(value, shape[axis]).reshape(
            [-1 if k == axis else 1 for k in range(len(shape))]
        )

    def _evaluate(self, node: onnx.NodeProto) -> bool:
        """Fix what a node writes that reads nothing else; False if it must run."""
        if node.op_type in _RANDOM.split() or any(item.HasField("g") for item in node.attribute):
            return False
        two, three = (self._run(node, batch) for batch in (2, 3))
        if two is None or three is None:
            return False
        names = _outputs(node)
        for name, first, second in zip(names, two, three, strict=True):
            dynamic = [axis for axis, n in enumerate(self._remains.shape(name)) if n is None]
            same = first.shape == second.shape and np.array_equal(first, second)
            if not same or any(second.shape[k] > 1 for k in dynamic) or second.size > _LARGEST:
                return False
        self._values |= dict(zip(names, three, strict=True))
        return True

    def _run(self, node: onnx.NodeProto, batch: int) -> list[NDArray[Any]] | None:
        """What a node answers for a batch; `None` if that is not known."""
        graph = self._edit.graph
        constants = {name: graph.constants[name] for name in node.input if name in graph.constants}
        for name in graph.activations(node):
            sizes = self._remains.sizes(name, batch)
            constants[name] = np.broadcast_to(self._values[name], sizes)
        lone = Graph([], constants, [], [], graph.opset, domains=graph.domains)
        try:
            answers = Runner(constant_model(node, lone), optimize=False)({})
        except ExportError:
            return None
        return [compressed(answer) for answer in answers]

    def _broadcasts(self, node: onnx.NodeProto) -> bool:
        """Whether the node answers in full size although its fixed inputs have not theirs."""
        if node.op_type not in _STRETCHING.split():
            return False
        wanted = self._remains.shape(node.output[0])
        found = {axis for name in node.input for axis in self._filled(name, wanted)}
        return found == set(range(len(wanted)))

    def _filled(self, name: str, wanted: Shape) -> list[int]:
        """Axes of the result that get their size from this input."""
        value = self._values.get(name, self._edit.graph.constants.get(name))
        shape: Shape = self._remains.shape(name) if value is None else value.shape
        offset = len(wanted) - len(shape)
        filled = [k + offset for k, size in enumerate(shape) if size == wanted[k + offset]]
        return [*filled, *(k for k in range(offset) if wanted[k] == 1)]

    def _store(self, name: str) -> str:
        if name not in self._stored:
            self._stored[name] = self._edit.constant(f"{name}.fixed", self._values[name])
        return self._stored[name]

    def write_out(self, name: str) -> None:
        """After: the tensor of this name exists in full size, if it is a fixed one."""
        if name not in self._values or name in self._whole:
            return
        self._whole.add(name)
        shape, value = self._remains.shape(name), self._values[name]
        if value.shape == shape and name not in self._edit.graph.outputs:
            self._edit.graph.constants[name] = value
            return
        target = self._target(name, shape)
        self._edit.insert("Expand", [self._store(name), target], name, shape, like=name)

    def _target(self, name: str, shape: Shape) -> str:
        """The sizes of a tensor, where they depend on the batch computed at run time."""
        if None not in shape:
            return self._edit.constant(f"{name}.shape", np.array(shape, np.int64))
        parts = [self._size(name, axis, size) for axis, size in enumerate(shape)]
        output = self._edit.free(f"{name}.shape")
        return self._edit.insert("Concat", parts, output, (len(shape),), axis=0)

    def _size(self, name: str, axis: int, size: int | None) -> str:
        if size is not None:
            return self._edit.constant(f"{name}.size", np.array([size], np.int64))
        times = self._remains.sizes(name)[axis] // 3
        if times == 1:
            return self._batch_size()
        factor = self._edit.constant(f"{name}.times", np.array([times], np.int64))
        output = self._edit.free(f"{name}.batch")
        return self._edit.insert("Mul", [self._batch_size(), factor], output, (1,))

    def _batch_size(self) -> str:
        """The batch as a tensor of one size, read off an input of the network."""
        if self._batch is None:
            edit = self._edit
            item = next(item for item in edit.graph.inputs if None in item.shape)
            rank = (len(item.shape),)
            shape = edit.insert("Shape", [item.name], edit.free("edgeprune.sizes"), rank)
            axis = edit.constant("edgeprune.batch_axis", np.array([item.shape.index(None)]))
            output = edit.free("edgeprune.batch")
            self._batch = edit.insert("Gather", [shape, axis], output, (1,), axis=0)
        return self._batch


def _outputs(node: onnx.NodeProto) -> list[str]:
    return [name for name in node.output if name]


def _read_instead(node: onnx.NodeProto, names: dict[str, str]) -> None:
    for place, name in enumerate(node.input):
        node.input[place] = names.get(name, name)
