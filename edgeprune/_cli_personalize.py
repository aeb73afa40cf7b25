"""``edgeprune personalize``."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from ._board import channel_multiple as board_multiple
from ._cli_common import (
    MULTIPLE,
    Output,
    command_line,
    model_argument,
    open_model,
    output_options,
    store_option,
)
from ._cli_format import count, pairs, percent, size
from ._results import ProfileReport
from .runtime.errors import InputError
from .runtime.settings import Settings

__all__ = ["personalize", "report_rows", "settings_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_MULTIPLE = "channel-multiple"

# In the order of --help; one entry for every field of Settings.
_HELP = {
    "sparsity": "Share of the units in scope to mask; as far as the guard allows, if not given.",
    "strength": "light: masks, gains and shifts, kilobytes; deep: also re-fitted weights.",
    "granularity": "unit: whole units, which `compact` removes; weight: single weights, a control.",
    "allocation": "damage: more is pruned where repair can make good for it; uniform: the same.",
    "faster": "Prune on until the compacted network is estimated to be so many times faster.",
    "scope": "hidden: units inside blocks; all: the residual streams too.",
    "criterion": "How units are scored.",
    "normalization": "Re-estimate normalisation: where a label-free comparison says so, or not.",
    "prior": "Re-estimate which classes this user meets: from the stream as a graph, by EM, not.",
    "min_change": "Change nothing if the estimated change of accuracy is less.",
    "min_agreement": "Judge by this least agreement with the unpruned network instead; 0: never.",
    "max_samples": "Most samples to learn from; of more an even choice is taken.",
    "memory_mb": "Most memory for activations kept between layers, in MB.",
    "threads": "Threads of one operator; what this process may use, at most 4, if not given.",
    "channel_multiple": "Round kept units to a multiple of this. auto: what `edgeprune devices "
    "calibrate` found, else 16.",
    "holdout": "Share of the samples that only the guard sees; with light at most 32.",
    "ridge": "Pull of the repair towards no change.",
    "seed": "For the criterion random.",
    "calibrate": "Take off the logits what the stream puts on all of them, where that is safe.",
    "order": "auto: what follows each other belongs together, where the stream shows that it does.",
    "light_repair": "With light: layer after layer, or from the statistics pass alone, in a third "
    "of the time and less well.",
    "repair": "Masks alone without repair, as a control for comparisons.",
}


def settings_options(command: _Command) -> _Command:
    """Add an option for every field of `Settings`, with its type and its default."""
    hints = get_type_hints(Settings)
    for field in sorted(fields(Settings), key=_place, reverse=True):
        default = None if field.default is MISSING else field.default
        name = field.name.replace("_", "-")
        command = click.option(
            f"--{name}/--no-{name}" if hints[field.name] is bool else f"--{name}",
            type=MULTIPLE if name == _MULTIPLE else _option_type(hints[field.name]),
            default="auto" if name == _MULTIPLE else default,
            show_default=default is not None,
            help=_HELP.get(field.name),
        )(command)
    return command


def _place(field: Field[Any]) -> int:
    order = list(_HELP)
    return order.index(field.name) if field.name in order else len(order)


def _option_type(hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    if get_origin(hint) is types.UnionType:
        return get_args(hint)[0]
    return hint


@click.command()
@model_argument
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--profile", default="default", show_default=True, help="Name to save under.")
@click.option("--no-activate", is_flag=True, help="Save it, but do not use it yet.")
@settings_options
@store_option
@output_options
def personalize(
    *,
    model: Path,
    folder: Path,
    profile: str,
    no_activate: bool,
    store: Path | None,
    output: Output,
    **options: Any,
) -> None:
    """Fit a model to FOLDER, sound or pictures without labels.

    The outcome is saved as a new generation of the profile and used from then on; older
    generations stay for `edgeprune profiles rollback`. Nothing of the samples is kept. If the
    outcome disagrees too much with the unpruned network on samples that took no part, nothing is
    changed and the exit code is 3.
    """
    if options["channel_multiple"] is None:
        options["channel_multiple"] = board_multiple(Settings().channel_multiple)
    try:
        settings = Settings(**options)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    opened = open_model(model, store, settings.threads)
    output.detail(f"edgeprune: profiles are kept in {opened.store.root}")
    with output.progress() as on_progress:
        report = opened.personalize(
            folder,
            profile=profile,
            settings=settings,
            activate=not no_activate,
            on_progress=on_progress,
        )
    output.unusable(report.rejected)
    output.result(report.to_dict(), pairs(report_rows(report)))
    where = [] if store is None else ["--store", str(store)]
    output.note("\nNext: " + command_line("predict", model, "FILE", *_named(profile), *where))
    output.note("Undo: " + command_line("profiles", "rollback", model, profile, *where))


def _named(profile: str) -> list[str]:
    return [] if profile == "default" else ["--profile", profile]


def _speed(report: ProfileReport) -> list[tuple[str, str]]:
    if report.speed is None:
        return []
    told = f"about {report.speed:.1f} times the dense network's, once compacted: `compact` measures"
    return [("estimated speed", told)]


def report_rows(report: ProfileReport) -> list[tuple[str, str]]:
    """The report, line by line."""
    removed, guard = report.sparsity, report.guard
    tried = ", ".join(f"{one.sparsity:g} ({one.score:+.1%})" for one in report.tried)
    rows = [
        ("profile", f"{report.profile}, generation {report.generation}, {report.strength}"),
        (
            "samples",
            f"{count(report.samples_seen)} seen, {report.samples_adapted} learnt from, "
            f"{report.samples_held_out} held out, {len(report.rejected)} unusable",
        ),
        (
            "units masked",
            f"{percent(removed.hidden_units)} of the hidden units, {percent(removed.units)} of all "
            f"({count(removed.units_masked)} of {count(removed.units_total)})",
        ),
        ("weights", f"{percent(removed.weights)} masked away ({count(removed.weights_removed)})"),
        ("multiply-adds", f"{percent(removed.macs)} masked away ({count(removed.macs_removed)})"),
        *_speed(report),
        ("estimated change", f"{guard.score:+.1%} of the samples right, without labels"),
        ("sparsities tried", f"{tried}; the last was taken"),
        (
            "agreement",
            f"{percent(guard.agreement)} with the unpruned network on {guard.samples} samples "
            "held out",
        ),
        (
            "confidence",
            f"{guard.confidence_dense:.3f} unpruned, {guard.confidence_personalized:.3f} pruned",
        ),
        ("entropy", f"{guard.entropy_dense:.3f} unpruned, {guard.entropy_personalized:.3f} pruned"),
        ("normalisation", "moved to this user" if report.normalization else "as trained"),
    ]
    if report.effective_classes is not None:
        rows.append(("classes met", f"about {report.effective_classes:.1f}"))
    return [
        *rows,
        ("time", f"{report.seconds:.1f} s"),
        ("file", f"{report.path} ({size(report.size_bytes)})"),
    ]
