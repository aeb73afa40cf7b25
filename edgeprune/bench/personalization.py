"""Comparing personalisation with what else could be done with the same samples of the same users.

Every arm gets the same adaptation samples and is scored on the same disjoint ones; differences are
paired by user. What a device cannot know (labels, the list of classes) only ceilings may use, and
they are marked. See `edgeprune.bench.arms` for what each arm is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._labels import Classes
from ..runtime.artifact import Artifact, ModelInfo
from ..runtime.errors import InputError
from ._cells import Cell, CellKey, ResultsFile, open_results
from ._study import Study, UserTask
from ._summary import Summary, summarize
from ._users import UserFiles, check_disjoint, data_digest
from ._workers import on_cluster, on_this_machine
from .arms import plan, why_skipped

__all__ = ["Study", "StudyReport", "run_study"]

OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class StudyReport:
    """What a study found.

    Attributes:
        summary: the arms compared.
        cells: every result behind it.
        skipped: arms that could not be measured here, and why.
        results: the file that holds the cells.
        measured: how many of them are new.
    """

    summary: Summary
    cells: tuple[Cell, ...]
    skipped: Mapping[str, str]
    results: Path
    measured: int

    @property
    def failed(self) -> tuple[Cell, ...]:
        """The cells whose arm raised."""
        return tuple(cell for cell in self.cells if cell.status == "failed")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        failed = [{**vars(cell.key), "reason": cell.reason} for cell in self.failed]
        return {
            **self.summary.to_dict(),
            "skipped": dict(self.skipped),
            "failed": failed,
            "results": str(self.results),
            "measured": self.measured,
        }


def run_study(
    study: Study,
    results: Path,
    *,
    jobs: int = 1,
    cluster: str | None = None,
    on_progress: OnProgress = lambda _step, _share: None,
) -> StudyReport:
    """Measure what of a study is not measured yet, and sum it all up.

    Args:
        study: what to compare.
        results: a file of results to begin or to go on with.
        jobs: processes on this machine, each with one thread.
        cluster: address of a Dask scheduler whose workers measure instead.
        on_progress: called with the name of a step and the share of it that is done.

    Raises:
        InputError: samples are too few or in both parts, labels are unknown, or the results are
            those of another study. Nothing was run.
        ArtifactError: a model is none.
        MissingExtra: `cluster` needs a package that is not installed.
    """
    on_progress("checking", 0.0)
    models = {user.name: _checked_model(study, user) for user in study.users}
    check_disjoint(study.users)
    skipped = _skipped(study, models)
    arms = [arm for arm in study.arms if arm not in skipped]
    with open_results(results, study.config()) as file:
        _check_same(file.cells.values(), study.users, models)
        wanted = {
            user.name: plan(user.name, arms, study.levels, study.samples) for user in study.users
        }
        done = _finished(file, wanted)
        tasks = [
            _task(study, user, models[user.name].model_id, wanted[user.name], done)
            for user in study.users
        ]
        tasks = [task for task in tasks if task.keys]
        measured = _measure(file, tasks, jobs, cluster, on_progress)
        keys = [key for keys in wanted.values() for key in keys]
        cells = tuple(file.cells[key] for key in keys if key in file.cells)
    return StudyReport(summarize(cells), cells, skipped, results, measured)


def _checked_model(study: Study, user: UserFiles) -> ModelInfo:
    """The user's model, after a look at whether it can be scored on this user's samples."""
    info = Artifact.open(study.network(user.name).model).info
    Classes(info, study.label_map).find_all(list(user.classes), skip_unknown=False)
    most = max(study.samples, default=0)
    if most > len(user.adapt):
        raise InputError(
            f"user {user.name!r} has {len(user.adapt)} samples to adapt to, and --samples asks for "
            f"{most}. Nothing was run."
        )
    return info


def _skipped(study: Study, models: Mapping[str, ModelInfo]) -> dict[str, str]:
    """Arms that cannot be measured for every user, each with the first reason."""
    found: dict[str, str] = {}
    for arm in study.arms:
        for user in study.users:
            reason = why_skipped(arm, models[user.name], study.network(user.name))
            if reason is not None:
                found.setdefault(arm, reason)
    return found


def _check_same(
    cells: Iterable[Cell], users: Sequence[UserFiles], models: Mapping[str, ModelInfo]
) -> None:
    """Results of other samples or another model must not be mixed with new ones."""
    data = {user.name: data_digest(user) for user in users}
    for cell in cells:
        user = cell.key.user
        if user not in data:
            continue
        what = "model" if cell.model_id != models[user].model_id else "samples"
        if what == "model" or cell.data != data[user]:
            raise InputError(
                f"the results hold user {user!r} measured with another {what}; the two cannot be "
                "mixed. Nothing was run; give another file with --results."
            )


def _finished(file: ResultsFile, wanted: Mapping[str, Sequence[CellKey]]) -> dict[CellKey, Cell]:
    keys = {key for keys in wanted.values() for key in keys}
    return {k: cell for k, cell in file.cells.items() if k in keys and cell.status == "ok"}


def _task(
    study: Study,
    user: UserFiles,
    model_id: str,
    keys: Sequence[CellKey],
    done: Mapping[CellKey, Cell],
) -> UserTask:
    macs = {
        (key.sparsity, key.samples): cell.macs
        for key, cell in done.items()
        if key.user == user.name and key.arm == "A4" and cell.macs is not None
    }
    return UserTask(
        user,
        study.network(user.name),
        model_id,
        tuple(key for key in keys if key not in done),
        study.settings,
        study.baselines,
        study.label_map,
        macs,
    )


def _measure(
    file: ResultsFile,
    tasks: Sequence[UserTask],
    jobs: int,
    cluster: str | None,
    on_progress: OnProgress,
) -> int:
    """Measure and store; returns the number of cells."""
    total, done = sum(len(task.keys) for task in tasks), 0
    if not tasks:
        return 0
    on_progress("measuring", 0.0)
    cells = on_this_machine(tasks, jobs) if cluster is None else on_cluster(tasks, cluster)
    with closing(cells):
        for cell in cells:
            file.append(cell)
            done += 1
            on_progress("measuring", done / total)
    return done
