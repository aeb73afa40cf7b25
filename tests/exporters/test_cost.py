"""What an export costs: time grows with the number of nodes, a ResNet-50 takes under a minute."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeprune.exporters._export import prepare
from edgeprune.exporters._groups import make_plan
from edgeprune.exporters._masks import insert_masks
from edgeprune.runtime.network._layout import analyse

from .onnx_nets import model_of, value

SIZES = (500, 1000, 2000, 5000)


class Chain:
    """A network of small convolutions that grows block by block."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def node(self, op: str, inputs: list[str], **attributes: object) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, values: object) -> str:
        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values), name))
        return name

    def conv(self, source: str, channels: int = 8) -> str:
        weight = self.rng.standard_normal((8, channels, 1, 1)).astype(np.float32) / 10
        return self.node("Conv", [source, self.constant(weight)])

    def model(self, last: str) -> onnx.ModelProto:
        pooled = self.node("Flatten", [self.node("GlobalAveragePool", [last])])
        head = self.constant(self.rng.standard_normal((8, 4)).astype(np.float32))
        self.nodes.append(helper.make_node("Gemm", [pooled, head], ["y"], name="y"))
        inputs = [value("x", ["batch", 3, 2, 2])]
        return model_of(self.nodes, self.constants, inputs=inputs)


def plain(net: Chain, x: str) -> str:
    return net.node("Relu", [net.conv(x)])


def residual(net: Chain, x: str) -> str:
    return net.node("Add", [x, net.conv(net.node("Relu", [net.conv(x)]))])


def sequence(net: Chain, x: str) -> str:
    """Linear layers over positions, without bias, and what exporters write around them."""
    weight = net.constant(net.rng.standard_normal((8, 8)).astype(np.float32) / 10)
    y = net.node("MatMul", [net.node("Transpose", [x], perm=[0, 2, 3, 1]), weight])
    return net.node("Relu", [net.node("Transpose", [net.node("Identity", [y])], perm=[0, 3, 1, 2])])


def reshaped(net: Chain, x: str) -> str:
    """Shapes computed when the network runs, and BatchNorms to fold."""
    batch = net.node("Gather", [net.node("Shape", [x]), net.constant([0])])
    flat = net.node("Reshape", [x, net.node("Concat", [batch, net.constant([8, 4])], axis=0)])
    y = net.conv(net.node("Reshape", [flat, net.constant([0, 8, 2, 2])]))
    norm = [net.constant(np.ones(8, np.float32)) for _ in range(4)]
    return net.node("BatchNormalization", [y, *norm])


def seconds(model: onnx.ModelProto) -> float:
    """From the model as it was read to the graph with masks."""
    start = time.process_time()
    graph = prepare(model)
    insert_masks(graph, make_plan(analyse(graph)))
    return time.process_time() - start


@pytest.mark.slow
@pytest.mark.parametrize("block", [plain, residual, sequence, reshaped])
def test_time_grows_with_the_number_of_nodes(block: object) -> None:
    curve = {}
    for size in SIZES:
        net = Chain()
        last = net.conv("x", 3)
        while len(net.nodes) < size:
            last = block(net, last)  # type: ignore[operator]
        model = net.model(last)
        curve[size] = min(seconds(model) for _ in range(3))
    name = getattr(block, "__name__", "")
    print(f"\n{name}: " + ", ".join(f"{n} nodes {s:.2f} s" for n, s in curve.items()))
    assert curve[5000] / curve[1000] < 8


RESNET = """
import json, resource, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
start = time.monotonic()
import torch
from zoo.residual import resnet50
from edgeprune.exporters import export
with tempfile.TemporaryDirectory() as folder:
    net, example = resnet50(), torch.zeros(1, 3, 224, 224)
    report = export(net, example, Path(folder) / "net.onnx", dynamo=sys.argv[2] == "dynamo")
print(json.dumps({
    "seconds": time.monotonic() - start,
    "bytes": 1000 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    "error": report.worst_error_random,
    "prunable": report.info.prunable_parameters / report.info.parameters,
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["dynamo", "script"])
def test_resnet_50(exporter: str) -> None:
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", RESNET, str(tests), exporter]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{exporter}: {figures}")
    assert figures["seconds"] < 60
    assert figures["bytes"] < 3e9
    assert figures["error"] < 1e-4
    assert figures["prunable"] > 0.99
