"""Compaction to int8: the same classes from a quarter of the bytes, or the float network."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeprune
from edgeprune import _compaction, _int8
from edgeprune._demo import demo_model
from edgeprune._machine import Conditions
from edgeprune._timing import Arm, Ratio, Spread, Timing
from edgeprune.devices import open_folder
from edgeprune.runtime import quantize as quantizing
from edgeprune.runtime.errors import CompactError
from edgeprune.runtime.quantize import has_dot_product, judge_int8, quantize

MODEL = demo_model()
ADAPT, TEST = MODEL.parent / "demo" / "adapt", MODEL.parent / "demo" / "test"
COMPACT = ("compact", MODEL, "--dense", "--no-timing", "-q")


def timed(ratio: float) -> Timing:
    """As if the smaller network took so much of the other one's time."""
    spread = Spread(1.0, 1.0, 1.0)
    one = Ratio(ratio, ratio, ratio, ratio * 0.99, ratio * 1.01, 0.96, 50)
    control = Ratio(1.0, 0.99, 1.01, 0.99, 1.01, 0.96, 50)
    arms = tuple(Arm(name, spread, one, one.verdict(0.01), 1) for name in ("compacted", "int8"))
    return Timing("reference", arms, control, 0.01, Conditions(1.0), ())


@pytest.fixture
def taking(monkeypatch):
    """Say how long things take without measuring."""

    def set_ratio(ratio: float) -> None:
        for module in (_int8, _compaction):
            monkeypatch.setattr(module, "measure", lambda *_args, **_options: timed(ratio))

    return set_ratio


@pytest.fixture
def float_path(run, tmp_path) -> Path:
    path = tmp_path / "float.onnx"
    assert run(*COMPACT, "-o", path).exit_code == 0
    return path


def test_the_int8_network_names_the_same_classes(run, tmp_path, float_path):
    path = tmp_path / "small.onnx"
    done = run(*COMPACT, "-o", path, "--int8", "--samples", ADAPT, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["int8"]["used"]
    assert told["int8"]["timing"] is None
    assert told["int8"]["calibrated"] == 2 * told["int8"]["verdict"]["samples"]
    assert told["bytes_after"] == told["int8"]["bytes"] == path.stat().st_size
    assert path.stat().st_size < 0.6 * float_path.stat().st_size
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}
    assert {opset.domain for opset in model.opset_import} == {""}
    about = {item.key: item.value for item in model.metadata_props}
    assert json.loads(about["edgeprune.compacted"])["int8"]["calibrated"] == 80

    small, whole = edgeprune.load_compact(path), edgeprune.load_compact(float_path)
    folder = open_folder(TEST, whole.preprocess)
    batch = np.stack([folder[place].array for place in range(len(folder))])
    wanted, got = whole.probabilities(batch), small.probabilities(batch)
    assert np.abs(wanted - got).max() > 1e-6
    assert (wanted.argmax(1) == got.argmax(1)).mean() >= 0.95
    scored = run("evaluate", path, TEST, "--against", float_path, "--json", "-q")
    assert scored.exit_code == 0, scored.output


def kept_float(run, path: Path, float_path: Path) -> str:
    """What is told where the float network is written though int8 was asked for."""
    done = run("compact", MODEL, "--dense", "-o", path, "--int8", "--samples", ADAPT, "-q")
    assert done.exit_code == 0, done.output
    assert path.read_bytes() == float_path.read_bytes()
    return done.stdout


def test_float_is_kept_where_int8_is_not_faster(run, tmp_path, float_path, taking):
    taking(1.3)
    told = kept_float(run, tmp_path / "small.onnx", float_path)
    assert "not used, float was written: int8 is not measurably faster" in told


def test_float_is_kept_where_int8_harms(run, tmp_path, float_path, taking, monkeypatch):
    taking(0.5)
    monkeypatch.setattr(_int8, "_MOST_EXPECTED_LOSS", -1.0)
    told = kept_float(run, tmp_path / "small.onnx", float_path)
    assert "not used, float was written: int8 names another class on" in told
    assert "are expected to be lost (limit" in told


