"""How long one call takes: dense, masked, watched and compacted, in turns in one process."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._probe import Feeds, masked_tensors, random_feeds
from .._timing import Limits, Timing, measure
from ..runtime._graph import Graph
from ..runtime._ort import make_session, run
from ..runtime._plan import Scope, groups_in_scope, sites_reading
from ..runtime._stream import Batches
from ..runtime._watch import POSITIONS_EVERY, watch
from ..runtime.artifact import Artifact
from ..runtime.profile import Profile
from ._networks import Network, networks, prunings
from ._run import BenchRun, Row, conditions, facts, rows_of

__all__ = ["latency"]

OnProgress = Callable[[str, float], None]
_PASS_SHARE = 0.15  # of the budget, for one statistics pass
_POOL = 64  # samples that are gone over again and again
_FEWEST_PASSES = 6  # below, no interval reaches 95 %


def latency(
    artifact: Artifact,
    *,
    profile: tuple[str, Profile] | None = None,
    plain: Path | None = None,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    shares: Sequence[float] = (0.5, 0.7),
    channel_multiple: int = 16,
    scope: Scope = "hidden",
    statistics: bool = True,
    int8: bool = True,
    limits: Limits | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda _step, _share: None,
) -> BenchRun:
    """Time a network in all its forms against the dense one.

    Args:
        artifact: the exported model.
        profile: the name of a profile and the profile, whose masks are timed; None for random ones.
        plain: the dense network as an ONNX file of its own; None writes one from the model.
        threads: threads of one operator; each number is measured by itself.
        batches: samples in one call; each number is measured by itself.
        shares: shares of the units in scope to mask at random, without a profile.
        channel_multiple: to which compaction rounds up; it is measured unrounded too.
        scope: the units that random masks may remove.
        statistics: time the statistics pass of `personalize` too.
        int8: time the compacted network in int8 too, calibrated on random input.
        limits: how long to measure each combination of threads and batch.
        seed: of masks, input and order.
        on_progress: called with the name of a step and the share of it that is done.

    Raises:
        InputError: nothing can be pruned.
        ArtifactError, CompactError: a network cannot be loaded, compacted or quantised.
    """
    limits = limits or Limits(budget_s=20.0)
    found = _Found()
    with tempfile.TemporaryDirectory(prefix="edgeprune-bench-") as folder:
        on_progress("compacting", 0.0)
        wanted = prunings(artifact, profile, shares, scope, seed)
        multiples = (channel_multiple, 1)
        forms = networks(artifact, plain, wanted, multiples, Path(folder), int8=int8)
        for count, batch in product(threads, batches):
            prefix = f"threads {count}, batch {batch}: "
            cell = _Cell(artifact, forms, count, batch, limits, seed, scope, on_progress)
            for timing, rows in cell.measured(prefix, statistics and artifact.info.single):
                found.add(prefix, timing, rows)
    if statistics and not artifact.info.single:
        found.remark("the statistics pass needs a model of one input of floats and one output")
    return BenchRun(
        "latency",
        facts(artifact.path.name, artifact.info),
        {
            "threads": list(threads),
            "batch": list(batches),
            "masks": [pruning.name for pruning in wanted],
            "channel_multiple": channel_multiple,
            "scope": scope,
            "plain": "given" if plain is not None else "compacted with nothing removed",
            "limits": asdict(limits),
            "seed": seed,
        },
        tuple(found.rows),
        tuple(found.remarks),
        {"conditions": found.conditions},
    )


@dataclass
class _Found:
    """What was measured so far; a remark is made once."""

    rows: list[Row] = field(default_factory=list)
    remarks: dict[str, None] = field(default_factory=dict)
    conditions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, prefix: str, timing: Timing, rows: Sequence[Row]) -> None:
        self.rows += rows
        for remark in timing.remarks:
            self.remark(f"{prefix}{remark}")
        self.conditions.setdefault(prefix.rstrip(": "), []).append(conditions(timing))

    def remark(self, text: str) -> None:
        self.remarks[text] = None


@dataclass(frozen=True)
class _Cell:
    """One number of threads with one batch."""

    artifact: Artifact
    forms: Sequence[Network]
    threads: int
    batch: int
    limits: Limits
    seed: int
    scope: Scope
    on_progress: OnProgress

    def measured(self, prefix: str, statistics: bool) -> Iterator[tuple[Timing, list[Row]]]:
        """The rows of inference, then those of the statistics pass."""
        told = {"threads": self.threads, "batch": self.batch}
        timing = self._inference(prefix)
        details = {form.name: {**form.details, **told} for form in self.forms}
        yield timing, rows_of(timing, prefix, details)
        if statistics:
            samples = self._samples_of_a_pass(timing.arms[0].seconds.median)
            timing = self._statistics(prefix, samples)
            details = {"statistics pass": self._statistics_details(samples) | told}
            yield timing, rows_of(timing, prefix, details)

    def _inference(self, prefix: str) -> Timing:
        feeds = random_feeds(self.artifact, self.batch, self.seed)
        dense = self.forms[0]
        arms = {form.name: self._call(form, feeds) for form in self.forms}
        return measure(
            arms,
            reference=dense.name,
            control=self._call(dense, feeds),
            limits=self.limits,
            seed=self.seed,
            on_progress=lambda share: self.on_progress(f"{prefix}inference", share),
        )

    def _call(self, form: Network, feeds: Feeds) -> Callable[[], object]:
        session = form.session(self.threads)
        # The input's name may differ in a file that was made elsewhere; its place does not.
        renamed = dict(zip((i.name for i in session.get_inputs()), feeds.values(), strict=True))
        return partial(run, session, None, renamed)

    def _samples_of_a_pass(self, call_s: float) -> int:
        """So many that a pass takes a while, in whole turns of the positions."""
        turn = self.batch * POSITIONS_EVERY
        wanted = self.limits.budget_s * _PASS_SHARE * self.batch / call_s
        return max(1, math.ceil(wanted / turn)) * turn

    def _statistics(self, prefix: str, samples: int) -> Timing:
        """All of the pass, its arithmetic and its sessions too, against a loop of inference."""
        artifact, threads = self.artifact, self.threads
        graph, tensors = Graph(artifact), masked_tensors(artifact)
        source = _Again(artifact, self.seed)
        batches = Batches(source, range(samples), self.batch, artifact.info.input_shape)

        def plain(session: Any) -> None:
            for batch in batches:
                run(session, None, {graph.input: batch})

        groups = groups_in_scope(artifact, self.scope)
        sites = sites_reading(graph, {group.name for group in groups})
        first, second = (make_session(artifact.graph, tensors, threads=threads) for _ in range(2))
        limits = replace(
            self.limits, fewest=_FEWEST_PASSES, most=2 * _FEWEST_PASSES, warm_up=1, settle_s=0.0
        )
        return measure(
            {
                "plain loop": partial(plain, first),
                "statistics pass": lambda: watch(
                    graph, batches, tensors, threads=threads, sites=sites
                ),
            },
            reference="plain loop",
            control=partial(plain, second),
            limits=limits,
            seed=self.seed,
            on_progress=lambda share: self.on_progress(f"{prefix}statistics pass", share),
        )

    def _statistics_details(self, samples: int) -> dict[str, Any]:
        dense = self.forms[0].details
        return {**dense, "network": "statistics", "samples": samples}


class _Again:
    """As many samples as are asked for, from a few that are kept."""

    def __init__(self, artifact: Artifact, seed: int) -> None:
        self._pool: list[NDArray[np.float32]] = list(
            random_feeds(artifact, _POOL, seed)[artifact.info.input_name]
        )

    def __len__(self) -> int:
        return len(self._pool)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        return self._pool[index % len(self._pool)]
