"""Personalisation against what PyTorch takes for the same samples: a process for each.

Fine-tuning of all layers towards the dense network's own answers, five epochs, as arm C2-whole of
`edgeprune bench personalization` does it, and Torch-Pruning at the multiply-adds that ``deep``
removes, as arm C4 does it. Time and added memory are of the work alone: what a process holds before
(modules, the network, the samples) is taken off.

``python -m edgeprune.bench._fine_tune`` is such a process; it reads its task from stdin.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

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
    """

    way: str
    model: str
    samples: str
    factory: str
    weights: str | None
    threads: int
    removed: float = 0.5


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
        is None where it is not known), and ``rounds``.

    Raises:
        InputError: a process failed; its last words are in the message.
    """
    ways = [*strengths, FINE_TUNING, PRUNING]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    removed = task.removed
    for number in range(rounds):
        for place, way in enumerate(ways):
            on_progress((number + place / len(ways)) / rounds)
            done = _process(TuneTask(**{**asdict(task), "way": way, "removed": removed}))
            found[way].append(done)
            removed = done.get("removed") or removed
    return [_summary(way, found[way], found[FINE_TUNING]) for way in ways]


def _summary(
    way: str, mine: Sequence[dict[str, Any]], tuned: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    pairs = list(zip(mine, tuned, strict=True))
    return {
        "way": way,
        "rounds": len(mine),
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
    return found | {"removed": outcome.report.sparsity.macs} if strength == "deep" else found


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
        work()
    return asdict(cost)


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
