"""Verification: what is right passes, and each thing that can be wrong is found and named."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import edgeprune
from edgeprune._demo import demo_model
from edgeprune._probe import worst_error
from edgeprune._verify import verify
from edgeprune.runtime import compact as compaction
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.errors import CompactError

HERE = Path(__file__).parent
SOUNDS = demo_model().parent / "demo" / "test"


@pytest.fixture(scope="session")
def module() -> torch.nn.Module:
    sys.path.insert(0, str(HERE))
    try:
        import nets
    finally:
        sys.path.remove(str(HERE))
    return nets.pictures()


@pytest.fixture(scope="session")
def exported(module, tmp_path_factory) -> Path:
    """A small network without preprocessing, as an artifact, and beside it its source as ONNX."""
    folder = tmp_path_factory.mktemp("verify")
    example = torch.zeros(1, 3, 32, 32)
    edgeprune.export(module, example, folder / "model.onnx")
    for name, axes in (("source", {"x": {0: "batch"}}), ("fixed", {})):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's older exporter is deprecated, and enough here
            torch.onnx.export(
                module,
                (example,),
                str(folder / f"{name}.onnx"),
                dynamo=False,
                input_names=["x"],
                dynamic_axes=axes,
            )
    return folder / "model.onnx"


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    for file in exported.parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / exported.name


def test_the_bundled_model_is_right():
    steps = []
    report = edgeprune.verify(
        demo_model(), samples=SOUNDS, masks=6, on_progress=lambda *step: steps.append(step)
    )
    assert report.ok
    assert report.failures == ()
    assert len(report.draws) == 6
    assert report.draws[0].pruned == 0
    assert report.draws[-1].pruned == pytest.approx(0.95, abs=0.02)
    assert 0 < report.masked_error < 1e-5
    assert 0 < report.masked_error_samples < 1e-5
    assert report.samples == 32
    assert report.groups == len(Artifact.open(demo_model()).info.prunable)
    assert report.dead == ()
    assert report.neutral_error is None
    assert {step for step, _ in steps} == {"masked against compacted", "masks alive"}
    assert all(0 <= share <= 1 for _, share in steps)


def test_the_same_seed_gives_the_same_masks():
    one, same, other = (verify(demo_model(), masks=4, seed=seed) for seed in (1, 1, 2))
    assert [d.pruned for d in one.draws] == [d.pruned for d in same.draws]
    assert [d.pruned for d in one.draws] != [d.pruned for d in other.draws]


@pytest.mark.parametrize("kind", ["source", "fixed", "module", "function"])
def test_neutral_equals_the_source(exported, module, kind):
    source = {
        "source": exported.with_name("source.onnx"),
        "fixed": exported.with_name("fixed.onnx"),
        "module": module,
        "function": lambda feeds: [module(torch.from_numpy(*feeds.values())).detach().numpy()],
    }[kind]
    samples = list(np.random.default_rng(0).standard_normal((5, 3, 32, 32), np.float32))
    report = edgeprune.verify(exported, source=source, samples=samples, masks=0)
    assert report.ok
    told = {"module": "pytorch", "function": "function"}.get(kind, "onnx")
    assert report.source == told
    assert 0 <= report.neutral_error < 1e-5
    assert 0 <= report.neutral_error_samples < 1e-5
    assert report.masked_error is None


class Words(torch.nn.Module):
    """The mean of an embedding of twenty words, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(20, 6)
        self.hidden, self.head = torch.nn.Linear(6, 8), torch.nn.Linear(8, 3)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(self.table(words)).relu().mean(1))


def test_words_are_drawn_from_the_whole_table(tmp_path):
    """Of a table whose rows 0 and 1 are right, and no other, nothing is seen with 0 and 1 only."""
    net = Words().eval()
    example = torch.zeros(1, 7, dtype=torch.int64)
    edgeprune.export(net, example, tmp_path / "words.onnx", dynamo=False)
    assert edgeprune.verify(tmp_path / "words.onnx", source=net, masks=2).ok
    with torch.no_grad():
        net.table.weight[2:] += 1
    report = edgeprune.verify(tmp_path / "words.onnx", source=net, masks=0)
    assert [failure for failure in report.failures if "differs from the source" in failure]


def test_another_source_is_found(exported, module):
    torch.manual_seed(1)
    changed = torch.nn.Sequential(*list(module)[:-1], torch.nn.Linear(32, 4)).eval()
    report = edgeprune.verify(exported, source=changed, masks=0)
    assert not report.ok
    assert report.neutral_error > 0.01
    assert "differs from the source" in report.failures[0]
    assert "its parameters are not those that the model was exported from" in report.failures[0]


def test_weights_that_changed_are_found(copied):
    weights = copied.with_suffix(".weights")
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    report = edgeprune.verify(copied, masks=2)
    assert len(report.failures) == 1
    assert "its contents changed" in report.failures[0]


