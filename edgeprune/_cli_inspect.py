"""``edgeprune inspect``."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from ._api import Model
from ._cli_common import (
    Output,
    command_line,
    model_argument,
    open_model,
    output_options,
    store_option,
)
from ._cli_format import pairs, percent, share_of, size
from ._group_tree import describe_group, draw_groups
from .runtime.artifact import Artifact, ChannelGroup
from .runtime.errors import ArtifactError, InputError
from .runtime.profile import Sparsity, sparsity
from .runtime.scope import Scope, groups_in_scope, keep_counts, unit_steps
from .runtime.settings import Settings

__all__ = ["inspect"]


@click.command()
@model_argument
@click.option(
    "--groups", is_flag=True, help="Explain every channel group, as a tree, long lists in brief."
)
@click.option("--group", metavar="NAME", help="Explain this group only, with all of its members.")
@store_option
@output_options
def inspect(
    *, model: Path, groups: bool, group: str | None, store: Path | None, output: Output
) -> None:
    """Show what of a model can be pruned, what cannot, and why.

    A channel group is what has to be pruned together: the rows of the operators that write its
    units, what the units pass through, the columns of the operators that read them. Parameters and
    multiply-adds can be pruned when they belong to a unit of a prunable group; what stands between
    two groups is counted for both. How much of them goes depends on the sparsity: "can go" is what
    the default settings of personalize remove, and what they remove with --scope all.
    """
    opened = open_model(model, store)
    artifact = Artifact.open(model)
    if group is not None:
        found = describe_group(artifact, _find(artifact, group))
        output.result(found, _tree(artifact, [found], whole=True))
        return
    data = _to_json(opened, artifact)
    text = pairs(_rows(data))
    if groups:
        text += "\n\n" + _tree(artifact, data["groups"])
    output.result(data, text)


def _find(artifact: Artifact, name: str) -> ChannelGroup:
    """The group of that name, or an error that offers close ones."""
    known = artifact.info.group_by_name
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise InputError(
        f"{artifact.path} has no channel group {name!r}.{hint} "
        f"All of them: {command_line('inspect', artifact.path, '--groups')}"
    )


def _tree(artifact: Artifact, groups: Iterable[Mapping[str, Any]], *, whole: bool = False) -> str:
    totals = {"parameters": artifact.info.parameters, "macs": artifact.info.macs}
    return draw_groups("channel groups", groups, totals, whole=whole)


def _to_json(model: Model, artifact: Artifact) -> dict[str, Any]:
    info = artifact.info
    return {
        "path": str(artifact.path),
        "model_id": info.model_id,
        "source_sha256": info.source_sha256,
        "inputs": [
            {"name": item.name, "shape": list(item.shape), "dtype": item.dtype}
            for item in info.inputs
        ],
        "outputs": list(info.outputs),
        "classes": info.classes,
        "output_kind": info.output_kind,
        "single": info.single,
        "classifier": info.classifier,
        "head": info.head,
        "parameters": {"total": info.parameters, "prunable": info.prunable_parameters},
        "macs": {"total": info.macs, "prunable": info.prunable_macs},
        "left_alone": _left_alone(artifact),
        "can_go": {scope: _removable(artifact, scope) for scope in get_args(Scope)},
        "groups": [describe_group(artifact, group) for group in info.groups],
        "references": sum(operator.reference is not None for operator in info.operators),
        "operators": len(info.operators),
        "preprocess": None if info.preprocess is None else dict(info.preprocess),
        "labels": None if info.labels is None else list(info.labels),
        "versions": dict(info.versions),
        "weights_intact": _weights_intact(artifact),
        "masks_neutral": all(
            np.array_equal(artifact.tensors[name], neutral)
            for name, neutral in artifact.neutral_masks.items()
        ),
        "profiles": [
            {
                "name": p.name,
                "generation": p.current,
                "active": p.active,
                "size_bytes": p.size_bytes,
            }
            for p in model.profiles()
        ],
    }


def _removable(artifact: Artifact, scope: Scope) -> dict[str, float]:
    """What default settings remove; which units they choose does not matter for the count."""
    settings = Settings()
    groups = groups_in_scope(artifact, scope)
    keep = keep_counts(
        groups, settings.target_sparsity, unit_steps(artifact, settings.channel_multiple)
    )
    masks = {g.name: np.arange(g.units) < keep[g.name] for g in groups if g.name in keep}
    removed: Sparsity = sparsity(artifact, masks)
    return {"units": removed.units, "parameters": removed.weights, "macs": removed.macs}


def _left_alone(artifact: Artifact) -> list[str]:
    """Groups that could be pruned, and are not by `edgeprune personalize` whatever its scope."""
    in_scope = {group.name for group in groups_in_scope(artifact, "all")}
    return [group.name for group in artifact.info.prunable if group.name not in in_scope]


def _weights_intact(artifact: Artifact) -> bool:
    try:
        artifact.verify_weights()
    except ArtifactError:
        return False
    return True


def _rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    frozen = [group for group in data["groups"] if group["frozen"]]
    kinds = Counter(group["kind"] for group in data["groups"] if not group["frozen"])
    by_kind = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    return [
        ("model", f"{data['path']} ({data['model_id'][:16]})"),
        *(("input", f"{i['name']} {_shape(i['shape'])}, {i['dtype']}") for i in data["inputs"]),
        ("output", _output(data)),
        ("parameters", _prunable_share(data["parameters"])),
        ("multiply-adds", _prunable_share(data["macs"])),
        *_personalizable(data),
        ("groups", f"{kinds.total()} prunable ({by_kind or 'none'}), {len(frozen)} frozen"),
        *(("  frozen", f"{group['name']}: {group['frozen']}") for group in frozen),
        ("references", _references(data)),
        ("preprocessing", _preprocessing(data["preprocess"])),
        ("labels", _labels(data["labels"])),
        ("versions", ", ".join(f"{name} {v}" for name, v in data["versions"].items())),
        ("weights file", "as exported" if data["weights_intact"] else "CHANGED since the export"),
        ("masks file", "neutral" if data["masks_neutral"] else "holds a profile's tensors"),
        ("profiles", _profiles(data["profiles"])),
    ]


def _prunable_share(counts: dict[str, int]) -> str:
    return f"{share_of(counts['prunable'], counts['total'])} can be pruned"


def _output(data: dict[str, Any]) -> str:
    names = ", ".join(data["outputs"])
    if len(data["outputs"]) > 1 or not data["classes"]:
        return f"{names} (no classes)"
    return f"{names}, {data['classes']} classes, {data['output_kind']}"


def _personalizable(data: dict[str, Any]) -> list[tuple[str, str]]:
    """What `edgeprune personalize` would take away, or why it takes nothing."""
    if not data["classifier"]:
        needs = "one float32 input, and one output with a score for each of several classes"
        return [("personalize", f"not this network: it wants {needs}. compact --masks takes it")]
    rows = [
        ("can go", _can_go(data["can_go"]["hidden"], "half of the hidden units masked")),
        ("", _can_go(data["can_go"]["all"], "--scope all: half of the other units too")),
    ]
    if data["left_alone"]:
        few = ", ".join(data["left_alone"][:3]) + (", …" if len(data["left_alone"]) > 3 else "")
        why = "read or written by recurrent layers, for which personalize has no repair"
        rows.append(("left alone", f"{len(data['left_alone'])} groups ({few}): {why}"))
    return rows


def _references(data: dict[str, Any]) -> str:
    """How much is known of the activations in training; the repair leans on it."""
    known = f"{data['references']} of {data['operators']} operators know their outputs in training"
    if data["references"]:
        return known
    return f"{known} (no BatchNorm; --samples at export gives them)"


def _can_go(removed: dict[str, float], when: str) -> str:
    parameters, macs = percent(removed["parameters"]), percent(removed["macs"])
    return f"{parameters} of the parameters, {macs} of the multiply-adds with {when}"


def _shape(shape: list[int | None]) -> str:
    return " × ".join("batch" if size is None else str(size) for size in shape) or "one number"


def _preprocessing(spec: dict[str, Any] | None) -> str:
    if spec is None:
        return "none: the model takes arrays only"
    return ", ".join(f"{key} {value}" for key, value in spec.items() if value is not None)


def _labels(labels: list[str] | None) -> str:
    if not labels:
        return "none"
    shown = ", ".join(labels[:5])
    return f"{len(labels)}: {shown}{', …' if len(labels) > 5 else ''}"


def _profiles(profiles: list[dict[str, Any]]) -> str:
    return (
        ", ".join(
            f"{p['name']} (generation {p['generation']}, {size(p['size_bytes'])}"
            f"{', active' if p['active'] else ''})"
            for p in profiles
        )
        or "none"
    )
