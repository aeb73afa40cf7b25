"""How soon drift is noticed, and how often when there is none.

EDGEPRUNE_DRIFT_TAKES=02468 and EDGEPRUNE_DRIFT_USERS=100,101,102 show the same of the recordings
and the users that the detector was developed on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeprune
from edgeprune.devices import open_folder, preprocess_from_dict
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.session import Session
from edgeprune.service._drift import DriftMonitor, DriftReference, fit_reference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

Logits = NDArray[np.floating]
# The detector was developed on users 100 to 105 and on even takes.
USERS = tuple(map(int, os.environ.get("EDGEPRUNE_DRIFT_USERS", "200,201,202").split(",")))
TAKES = os.environ.get("EDGEPRUNE_DRIFT_TAKES", "13579")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
STATIONARY = 20_000
TRIALS = 20
LONGEST = 500
RUNS = (10, 100, 1000)


def _logits(model: Path, files: list[Path]) -> Logits:
    artifact = Artifact.open(model)
    folder = open_folder(files, preprocess_from_dict(artifact.info.preprocess))
    session = Session(artifact, threads=1)
    batches = (range(n, min(n + 8, len(folder))) for n in range(0, len(folder), 8))
    return np.concatenate([session.run(np.stack([folder[i].array for i in b])) for b in batches])


def _alarm(reference: DriftReference, stream: Logits) -> int | None:
    """After how many samples the monitor alarms, if it does."""
    monitor = DriftMonitor(reference)
    return next((n for n, one in enumerate(stream, 1) if monitor.update(n, one)), None)


def _drawn(logits: Logits, count: int, seed: int) -> Logits:
    random = np.random.default_rng(seed)
    return np.asarray(logits[random.integers(len(logits), size=count)])


def _in_runs(logits: Logits, classes: NDArray[np.int64], run: int) -> Logits:
    """Each class so many times running, in random order, drawn from what there is of it."""
    random, parts = np.random.default_rng(1), []
    for _ in range(STATIONARY // run):
        mine = np.flatnonzero(classes == random.choice(np.unique(classes)))
        parts.append(random.choice(mine, run))
    return np.asarray(logits[np.concatenate(parts)])


def _alarms(reference: DriftReference, stream: Logits) -> int:
    """How many alarms a stream without any change raises, each of which begins anew."""
    monitor, alarms = DriftMonitor(reference), 0
    for number, one in enumerate(stream):
        if monitor.update(number, one):
            monitor, alarms = DriftMonitor(reference), alarms + 1
    return alarms


def _report_runs(name: str, alarms: list[list[int]]) -> None:
    rates = np.sum(alarms, axis=0) / (len(alarms) * STATIONARY) * 10_000
    shown = ", ".join(f"{rate:.1f} (runs of {run})" for rate, run in zip(rates, RUNS, strict=True))
    print(f"{name}: false alarms in 10,000 watched samples: {shown}")


def _delays(reference: DriftReference, other: Logits) -> list[int]:
    found = (_alarm(reference, _drawn(other, LONGEST, seed)) for seed in range(TRIALS))
    return [LONGEST if after is None else after for after in found]


def _report(name: str, delays: list[int], false: list[int | None]) -> None:
    median, late, worst = np.quantile(delays, (0.5, 0.9, 1.0))
    alarms = [after for after in false if after is not None]
    print(
        f"{name}: noticed after {median:.0f} watched samples (median), {late:.0f} (nine in ten), "
        f"{worst:.0f} (worst of {len(delays)}); {len(alarms)} false alarms in {len(false)} streams "
        f"of {STATIONARY}"
    )


@pytest.mark.parametrize("learnt_from", [100, 400])
def test_other_classes(effnet: Path, users: dict[int, Any], learnt_from: int) -> None:
    delays, false, runs = list[int](), list[int | None](), list[list[int]]()
    for mine, others, classes in users.values():
        reference, rest = fit_reference(mine[:learnt_from]), mine[learnt_from:]
        delays += _delays(reference, others)
        false.append(_alarm(reference, _drawn(rest, STATIONARY, 99)))
        known = classes[learnt_from:]
        runs.append([_alarms(reference, _in_runs(rest, known, run)) for run in RUNS])
    print()
    _report(f"other classes, learnt from {learnt_from}", delays, false)
    _report_runs(f"the same classes, learnt from {learnt_from}", runs)
    assert false == [None] * len(users)
    assert np.quantile(delays, 0.9) <= 60


@pytest.fixture(scope="module")
def users(effnet: Path, data: Path) -> dict[int, tuple[Logits, Logits, NDArray[np.int64]]]:
    """The dense network's logits of each user's ten classes and of ten others, in random order.

    With the classes of the first.
    """
    root = data / "tiny-imagenet"
    wnids = sorted(path.name for path in (root / "adapt").iterdir())
    found = {}
    for seed in USERS:
        chosen = np.random.default_rng(seed).choice(wnids, 20, replace=False)
        order = np.random.default_rng(seed + 7)
        parts = []
        for classes in (chosen[:10], chosen[10:]):
            folders = [root / part / w for w in classes for part in ("adapt", "test")]
            files = [file for folder in folders for file in sorted(folder.iterdir())]
            places = order.permutation(len(files))
            named = np.unique([file.parent.name for file in files], return_inverse=True)[1]
            parts.append((_logits(effnet, files)[places], named[places]))
        (mine, classes), (others, _) = parts
        found[seed] = (mine, others, classes)
    return found


def test_another_voice(data: Path) -> None:
    """The bundled network was trained on six voices; the demo's is one that it never heard."""
    assets = Path(edgeprune.__file__).parent / "assets"
    model = assets / "digits.onnx"
    demo = _logits(model, sorted((assets / "demo" / "adapt").glob("*.wav")))
    takes = {name: sorted((data / "fsdd").glob(f"*_{name}_*[{TAKES}].wav")) for name in SPEAKERS}
    voices = {name: _logits(model, files) for name, files in takes.items()}
    runs = list[list[int]]()
    strange, known, false = list[int](), list[int](), list[int | None]()
    order = np.random.default_rng(0).permutation(len(demo))
    false.append(_alarm(fit_reference(demo[order[:60]]), _drawn(demo[order[60:]], STATIONARY, 99)))
    for name, logits in voices.items():
        order = np.random.default_rng(0).permutation(len(logits))
        reference = fit_reference(logits[order[:125]])
        strange += _delays(reference, demo)
        rest = logits[order[125:]]
        false.append(_alarm(reference, _drawn(rest, STATIONARY, 99)))
        words = np.array([int(file.name[0]) for file in takes[name]])[order[125:]]
        runs.append([_alarms(reference, _in_runs(rest, words, run)) for run in RUNS])
        known += _delays(fit_reference(demo), logits)
    print()
    _report("a known voice, then a strange one", strange, false)
    _report("a strange voice, then a known one", known, false)
    _report_runs("a known voice", runs)
    assert np.quantile(strange, 0.9) <= 100
    assert np.quantile(known, 0.9) <= 100
    assert len([after for after in false if after is not None]) <= 1