def test_float_is_kept_where_the_quantiser_fails(run, tmp_path, float_path, monkeypatch):
    def fails(*_args: object, **_options: object) -> None:
        raise ValueError("no such operator")

    monkeypatch.setattr(quantizing, "quantize_static", fails)
    path = tmp_path / "small.onnx"
    done = run(*COMPACT, "-o", path, "--int8", "--samples", ADAPT)
    assert done.exit_code == 0, done.output
    assert "cannot be quantised to int8: no such operator" in done.stdout
    assert path.read_bytes() == float_path.read_bytes()


def test_a_speed_up_is_told_with_its_figures(run, tmp_path, taking):
    taking(0.5)
    words = ("compact", MODEL, "--dense", "-q", "--int8", "--samples", ADAPT)
    done = run(*words, "-o", tmp_path / "small.onnx")
    assert done.exit_code == 0, done.output
    assert "2.00 times faster (time ratio 0.500" in done.stdout
    assert "of the answers expected to be lost" in done.stdout


def test_what_cannot_be_calibrated_is_refused_first(run, tmp_path):
    path, few = tmp_path / "small.onnx", tmp_path / "few"
    few.mkdir()
    for sound in sorted(ADAPT.iterdir())[:20]:
        shutil.copy(sound, few)
    done = run(*COMPACT, "-o", path, "--int8")
    assert (done.exit_code, path.exists()) == (2, False)
    assert "--int8 needs --samples" in done.stderr
    done = run(*COMPACT, "-o", path, "--int8", "--samples", few)
    assert (done.exit_code, path.exists()) == (1, False)
    assert "at least 30 samples" in done.stderr
    with pytest.raises(edgeprune.InputError, match="needs samples"):
        edgeprune.load(MODEL).compact(path, int8=True)


def test_a_network_that_names_no_classes_is_refused():
    info = replace(edgeprune.load(MODEL).info, classes=None)
    with pytest.raises(edgeprune.InputError, match="judged by the classes"):
        _int8.check_int8(info, [np.zeros(1)] * 50)


def linear(weight: np.ndarray) -> bytes:
    """Logits ``x W`` of two features."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def test_the_verdict_by_hand():
    model, turned = linear(np.eye(2)), linear(np.eye(2)[::-1])
    x = np.log(np.array([[3.0, 1.0], [1.0, 4.0], [1.0, 1.5]], np.float32))
    feeds = [{"x": x[:2]}, {"x": x[2:]}]
    same = judge_int8(model, model, feeds, logits=True)
    assert (same.samples, same.agreement, same.expected_loss) == (3, 1.0, 0.0)
    other = judge_int8(model, turned, feeds, logits=True)
    assert other.agreement == 0.0
    # softmax of (log a, log b) is (a, b) / (a + b)
    assert other.expected_loss == pytest.approx((2 / 4 + 3 / 5 + 0.5 / 2.5) / 3, rel=1e-6)


def test_quantising_leaves_import_path_and_logging_alone():
    path, root = list(sys.path), logging.getLogger()
    handlers, disabled = list(root.handlers), root.manager.disable
    x = np.random.default_rng(0).standard_normal((16, 2)).astype(np.float32)
    quantize(linear(np.eye(2)), [{"x": x}])
    with pytest.raises(CompactError, match="cannot be quantised"):
        quantize(linear(np.eye(2)), [{"x": x[:, :1]}])
    assert (list(sys.path), root.handlers, root.manager.disable) == (path, handlers, disabled)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("Features\t: fp asimd asimddp\n", True),
        ("flags : fpu avx2\nmodel name : avx_vnni\n", False),
        ("", False),
    ],
)
def test_the_processor_is_asked(tmp_path, text, found):
    (tmp_path / "cpuinfo").write_text(text)
    assert has_dot_product(tmp_path / "cpuinfo") is found
    assert not has_dot_product(tmp_path / "nothing")
