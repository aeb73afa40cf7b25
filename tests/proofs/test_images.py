"""Users of ten ImageNet classes each, seen by a low-resolution camera."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

USERS = (200, 201, 202, 203, 204)  # methods were developed on other users, 100 to 105
ARMS: dict[str, tuple[str, ...]] = {
    "all units, default": ("--sparsity", "0"),
    "half the units, default": ("--sparsity", "0.5"),
    "as far as the guard allows": (),
    "half the units, nothing learnt of the classes": (  # what the pruning costs: the guard is off
        *("--sparsity", "0.5", "--prior", "off", "--min-agreement", "0"),
    ),
    "half the units, light": ("--sparsity", "0.5", "--strength", "light"),
    "a fifth of the units, light": ("--sparsity", "0.2", "--strength", "light"),
    "half the units, no repair (control)": (
        *("--sparsity", "0.5", "--no-repair", "--prior", "off", "--min-agreement", "0"),
    ),
}


def _folders(data: Path, seed: int, gather: Callable[..., Path]) -> tuple[Path, Path]:
    wnids = sorted(path.name for path in (data / "tiny-imagenet" / "adapt").iterdir())
    mine = np.random.default_rng(seed).choice(wnids, 10, replace=False)

    def files(part: str, count: int) -> list[tuple[Path, str]]:
        root = data / "tiny-imagenet" / part
        return [(f, w) for w in mine for f in sorted((root / w).iterdir())[:count]]

    return gather((f, None) for f, _ in files("adapt", 30)), gather(files("test", 50))


def _score(cli: Any, effnet: Path, adapt: Path, test: Path, options: tuple[str, ...]) -> Any:
    try:
        cli("personalize", effnet, adapt, "--profile", "user", *options)
    except AssertionError as refused:
        if "Nothing was changed" not in str(refused):
            raise
        return None
    return cli("evaluate", effnet, test, "--profile", "user")


def test_whole_network(cli: Any, effnet: Path, data: Path) -> None:
    inspected = cli("inspect", effnet)
    top1 = cli(
        "evaluate", effnet, data / "imagenet-sample", "--label-from", "name-prefix", "--dense"
    )["dense"]["top1"]
    parameters = inspected["parameters"]
    share = parameters["prunable"] / parameters["total"]
    print(f"\nprunable share {share:.3f}; imagenet-sample top-1 {top1:.3f} (target 0.87)")
    assert share >= 0.9
    assert top1 >= 0.85


def test_five_users(cli: Any, effnet: Path, data: Path, gather: Callable[..., Path]) -> None:
    rows: dict[str, list[float]] = {arm: [] for arm in ("dense", *ARMS)}
    refused: Counter[str] = Counter()
    for seed in USERS:
        adapt, test = _folders(data, seed, gather)
        rows["dense"].append(cli("evaluate", effnet, test, "--dense")["dense"]["top1"])
        for arm, options in ARMS.items():
            scored = _score(cli, effnet, adapt, test, options)
            if scored is None:  # the guard refused: the user keeps the dense network
                refused[arm] += 1
                rows[arm].append(rows["dense"][-1])
                continue
            rows[arm].append(scored["personalized"]["top1"])
    print()
    for arm, values in rows.items():
        told = f", {refused[arm]} refused" if refused[arm] else ""
        print(f"{arm:46} {np.mean(values):.3f}  {np.round(values, 3)}{told}")
    means = {arm: float(np.mean(values)) for arm, values in rows.items()}
    assert means["half the units, nothing learnt of the classes"] >= means["dense"] - 0.03
    assert means["half the units, default"] >= means["dense"]
    assert means["half the units, no repair (control)"] <= 0.05
