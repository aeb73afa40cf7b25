from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edgeprune import ArtifactError
from edgeprune._demo import demo_model

# Everything that a machine may lack is made to fail: the network, PyTorch, sound libraries.
BARE = """
import socket, sys
def refuse(*_args, **_options):
    raise OSError("the network is blocked")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
for name in ("torch", "onnxscript", "soundfile", "soxr", "sounddevice", "av"):
    sys.modules[name] = None
from edgeprune._cli import main
main()
"""


@pytest.fixture(autouse=True)
def bundled():
    try:
        demo_model()
    except ArtifactError:
        pytest.skip("the bundled model is not there yet")


def demo(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BARE, "demo", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_demo_runs_on_a_bare_machine(home):
    done = demo("--json", "-q")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["voice"] == "synthetic"
    assert report["rollback_exact"]
    assert report["redo_exact"]
    assert report["personalization"]["sparsity"]["hidden_units"] >= 0.4
    scored = report["evaluation"]
    assert scored["personalized"]["top1"] > scored["dense"]["top1"]
    assert report["seconds"] < 60
    assert not home.exists()  # the profile was thrown away


def test_the_demo_says_what_it_did(home, tmp_path):
    done = demo("--store", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    for part in ("synthetic", "without labels", "labels for scoring only", "units masked"):
        assert part in done.stdout
    assert "bit for bit" in done.stdout
    assert f"edgeprune personalize {demo_model()} FOLDER" in done.stdout
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 1
    assert not home.exists()
