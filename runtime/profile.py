"""The profile of one user on one model: which units to keep, and what repairs the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._atomic import write_atomically
from ._kept import full_weight, kept_inputs, kept_outputs, kept_shapes, kept_weight
from ._profile_format import (
    HEADER_LIMIT_BYTES,
    Header,
    Strength,
    decode_mask,
    decode_report,
    encode_mask,
    encode_report,
    pack,
    unpack,
)
from ._profile_weights import (
    check_weight_masks,
    frozen_weight_mask,
    pack_weights,
    unpack_weights,
)
from .artifact import Artifact, ModelInfo, Operator
from .errors import ProfileError, ProfileMismatch, ProfileNotFound

__all__ = [
    "Profile",
    "Sparsity",
    "kept_inputs",
    "kept_outputs",
    "kept_weight",
    "neutral",
    "sparsity",
]

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
_PRIOR_TOLERANCE = 1e-4  # float32 rounding of a thousand classes is a hundred times smaller
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS = ("mask", "gain", "shift", "weight", "kept")


@dataclass(frozen=True, eq=False)
class Profile:
    """What personalisation changes in a model; all that it leaves out is neutral.

    A model whose group ``fc1`` has 4 units, of which this user needs all but the third::

        Profile(model_id, masks={"fc1": np.array([True, True, False, True])})

    Arrays are copied and read-only. Two profiles are equal when their `to_bytes` are.

    Attributes:
        model_id: the `ModelInfo.model_id` that this belongs to.
        masks: bool ``(units,)`` by group; True keeps. At least one unit is kept.
        gains: float32 ``(out_channels,)`` by operator.
        shifts: float32 ``(out_channels,)`` by operator.
        weights: float32 by operator, the weight tensor without its masked input channels
            (`kept_weight` cuts it out); only with strength ``deep``.
        weight_masks: bool by operator, of the shape of its entry in `weights`, which is zero where
            the mask is false: single weights that are gone.
        prior: float32 ``(classes,)``, a distribution: what the user was seen to meet. It is for
            the record; what it changes in the outputs is already in the head's shift.
        strength: ``light`` (masks, gains, shifts) or ``deep`` (weights, too).
        created: when, in UTC.
        parent: the generation this one was derived from, None for the dense model.
        report: what was counted and measured, as JSON can hold it; never content.

    Raises:
        ProfileError: a value is not finite, of the wrong type, or contradicts another.
    """

    model_id: str
    masks: Mapping[str, BoolArray] = field(default_factory=dict)
    gains: Mapping[str, FloatArray] = field(default_factory=dict)
    shifts: Mapping[str, FloatArray] = field(default_factory=dict)
    weights: Mapping[str, FloatArray] = field(default_factory=dict)
    weight_masks: Mapping[str, BoolArray] = field(default_factory=dict)
    prior: FloatArray | None = None
    strength: Strength = "light"
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    parent: int | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        prior = None if self.prior is None else _frozen_prior(self.prior)
        frozen: dict[str, dict[str, NDArray[Any]]] = {
            "masks": {k: _frozen_mask(k, v) for k, v in sorted(self.masks.items())},
            "gains": {k: _frozen_vector(f"gain/{k}", v) for k, v in sorted(self.gains.items())},
            "shifts": {k: _frozen_vector(f"shift/{k}", v) for k, v in sorted(self.shifts.items())},
            "weights": {k: _frozen(f"weight/{k}", v) for k, v in sorted(self.weights.items())},
            "weight_masks": {
                k: frozen_weight_mask(k, v) for k, v in sorted(self.weight_masks.items())
            },
        }
        for name, mapping in frozen.items():
            object.__setattr__(self, name, MappingProxyType(mapping))
        object.__setattr__(self, "prior", prior)
        object.__setattr__(self, "report", _copied_report(self.report))
        object.__setattr__(self, "created", _utc(self.created))
        _check_header(self)
        check_weight_masks(self.weight_masks, self.weights)

    def to_bytes(self) -> bytes:
        """The profile as one safetensors file: equal profiles give equal bytes.

        Raises:
            ProfileError: the report is too large for the file's header.
        """
        version = 2 if self.weight_masks else 1
        header = Header(
            self.model_id, self.strength, self.created, self.parent, self.report, version
        )
        try:
            return pack(_stored_tensors(self), header.to_metadata())
        except ValueError as error:
            raise ProfileError(f"the profile cannot be written: {error}.") from error

    @classmethod
    def from_bytes(cls, data: bytes, artifact: Artifact, *, where: str = "the profile") -> Profile:
        """Read and check a profile for `artifact`; `where` names it in messages.

        Raises:
            ProfileMismatch: it belongs to another model.
            ProfileError: it is damaged, newer than this code, or not made for these tensors.
        """
        try:
            tensors, header = unpack(data)
            _check_model(header.model_id, artifact.info, where)
            profile = _assemble(tensors, header, artifact)
            profile.check(artifact)
        except ProfileMismatch:
            raise
        except (ProfileError, ValueError, OverflowError) as error:
            raise ProfileError(
                f"cannot use {where}: {str(error).removesuffix('.')}. Nothing was changed."
            ) from error
        return profile

    def save(self, path: str | Path) -> None:
        """Write the profile to a file, atomically and for the user alone; ProfileError if not."""
        write_atomically(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path, artifact: Artifact) -> Profile:
        """Read the file that `save` wrote.

        Raises:
            ProfileNotFound: there is no such file.
            ProfileMismatch: it belongs to another model.
            ProfileError: it cannot be read or is damaged.
        """
        limit = _largest_file_bytes(artifact)
        try:
            with Path(path).open("rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError as error:
            raise ProfileNotFound(f"there is no profile {path}. Nothing was changed.") from error
        except OSError as error:
            reason = error.strerror or error
            raise ProfileError(f"cannot read {path}: {reason}. Nothing was changed.") from error
        if len(data) > limit:
            raise ProfileError(f"cannot use {path}: it is too large to be a profile of this model.")
        return cls.from_bytes(data, artifact, where=str(path))

    def check(self, artifact: Artifact) -> None:
        """Check every name and shape against the model.

        Raises:
            ProfileMismatch: the profile belongs to another model.
            ProfileError: a name is unknown to the model or a shape is not the model's.
        """
        info = artifact.info
        _check_model(self.model_id, info, "the profile")
        units = {group.name: (group.units,) for group in info.prunable}
        channels = {operator.name: (operator.out_channels,) for operator in info.operators}
        _check_shapes("mask", self.masks, units)
        _check_shapes("gain", self.gains, channels)
        _check_shapes("shift", self.shifts, channels)
        _check_shapes("weight", self.weights, kept_shapes(artifact, self.weights, self.masks))
        if self.prior is not None and self.prior.shape != (info.classes,):
            raise ProfileError(f"the prior has shape {self.prior.shape}, not ({info.classes},)")

    def tensors(self, artifact: Artifact) -> dict[str, FloatArray]:
        """Everything to inject into a session: all masks, gains, shifts, and changed weights.

        Returns:
            little-endian float32 in C order by tensor name, neutral where the profile says
            nothing; a weight is full-sized again, with zeros in its masked input channels.

        Raises:
            ProfileMismatch, ProfileError: as `check`.
        """
        self.check(artifact)
        full = {name: np.array(value, "<f4") for name, value in artifact.neutral_masks.items()}
        groups, operators = artifact.info.group_by_name, artifact.info.operator_by_name
        full |= {groups[name].mask: mask.astype("<f4") for name, mask in self.masks.items()}
        full |= {operators[name].gain: np.array(v, "<f4") for name, v in self.gains.items()}
        full |= {operators[name].shift: np.array(v, "<f4") for name, v in self.shifts.items()}
        for name, weight in self.weights.items():
            operator = operators[name]
            full[operator.weight] = full_weight(artifact, operator, self.masks, weight)
        return full

    def sparsity(self, artifact: Artifact) -> Sparsity:
        """What the masks remove; see `sparsity`."""
        return sparsity(artifact, self.masks, self.weight_masks)


def neutral(info: ModelInfo) -> Profile:
    """The profile that changes nothing: the dense model, generation 0. Always the same bytes."""
    return Profile(info.model_id, created=_EPOCH)


@dataclass(frozen=True)
class Sparsity:
    """How much the masks remove: as shares from 0 to 1 of the whole model, and counted.

    Attributes:
        units: share of the units of all prunable groups that are masked.
        hidden_units: the same over the groups of kind ``hidden``.
        weights: share of the model's parameters that compaction would remove, or that masks of
            single weights do.
        macs: share of the model's multiply-adds that compaction would remove.
    """

    units: float
    hidden_units: float
    weights: float
    macs: float
    units_masked: int
    units_total: int
    weights_removed: int
    macs_removed: int


def sparsity(
    artifact: Artifact,
    masks: Mapping[str, BoolArray],
    weight_masks: Mapping[str, BoolArray] = MappingProxyType({}),
) -> Sparsity:
    """Count exactly what removing the masked units would save; no rounding to channel multiples.

    Single weights count as parameters; no multiply-adds are saved by them.
    """
    info = artifact.info
    removed = [_removed(artifact, operator, masks) for operator in info.operators]
    weights, macs = sum(r[0] for r in removed), sum(r[1] for r in removed)
    weights += sum(int(np.count_nonzero(~mask)) for mask in weight_masks.values())
    hidden = {group.name for group in info.prunable if group.kind == "hidden"}
    masked = {name: int(np.count_nonzero(~mask)) for name, mask in masks.items()}
    total = {group.name: group.units for group in info.prunable}
    return Sparsity(
        units=_share(sum(masked.values()), sum(total.values())),
        hidden_units=_share(
            sum(n for name, n in masked.items() if name in hidden),
            sum(n for name, n in total.items() if name in hidden),
        ),
        weights=_share(weights, info.parameters),
        macs=_share(macs, info.macs),
        units_masked=sum(masked.values()),
        units_total=sum(total.values()),
        weights_removed=weights,
        macs_removed=macs,
    )


def _removed(
    artifact: Artifact, operator: Operator, masks: Mapping[str, BoolArray]
) -> tuple[int, int]:
    """Parameters and multiply-adds that one operator loses: both are multiples of its pairs."""
    channels = operator.out_channels
    kept = int(np.count_nonzero(kept_outputs(artifact.info, operator, masks)))
    columns = columns_kept = 1
    if not operator.depthwise:
        columns = operator.in_channels
        columns_kept = int(np.count_nonzero(kept_inputs(artifact, operator, masks)))
    if operator.recurrent:
        hidden, hidden_kept = _hidden(artifact, operator), _hidden_kept(artifact, operator, masks)
        columns, columns_kept = columns + hidden, columns_kept + hidden_kept
    pairs, pairs_kept = channels * columns, kept * columns_kept
    biases = channels * (2 if operator.recurrent else 1)
    weights = operator.parameters - biases
    weights_removed = weights - weights * pairs_kept // pairs
    weights_removed += biases - biases * kept // channels
    return weights_removed, operator.macs - operator.macs * pairs_kept // pairs


def _hidden(artifact: Artifact, operator: Operator) -> int:
    return int(artifact.tensors[operator.recurrence].shape[-1])


def _hidden_kept(artifact: Artifact, operator: Operator, masks: Mapping[str, BoolArray]) -> int:
    """Kept hidden units: every gate of every direction has as many rows as there are units."""
    kept, hidden = kept_outputs(artifact.info, operator, masks), _hidden(artifact, operator)
    return int(np.count_nonzero(kept)) * hidden // operator.out_channels


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _check_shapes(
    kind: str, tensors: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    for name, tensor in tensors.items():
        if name not in shapes:
            raise ProfileError(f"{kind}/{name} is unknown to the model, or cannot be changed")
        if tensor.shape != shapes[name]:
            raise ProfileError(f"{kind}/{name} has shape {tensor.shape}, not {shapes[name]}")


def _check_model(model_id: str, info: ModelInfo, where: str) -> None:
    if model_id != info.model_id:
        raise ProfileMismatch(
            f"{where} belongs to another model ({model_id[:16]!r}, and this one is "
            f"{info.model_id[:16]!r}). Nothing was changed. Open the model that it was made for, "
            "or personalise this one."
        )


def _check_header(profile: Profile) -> None:
    if not re.fullmatch(r"[ -~]{1,200}", profile.model_id):
        raise ProfileError("the model_id is no printable text")
    if profile.strength not in ("light", "deep"):
        raise ProfileError(f"the strength {profile.strength!r} is neither light nor deep")
    if profile.weights and profile.strength != "deep":
        raise ProfileError("a profile of strength light cannot hold weights")
    if profile.parent is not None and profile.parent < 1:
        raise ProfileError(f"the parent {profile.parent} is no generation number")


def _stored_tensors(profile: Profile) -> dict[str, NDArray[Any]]:
    stored: dict[str, NDArray[Any]] = {}
    for name, mask in profile.masks.items():
        if not mask.all():
            stored[f"mask/{name}"] = encode_mask(mask)
    stored |= {f"gain/{k}": v for k, v in profile.gains.items() if (v != 1).any()}
    # By bits, so that a -0.0 comes back as it went.
    stored |= {f"shift/{k}": v for k, v in profile.shifts.items() if v.view(np.uint32).any()}
    stored |= pack_weights(profile.weight_masks, profile.weights)
    if profile.prior is not None:
        stored["prior"] = profile.prior
    return stored


def _assemble(tensors: Mapping[str, NDArray[Any]], header: Header, artifact: Artifact) -> Profile:
    info = artifact.info
    shapes = {o.name: artifact.tensors[o.weight].shape for o in info.operators}
    parts: dict[str, dict[str, NDArray[Any]]] = {kind: {} for kind in _KINDS}
    for full_name, tensor in tensors.items():
        kind, _, name = full_name.partition("/")
        if kind == "mask":
            parts[kind][name] = _assembled_mask(name, tensor, info)
            continue
        if kind == "kept" and header.version > 1:
            parts[kind][name] = tensor
            continue
        if kind == "kept" or (kind not in parts and full_name != "prior"):
            raise ValueError(f"it holds the unknown tensor {full_name[:100]!r}")
        if tensor.dtype != np.float32:
            raise ValueError(f"{full_name} is {tensor.dtype}, not float32")
        parts.setdefault(kind, {})[name] = tensor
    weight_masks, weights = unpack_weights(parts["kept"], parts["weight"], shapes)
    return Profile(
        header.model_id,
        masks=parts["mask"],
        gains=parts["gain"],
        shifts=parts["shift"],
        weights=weights,
        weight_masks=weight_masks,
        prior=tensors.get("prior"),
        strength=header.strength,
        created=header.created,
        parent=header.parent,
        report=header.report,
    )


def _assembled_mask(name: str, packed: NDArray[Any], info: ModelInfo) -> BoolArray:
    group = info.group_by_name.get(name)
    if group is None or group.frozen is not None:
        raise ValueError(f"mask/{name} is unknown to the model, or cannot be pruned")
    try:
        return decode_mask(packed, group.units)
    except ValueError as error:
        raise ValueError(f"mask/{name} is damaged: {error}") from error


def _largest_file_bytes(artifact: Artifact) -> int:
    names = [operator.weight for operator in artifact.info.operators]
    floats = sum(artifact.tensors[name].size for name in names)
    floats += sum(value.size for value in artifact.neutral_masks.values())
    return 4 * (floats + (artifact.info.classes or 0)) + HEADER_LIMIT_BYTES + 8


def _frozen(name: str, values: ArrayLike) -> FloatArray:
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused just below
        array = np.array(values, np.float32, order="C", copy=True)
    if not np.isfinite(array).all():
        raise ProfileError(f"{name} holds values that are not finite")
    array.setflags(write=False)
    return array


def _frozen_vector(name: str, values: ArrayLike) -> FloatArray:
    array = _frozen(name, values)
    if array.ndim != 1:
        raise ProfileError(f"{name} has {array.ndim} dimensions, not one")
    return array


def _frozen_prior(values: ArrayLike) -> FloatArray:
    prior = _frozen_vector("prior", values)
    if (prior < 0).any() or abs(prior.sum(dtype=np.float64) - 1) > _PRIOR_TOLERANCE:
        raise ProfileError("the prior is no distribution: it must be positive and sum to 1")
    return prior


def _frozen_mask(name: str, values: NDArray[Any]) -> BoolArray:
    mask = np.array(values, order="C", copy=True)
    if mask.dtype != np.bool_ or mask.ndim != 1:
        raise ProfileError(f"mask/{name} must be a bool vector, not {mask.dtype} {mask.shape}")
    if not mask.any():
        raise ProfileError(f"mask/{name} keeps no unit; a group must keep at least one")
    mask.setflags(write=False)
    return mask


def _copied_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """A private copy, in the very form in which it will be read back."""
    try:
        return decode_report(encode_report(dict(report)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ProfileError(f"the report cannot be written as JSON: {error}") from error


def _utc(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ProfileError("the creation time has no time zone; give it in UTC")
    return time.astimezone(UTC)
