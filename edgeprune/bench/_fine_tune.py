"""Personalisation against what PyTorch takes for the same samples: a process for each.

Fine-tuning of all layers towards the dense network's own answers, five epochs, as arm C2-whole of
`edgeprune bench personalization` does it, and Torch-Pruning at the multiply-adds that ``deep``
removes, as arm C4 does it. Time and added memory are of the work alone: what a process holds before
(modules, the network, the samples) is taken off. The two pruned networks, ours compacted, answer
in turns through ONNX Runtime.

``python -m edgeprune.bench._fine_tune`` is such a process; it reads its task from stdin.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .._timing import measure
from ..runtime._ort import make_session, run
from ._measure import measured
from ._process import run_apart
from ._study import Baselines

__all__ = ["FINE_TUNING", "PRUNING", "TuneTask", "compare_with_torch"]

FINE_TUNING, PRUNING = "PyTorch fine-tuning, 5 epochs", "Torch-Pruning"


@dataclass(frozen=True)
class TuneTask:
    """What a process does.

    Attributes:
        way: a strength of personalisation, `FINE_TUNING` or `PRUNING`.
        model: the exported model.
        samples: a file of preprocessed samples, as `numpy.save` writes it.
        factory, weights: the PyTorch module behind the model.
        threads: threads of one operator.
        removed: share of multiply-adds that `PRUNING` is to remove.
        written: where ``deep`` and `PRUNING` write their network, as plain ONNX; None for nowhere.
    """

    way: str
    model: str
    samples: str
    factory: str
    weights: str | None
    threads: int
    removed: float = 0.5
    written: str | None = None


def compare_with_torch(
    task: TuneTask,
    strengths: Sequence[str],
    rounds: int,
    on_progress: Callable[[float], None] = lambda _share: None,
) -> list[dict[str, Any]]:
    """Run each way in a process of its own, one of each after the other.

    Args:
        task: of any way.
        strengths: of personalisation.
        rounds: processes of each way.
        on_progress: called with the share that is done.

    Returns:
        For each way ``way``, ``seconds`` and ``added_bytes`` (medians), both as ratios to those of
        fine-tuning, ``time_ratio`` and ``memory_ratio`` (medians of the rounds' ratios; memory
        is None where it is not known), and ``rounds``; of ``deep`` and `PRUNING` also ``removed``,
        the share of multiply-adds, and where both are run ``answer``, see `answer_times`.

    Raises:
        InputError: a process failed; its last words are in the message.
    """
    ways = [*strengths, FINE_TUNING, PRUNING]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="edgeprune-bench-") as folder:
        files = {way: Path(folder, f"{place}.onnx") for place, way in enumerate(ways)}
        removed = task.removed
        for number in range(rounds):
            for place, way in enumerate(ways):
                on_progress((number + place / len(ways)) / rounds)
                mine = replace(task, way=way, removed=removed, written=str(files[way]))
                done = _process(mine)
                found[way].append(done)
                removed = done.get("removed") or removed if way == "deep" else removed
        answers = answer_times({w: f for w, f in files.items() if f.exists()}, task)
    return [
        _summary(way, found[way], found[FINE_TUNING]) | {"answer": answers.get(way)} for way in ways
    ]


def answer_times(files: Mapping[str, Path], task: TuneTask) -> dict[str, dict[str, Any]]:
    """Time of an answer of networks, one sample at a time in turns, against Torch-Pruning's.

    Args:
        files: networks by way; nothing is measured without `PRUNING` and another one.
        task: its samples and threads.

    Returns:
        By way ``seconds`` (median), and of all but `PRUNING` the ratio to it: ``ratio``, ``low``,
        ``high``, ``rounds`` and ``verdict``.
    """
    if PRUNING not in files or len(files) < 2:
        return {}
    sample = np.load(task.samples)[:1]

    def runs(path: Path) -> Callable[[], object]:
        session = make_session(path, threads=task.threads)
        return partial(run, session, None, {session.get_inputs()[0].name: sample})

    arms = {way: runs(path) for way, path in files.items()}
    timing = measure(arms, reference=PRUNING, control=runs(files[PRUNING]))
    found: dict[str, dict[str, Any]] = {}
    for arm in timing.arms:
        found[arm.name] = {"seconds": arm.seconds.median}
        if arm.name != PRUNING:
            ratio = arm.ratio
            found[arm.name] |= {"ratio": ratio.median, "low": ratio.low, "high": ratio.high}
            found[arm.name] |= {"rounds": ratio.runs, "verdict": arm.verdict}
    return found


def _summary(
    way: str, mine: Sequence[dict[str, Any]], tuned: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    pairs = list(zip(mine, tuned, strict=True))
    return {
        "way": way,
        "rounds": len(mine),
        "removed": _median([one.get("removed") for one in mine]),
        "seconds": statistics.median(one["seconds"] for one in mine),
        "added_bytes": _median([one["added_bytes"] for one in mine]),
        "time_ratio": _ratio([(one["seconds"], its["seconds"]) for one, its in pairs]),
        "memory_ratio": _ratio([(one["added_bytes"], its["added_bytes"]) for one, its in pairs]),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _ratio(pairs: Sequence[tuple[float | None, float | None]]) -> float | None:
    return _median([mine / its if mine is not None and its else None for mine, its in pairs])


def _process(task: TuneTask) -> dict[str, Any]:
    return dict(json.loads(run_apart(__name__, task.way, asdict(task))))


def _personalize(task: TuneTask) -> dict[str, Any]:
    from ..runtime.artifact import Artifact
    from ..runtime.compact import compact
    from ..runtime.personalize import personalize
    from ..runtime.settings import Settings

    samples, artifact = np.load(task.samples), Artifact.open(task.model)
    strength: Any = task.way
    settings = Settings(
        strength=strength, threads=task.threads, min_agreement=0.0, max_samples=len(samples)
    )
    with measured() as cost:
        outcome = personalize(artifact, samples, settings)
    found = {**asdict(cost), "removed": None}
    if strength != "deep":
        return found
    if task.written is not None:
        compact(artifact, outcome.profile, task.written, channel_multiple=settings.channel_multiple)
    return found | {"removed": outcome.report.sparsity.macs}


def _with_torch(task: TuneTask) -> dict[str, Any]:
    import torch

    from ..exporters import load_factory
    from ._packed import ArrayStream
    from ._torch_prune import as_far_as
    from ._torch_tune import train, warm_up

    torch.set_num_threads(task.threads)
    samples = np.load(task.samples)
    net = load_factory(task.factory, task.weights and Path(task.weights)).eval()
    recipe = Baselines()
    with torch.inference_mode():
        parts = torch.split(torch.from_numpy(samples), recipe.batch)
        targets = torch.cat([net(part).flatten(1).argmax(1) for part in parts]).numpy()
    warm_up()
    fetch = partial(_chosen, torch.from_numpy(samples))
    work: Callable[[], object]
    if task.way == PRUNING:
        work = partial(as_far_as, net, ArrayStream(samples), targets, _head(task), task.removed)
    else:
        work = partial(train, net, fetch, targets, recipe=recipe, rate=recipe.lr_whole, seed=0)
    with measured() as cost:
        done = work()
    if task.way != PRUNING:
        return asdict(cost)
    pruned: Any = done
    if task.written is not None:
        _write(pruned.net, torch.from_numpy(samples[:1]), task.written)
    return {**asdict(cost), "removed": pruned.removed}


def _write(net: Any, example: Any, path: str) -> None:
    """As ONNX, the way that most people do it: BatchNorm folded into the convolutions."""
    import torch

    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        torch.onnx.export(net.eval(), (example,), path, dynamo=False, input_names=["input"])


def _chosen(samples: Any, places: Any) -> Any:
    return samples[places]


def _head(task: TuneTask) -> str | None:
    from ..runtime.artifact import Artifact

    return Artifact.open(task.model).info.head


def _main() -> None:
    task = TuneTask(**json.load(sys.stdin))
    done = _with_torch(task) if task.way in (FINE_TUNING, PRUNING) else _personalize(task)
    print(json.dumps(done))


if __name__ == "__main__":
    _main()
