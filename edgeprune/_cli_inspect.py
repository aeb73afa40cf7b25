"""``edgeprune inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from ._api import Model
from ._cli_common import Output, model_argument, open_model, output_options, store_option
from ._cli_format import count, pairs, percent, share_of, size, table
from .runtime._plan import Scope, groups_in_scope, keep_counts
from .runtime.artifact import Artifact, ChannelGroup, ModelInfo, Operator
from .runtime.errors import ArtifactError
from .runtime.profile import Sparsity, sparsity
from .runtime.settings import Settings

__all__ = ["inspect"]


@click.command()
@model_argument
@click.option("--groups", is_flag=True, help="List every channel group.")
@store_option
@output_options
def inspect(*, model: Path, groups: bool, store: Path | None, output: Output) -> None:
    """Show what of a model can be pruned, what cannot, and why.

    Parameters and multiply-adds count as prunable when their operator reads or writes a prunable
    group. How much of them goes depends on the sparsity: "can go" is what the default settings
    remove, and what they remove when the residual streams are in scope too.
    """
    opened = open_model(model, store)
    artifact = Artifact.open(model)
    data = _to_json(opened, artifact)
    text = pairs(_rows(data))
    if groups:
        text += "\n\n" + _group_table(data)
    output.result(data, text)


def _to_json(model: Model, artifact: Artifact) -> dict[str, Any]:
    info = artifact.info
    return {
        "path": str(artifact.path),
        "model_id": info.model_id,
        "source_sha256": info.source_sha256,
        "input": {"name": info.input_name, "shape": list(info.input_shape)},
        "output": {"name": info.output_name, "classes": info.classes, "kind": info.output_kind},
        "head": info.head,
        "parameters": _shares(info, "parameters"),
        "macs": _shares(info, "macs"),
        "can_go": {scope: _removable(artifact, scope) for scope in get_args(Scope)},
        "groups": [_group(info, group) for group in info.groups],
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


def _prunable(operator: Operator) -> bool:
    return operator.masked or operator.writes is not None


def _shares(info: ModelInfo, what: str) -> dict[str, int]:
    prunable = sum(getattr(op, what) for op in info.operators if _prunable(op))
    return {"total": getattr(info, what), "prunable": prunable}


def _removable(artifact: Artifact, scope: Scope) -> dict[str, float]:
    """What default settings remove; which units they choose does not matter for the count."""
    settings = Settings()
    groups = groups_in_scope(artifact, scope)
    keep = keep_counts(groups, settings.target_sparsity, settings.channel_multiple)
    masks = {g.name: np.arange(g.units) < keep[g.name] for g in groups if g.name in keep}
    removed: Sparsity = sparsity(artifact, masks)
    return {"units": removed.units, "parameters": removed.weights, "macs": removed.macs}


def _group(info: ModelInfo, group: ChannelGroup) -> dict[str, Any]:
    touching = [op for op in info.operators if group.name in (op.writes, *op.reads)]
    return {
        "name": group.name,
        "units": group.units,
        "kind": group.kind,
        "frozen": group.frozen,
        "parameters": sum(op.parameters for op in touching),
        "macs": sum(op.macs for op in touching),
        "members": [{"node": m.node, "op": m.op, "role": m.role} for m in group.members],
    }


def _weights_intact(artifact: Artifact) -> bool:
    try:
        artifact.verify_weights()
    except ArtifactError:
        return False
    return True


def _rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    frozen = [group for group in data["groups"] if group["frozen"]]
    kinds = [group["kind"] for group in data["groups"] if not group["frozen"]]
    by_kind = ", ".join(
        f"{kinds.count(kind)} {kind}" for kind in ("hidden", "linear", "residual") if kind in kinds
    )
    return [
        ("model", f"{data['path']} ({data['model_id'][:16]})"),
        ("input", f"{data['input']['name']} {_shape(data['input']['shape'])}"),
        ("output", f"{data['output']['classes'] or 'no'} classes, {data['output']['kind']}"),
        ("parameters", _prunable_share(data["parameters"])),
        ("multiply-adds", _prunable_share(data["macs"])),
        ("can go", _can_go(data["can_go"]["hidden"], "half of the hidden units masked")),
        ("", _can_go(data["can_go"]["all"], "half of all prunable units masked")),
        ("groups", f"{len(kinds)} prunable ({by_kind}), {len(frozen)} frozen"),
        *(("  frozen", f"{group['name']}: {group['frozen']}") for group in frozen),
        ("references", f"{data['references']} of {data['operators']} operators have statistics"),
        ("preprocessing", _preprocessing(data["preprocess"])),
        ("labels", _labels(data["labels"])),
        ("versions", ", ".join(f"{name} {v}" for name, v in data["versions"].items())),
        ("weights file", "as exported" if data["weights_intact"] else "CHANGED since the export"),
        ("masks file", "neutral" if data["masks_neutral"] else "holds a profile's tensors"),
        ("profiles", _profiles(data["profiles"])),
    ]


def _prunable_share(counts: dict[str, int]) -> str:
    return f"{share_of(counts['prunable'], counts['total'])} in prunable groups"


def _can_go(removed: dict[str, float], when: str) -> str:
    parameters, macs = percent(removed["parameters"]), percent(removed["macs"])
    return f"{parameters} of the parameters, {macs} of the multiply-adds with {when}"


def _shape(shape: list[int | None]) -> str:
    return " × ".join("batch" if size is None else str(size) for size in shape)


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


def _group_table(data: dict[str, Any]) -> str:
    rows = [
        [
            group["name"],
            str(group["units"]),
            "frozen" if group["frozen"] else group["kind"],
            count(group["parameters"]),
            count(group["macs"]),
        ]
        for group in data["groups"]
    ]
    return table(["group", "units", "kind", "parameters", "multiply-adds"], rows)
