"""A small writer of ONNX networks with random weights, for the tests of the analysis engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeprune.runtime.network._cut import all_kept, cut, masked, removable
from edgeprune.runtime.network._graph import Graph, from_model, to_model
from edgeprune.runtime.network._layout import Layout, analyse
from edgeprune.runtime.network._session import Runner, random_feeds
from edgeprune.runtime.network._shapes import infer_shapes

Array = NDArray[Any]


class Net:
    """Nodes are named by their operator and number; every method returns the tensor it wrote."""

    def __init__(self, opset: int = 20, *, batch: int | str = "batch", seed: int = 0) -> None:
        self.opset = opset
        self.batch = batch
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def input(self, *shape: int | str, name: str = "x", kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, [self.batch, *shape]))
        return name

    def const(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64))

    def random(self, *shape: int, fan_in: int = 0) -> str:
        scale = 1 / np.sqrt(fan_in) if fan_in else 0.3
        return self.const((scale * self.rng.standard_normal(shape)).astype(np.float32))

    def positive(self, *shape: int) -> str:
        return self.const(self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.ops(kind, inputs, 1, **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        name = f"{kind}{len(self.nodes)}"
        outputs = [name if not k else f"{name}.{k}" for k in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return outputs

    def conv(
        self,
        x: str,
        i: int,
        o: int,
        k: int = 3,
        *,
        group: int = 1,
        dims: int = 2,
        bias: bool = True,
        **attributes: Any,
    ) -> str:
        weight = self.random(o, i // group, *[k] * dims, fan_in=i // group * k**dims)
        names = [x, weight, *([self.random(o)] if bias else [])]
        return self.op("Conv", *names, pads=[k // 2] * (2 * dims), group=group, **attributes)

    def conv_transpose(self, x: str, i: int, o: int, *, group: int = 1, **attributes: Any) -> str:
        weight = self.random(i, o // group, 3, 3, fan_in=9 * i // group)
        attributes = {"pads": [1] * 4, "output_padding": [1] * 2, "strides": [2] * 2} | attributes
        return self.op("ConvTranspose", x, weight, self.random(o), group=group, **attributes)

    def gemm(self, x: str, i: int, o: int, *, bias: bool = True) -> str:
        names = [x, self.random(o, i, fan_in=i), *([self.random(o)] if bias else [])]
        return self.op("Gemm", *names, transB=1)

    def linear(self, x: str, i: int, o: int, *, bias: bool = True) -> str:
        y = self.op("MatMul", x, self.random(i, o, fan_in=i))
        return self.op("Add", y, self.random(o)) if bias else y

    def relu(self, x: str) -> str:
        """One that never dies, so that every unit matters."""
        return self.op("LeakyRelu", x, alpha=0.1)

    def norm(self, x: str, channels: int) -> str:
        return self.op(
            "BatchNormalization", x, self.positive(channels), self.random(channels),
            self.random(channels), self.positive(channels),
        )  # fmt: skip

    def reshape(self, x: str, *sizes: int) -> str:
        return self.op("Reshape", x, self.ints(*sizes))

    def transpose(self, x: str, *order: int) -> str:
        return self.op("Transpose", x, perm=order)

    def slice(self, x: str, start: int, end: int, axis: int, step: int = 1) -> str:
        return self.op("Slice", x, *(self.ints(value) for value in (start, end, axis, step)))

    def recurrent(
        self,
        kind: str,
        x: str,
        i: int,
        h: int,
        *,
        both: bool = False,
        initial: Sequence[str] = (),
        outputs: int = 1,
        **attributes: Any,
    ) -> list[str]:
        gates, directions = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 2 if both else 1
        names = [
            x,
            self.random(directions, gates * h, i, fan_in=i),
            self.random(directions, gates * h, h, fan_in=h),
            self.random(directions, 2 * gates * h),
            "",
            *initial,
        ]
        direction = "bidirectional" if both else "forward"
        return self.ops(kind, names, outputs, hidden_size=h, direction=direction, **attributes)

    def head(self, x: str, channels: int, classes: int = 4) -> str:
        """Mean over space, and a linear layer."""
        pooled = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.gemm(pooled, channels, classes)

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            self.inputs,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.constants,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        inferred = from_model(model)
        infer_shapes(inferred)
        for item in model.graph.output:
            dims = [self.batch if size is None else size for size in inferred.shapes[item.name]]
            item.CopyFrom(helper.make_tensor_value_info(item.name, TensorProto.FLOAT, dims))
        return model


def analysed(model: onnx.ModelProto) -> Layout:
    """The analysis of a model whose nodes have unique names."""
    graph = from_model(model)
    infer_shapes(graph)
    return analyse(graph)


def removing(layout: Layout, share: float, rng: np.random.Generator) -> Array:
    """Keep flags with a random share of all units removed."""
    keep, roots = all_kept(layout), removable(layout)
    keep[roots[rng.random(len(roots)) < share]] = False
    return keep


def difference(one: Graph, other: Graph, seed: int = 0) -> float:
    """Largest difference of any output at batch 1 and 3, relative to the output's scale."""
    first, second, worst = Runner(to_model(one)), Runner(to_model(other)), 0.0
    for batch in (1, 3):
        feeds = random_feeds(one.inputs, batch, seed)
        for wanted, got in zip(first(feeds), second(feeds), strict=True):
            assert wanted.shape == got.shape and wanted.dtype == got.dtype
            assert np.isfinite(wanted).all()
            worst = max(worst, float(np.abs(wanted - got).max() / max(np.abs(wanted).max(), 1e-2)))
    return worst


def assert_cut_equals_masked(layout: Layout, keep: Array, seed: int = 0) -> Graph:
    """Cut, and require that the result is valid ONNX and computes what masking computes."""
    small = cut(layout, keep)
    if layout.graph.opset >= 21 or not sizes(small, "GroupNormalization"):
        # The checker refuses GroupNormalization 18, which ONNX 1.16 took back.
        onnx.checker.check_model(to_model(small), full_check=True)
    assert difference(masked(layout, keep), small, seed) < 1e-4
    return small


def weights(graph: Graph) -> int:
    """Number of elements of the constants that hold floats."""
    return sum(value.size for value in graph.constants.values() if value.dtype == np.float32)


def sizes(graph: Graph, kind: str) -> list[tuple[int, ...]]:
    """Shapes of the weights of all operators of a kind, in order."""
    return [graph.constants[n.input[1]].shape for n in graph.nodes if n.op_type == kind]
