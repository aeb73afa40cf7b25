"""``edgeprune profiles …``."""

from __future__ import annotations

import difflib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ._api import Model
from ._cli_common import Output, model_argument, open_model, output_options, store_option
from ._cli_format import pairs, percent, size, table
from ._cli_groups import SuggestingGroup
from .runtime.artifact import Artifact
from .runtime.errors import ProfileNotFound
from .runtime.store import DENSE, ProfileSummary

__all__ = ["profiles"]

_name = click.argument("name")


@click.group(cls=SuggestingGroup)
def profiles() -> None:
    """List, show, activate, roll back, forget or export the profiles of a model.

    A profile has a name and numbered generations; generation 0 is the network as trained.
    """


@profiles.command("list")
@model_argument
@store_option
@output_options
def list_(*, model: Path, store: Path | None, output: Output) -> None:
    """List all profiles of MODEL; * is the active one."""
    opened = open_model(model, store)
    found = opened.profiles()
    rows = [
        [
            ("* " if p.active else "  ") + p.name,
            str(p.current),
            str(len(p.generations)),
            p.strength or "-",
            percent(p.sparsity["hidden_units"]) if p.sparsity else "-",
            size(p.size_bytes),
            p.created.strftime("%Y-%m-%d %H:%M") if p.created else "-",
        ]
        for p in found
    ]
    header = ["  profile", "generation", "kept", "strength", "hidden masked", "size", "made (UTC)"]
    output.result([_summary(p) for p in found], table(header, rows) if rows else "no profiles")
    for p in found:
        if p.error:
            output.note(f"edgeprune: {p.name}: {p.error}")
    output.detail(f"edgeprune: kept in {opened.store.root}")


@profiles.command()
@model_argument
@_name
@click.option("--generation", type=click.IntRange(min=0), help="Instead of the one in force.")
@store_option
@output_options
def show(
    *, model: Path, name: str, generation: int | None, store: Path | None, output: Output
) -> None:
    """Show what a profile changes, and what was measured when it was made."""
    opened = open_model(model, store)
    artifact = Artifact.open(model)
    summary = _find(opened, name)
    chosen = summary.current if generation is None else generation
    profile = opened.store.load(name, artifact, generation)
    path = opened.store.path(opened.info.model_id, name, chosen)
    data = {
        **_summary(summary),
        "shown": chosen,
        "path": None if chosen == DENSE else str(path),
        "strength": profile.strength,
        "created": None if chosen == DENSE else profile.created.isoformat(),
        "parent": profile.parent,
        "sparsity": asdict(profile.sparsity(artifact)),
        "report": dict(profile.report),
    }
    output.result(data, pairs(_show_rows(data)))


@profiles.command()
@model_argument
@click.argument("name", required=False)
@click.option("--none", "dense", is_flag=True, help="No profile: the network as trained.")
@store_option
@output_options
def activate(
    *, model: Path, name: str | None, dense: bool, store: Path | None, output: Output
) -> None:
    """Use profile NAME from now on."""
    if (name is None) != dense:
        raise click.UsageError("Give the NAME of a profile, or --none.")
    open_model(model, store, dense=True).activate(name)
    output.result({"active": name}, f"active: {name or 'none, the network as trained'}")


@profiles.command()
@model_argument
@_name
@click.option("--steps", type=click.IntRange(min=1), help="How many generations. Default: 1.")
@click.option("--to", type=click.IntRange(min=0), metavar="N", help="Generation; 0: as trained.")
@store_option
@output_options
def rollback(
    *,
    model: Path,
    name: str,
    steps: int | None,
    to: int | None,
    store: Path | None,
    output: Output,
) -> None:
    """Put an earlier generation in force again, bit for bit. Nothing is deleted."""
    if steps is not None and to is not None:
        raise click.UsageError("--steps and --to exclude each other.")
    opened = open_model(model, store, dense=True)
    before = next((p.current for p in opened.profiles() if p.name == name), None)
    now = opened.rollback(name, steps or 1, to=to)
    text = "the network as trained" if now == DENSE else f"generation {now}"
    output.result(
        {"profile": name, "before": before, "generation": now}, f"{name}: {text} is in force"
    )


@profiles.command()
@model_argument
@_name
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@store_option
@output_options
def forget(*, model: Path, name: str, yes: bool, store: Path | None, output: Output) -> None:
    """Erase a profile, all of its generations. This cannot be undone."""
    opened = open_model(model, store, dense=True)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("There is nobody to ask; add --yes to erase the profile.")
        click.confirm(f"Erase the profile {name} and all its generations?", abort=True, err=True)
    opened.forget(name)
    output.result({"forgotten": name}, f"{name}: forgotten")


@profiles.command("export")
@model_argument
@_name
@click.option(
    "-o", "--output", "folder", required=True, type=click.Path(path_type=Path), metavar="FOLDER"
)
@click.option("--generation", type=click.IntRange(min=0), help="Instead of the one in force.")
@store_option
@output_options
def export_(
    *,
    model: Path,
    name: str,
    folder: Path,
    generation: int | None,
    store: Path | None,
    output: Output,
) -> None:
    """Write a copy of MODEL with a profile in it, for programs without edgeprune.

    Any ONNX Runtime program that loads the .onnx file in FOLDER, a new or an empty one, computes
    the personalised network. edgeprune itself refuses the copy: it is no base for profiles.
    """
    opened = open_model(model, store, dense=True)
    path = opened.export_profile(name, folder, generation=generation)
    output.result({"path": str(path)}, f"written: {path}, .weights and .masks")


def _find(model: Model, name: str) -> ProfileSummary:
    found = {p.name: p for p in model.profiles()}
    if name not in found:
        close = difflib.get_close_matches(name, found, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ProfileNotFound(
            f"there is no profile {name!r} for {model.path} in {model.store.root}.{hint}"
        )
    return found[name]


def _summary(summary: ProfileSummary) -> dict[str, Any]:
    created = summary.created
    return {
        "name": summary.name,
        "generation": summary.current,
        "generations": list(summary.generations),
        "active": summary.active,
        "size_bytes": summary.size_bytes,
        "strength": summary.strength,
        "created": None if created is None else created.isoformat(),
        "sparsity": None if summary.sparsity is None else dict(summary.sparsity),
        "error": summary.error,
    }


def _show_rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    removed, report = data["sparsity"], data["report"]
    kept = ", ".join(map(str, data["generations"]))
    shown = "0, the network as trained" if data["shown"] == DENSE else str(data["shown"])
    rows = [
        ("profile", f"{data['name']}{', active' if data['active'] else ''}"),
        ("generation", f"{shown} (in force: {data['generation']}; kept: {kept})"),
        ("parent", str(data["parent"] or "0, the network as trained")),
        ("made (UTC)", data["created"] or "-"),
        ("strength", data["strength"]),
        ("units masked", f"{percent(removed['hidden_units'])} of the hidden units"),
        ("weights", f"{percent(removed['weights'])} masked away"),
        ("multiply-adds", f"{percent(removed['macs'])} masked away"),
    ]
    guard = report.get("guard")
    if isinstance(guard, dict) and "agreement" in guard:
        rows.append(("samples", f"{report.get('samples_seen', '-')} seen"))
        rows.append(("agreement", percent(guard["agreement"])))
    return [*rows, ("file", data["path"] or "-")]
