"""What the tests of personalisation studies share: the digits as data, and how results are read."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

import edgeprune
from edgeprune._cli_bench_personalization import personalization
from edgeprune._demo import demo_model
from edgeprune.bench._cells import Cell, CellKey
from edgeprune.bench._users import UserFiles, class_users
from edgeprune.bench.arms import ARMS

HERE = Path(__file__).parent
SEED = 7
SMALL = ("--users", 2, "--seed", SEED, "--classes-per-user", 5, "--samples", 20)
OURS = "A0,A1,A1+,A2,A3,A4,C1,C3"


def invoke(*words: object) -> Result:
    return CliRunner().invoke(personalization, [str(word) for word in words])


def parsed(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, (result.output, result.exception)
    return dict(json.loads(result.stdout))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def cells(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {(c["user"], c["arm"], c["sparsity"], c["samples"]): c for c in lines(path)[1:]}


def user(trees: tuple[Path, Path], seed: int = SEED) -> UserFiles:
    model = edgeprune.load(demo_model())
    (found,) = class_users(*trees, model.preprocess, classes_per_user=5, seeds=[seed])
    return found


def copy_model(folder: Path) -> Path:
    folder.mkdir()
    for suffix in (".onnx", ".weights", ".masks"):
        shutil.copy(demo_model().with_suffix(suffix), folder)
    return folder / demo_model().name


def wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def cell(name: str, arm: str, right: int, *, sparsity: float | None = None, **fields: Any) -> Cell:
    samples = 20 if ARMS[arm].samples else None
    key = CellKey(name, arm, sparsity, samples)
    return Cell(key, right=right, total=100, **{"unguarded": right / 100, **fields})
