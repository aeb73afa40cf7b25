"""Weights of a profile that single weights were taken from: bits and the values that are left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._profile_format import decode_mask, encode_mask
from .errors import ProfileError

__all__ = ["check_weight_masks", "frozen_weight_mask", "pack_weights", "unpack_weights"]

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


def frozen_weight_mask(name: str, values: NDArray[Any]) -> BoolArray:
    """A read-only copy; ProfileError if it is no mask."""
    mask = np.array(values, order="C", copy=True)
    if mask.dtype != np.bool_ or not mask.any():
        raise ProfileError(f"kept/{name} must be bool and keep a weight, not {mask.dtype}")
    mask.setflags(write=False)
    return mask


def check_weight_masks(masks: Mapping[str, BoolArray], weights: Mapping[str, FloatArray]) -> None:
    """Check that every mask belongs to a weight of its shape, which is zero where it is false.

    Raises:
        ProfileError: it does not.
    """
    for name, mask in masks.items():
        weight = weights.get(name)
        if weight is None or weight.shape != mask.shape:
            raise ProfileError(f"kept/{name} has no weight of its shape, {mask.shape}")
        if weight[~mask].any():
            raise ProfileError(f"weight/{name} is not zero where kept/{name} removes it")


def pack_weights(
    masks: Mapping[str, BoolArray], weights: Mapping[str, FloatArray]
) -> dict[str, NDArray[Any]]:
    """The tensors to store: ``weight/P`` whole, or its kept values in C order and ``kept/P``."""
    stored: dict[str, NDArray[Any]] = {}
    for name, weight in weights.items():
        mask = masks.get(name)
        if mask is None or mask.all():
            stored[f"weight/{name}"] = weight
        else:
            stored[f"kept/{name}"] = encode_mask(mask.ravel())
            stored[f"weight/{name}"] = weight[mask]
    return stored


def unpack_weights(
    kept: Mapping[str, NDArray[Any]],
    weights: Mapping[str, FloatArray],
    shapes: Mapping[str, Sequence[int]],
) -> tuple[dict[str, BoolArray], dict[str, FloatArray]]:
    """Masks and full-sized weights from what `pack_weights` stored.

    Args:
        kept: the packed bits by operator.
        weights: by operator, those named in `kept` as vectors.
        shapes: of every operator's weight in the model.

    Raises:
        ValueError: bits and values do not fit each other or the model.
    """
    masks: dict[str, BoolArray] = {}
    full = dict(weights)
    for name, bits in kept.items():
        if name not in shapes or name not in weights:
            raise ValueError(f"kept/{name} is unknown to the model, or has no weight")
        shape = tuple(shapes[name])
        try:
            mask = decode_mask(bits, math.prod(shape))
        except ValueError as error:
            raise ValueError(f"kept/{name} is damaged: {error}") from error
        if weights[name].shape != (np.count_nonzero(mask),):
            raise ValueError(f"weight/{name} has not as many values as kept/{name} keeps")
        values = np.zeros(mask.size, np.float32)
        values[mask] = weights[name]
        masks[name], full[name] = mask.reshape(shape), values.reshape(shape)
    return masks, full
