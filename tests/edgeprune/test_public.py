from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import edgeprune
from edgeprune._demo import demo_model

PUBLIC = [
    "Accuracy",
    "ArtifactError",
    "BadSample",
    "CompactError",
    "CompactModel",
    "CompactionReport",
    "Comparison",
    "DeviceError",
    "DeviceUnavailable",
    "EdgepruneError",
    "Evaluation",
    "ExportError",
    "GuardRefused",
    "InputError",
    "LiveResult",
    "LiveSample",
    "MissingExtra",
    "Model",
    "NotEnoughSamples",
    "Prediction",
    "PreprocessError",
    "ProfileError",
    "ProfileMismatch",
    "ProfileNotFound",
    "ProfileReport",
    "ProfileStore",
    "ProfileSummary",
    "Report",
    "Service",
    "ServiceEvent",
    "ServiceSettings",
    "Settings",
    "SourceError",
    "VerifyReport",
    "__version__",
    "export",
    "export_onnx",
    "load",
    "load_compact",
    "personalize",
    "verify",
]


def test_the_public_surface_is_this():
    assert edgeprune.__all__ == PUBLIC == dir(edgeprune)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(edgeprune, name)
    assert name == "__version__" or value.__doc__


def test_other_names_are_missing():
    with pytest.raises(AttributeError, match="prune_everything"):
        edgeprune.prune_everything  # noqa: B018


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert edgeprune.__version__ == project["project"]["version"]


@pytest.mark.parametrize("code", ["import edgeprune", "import edgeprune._cli"])
def test_importing_is_cheap(code):
    heavy = {"numpy", "onnx", "onnxruntime", "torch", "PIL", "rich", "safetensors"}
    script = f"import sys, json; {code}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert heavy.isdisjoint(json.loads(done.stdout))


def test_a_first_prediction_imports_little(tmp_path):
    """Numpy and ONNX Runtime: what would double the time to the first answer stays out."""
    script = (
        "import sys, json, edgeprune, numpy\n"
        "model = edgeprune.load(sys.argv[1], store=sys.argv[2])\n"
        "shape = [n or 1 for n in model.info.input_shape]\n"
        "assert model.predict(numpy.zeros(shape, numpy.float32))[0].label\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(demo_model()), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = set(json.loads(done.stdout))
    assert loaded.isdisjoint({"onnx", "google.protobuf", "PIL", "rich", "click", "safetensors"})
    assert not [name for name in loaded if name.startswith("edgeprune.devices")]
    assert loaded >= {"numpy", "onnxruntime"}
