"""Which channels of an operator are kept under masks, and its weight without the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .artifact import ONES, Artifact, ModelInfo, Operator

__all__ = ["full_weight", "kept_inputs", "kept_outputs", "kept_shapes", "kept_weight"]

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]


def kept_inputs(
    artifact: Artifact, operator: Operator, masks: Mapping[str, BoolArray]
) -> BoolArray:
    """Which input channels of an operator are kept, bool ``(in_channels,)``.

    A Gemm that reads two units through a flatten of two positions each, the first unit masked::

        reads ("conv",), mask_index [0, 0, 1, 1]: kept [False, False, True, True]

    Groups that `masks` does not name are kept. A depthwise operator, whose mask works at its
    consumers, keeps all of its inputs.
    """
    if not operator.masked or not operator.reads:
        return np.ones(operator.in_channels, np.bool_)
    parts = [_read_mask(artifact.info, name, masks) for name in operator.reads]
    return np.concatenate(parts)[artifact.mask_index(operator)]


def kept_outputs(info: ModelInfo, operator: Operator, masks: Mapping[str, BoolArray]) -> BoolArray:
    """Which output channels of an operator are kept, bool ``(out_channels,)``."""
    if not operator.writes:
        return np.ones(operator.out_channels, np.bool_)
    kept = np.concatenate([_read_mask(info, name, masks) for name in operator.writes])
    return kept if operator.write_index is None else kept[list(operator.write_index)]


def kept_weight(
    artifact: Artifact,
    operator: Operator,
    masks: Mapping[str, BoolArray],
    weight: FloatArray,
) -> FloatArray:
    """Cut the masked input channels out of a full weight tensor, for `Profile.weights`."""
    if operator.in_axis is None:
        return weight
    return np.compress(kept_inputs(artifact, operator, masks), weight, axis=operator.in_axis)


def full_weight(
    artifact: Artifact, operator: Operator, masks: Mapping[str, BoolArray], weight: FloatArray
) -> FloatArray:
    """A profile's weight with zeros in the masked input channels again, as a new array."""
    if operator.in_axis is None:
        return np.array(weight, "<f4")
    full = np.zeros(artifact.tensors[operator.weight].shape, "<f4")
    kept = kept_inputs(artifact, operator, masks)
    np.moveaxis(full, operator.in_axis, 0)[kept] = np.moveaxis(weight, operator.in_axis, 0)
    return full


def kept_shapes(
    artifact: Artifact, names: Mapping[str, Any], masks: Mapping[str, BoolArray]
) -> dict[str, tuple[int, ...]]:
    """The shapes that a profile's weights must have, for the operators named."""
    shapes: dict[str, tuple[int, ...]] = {}
    for operator in artifact.info.operators:
        if operator.name not in names:
            continue
        shape = list(artifact.tensors[operator.weight].shape)
        if operator.in_axis is not None:
            kept = kept_inputs(artifact, operator, masks)
            shape[operator.in_axis] = int(np.count_nonzero(kept))
        shapes[operator.name] = tuple(shape)
    return shapes


def _read_mask(info: ModelInfo, name: str, masks: Mapping[str, BoolArray]) -> BoolArray:
    if name == ONES:
        return np.ones(1, np.bool_)
    mask = masks.get(name)
    return np.ones(info.group_by_name[name].units, np.bool_) if mask is None else mask
