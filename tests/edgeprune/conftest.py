from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeprune._cli import cli
from edgeprune._demo import demo_model

from .studies import SMALL, invoke

HERE = Path(__file__).parent
PICTURES = {"kind": "image", "height": 32, "width": 32, "mean": [127.0], "std": [64.0]}
WNIDS = ("n01443537", "n02123394", "n03250847", "n07768694")


@dataclass(frozen=True)
class Kit:
    """A model, and a user's samples for it."""

    model: Path
    adapt: Path
    test: Path
    weights: Path


@pytest.fixture(scope="session")
def pictures(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A small network that knows four kinds of real pictures, exported by the command line."""
    folder = tmp_path_factory.mktemp("pictures")
    for part in ("adapt", "test"):
        for wnid in WNIDS:
            target = folder / part / (wnid if part == "test" else "")
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted((data / "tiny-imagenet" / part / wnid).iterdir())[:30]:
                (target / file.name).symlink_to(file)
    weights = folder / "pictures.pt"
    _train(folder / "adapt", weights)
    model = folder / "pictures.onnx"
    done = run_process(
        *("export", "nets:pictures", "--weights", weights, "--input", "1x3x32x32", "-o", model),
        *("--preprocess", json.dumps(PICTURES), "--labels", ",".join(WNIDS)),
        *("--samples", folder / "adapt", "--json"),
        cwd=HERE,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["worst_error_samples"] < 1e-4
    return Kit(model, folder / "adapt", folder / "test", weights)


def _train(folder: Path, weights: Path) -> None:
    """A few seconds on the very pictures; what is learnt need not generalise."""
    import torch

    from edgeprune.devices import open_folder, preprocess_from_dict

    sys.path.insert(0, str(HERE))
    try:
        import nets
    finally:
        sys.path.remove(str(HERE))
    samples = open_folder(folder, preprocess_from_dict(PICTURES))
    x = torch.stack([torch.from_numpy(samples[i].array) for i in range(len(samples))])
    y = torch.tensor([WNIDS.index(path.name.split("_")[0]) for path in samples.paths])
    net = nets.pictures().train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine two threads wait for each other
    for _ in range(25):
        for part in torch.randperm(len(x)).split(30):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[part]), y[part]).backward()
            optimizer.step()
    torch.set_num_threads(threads)
    torch.save(net.state_dict(), weights)


@pytest.fixture(scope="session")
def speech(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """An untrained network of real spoken digits, exported from Python."""
    import torch

    import edgeprune
    from edgeprune.exporters.recipes.keyword import log_mel

    sys.path.insert(0, str(HERE))
    try:
        import nets
    finally:
        sys.path.remove(str(HERE))
    folder = tmp_path_factory.mktemp("speech")
    adapt = folder / "adapt"
    adapt.mkdir()
    for file in sorted((data / "fsdd").glob("*_theo_[0-3].wav")):
        (adapt / file.name).symlink_to(file)
    model = folder / "speech.onnx"
    labels = [str(digit) for digit in range(10)]
    edgeprune.export(
        nets.speech(),
        torch.zeros(1, 1, 40, 63),
        model,
        preprocess=log_mel(8000),
        labels=labels,
        samples=adapt,
    )
    return Kit(model, adapt, adapt, folder / "none.pt")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, for this process and its children."""
    folder = tmp_path / "home"
    monkeypatch.setenv("EDGEPRUNE_HOME", str(folder))
    return folder


@pytest.fixture
def run(home: Path) -> Callable[..., Result]:
    """Call the command line in this process."""

    def call(*words: object, **options: Any) -> Result:
        return CliRunner().invoke(cli, [str(word) for word in words], **options)

    return call


def run_process(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Call the command line as a user does."""
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "edgeprune"]
    return subprocess.run(
        [*command, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.fixture
def process(home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_process


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, to compare before and after."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return read


@pytest.fixture
def copied(pictures: Kit, tmp_path: Path) -> Iterator[Kit]:
    """The picture model in a folder of its own, to be damaged."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for suffix in (".onnx", ".weights", ".masks"):
        shutil.copy(pictures.model.with_suffix(suffix), folder)
    yield Kit(folder / pictures.model.name, pictures.adapt, pictures.test, pictures.weights)


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five takes of each digit to adapt to, five others to score on."""
    root = tmp_path_factory.mktemp("trees")
    for file in sorted((demo_model().parent / "demo" / "test").rglob("*.wav")):
        part = "adapt" if int(file.stem) < 5 else "test"
        target = root / part / file.parent.name
        target.mkdir(parents=True, exist_ok=True)
        (target / file.name).symlink_to(file)
    return root / "adapt", root / "test"


@pytest.fixture
def bench(trees: tuple[Path, Path], tmp_path: Path) -> Callable[..., Result]:
    """Call the command on the digits, with its results in a file of the test's own."""

    def call(*words: object, model: Path | None = None) -> Result:
        adapt, test = trees
        given = (model or demo_model(), "--adapt", adapt, "--test", test, *SMALL)
        results = ("--results", tmp_path / "results.jsonl")
        return invoke(*given, *results, *words)

    return call
