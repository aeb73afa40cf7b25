"""Arms that need torch or dask, and what is said where those are missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

import edgeprune
from edgeprune._demo import demo_model
from edgeprune.bench._arms_forward import templates

from .studies import (
    HERE,
    cells,
    parsed,
)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network that has its PyTorch module at hand, and the module's weights."""
    torch = pytest.importorskip("torch")
    from edgeprune.exporters.recipes.keyword import log_mel

    sys.path.insert(0, str(HERE))
    try:
        import nets
    finally:
        sys.path.remove(str(HERE))
    folder = tmp_path_factory.mktemp("untrained")
    net = nets.speech()
    torch.save(net.state_dict(), folder / "net.pt")
    labels = [str(digit) for digit in range(10)]
    example = torch.zeros(1, 1, 40, 63)
    edgeprune.export(net, example, folder / "net.onnx", preprocess=log_mel(8000), labels=labels)
    return folder / "net.onnx", folder / "net.pt"


def test_the_arms_that_need_torch(
    bench: Callable[..., Result],
    untrained: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, weights = untrained
    monkeypatch.chdir(HERE)
    has_pruning = importable("torch_pruning")
    words = ("--users", 1, "--factory", "nets:speech", "--weights", weights, "--json")
    words += ("--arms", "A0,A4,C2" + ",C4" * has_pruning, "--sparsity", "0.5")
    words += ("--set", "lr_whole_labels=0.02", "--set", "epochs=30")
    parsed(bench(*words, model=model))
    found = {key[1]: each for key, each in cells(tmp_path / "results.jsonl").items()}
    assert not [each for each in found.values() if each["status"] != "ok"]
    assert found["C2-whole-labels"]["right"] > found["A0"]["right"]
    assert all(each["seconds"] > 0 for name, each in found.items() if name != "A0")
    if has_pruning:
        assert found["C4"]["macs"] >= found["A4"]["macs"] > 0.2
    other = bench(*words, model=demo_model())
    assert "another model" in str(other.exception)


def test_a_module_that_is_not_the_models_fails_and_is_named(
    bench: Callable[..., Result], untrained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(HERE)
    words = ("--users", 1, "--factory", "nets:speech", "--weights", untrained[1])
    result = bench(*words, "--arms", "A0,C2-last")
    assert result.exit_code == 1
    assert "1 of 2 cells failed" in result.stderr
    assert "does not compute what" in result.stderr
    assert "A0" in result.stdout


def importable(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def test_missing_packages_are_named_with_the_pip_line(
    bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    absent = ("torch", "torch_pruning", "matplotlib", "distributed")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    words = ("--factory", "nets:speech", "--users", 1)
    result = bench("--arms", "A0,C2-last,C4", *words)
    assert result.exit_code == 0
    assert "C4 is left out: torch and torch_pruning not installed: pip install" in result.stderr
    assert "pip install" in str(bench("--plots", tmp_path).exception)
    cluster = bench("--arms", "A0,C1", "--cluster", "tcp://127.0.0.1:9", *words)
    assert "edgeprune[cluster]" in str(cluster.exception)


@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_measures_the_same(bench: Callable[..., Result], tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "protocol": "tcp"}
    with distributed.LocalCluster(**options, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        parsed(bench("--arms", "A0,A1,A4", "--sparsity", "0.5", "--json", "--cluster", address))
    there = cells(tmp_path / "results.jsonl")
    (tmp_path / "results.jsonl").unlink()
    parsed(bench("--arms", "A0,A1,A4", "--sparsity", "0.5", "--json"))
    here = cells(tmp_path / "results.jsonl")
    assert there.keys() == here.keys()
    for key, cell_there in there.items():
        # Another number of arithmetic's threads may tip a sample that stands on the edge.
        assert abs(cell_there["right"] - here[key]["right"]) <= (1 if key[1] == "A4" else 0)


def test_t3a_by_hand() -> None:
    head = np.array([[2.0, 0.0], [0.0, 1.0]])
    features = np.array([[0.0, 3.0], [1.0, 1.0], [0.6, 0.8]])
    logits = np.array([[0.0, 9.0], [0.1, 0.0], [0.0, 2.0]])
    own = head @ head.T
    # Of class 1 the surest two: the first sample (entropy near 0) and the third; not the row.
    found = templates(head, own, features, logits, most=2)
    first = np.array([1.0, 0.0]) + np.array([1.0, 1.0]) / np.sqrt(2)
    second = np.array([0.0, 1.0]) + np.array([0.6, 0.8])
    for row, wanted in zip(found, (first, second), strict=True):
        np.testing.assert_allclose(row, wanted / np.linalg.norm(wanted))
