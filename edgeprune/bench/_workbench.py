"""What the arms of one user share: samples decoded once, the dense network run over them once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._labels import Classes
from .._sources import model_preprocess
from ..runtime._graph import Graph
from ..runtime._ort import run
from ..runtime.artifact import Artifact
from ..runtime.errors import GuardRefused, NotEnoughSamples
from ..runtime.personalize import personalize
from ..runtime.profile import Profile, Sparsity
from ..runtime.settings import Report, Settings
from ._measure import Cost, measured
from ._packed import Packed, Stream
from ._study import UserTask
from ._users import UserFiles

__all__ = ["Answer", "Personalized", "Seen", "Workbench", "opened"]

FloatArray = NDArray[np.float32]
_BATCH = 16
_REMEMBERED = 4
_THREADS = 1  # for every arm: what is compared is work, not who gets more cores


@dataclass(frozen=True)
class Seen:
    """What a network said of samples, and what its head read: ``(n, classes)``, ``(n, …)``."""

    logits: FloatArray
    features: FloatArray | None

    def take(self, order: list[int]) -> Seen:
        """Some of the samples, in this order."""
        features = None if self.features is None else self.features[order]
        return Seen(self.logits[order], features)


@dataclass(frozen=True)
class Personalized:
    """What personalisation made; no profile where it refused before it had one."""

    cost: Cost
    profile: Profile | None = None
    report: Report | None = None
    refused: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Answer:
    """What an arm says of the user's scoring samples, and what it took to get there.

    ``logits`` are None where nothing came of it. ``guarded`` says that a refusal leaves the user
    with the dense network; in a control it is only counted.
    """

    logits: NDArray[Any] | None
    cost: Cost = field(default_factory=Cost)
    refused: bool = False
    guarded: bool = False
    agreement: float | None = None
    sparsity: Sparsity | None = None
    reason: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


@lru_cache(maxsize=2)
def opened(path: Path) -> Artifact:
    """The artifact, opened once in a process."""
    return Artifact.open(path)


class Workbench:
    """One user's samples and network."""

    def __init__(self, task: UserTask) -> None:
        self.task = task
        self.artifact = opened(task.network.model)
        self.info = self.artifact.info
        self.settings = replace(task.settings, threads=_THREADS)
        self.baselines = task.baselines
        self._classes = Classes(self.info, task.label_map)
        self._remembered: dict[tuple[Settings, int], Personalized] = {}

    @property
    def user(self) -> UserFiles:
        """Whose it is."""
        return self.task.user

    @cached_property
    def graph(self) -> Graph:
        """The network as the runtime cuts it."""
        return Graph(self.artifact)

    @cached_property
    def tensors(self) -> dict[str, FloatArray]:
        """The dense network's external tensors."""
        return dict(self.artifact.tensors) | dict(self.artifact.neutral_masks)

    @cached_property
    def truth(self) -> NDArray[np.int64]:
        """The right classes of the scoring samples, for scoring only."""
        return self._found([label for _, label in self.user.test])

    @cached_property
    def known(self) -> NDArray[np.int64]:
        """The user's classes, for the ceilings that may know them."""
        return self._found(list(self.user.classes))

    def taught(self, samples: int) -> NDArray[np.int64]:
        """The right classes of an adaptation stream, for the ceilings that may know them."""
        labels = [label for _, label in self.user.adapt]
        return self._found([labels[place] for place in self.user.stream(samples)])

    def _found(self, labels: list[str]) -> NDArray[np.int64]:
        found, _ = self._classes.find_all(labels, skip_unknown=False)
        return np.array(found, np.int64)

    @cached_property
    def test(self) -> Stream:
        """The samples that score."""
        paths = [path for path, _ in self.user.test]
        return Stream(Packed(paths, model_preprocess(self.artifact)), range(len(paths)))

    @cached_property
    def _adapt(self) -> Packed:
        most = max((key.samples or 0 for key in self.task.keys), default=0)
        paths = [path for path, _ in self.user.adapt[:most]]
        return Packed(paths, model_preprocess(self.artifact))

    def stream(self, samples: int) -> Stream:
        """The first `samples` that adapt, in the order of a stream."""
        return Stream(self._adapt, self.user.stream(samples))

    @cached_property
    def dense_test(self) -> Seen:
        """The dense network on the samples that score."""
        return self._seen(self.test)

    @cached_property
    def _dense_adapt(self) -> tuple[Seen, Cost]:
        everything = Stream(self._adapt, range(len(self._adapt)))
        with measured() as cost:
            seen = self._seen(everything)
        return seen, cost

    def dense_adapt(self, samples: int) -> Seen:
        """The dense network on an adaptation stream."""
        return self._dense_adapt[0].take(self.user.stream(samples))

    def plain_pass(self, samples: int) -> Cost:
        """Time of one plain forward pass over an adaptation stream."""
        cost, share = self._dense_adapt[1], samples / len(self._adapt)
        return Cost(cost.seconds * share, cost.cpu_seconds * share)

    def _seen(self, stream: Stream) -> Seen:
        names = [self.graph.output]
        if self.info.head is not None:
            names.append(self.info.operator_by_name[self.info.head].input)
        return self._run(names, self.tensors, stream)

    def outputs(self, tensors: Mapping[str, FloatArray]) -> FloatArray:
        """Logits of the samples that score, of the network with these external tensors."""
        return self._run([self.graph.output], tensors, self.test).logits

    def logits_of(self, session: Any) -> FloatArray:
        """Logits of the samples that score, by a session of the whole network."""
        return self._fed(session, [self.graph.output], self.test).logits

    def _run(self, names: list[str], tensors: Mapping[str, FloatArray], stream: Stream) -> Seen:
        session = self.graph.session([self.graph.input], names, tensors, _THREADS)
        return self._fed(session, names, stream)

    def _fed(self, session: Any, names: list[str], stream: Stream) -> Seen:
        rows = [run(session, names, {self.graph.input: b}) for b in stream.batches(_BATCH)]
        parts = [np.concatenate(part) for part in zip(*rows, strict=True)]
        return Seen(self._logits(parts[0]), parts[1] if len(parts) > 1 else None)

    def _logits(self, outputs: FloatArray) -> FloatArray:
        if self.info.output_kind == "logits":
            return outputs
        return np.log(np.maximum(outputs, np.float32(1e-30)))

    def profile_logits(self, profile: Profile) -> FloatArray:
        """Logits of the samples that score, with a profile.

        Where it changes the head alone, from what the head reads in the dense network.
        """
        tensors = self.tensors | profile.tensors(self.artifact)
        features = self.dense_test.features
        if features is None or not self._changes_head_alone(profile):
            return self.outputs(tensors)
        name = self.info.operator_by_name[self.info.head or ""].input
        session = self.graph.session([name], [self.graph.output], tensors, _THREADS)
        return self._logits(run(session, [self.graph.output], {name: features})[0])

    def _changes_head_alone(self, profile: Profile) -> bool:
        changed = {*profile.gains, *profile.shifts, *profile.weights}
        return changed <= {self.info.head} and all(mask.all() for mask in profile.masks.values())

    def personalized(self, settings: Settings, samples: int) -> Personalized:
        """Personalise, once for all arms that build on it.

        The guard's limit is applied afterwards, so that what it refuses is known, too.
        """
        key = (settings, samples)
        if key not in self._remembered:
            if len(self._remembered) >= _REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[key] = self._personalized(settings, samples)
        return self._remembered[key]

    def _personalized(self, settings: Settings, samples: int) -> Personalized:
        stream = self.stream(samples)
        # Which sparsity the guard allows cannot be known without it.
        asked = settings if settings.sparsity is None else replace(settings, min_agreement=0.0)
        try:
            with measured() as cost:
                made = personalize(self.artifact, stream, asked)
        except (GuardRefused, NotEnoughSamples) as error:
            return Personalized(cost, refused=True, reason=str(error))
        why_not = settings.objection_to(made.report.guard, made.report.tried[-1].sparsity)
        return Personalized(cost, made.profile, made.report, why_not is not None, why_not or "")

    def forward_only(self, samples: int, work: Callable[[], NDArray[Any]]) -> Answer:
        """An answer that needs a pass over the stream and `work` on what the network said.

        The pass was made once for all arms, and each of them is charged for it.
        """
        _ = self._dense_adapt, self.dense_test
        with measured() as cost:
            logits = work()
        plain = self.plain_pass(samples)
        spent = Cost(cost.seconds + plain.seconds, cost.cpu_seconds + plain.cpu_seconds)
        return Answer(logits, spent)
