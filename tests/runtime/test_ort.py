"""The one door to ONNX Runtime: telemetry, threads, tensors injected bit for bit, its errors."""

from __future__ import annotations

import ast
import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgeprune.devices
import edgeprune.exporters
import edgeprune.runtime
from edgeprune.runtime import _ort
from edgeprune.runtime._ort import make_session, run
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.errors import ArtifactError, InputError
from edgeprune.runtime.personalize import personalize
from edgeprune.runtime.profile import Profile
from edgeprune.runtime.session import Session
from edgeprune.runtime.settings import Settings

PACKAGES = (edgeprune, edgeprune.exporters, edgeprune.runtime, edgeprune.devices)
FOLDERS = [Path(package.__path__[0]) for package in PACKAGES]

TELEMETRY = """
import os, sys
from importlib.abc import MetaPathFinder

class Watch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print("at import:", os.environ.get("ORT_DISABLE_TELEMETRY"))
        return None

sys.meta_path.insert(0, Watch())
import edgeprune.runtime._ort
print("after:", os.environ["ORT_DISABLE_TELEMETRY"])
"""

BARE = """
import sys
import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
(outputs,) = session.run(None, {session.get_inputs()[0].name: np.load(sys.argv[2])})
np.save(sys.argv[3], outputs)
assert not any(name.startswith("edgeprune") for name in sys.modules)
"""


