"""A small artifact, written by hand from docs/artifact.md, for tests of the runtime."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeprune
from edgeprune.devices import open_folder, preprocess_from_dict
from edgeprune.exporters import export_onnx
from edgeprune.runtime._ort import make_session, run
from edgeprune.runtime.artifact import (
    Artifact,
    ChannelGroup,
    Member,
    ModelInfo,
    Operator,
)

from .personalizing import outputs_of

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
        name = attributes.pop("name", output)
        name = f"edgeprune/{output}" if attributes.pop("effective", False) else name
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
        inputs = [operator.input, scaled, shifted]
        self.node(operator.op, inputs, operator.output, name=name, **attributes)

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
    Operator(
        "conv1", "Conv", False, "x", "conv1.out", 3, 9, 1, 0, (), False, ("conv1",),
        252, 3888,
    ),
    Operator("dw", "Conv", True, "relu1", "dw.out", 9, 9, None, 0, (), False, ("conv1",), 90, 1296),
    Operator(
        "conv2", "Conv", False, "relu2", "conv2.out", 9, 10, 1, 0, ("conv1",), True, ("conv2",),
        100, 360,
    ),
    Operator(
        "head", "Gemm", False, "joined", "y", 43, 5, 1, 0, ("conv2", "edgeprune.ones"), True, (),
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


ASSETS = Path(edgeprune.__file__).parent / "assets"


@dataclass(frozen=True, eq=False)
class User:
    """Preprocessed samples of one user: unlabelled ones to adapt to, labelled ones to score."""

    adapt: np.ndarray
    test: np.ndarray
    labels: np.ndarray

    def accuracy(self, outputs: Any) -> float:
        return float((np.argmax(outputs, 1) == self.labels).mean())


@pytest.fixture(scope="session")
def digits() -> Artifact:
    """The bundled keyword network: ten spoken digits, depthwise-separable convolutions."""
    return Artifact.open(ASSETS / "digits.onnx")


@pytest.fixture(scope="session")
def demo(digits: Artifact) -> User:
    """The sounds of `edgeprune demo`: a voice and a room that the network never heard."""
    preprocess = preprocess_from_dict(digits.info.preprocess)
    adapt = open_folder(ASSETS / "demo" / "adapt", preprocess)
    test = open_folder(ASSETS / "demo" / "test", preprocess)
    return User(
        np.stack([adapt[index].array for index in range(len(adapt))]),
        np.stack([test[index].array for index in range(len(test))]),
        np.array([int(label or -1) for label in test.labels]),
    )


@pytest.fixture(scope="session")
def fsdd(digits: Artifact) -> User:
    """Real recordings of the six speakers that the network was trained on."""
    folder = os.environ.get("EDGEPRUNE_DATA")
    if not folder:
        pytest.skip("EDGEPRUNE_DATA is not set: no real recordings to test with")
    preprocess = preprocess_from_dict(digits.info.preprocess)

    def read(pattern: str) -> tuple[np.ndarray, np.ndarray]:
        files = sorted((Path(folder) / "fsdd").glob(pattern))
        found = open_folder(files, preprocess)
        arrays = np.stack([found[index].array for index in range(len(found))])
        return arrays, np.array([int(file.name[0]) for file in files])

    return User(read("*_1[0-2].wav")[0], *read("*_0.wav"))


class NetWriter:
    """Writes a plain float32 ONNX network with random weights, node after node."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def random(self, *shape: int) -> str:
        name = f"c{len(self.constants)}"
        fan_in = int(np.prod(shape[1:])) or 1
        scale = np.sqrt(2 / fan_in) if len(shape) > 1 else 0.1
        value = (scale * self.rng.normal(size=shape)).astype(np.float32)
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def conv(self, x: str, i: int, o: int, k: int, *, stride: int = 1, group: int = 1) -> str:
        weight, bias = self.random(o, i // group, k, k), self.random(o)
        return self.node(
            "Conv", x, weight, bias, pads=[k // 2] * 4, strides=[stride] * 2, group=group
        )

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def model(self, output: str, shape: tuple[int, ...], classes: int) -> Any:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value("x", TensorProto.FLOAT, ["N", *shape])],
            [value(output, TensorProto.FLOAT, ["N", classes])],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def residual_model(*, probabilities: bool = False) -> Any:
    """3 × 3 convolutions with two residual Adds, an inverted bottleneck, a flatten, two Gemms."""
    net = NetWriter()
    stem = net.relu(net.conv("x", 3, 16, 3))
    inner = net.relu(net.conv(stem, 16, 24, 3))
    first = net.relu(net.node("Add", stem, net.conv(inner, 24, 16, 3)))
    wide = net.relu(net.conv(first, 16, 32, 1))
    deep = net.relu(net.conv(wide, 32, 32, 3, group=32))
    second = net.node("Add", first, net.conv(deep, 32, 16, 1))
    narrow = net.relu(net.conv(second, 16, 16, 3, stride=2))
    pooled = net.node("MaxPool", narrow, kernel_shape=[2, 2], strides=[2, 2])
    flat = net.node("Flatten", pooled)
    hidden = net.relu(net.node("Gemm", flat, net.random(24, 16 * 9), net.random(24), transB=1))
    weight, bias = net.random(6, 24), net.random(6)
    out = net.node("Gemm", hidden, weight, bias, transB=1)
    model = net.model(out, (3, 12, 12), 6)
    _spread_answers(model, weight, bias)
    net.constants = list(model.graph.initializer)
    if probabilities:
        out = net.node("Softmax", out, axis=1)
    return net.model(out, (3, 12, 12), 6)


def _spread_answers(model: Any, weight: str, bias: str) -> None:
    """Scale the head in place until its answers differ from sample to sample."""
    session = make_session(model.SerializeToString())
    (outputs,) = run(session, None, {"x": _pictures(60, 2)})
    mean, std = outputs.mean(0), outputs.std(0)
    constants = {constant.name: constant for constant in model.graph.initializer}
    old = numpy_helper.to_array(constants[weight])
    old_bias = numpy_helper.to_array(constants[bias])
    new = numpy_helper.from_array(2 * old / std[:, None], weight)
    new_bias = numpy_helper.from_array(2 * (old_bias - mean) / std, bias)
    constants[weight].CopyFrom(new)
    constants[bias].CopyFrom(new_bias)


def _pictures(count: int, seed: int) -> np.ndarray:
    """Noisy, shifted copies of six smooth pictures."""
    rng = np.random.default_rng(0)
    base = np.kron(rng.normal(size=(6, 3, 4, 4)), np.ones((3, 3)))
    rng = np.random.default_rng(seed)
    chosen = base[rng.integers(0, 6, count)]
    moved = [np.roll(picture, int(rng.integers(-1, 2)), -1) for picture in chosen]
    return (np.stack(moved) + 0.3 * rng.normal(size=(count, 3, 12, 12))).astype(np.float32)


@pytest.fixture(scope="session")
def make_residual(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """Export the residual network, with a Softmax at its end or without."""

    def make(*, probabilities: bool = False) -> Artifact:
        path = tmp_path_factory.mktemp("residual") / "residual.onnx"
        model = residual_model(probabilities=probabilities)
        export_onnx(model, path, samples=list(_pictures(60, 2)))
        return Artifact.open(path)

    return make


@pytest.fixture(scope="session")
def residual(make_residual: Callable[..., Artifact]) -> Artifact:
    """Residual Adds, k × k and depthwise convolutions, a flatten between convolution and Gemm."""
    return make_residual()


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """A user's samples for the residual network."""
    return _pictures(60, 1)


@pytest.fixture(scope="module")
def few(digits: Artifact, demo: Any) -> np.ndarray:
    """Samples of one word, as the network hears it."""
    told = outputs_of(digits, None, demo.adapt).argmax(1)
    samples = demo.adapt[told == np.bincount(told).argmax()]
    assert len(samples) > 14
    return samples
