"""Measuring one user: every arm in turn, on one workbench."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..runtime.artifact import ModelInfo
from ..runtime.errors import InputError
from ._cells import Cell, CellKey
from ._study import UserTask, code_digest
from ._users import data_digest
from ._workbench import Answer, Workbench, opened
from .arms import ARMS

__all__ = ["measure_user"]

_MEGA = 1e6
_DEBUG = "EDGEPRUNE_DEBUG"


def measure_user(task: UserTask) -> Iterator[Cell]:
    """Measure the cells of a task, one after the other.

    An arm that raises gives a cell that says so, and the others go on.

    Raises:
        InputError: the model is not the one that the study was planned with.
    """
    _check_model(task, opened(task.network.model).info)
    bench = Workbench(task)
    for key in task.keys:
        yield _cell(bench, key)


def _check_model(task: UserTask, info: ModelInfo) -> None:
    if info.model_id != task.model_id:
        raise InputError(
            f"{task.network.model} is another model here than where the study was begun. A "
            "study on several machines needs the same files under the same paths."
        )


def _cell(bench: Workbench, key: CellKey) -> Cell:
    try:
        answer = ARMS[key.arm].run(bench, key)
        return _scored(bench, key, answer)
    except Exception as error:  # one arm must not end a study of days
        if os.environ.get(_DEBUG) == "1":
            raise
        text = " ".join(str(error).split())[:500]
        return _new(bench, key, status="failed", reason=f"{type(error).__name__}: {text}")


def _scored(bench: Workbench, key: CellKey, answer: Answer) -> Cell:
    total = len(bench.truth)
    right = None
    if answer.logits is not None:
        right = int((answer.logits.argmax(1) == bench.truth).sum())
    kept_dense = right is None or (answer.refused and answer.guarded)
    removed = answer.sparsity
    added = answer.cost.added_bytes
    return _new(
        bench,
        key,
        right=_right_of_dense(bench) if kept_dense or right is None else right,
        total=total,
        unguarded=None if right is None else right / total,
        refused=answer.refused,
        agreement=answer.agreement,
        seconds=answer.cost.seconds,
        cpu_seconds=answer.cost.cpu_seconds,
        passes=_passes(bench, key, answer),
        added_mb=None if added is None else added / _MEGA,
        hidden_units=None if removed is None else removed.hidden_units,
        units=None if removed is None else removed.units,
        weights=None if removed is None else removed.weights,
        macs=answer.more.get("macs") if removed is None else removed.macs,
        reason=answer.reason,
        more=answer.more,
    )


def _right_of_dense(bench: Workbench) -> int:
    return int((bench.dense_test.logits.argmax(1) == bench.truth).sum())


def _passes(bench: Workbench, key: CellKey, answer: Answer) -> float | None:
    if not key.samples:
        return None
    plain = bench.plain_pass(key.samples).cpu_seconds
    return answer.cost.cpu_seconds / plain if plain else None


def _new(bench: Workbench, key: CellKey, **fields: object) -> Cell:
    known = {
        "model_id": bench.info.model_id,
        "data": data_digest(bench.user),
        "code": code_digest(),
    }
    return Cell(key, **known, **fields)  # type: ignore[arg-type]