def python(code: str, *words: object, **environment: str) -> str:
    inherited = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=inherited | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imports_onnxruntime(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            names = [ast.literal_eval(a) for a in node.args if isinstance(a, ast.Constant)]
        else:
            continue
        if any(str(name).split(".")[0] == "onnxruntime" for name in names):
            return True
    return False


@pytest.fixture(scope="module")
def deep(residual: Artifact, pictures: Any) -> Profile:
    chosen = Settings(threads=1, min_agreement=0.0, normalization="on")
    return personalize(residual, pictures, chosen).profile


def written(profile: Profile, artifact: Artifact, folder: Path) -> Path:
    """A copy of the artifact with the profile's tensors in its files."""
    for suffix in (".onnx", ".weights", ".masks"):
        shutil.copy(artifact.path.with_suffix(suffix), folder)
    path = folder / artifact.path.name
    tensors = profile.tensors(artifact)
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.name not in tensors:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        with (folder / place["location"]).open("r+b") as file:
            file.seek(int(place["offset"]))
            file.write(tensors[tensor.name].astype("<f4").tobytes())
    return path


@pytest.mark.parametrize("before", [{}, {"ORT_DISABLE_TELEMETRY": "0"}])
def test_telemetry_is_off_before_onnxruntime_is_imported(before):
    assert python(TELEMETRY, **before).splitlines() == ["at import: 1", "after: 1"]


def test_exactly_one_module_imports_onnxruntime():
    files = {file for folder in FOLDERS for file in folder.rglob("*.py")}
    assert len(files) > 40
    importing = {file.resolve() for file in files if imports_onnxruntime(file)}
    assert importing == {Path(_ort.__file__).resolve()}


def test_spinning_is_off_and_threads_are_explicit(tiny):
    options = make_session(tiny.graph, dict(tiny.tensors), threads=2).get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 1
    assert options.execution_mode == _ort.ort.ExecutionMode.ORT_SEQUENTIAL


def test_only_the_cpu_is_asked_for(tiny):
    session = make_session(tiny.graph, dict(tiny.tensors))
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_injected_tensors_equal_the_same_tensors_in_the_files_bit_for_bit(
    residual, deep, pictures, tmp_path
):
    path = written(deep, residual, tmp_path)
    np.save(tmp_path / "x.npy", pictures)
    python(BARE, path, tmp_path / "x.npy", tmp_path / "y.npy")
    injected = Session(residual, deep, threads=1).run(pictures)
    assert np.load(tmp_path / "y.npy").tobytes() == injected.tobytes()
    assert injected.tobytes() != Session(residual, threads=1).run(pictures).tobytes()


def test_masks_beside_the_digits_model_reach_bare_onnxruntime(digits, demo, tmp_path):
    """A light profile changes the masks file alone."""
    chosen = Settings(strength="light", threads=1, max_samples=40, min_agreement=0.0)
    profile = personalize(digits, demo.adapt, chosen).profile
    path = written(profile, digits, tmp_path)
    before = digits.path.with_suffix(".weights").read_bytes()
    assert path.with_suffix(".weights").read_bytes() == before
    np.save(tmp_path / "x.npy", demo.test)
    python(BARE, path, tmp_path / "x.npy", tmp_path / "y.npy")
    injected = Session(digits, profile, threads=1).run(demo.test)
    assert np.load(tmp_path / "y.npy").tobytes() == injected.tobytes()


def test_tensors_injected_may_be_any_view(tiny):
    """ONNX Runtime borrows contiguous memory; what is not contiguous must be copied first."""
    x = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    tensors = dict(tiny.tensors)
    strided = {name: np.repeat(v[..., None], 2, -1)[..., 0] for name, v in tensors.items()}
    assert not all(value.flags.c_contiguous for value in strided.values())
    first = run(make_session(tiny.graph, tensors), None, {"x": x})[0]
    second = run(make_session(tiny.graph, strided), None, {"x": x})[0]
    assert first.tobytes() == second.tobytes()


def test_a_session_keeps_the_tensors_it_borrowed(tiny):
    x = np.ones((1, 3, 4, 4), np.float32)
    session = make_session(tiny.graph, {k: v.copy() for k, v in tiny.tensors.items()})
    before = run(session, None, {"x": x})[0]
    gc.collect()
    rubbish = [np.full(v.shape, np.nan, np.float32) for v in tiny.tensors.values()]
    assert run(session, None, {"x": x})[0].tobytes() == before.tobytes()
    assert rubbish


@pytest.mark.parametrize("personal", [False, True])
def test_no_trace_of_the_masks_is_left_in_the_optimised_graph(residual, deep, tmp_path, personal):
    tensors = dict(residual.tensors) | (deep.tensors(residual) if personal else {})
    path = tmp_path / "optimised.onnx"
    make_session(residual.graph, tensors, optimized_model=path)
    nodes = onnx.load(path).graph.node
    assert any(node.name.startswith("edgeprune/") for node in residual.model.graph.node)
    assert not [node.name for node in nodes if "edgeprune/" in node.name]
    # The network has none of these of its own.
    assert not [node.name for node in nodes if node.op_type in ("Mul", "Gather", "Concat")]


def test_external_tensors_are_found_in_the_folder(tiny):
    x = np.ones((2, 3, 4, 4), np.float32)
    from_folder = make_session(tiny.graph, folder=tiny.path.parent)
    from_path = make_session(tiny.path)
    injected = make_session(tiny.graph, dict(tiny.tensors))
    outputs = {run(s, None, {"x": x})[0].tobytes() for s in (from_folder, from_path, injected)}
    assert len(outputs) == 1


@pytest.mark.parametrize("model", [b"", b"no model", bytes(100)])
def test_a_model_that_cannot_be_loaded_is_an_artifact_error(model):
    with pytest.raises(ArtifactError, match=r"ONNX Runtime .* cannot load the model"):
        make_session(model)


def test_the_error_names_the_file(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_text("hello")
    with pytest.raises(ArtifactError, match=r"broken\.onnx"):
        make_session(path)


def test_a_missing_tensor_is_an_artifact_error(tiny, tmp_path):
    with pytest.raises(ArtifactError):
        make_session(tiny.graph, folder=tmp_path)


def test_a_tensor_of_the_wrong_shape_is_an_artifact_error(tiny):
    with pytest.raises(ArtifactError):
        make_session(tiny.graph, dict(tiny.tensors) | {"conv1.gain": np.ones(4, np.float32)})


@pytest.mark.parametrize(
    "feeds",
    [
        {"x": np.zeros((1, 2, 4, 4), np.float32)},
        {"x": np.zeros((1, 3, 4), np.float32)},
        {"x": np.zeros((1, 3, 4, 4), np.float64)},
        {"z": np.zeros((1, 3, 4, 4), np.float32)},
        {},
    ],
)
def test_a_wrong_input_is_an_input_error(tiny, feeds):
    session = make_session(tiny.graph, dict(tiny.tensors))
    with pytest.raises(InputError, match="refused an input"):
        run(session, None, feeds)


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        (np.zeros((1, 3, 4, 5), np.float32), "shape"),
        (np.zeros((3, 4, 4), np.float32), "shape"),
        (np.zeros((1, 3, 4, 4)), "float64"),
        (np.full((1, 3, 4, 4), np.nan, np.float32), "NaN"),
        (np.full((1, 3, 4, 4), np.inf, np.float32), "NaN or infinite"),
    ],
)
def test_a_session_checks_its_input(tiny, batch, why):
    with pytest.raises(InputError, match=why):
        Session(tiny, threads=1).run(batch)


def test_a_session_is_dense_whatever_the_masks_file_holds(digits, demo, tmp_path):
    for suffix in (".onnx", ".weights", ".masks"):
        shutil.copy(digits.path.with_suffix(suffix), tmp_path)
    masks = tmp_path / digits.path.with_suffix(".masks").name
    masks.write_bytes(np.full(masks.stat().st_size // 4, 0.5, "<f4").tobytes())
    changed = Artifact.open(tmp_path / digits.path.name)
    first, second = (Session(artifact, threads=1).run(demo.test) for artifact in (digits, changed))
    assert first.tobytes() == second.tobytes()


def test_a_session_takes_any_batch_size(digits, demo):
    session = Session(digits, threads=1)
    whole = session.run(demo.test[:15])
    parts = np.concatenate([session.run(demo.test[i : i + 5]) for i in range(0, 15, 5)])
    np.testing.assert_allclose(parts, whole, atol=1e-4)
    np.testing.assert_allclose(session.probabilities(demo.test[:15]).sum(1), 1, atol=1e-5)
