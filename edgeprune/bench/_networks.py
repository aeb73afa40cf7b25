"""The forms of one network that are timed against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._probe import BoolArray, masked_tensors, random_feeds, random_masks
from ..runtime._ort import make_session
from ..runtime._plan import Scope, groups_in_scope
from ..runtime.artifact import Artifact
from ..runtime.errors import InputError
from ..runtime.profile import Profile, sparsity

__all__ = ["Network", "Pruning", "networks", "prunings"]

Form = Literal["dense", "masked", "compacted", "int8"]
_CALIBRATION = 16  # random samples: what int8 says is not judged here, only how long it takes


@dataclass(frozen=True)
class Pruning:
    """Which units are gone, by whose choice."""

    name: str
    masks: Mapping[str, BoolArray]
    profile: Profile | None = None

    def tensors(self, artifact: Artifact) -> dict[str, NDArray[np.float32]]:
        """All external tensors with it."""
        if self.profile is None:
            return masked_tensors(artifact, self.masks)
        return masked_tensors(artifact) | self.profile.tensors(artifact)


@dataclass(frozen=True)
class Network:
    """One form: a file that holds it all, or the artifact with some tensors in memory."""

    name: str
    form: Form
    details: Mapping[str, Any]
    path: Path | None = None
    graph: bytes = b""
    tensors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def session(self, threads: int) -> Any:
        """A new session of ONNX Runtime."""
        if self.path is not None:
            return make_session(self.path, threads=threads)
        return make_session(self.graph, self.tensors, threads=threads)


def prunings(
    artifact: Artifact,
    profile: tuple[str, Profile] | None,
    shares: Sequence[float],
    scope: Scope,
    seed: int,
) -> list[Pruning]:
    """The profile's units, or so large a share of the units in scope at random.

    Raises:
        InputError: nothing can be pruned.
    """
    if profile is not None:
        name, chosen = profile
        return [Pruning(f"profile {name}", dict(chosen.masks), chosen)]
    # Recurrent groups too: for them no repair is known, but their time can be measured.
    groups = artifact.info.prunable if scope == "all" else groups_in_scope(artifact, scope)
    if not groups:
        advice = "" if scope == "all" else " Try --scope all."
        raise InputError(
            f"no group of {artifact.path} is in scope {scope!r}: there is nothing to mask.{advice} "
            "`edgeprune inspect` tells why."
        )
    drawn = []
    for share in shares:
        rng = np.random.default_rng([seed, round(share * 1000)])
        masks = random_masks(groups, dict.fromkeys((g.name for g in groups), share), rng)
        drawn.append(Pruning(f"random {100 * share:.0f} %", masks))
    return drawn


def networks(
    artifact: Artifact,
    plain: Path | None,
    wanted: Sequence[Pruning],
    multiples: Sequence[int],
    folder: Path,
    *,
    int8: bool = False,
) -> list[Network]:
    """The dense network first; then each pruning, masked, and compacted for each multiple.

    Args:
        artifact: the model.
        plain: the dense network in a file of its own; None writes it, by removing nothing.
        wanted: what to prune.
        multiples: to which kept units are rounded up, in networks of their own.
        folder: where files go.
        int8: add the compacted network of the first multiple in int8.

    Raises:
        CompactError: a network cannot be compacted, or not be quantised.
    """
    from ..runtime.compact import compact

    whole = compact(artifact, None, folder / "dense.onnx")
    counted = {"parameters": whole.parameters_after, "macs": whole.macs_after}
    told = _details(artifact, "dense", "none", {}, None) | counted
    made = [Network("dense", "dense", told, plain or whole.path)]
    for number, pruning in enumerate(wanted):
        told = _details(artifact, "masked", pruning.name, pruning.masks, None) | counted
        tensors = pruning.tensors(artifact)
        name = f"masked, {pruning.name}"
        made.append(Network(name, "masked", told, None, artifact.graph, tensors))
        for multiple in dict.fromkeys(multiples):
            path = folder / f"compact-{number}-{multiple}.onnx"
            masks = None if pruning.profile is not None else pruning.masks
            report = compact(
                artifact, pruning.profile, path, masks=masks, channel_multiple=multiple
            )
            told = _details(artifact, "compacted", pruning.name, pruning.masks, multiple)
            told |= {"parameters": report.parameters_after, "macs": report.macs_after}
            name = f"compacted, {pruning.name}, {_rounded(multiple)}"
            made.append(Network(name, "compacted", told, path))
            if int8 and multiple == multiples[0]:
                made.append(_int8(artifact, made[-1]))
    return made


def _int8(artifact: Artifact, compacted: Network) -> Network:
    from ..runtime.quantize import quantize

    assert compacted.path is not None
    path = compacted.path.with_suffix(".int8.onnx")
    feeds = [random_feeds(artifact, 1, seed) for seed in range(_CALIBRATION)]
    path.write_bytes(quantize(compacted.path.read_bytes(), feeds))
    details = {**compacted.details, "network": "int8"}
    return Network(f"int8, {compacted.name}", "int8", details, path)


def _rounded(multiple: int) -> str:
    return "unrounded" if multiple == 1 else f"multiples of {multiple}"


def _details(
    artifact: Artifact,
    form: Form,
    masks_name: str,
    masks: Mapping[str, BoolArray],
    multiple: int | None,
) -> dict[str, Any]:
    removed = sparsity(artifact, masks)
    return {
        "network": form,
        "masks": masks_name,
        "channel_multiple": multiple,
        "units_masked": removed.units,
        "hidden_units_masked": removed.hidden_units,
    }
