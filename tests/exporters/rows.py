"""What the format's `writes` says of an operator's rows, spelled out without the package.

And what follows for those of pruned units: they have no say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.runtime._ort import make_session
from edgeprune.runtime.artifact import Artifact, ModelInfo, Operator


def rows_written(info: ModelInfo, operator: Operator, masks: Mapping[str, Any]) -> Any:
    """For each output channel of an operator the mask of the unit that it belongs to."""
    if not operator.writes:
        return np.ones(operator.out_channels, np.float32)
    parts = [
        masks[name] if name in masks else np.ones(_units(info, name)) for name in operator.writes
    ]
    index = slice(None) if operator.write_index is None else list(operator.write_index)
    return np.concatenate(parts)[index]


def _units(info: ModelInfo, name: str) -> int:
    return info.group_by_name[name].units if name in info.group_by_name else 1


def pruned_rows_replaced(artifact: Artifact, masks: Mapping[str, Any], rng: Any) -> dict[str, Any]:
    """Weights and biases in which the rows of pruned units are noise."""
    changed = {}
    for operator in artifact.info.operators:
        gone = rows_written(artifact.info, operator, masks) == 0
        loud = 1 if operator.recurrent else 50  # gates that are shut for good would hide the noise
        if gone.any():
            for name, rows in _rows(artifact, operator).items():
                rows[gone] = loud * rng.standard_normal(rows[gone].shape)
                changed[name] = rows
    return {name: _as_stored(artifact, name, rows) for name, rows in changed.items()}


def _rows(artifact: Artifact, operator: Operator) -> dict[str, Any]:
    """Copies of an operator's tensors with its output channels first."""
    weight, bias = (np.array(artifact.tensors[n]) for n in (operator.weight, operator.bias))
    if operator.recurrent:
        recurrence = np.array(artifact.tensors[operator.recurrence])
        rows = operator.out_channels
        return {
            operator.weight: weight.reshape(rows, -1),
            operator.recurrence: recurrence.reshape(rows, -1),
            operator.bias: bias.reshape(len(weight), 2, -1).swapaxes(1, 2).reshape(rows, 2),
        }
    if operator.depthwise and operator.op == "ConvTranspose":  # its rows are inputs
        return {operator.bias: bias}
    return {operator.weight: np.moveaxis(weight, operator.out_axis, 0), operator.bias: bias}


def _as_stored(artifact: Artifact, name: str, rows: Any) -> Any:
    """A tensor as it was before `_rows`."""
    operator = artifact.info.operator_by_name[name.rpartition(".")[0]]
    shape = artifact.tensors[name].shape
    if not operator.recurrent:
        return np.moveaxis(rows, 0, operator.out_axis) if rows.ndim > 1 else rows
    if name != operator.bias:
        return rows.reshape(shape)
    directions = artifact.tensors[operator.weight].shape[0]
    return rows.reshape(directions, -1, 2).swapaxes(1, 2).reshape(shape)


def frozen(report: Any) -> dict[str, str]:
    return dict(report.frozen)


def invariant(path: Path, feeds: dict[str, Any] | None = None) -> bool:
    """Whether a pruned unit of each group has no say, whatever the weights of its rows are."""
    artifact, rng = Artifact.open(path), np.random.default_rng(0)
    if feeds is None:
        feeds = {artifact.info.input_name: rng.standard_normal((2, 3, 8, 8), np.float32)}
    for group in artifact.info.prunable:
        mask = np.ones(group.units, np.float32)
        mask[0] = 0
        noise = pruned_rows_replaced(artifact, {group.name: mask}, rng)
        one = make_session(path, {group.mask: mask}).run(None, feeds)[0]
        two = make_session(path, {group.mask: mask, **noise}).run(None, feeds)[0]
        if not np.array_equal(one, two):
            return False
    return bool(artifact.info.prunable)
