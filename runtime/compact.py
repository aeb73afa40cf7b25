"""Compaction: a plain ONNX model in which the pruned units are physically gone.

What a profile changes is folded into the weights, the rows and columns of the units that it
removes are cut out, and the outcome is compared with the masked network before it is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ._atomic import write_atomically
from ._compact_check import Verdict, check_model, compare
from ._compact_plain import plain_graph
from ._compact_units import Cutting, Rounding, plan_cutting
from ._metadata import COMPACTED_KEY
from ._ort import make_session
from .artifact import Artifact
from .errors import CompactError, ExportError, ProfileError
from .network._cost import node_macs
from .network._cut import cut_to
from .network._graph import Graph, to_model
from .network._layout import Layout, analyse
from .profile import Profile, kept_weight

__all__ = [
    "CompactReport",
    "GroupReport",
    "Rounding",
    "compact",
    "rounded_profile",
    "tensors_in_force",
]

Masks = Mapping[str, NDArray[np.bool_]]

_CARRIED_OVER = ("input", "output", "inputs", "outputs", "preprocess", "labels")
"""Metadata that tell how the network is used, with the prefix ``edgeprune.``."""

_LARGEST_BYTES = 2**31 - 2**20  # protobuf's limit, and room for the graph itself


@dataclass(frozen=True)
class GroupReport:
    """One channel group: its units, those that the masks keep, and those that are still there.

    Fewer are there than are kept where the outputs no longer depend on the group at all.
    """

    name: str
    units: int
    kept: int
    left: int


@dataclass(frozen=True, eq=False)
class CompactReport:
    """What was written, what it costs, and how closely it computes what the masks compute.

    Errors are relative to the largest output. Multiply-adds are those of one sample. Bytes are
    those of the files: before, the three of the artifact. ``masks`` are those in force, which
    rounding down may have changed: see `rounded_profile`.
    """

    path: Path
    groups: tuple[GroupReport, ...]
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    bytes_before: int
    bytes_after: int
    worst_error_random: float
    worst_error_samples: float | None
    samples_checked: int
    channel_multiple: int
    rounding: Rounding
    masks: Masks

    @property
    def padded_units(self) -> int:
        """Units that the masks remove and that are there all the same, read by zeros only."""
        return sum(max(group.left - group.kept, 0) for group in self.groups)

    @property
    def vanished_groups(self) -> tuple[str, ...]:
        """Groups of which nothing is left."""
        return tuple(group.name for group in self.groups if group.left == 0)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it; the masks are left out."""
        values = asdict(replace(self, masks={}))
        del values["masks"]
        return values | {
            "path": str(self.path),
            "padded_units": self.padded_units,
            "vanished_groups": list(self.vanished_groups),
        }