def test_a_dead_mask_is_named(copied):
    """Whatever reads the second group reads it with zeros."""
    artifact = Artifact.open(copied)
    group = artifact.info.prunable[1].name
    (reader,) = [op for op in artifact.info.operators if group in op.reads]
    place = next(t for t in artifact.model.graph.initializer if t.name == reader.weight)
    where = {entry.key: entry.value for entry in place.external_data}
    data = bytearray(copied.with_suffix(".weights").read_bytes())
    start, length = int(where["offset"]), int(where["length"])
    data[start : start + length] = bytes(length)
    copied.with_suffix(".weights").write_bytes(data)
    report = edgeprune.verify(copied, masks=0)
    assert group in report.dead
    assert any(f"the mask of group {group} is dead" in failure for failure in report.failures)


def test_a_compaction_that_ignores_the_masks_is_found(exported, monkeypatch):
    real = compaction.compact
    monkeypatch.setattr(
        compaction, "compact", lambda model, _profile, path, **_options: real(model, None, path)
    )
    report = edgeprune.verify(exported, masks=4)
    assert not report.ok
    assert report.draws[0].error < 1e-5
    assert all(draw.error > 1e-3 for draw in report.draws[1:])
    assert len(report.failures) == 3
    assert "masks 1 (" in report.failures[0]


def test_a_compaction_that_fails_is_told_once(exported, monkeypatch):
    def fail(*_args, **_options):
        raise CompactError("it is not possible.")

    monkeypatch.setattr(compaction, "compact", fail)
    report = edgeprune.verify(exported, masks=5)
    assert report.failures == ("5 of 5 choices of masks: it is not possible.",)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["draws"][0]["error"] is None


@pytest.mark.parametrize(
    ("expected", "got", "error"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0]], 0.0),
        ([[1.0, 2.0]], [[1.0, 2.2]], 0.1),
        ([[1.0, -20.0]], [[3.0, -20.0]], 0.1),
        ([[1.0, np.nan]], [[1.0, np.nan]], 0.0),
        ([[1.0, np.nan]], [[1.0, 1.0]], np.inf),
        ([[1.0, 1.0]], [[1.0, np.inf]], np.inf),
        ([[1.0]], [[1.0, 1.0]], np.inf),
        ([[0.0]], [[0.0]], 0.0),
    ],
)
def test_the_error_is_relative_to_the_largest_output(expected, got, error):
    one, other = np.array(expected), np.array(got)
    assert worst_error([one], [other]) == pytest.approx(error)
    assert worst_error([one, one], [one, other]) == pytest.approx(error)


def test_outputs_of_whole_numbers_and_missing_ones():
    assert worst_error([np.array([1, 2])], [np.array([1, 2])]) == 0
    assert worst_error([np.array([1, 2])], [np.array([1, 3])]) == np.inf
    assert worst_error([np.ones(1)], []) == np.inf


def test_the_command_says_what_is_right(process):
    done = process("verify", demo_model(), "--masks", 3, "--samples", SOUNDS)
    assert done.returncode == 0, done.stderr
    assert "not compared: give --source" in done.stdout
    assert "worst of 3 choices of masks" in done.stdout
    assert "verified" in done.stdout
    assert "FAILED" not in done.stdout


def test_the_command_compares_with_pytorch_and_with_onnx(run, exported, monkeypatch):
    monkeypatch.chdir(HERE)
    for words in (["--factory", "nets:pictures"], ["--source", exported.with_name("source.onnx")]):
        done = run("verify", exported, *words, "--masks", 1, "--json", "-q")
        assert done.exit_code == 0, done.output
        data = json.loads(done.stdout)
        assert data["ok"] is True
        assert data["neutral_error"] < 1e-5
    done = run("verify", exported, "--factory", "nets:speech", "--masks", 0)
    assert done.exit_code == 1


def test_a_failure_is_exit_1_and_in_the_report(run, copied):
    weights = copied.with_suffix(".weights")
    weights.write_bytes(bytes(4) + weights.read_bytes()[4:])
    done = run("verify", copied, "--masks", 0, "--json", "-q")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["ok"] is False
    assert "failed 1 checks" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["--source", "a.onnx", "--factory", "b:c"], 2, "exclude each other"),
        (["--weights", "a.pt"], 2, "--weights belongs to --factory"),
        (["--source", "nowhere.onnx"], 1, "there is no source nowhere.onnx"),
        (["--samples", "nowhere"], 1, "does not exist"),
        (["--masks", "-1"], 2, "--masks"),
    ],
)
def test_wrong_words(run, words, code, hint):
    done = run("verify", demo_model(), *words)
    assert done.exit_code == code
    assert hint in done.stderr
    assert done.stdout == ""


def test_a_source_of_other_inputs_is_refused(run, exported, tmp_path):
    shape = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xyz"]
    node = onnx.helper.make_node("Add", ["x", "y"], ["z"])
    graph = onnx.helper.make_graph([node], "g", shape[:2], shape[2:])
    model = onnx.helper.make_model(
        graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)]
    )
    onnx.save(model, tmp_path / "other.onnx")
    done = run("verify", exported, "--source", tmp_path / "other.onnx", "--masks", 0)
    assert done.exit_code == 1
    assert "has the inputs x, y and the model" in done.stderr


def test_what_is_no_artifact_is_refused(run, exported):
    done = run("verify", exported.with_name("source.onnx"))
    assert done.exit_code == 1
    assert "not an edgeprune artifact" in done.stderr
    done = run("verify", exported, "--samples", HERE)
    assert done.exit_code == 1
    assert "without preprocessing" in done.stderr
