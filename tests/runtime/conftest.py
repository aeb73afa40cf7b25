"""A small artifact, written by hand from docs/artifact.md, for tests of the runtime."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.runtime.artifact import (
    Artifact,
    ChannelGroup,
    Member,
    ModelInfo,
    Operator,
)

ALIGNMENT = 64
NEUTRAL = {"mask": 1.0, "gain": 1.0, "shift": 0.0}


@dataclass
class Writer:
    """Collects nodes, constants and external tensors."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    external: list[Any] = field(default_factory=list)
    files: dict[str, bytearray] = field(
        default_factory=lambda: {"tiny.weights": bytearray(), "tiny.masks": bytearray()}
    )

    def tensor(self, name: str, value: Any, location: str) -> None:
        value = np.asarray(value, "<f4")
        buffer = self.files[location]
        buffer.extend(bytes(-len(buffer) % ALIGNMENT))
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (
            ("location", location),
            ("offset", str(len(buffer))),
            ("length", str(value.nbytes)),
        ):
            tensor.external_data.add(key=key, value=text)
        buffer.extend(value.tobytes())
        self.external.append(tensor)

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = f"edgeprune/{output}" if attributes.pop("effective", False) else output
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def reshaped(self, source: str, shape: list[int], output: str) -> str:
        target = self.constant(f"{output}.shape", np.array(shape, np.int64))
        return self.node("Reshape", [source, target], output, effective=True)

    def operator(
        self, operator: Operator, weight: Any, bias: Any, *, index: Any = None, **attributes: Any
    ) -> None:
        """Write one operator with its mask, gain and shift."""
        name, channels = operator.name, operator.out_channels
        self.tensor(operator.weight, weight, "tiny.weights")
        self.tensor(operator.bias, bias, "tiny.weights")
        self.tensor(operator.gain, np.ones(channels), "tiny.masks")
        self.tensor(operator.shift, np.zeros(channels), "tiny.masks")
        rest = [1] * (np.ndim(weight) - 2)
        gain = self.reshaped(operator.gain, [channels, 1, *rest], f"{name}.g")
        scaled = self.node("Mul", [operator.weight, gain], f"{name}.gw", effective=True)
        if operator.masked:
            mask = self.input_mask(operator, index)
            column = self.reshaped(mask, [1, operator.in_channels, *rest], f"{name}.m")
            scaled = self.node("Mul", [scaled, column], f"{name}.gwm", effective=True)
        shifted = self.node("Mul", [operator.bias, operator.gain], f"{name}.gb", effective=True)
        shifted = self.node("Add", [shifted, operator.shift], f"{name}.gbs", effective=True)
        self.node(operator.op, [operator.input, scaled, shifted], operator.output, **attributes)

    def input_mask(self, operator: Operator, index: Any) -> str:
        parts = [r if r == "edgeprune.ones" else f"{r}.mask" for r in operator.reads]
        mask = parts[0]
        if len(parts) > 1:
            mask = self.node("Concat", parts, f"{operator.name}.c", axis=0, effective=True)
        if index is None:
            return mask
        places = self.constant(operator.mask_index, np.asarray(index, np.int64))
        return self.node("Gather", [mask, places], f"{operator.name}.i", effective=True)


# conv1 3->9, depthwise over conv1's units, conv2 9->10, and a head that reads conv2 flattened (4
# positions a unit) beside the pooled input, which cannot be pruned.
OPERATORS = (
    Operator("conv1", "Conv", False, "x", "conv1.out", 3, 9, 1, 0, (), False, "conv1", 252, 3888),
    Operator("dw", "Conv", True, "relu1", "dw.out", 9, 9, None, 0, (), False, "conv1", 90, 1296),
    Operator(
        "conv2", "Conv", False, "relu2", "conv2.out", 9, 10, 1, 0, ("conv1",), True, "conv2",
        100, 360,
    ),
    Operator(
        "head", "Gemm", False, "joined", "y", 43, 5, 1, 0, ("conv2", "edgeprune.ones"), True, None,
        220, 215,
    ),
)  # fmt: skip
GROUPS = (
    ChannelGroup(
        "conv1", 9, "hidden", None,
        (Member("conv1", "Conv", "producer"), Member("dw", "Conv", "channelwise"),
         Member("conv2", "Conv", "consumer")),
    ),
    ChannelGroup(
        "conv2", 10, "linear", None,
        (Member("conv2", "Conv", "producer"), Member("head", "Gemm", "consumer")),
    ),
    ChannelGroup("frozen", 5, "linear", "it is the output of the model"),
)  # fmt: skip


def _graph(writer: Writer, seed: int) -> None:
    rng = np.random.default_rng(seed)
    conv1, dw, conv2, head = OPERATORS

    def parameters(*shape: int) -> tuple[Any, Any]:
        return rng.normal(size=shape), rng.normal(size=shape[0])

    writer.tensor("conv1.mask", np.ones(9), "tiny.masks")
    writer.tensor("conv2.mask", np.ones(10), "tiny.masks")
    writer.constant("edgeprune.ones", np.ones(1, np.float32))
    writer.operator(conv1, *parameters(9, 3, 3, 3), pads=[1] * 4)
    writer.node("Relu", ["conv1.out"], "relu1")
    writer.operator(dw, *parameters(9, 1, 3, 3), pads=[1] * 4, group=9)
    writer.node("Relu", ["dw.out"], "relu2")
    writer.operator(conv2, *parameters(10, 9, 1, 1), strides=[2, 2])
    writer.node("Flatten", ["conv2.out"], "flat")
    writer.node("GlobalAveragePool", ["x"], "pooled")
    writer.node("Flatten", ["pooled"], "pooled.flat")
    writer.node("Concat", ["flat", "pooled.flat"], "joined", axis=1)
    index = [*np.repeat(np.arange(10), 4), 10, 10, 10]
    writer.operator(head, *parameters(5, 43), index=index, transB=1)


def build_tiny(folder: Path, *, seed: int = 0) -> Artifact:
    """Write ``tiny.onnx`` and its companions into `folder` and open them."""
    writer = Writer()
    _graph(writer, seed)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        writer.nodes,
        "tiny",
        [value("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [value("y", TensorProto.FLOAT, ["N", 5])],
        writer.constants + writer.external,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, _info(model, writer.files).to_metadata())
    for name, content in writer.files.items():
        (folder / name).write_bytes(content)
    (folder / "tiny.onnx").write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(folder / "tiny.onnx"))
    return Artifact.open(folder / "tiny.onnx")


def _info(model: Any, files: dict[str, bytearray]) -> ModelInfo:
    def digest(data: bytes | bytearray) -> str:
        return hashlib.sha256(data).hexdigest()

    graph = model.graph.SerializeToString(deterministic=True)
    return ModelInfo(
        model_id=digest(files["tiny.weights"] + graph),
        source_sha256="0" * 64,
        weights_sha256=digest(files["tiny.weights"]),
        masks_sha256=digest(files["tiny.masks"]),
        input_name="x",
        input_shape=(None, 3, 4, 4),
        output_name="y",
        classes=5,
        head="head",
        output_kind="logits",
        groups=GROUPS,
        operators=OPERATORS,
        parameters=sum(operator.parameters for operator in OPERATORS),
        macs=sum(operator.macs for operator in OPERATORS),
        preprocess=None,
        labels=None,
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Two dense convolutions, a depthwise one and a Gemm; prunable groups conv1 (9), conv2 (10)."""
    return build_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same architecture with other weights: another model."""
    return build_tiny(tmp_path_factory.mktemp("other"), seed=1)