def compact(
    artifact: Artifact,
    profile: Profile | None,
    path: str | Path,
    *,
    masks: Masks | None = None,
    channel_multiple: int = 1,
    rounding: Rounding = "up",
    samples: Iterable[NDArray[Any]] | None = None,
    accept: Callable[[CompactReport, bytes], None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> CompactReport:
    """Write the network that a profile describes as one plain ONNX file, without pruned units.

    Args:
        artifact: the exported model.
        profile: what to fold in and to remove; None folds in nothing.
        path: ``NAME.onnx`` in a folder that exists; a file of that name is replaced.
        masks: bool ``(units,)`` by group, instead of the profile's masks of these groups.
        channel_multiple: the board's: every group that is cut keeps a multiple of it in channels.
            A unit that is wider, such as an attention head, is counted with its width.
        rounding: ``up`` lets removed units stay where they are needed to fill a multiple: nothing
            reads them, so the outputs are the same. ``down`` removes, besides, the kept units of
            the lowest score that fill none, and changes the outputs; the score is the squared norm
            of the weights that read a unit times that of the weights that compute it.
        samples: inputs without the batch axis, preprocessed, to verify the outcome on.
        accept: called with the report and the serialised model before anything is written; what it
            raises is passed on.
        progress: called with a line at each stage.

    Raises:
        CompactError: the outcome would differ from the masked network, or cannot be written;
            nothing was written.
        ProfileError: the profile does not belong to the model.
    """
    path, say = Path(path), progress or _silent
    _check_arguments(artifact, path, channel_multiple, rounding)
    _check_units(profile)
    wanted = _wanted_masks(artifact, profile, masks)
    say("folding the profile into the weights")
    graph = _plain(artifact, tensors_in_force(artifact, profile, wanted))
    say("finding what can go")
    layout = analyse(graph)
    cutting = plan_cutting(artifact, layout, wanted, channel_multiple, rounding)
    small = cut_to(layout, cutting.keep, cutting.remains)
    model = _finished_model(artifact, profile, small, cutting)
    say("verifying")
    check_model(model)
    data = bytes(model.SerializeToString(deterministic=True))
    verdict = compare(
        make_session(artifact.graph, tensors_in_force(artifact, profile, cutting.masks)),
        data,
        graph.inputs,
        () if samples is None else samples,
    )
    written = _Written(path, len(data), verdict, channel_multiple, rounding)
    report = _report(artifact, layout, small, cutting, written)
    if accept is not None:
        accept(report, data)
    _write(path, data)
    return report


def rounded_profile(artifact: Artifact, profile: Profile, masks: Masks) -> Profile:
    """The profile with the masks of a report in place of its own, to be stored.

    Raises:
        ProfileError: a mask keeps no unit, which a profile cannot say.
    """
    tensors, operators = profile.tensors(artifact), artifact.info.operator_by_name
    weights = {
        name: kept_weight(artifact, operators[name], masks, tensors[operators[name].weight])
        for name in profile.weights
    }
    return replace(profile, masks=masks, weights=weights)


def _silent(_: str) -> None:
    """Tell nobody."""


def _check_arguments(
    artifact: Artifact, path: Path, channel_multiple: int, rounding: Rounding
) -> None:
    problem = None
    if path.suffix != ".onnx":
        problem = f"{path} does not end in .onnx; name the file NAME.onnx"
    elif path.is_dir() or not path.parent.is_dir():
        problem = f"{path} cannot be written: it is a folder, or there is no folder {path.parent}"
    elif path.exists() and path.samefile(artifact.path):
        problem = f"{path} is the model itself, which stays as it is; give another name"
    elif channel_multiple < 1:
        problem = f"a channel multiple of {channel_multiple} makes no sense; give 1 or more"
    elif rounding not in ("up", "down"):
        problem = f"the rounding {rounding!r} is neither up nor down"
    if problem is not None:
        raise CompactError(f"{problem}. Nothing was written.")


def _wanted_masks(artifact: Artifact, profile: Profile | None, masks: Masks | None) -> Masks:
    """The mask of every group that can be pruned."""
    units = {group.name: group.units for group in artifact.info.prunable}
    given = {**({} if profile is None else profile.masks), **(masks or {})}
    for name, mask in given.items():
        if name not in units:
            raise CompactError(
                f"the mask {name!r} belongs to no group of {artifact.path} that can be pruned. "
                "Nothing was written; `edgeprune inspect` lists the groups."
            )
        if np.shape(mask) != (units[name],) or np.asarray(mask).dtype != np.bool_:
            raise CompactError(
                f"the mask {name!r} must be a bool vector of {units[name]}. Nothing was written."
            )
    whole = {name: np.ones(count, np.bool_) for name, count in units.items()}
    return whole | {name: np.asarray(mask) for name, mask in given.items()}


def _check_units(profile: Profile | None) -> None:
    if profile is not None and profile.weight_masks:
        raise CompactError(
            "this profile masks single weights, and that makes no tensor smaller: there is nothing "
            "to compact. Nothing was written. Personalise with --granularity unit to get a network "
            "that can be made smaller."
        )


def tensors_in_force(
    artifact: Artifact, profile: Profile | None, masks: Masks
) -> dict[str, NDArray[Any]]:
    """Every external tensor as the profile has it, with these masks in place of its own."""
    changed = {} if profile is None else profile.tensors(artifact)
    groups = artifact.info.group_by_name
    given = {groups[name].mask: mask.astype(np.float32) for name, mask in masks.items()}
    return {**artifact.tensors, **artifact.neutral_masks, **changed, **given}


def _plain(artifact: Artifact, tensors: Mapping[str, NDArray[Any]]) -> Graph:
    _check_size(tensors.values(), f"{artifact.path} is")
    try:
        return plain_graph(artifact, tensors)
    except ExportError as error:
        raise CompactError(f"cannot compact {artifact.path}: {error}") from error


def _check_size(arrays: Iterable[NDArray[Any]], what: str) -> None:
    total = sum(array.nbytes for array in arrays)
    if total > _LARGEST_BYTES:
        raise CompactError(
            f"{what} too large: {total / 2**30:.1f} GiB, and a model in one piece holds at most 2. "
            "Nothing was written; use the artifact with its profile as it is."
        )


def _finished_model(
    artifact: Artifact, profile: Profile | None, graph: Graph, cutting: Cutting
) -> onnx.ModelProto:
    """The model with the shapes of all its tensors, and with what tells how to use it."""
    _check_size(graph.constants.values(), "the compacted network is")
    model = to_model(graph)
    declared = {*graph.outputs, *(item.name for item in graph.inputs)}
    names = [name for node in graph.nodes for name in node.output if name not in declared]
    known = [name for name in names if name in graph.shapes and name in graph.dtypes]
    model.graph.value_info.extend(_value_info(graph, name) for name in known)
    _declare_outputs(model)
    about = {
        "model_id": artifact.info.model_id,
        "created": None if profile is None else profile.created.isoformat(),
        "strength": None if profile is None else profile.strength,
        "units": {name: int(mask.sum()) for name, mask in sorted(cutting.masks.items())},
    }
    source = {item.key: item.value for item in artifact.model.metadata_props}
    carried = {key: source.get(f"edgeprune.{key}") for key in _CARRIED_OVER}
    texts = {f"edgeprune.{key}": text for key, text in carried.items() if text is not None}
    texts[COMPACTED_KEY] = json.dumps(about, separators=(",", ":"))
    helper.set_model_props(model, texts)
    return model


def _declare_outputs(model: onnx.ModelProto) -> None:
    """After: outputs whose size depends on values have at least the type that can be inferred."""
    unknown = [item for item in model.graph.output if not item.type.WhichOneof("value")]
    if unknown:
        inferred = onnx.shape_inference.infer_shapes(model).graph.output
        by_name = {item.name: item for item in inferred}
        for item in unknown:
            item.CopyFrom(by_name[item.name])


def _value_info(graph: Graph, name: str) -> onnx.ValueInfoProto:
    three = graph.sizes_at_three[name]
    dims = [
        ("batch" if m == 3 else None) if n is None else n
        for n, m in zip(graph.shapes[name], three, strict=True)
    ]
    kind = helper.np_dtype_to_tensor_dtype(graph.dtypes[name])
    return helper.make_tensor_value_info(name, kind, dims)


@dataclass(frozen=True)
class _Written:
    """The file and how it came about."""

    path: Path
    size: int
    verdict: Verdict
    channel_multiple: int
    rounding: Rounding


def _report(
    artifact: Artifact, layout: Layout, small: Graph, cutting: Cutting, written: _Written
) -> CompactReport:
    masks = {name: mask for name, mask in cutting.masks.items() if not mask.all()}
    live = _groups_in(artifact, small)
    files = [artifact.path.with_suffix(suffix) for suffix in (".onnx", ".weights", ".masks")]
    return CompactReport(
        path=written.path,
        groups=tuple(
            GroupReport(
                name,
                len(mask),
                int(mask.sum()),
                cutting.left[name] if name in live else 0,
            )
            for name, mask in cutting.masks.items()
        ),
        parameters_before=_parameters(layout.graph),
        parameters_after=_parameters(small),
        macs_before=_macs(layout.graph),
        macs_after=_macs(small),
        bytes_before=sum(file.stat().st_size for file in files),
        bytes_after=written.size,
        worst_error_random=written.verdict.random,
        worst_error_samples=written.verdict.samples,
        samples_checked=written.verdict.samples_checked,
        channel_multiple=written.channel_multiple,
        rounding=written.rounding,
        masks=masks,
    )


def _parameters(graph: Graph) -> int:
    """Elements of all constants that hold floats, lone numbers left out."""
    return sum(v.size for v in graph.constants.values() if v.dtype.kind == "f" and v.ndim)


def _macs(graph: Graph) -> int:
    return sum(node_macs(graph, node) for node in graph.nodes)


def _groups_in(artifact: Artifact, graph: Graph) -> set[str]:
    """Groups that some operator of the graph still reads or writes."""
    operators = artifact.info.operator_by_name
    found = [operators[node.name] for node in graph.nodes if node.name in operators]
    return {name for operator in found for name in (*operator.reads, *operator.writes)}


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data, mode=0o666)  # as any file: the user's umask decides
    except ProfileError as error:
        raise CompactError(str(error)) from error
