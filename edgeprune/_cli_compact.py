"""``edgeprune compact``."""

from __future__ import annotations

from pathlib import Path

import click

from ._board import channel_multiple as board_multiple
from ._cli_common import (
    MULTIPLE,
    Output,
    command_line,
    model_argument,
    open_model,
    output_options,
    profile_options,
    store_option,
    threads_option,
)
from ._cli_format import count, pairs, percent, size
from ._compaction import CompactionReport
from ._int8 import Int8Report
from ._masks_file import read_masks
from .runtime.compact import CompactReport, Rounding

__all__ = ["compact"]


@click.command()
@model_argument
@profile_options
@click.option(
    "-o", "--output", "target", required=True, type=click.Path(path_type=Path), metavar="NAME.onnx"
)
@click.option(
    "--masks",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="No profile: units of your own choice, a vector of ones and zeros for each group.",
)
@click.option(
    "--channel-multiple",
    type=MULTIPLE,
    default="auto",
    show_default=True,
    help="Round kept units to multiples of this: other counts may be several times slower. auto: "
    "what `edgeprune devices calibrate` found, else 16.",
)
@click.option(
    "--round",
    "rounding",
    type=click.Choice(["up", "down"]),
    default="up",
    show_default=True,
    help="up: masked units fill the multiples, same outputs; down: more units go.",
)
@click.option(
    "--update-profile",
    is_flag=True,
    help="After rounding down, save the masks in force as a new generation of the profile.",
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Real input to compare the networks on; rounding down is refused where it harms.",
)
@click.option(
    "--int8",
    is_flag=True,
    help="Compute in int8 where that is faster here and harmless, judged on --samples.",
)
@click.option("--no-timing", is_flag=True, help="Do not measure whether it is faster.")
@store_option
@threads_option
@output_options
def compact(
    *,
    model: Path,
    profile: str | None,
    dense: bool,
    target: Path,
    masks: Path | None,
    channel_multiple: int | None,
    rounding: Rounding,
    update_profile: bool,
    samples: Path | None,
    int8: bool,
    no_timing: bool,
    store: Path | None,
    threads: int | None,
    output: Output,
) -> None:
    """Write the personalised network as one plain ONNX file, without the units that it masks.

    It computes what MODEL computes with the profile (the active one, or --profile), which is
    checked before anything is written. Then both are timed in turns, and a speed-up is claimed
    only beyond the noise: where there is none, keep MODEL, whose masks cost nothing and can be
    undone. --dense writes the network as trained.

    A network that cannot be personalised, or whose units you score yourself, takes --masks: a file
    that numpy.savez wrote, with an array for each group by the name that inspect gives it.
    """
    if masks is not None and (profile is not None or dense or update_profile):
        raise click.UsageError("--masks excludes --profile, --dense and --update-profile.")
    if int8 and samples is None:
        raise click.UsageError(
            "--int8 needs --samples FOLDER: what the user sees or says, to calibrate on."
        )
    if update_profile and rounding != "down":
        raise click.UsageError("--update-profile belongs to --round down; else nothing changes.")
    dense = dense or masks is not None
    opened = open_model(model, store, threads, profile=profile, dense=dense)
    if opened.profile is None and not dense:
        raise click.UsageError(
            "No profile is active: name one with --profile, make one with `edgeprune personalize`, "
            "choose units yourself with --masks, or write the network as trained with --dense."
        )
    rejected: list[tuple[Path, str]] = []
    with output.progress() as on_progress:
        report = opened.compact(
            target,
            masks=None if masks is None else read_masks(masks),
            channel_multiple=channel_multiple or board_multiple(),
            rounding=rounding,
            samples=samples,
            timing=not no_timing,
            update_profile=update_profile,
            int8=int8,
            on_progress=on_progress,
            on_unusable=lambda path, reason: rejected.append((path, reason)),
        )
    output.unusable(rejected)
    output.result(report.to_dict(), pairs(_rows(report)))
    if report.advice is not None:
        output.note(f"\n{report.advice}")
    if opened.info.classifier and opened.info.preprocess is not None:
        output.note("\nNext: " + command_line("evaluate", target, "FOLDER", "--against", model))
    else:
        output.note(f"\nNext: run {target} with any program of ONNX Runtime; it is one plain file")


def _rows(report: CompactionReport) -> list[tuple[str, str]]:
    made = report.compact
    before = sum(group.units for group in made.groups)
    kept, left = sum(g.kept for g in made.groups), sum(g.left for g in made.groups)
    padded = f", {count(made.padded_units)} of them to fill multiples" if made.padded_units else ""
    rows = [
        (
            "written",
            f"{made.path} ({size(report.bytes)}; the model: {size(made.bytes_before)})",
        ),
        ("profile", _profile(report)),
        ("units", f"{count(kept)} of {count(before)} kept, {count(left)} are there{padded}"),
        *(
            ("  vanished", f"{name}: the output does not depend on it")
            for name in made.vanished_groups
        ),
        ("parameters", _gone(made.parameters_before, made.parameters_after)),
        ("multiply-adds", _gone(made.macs_before, made.macs_after)),
        ("worst error", _errors(made)),
    ]
    if report.rounding is not None:
        fewer = "1 unit" if report.changed_units == 1 else f"{count(report.changed_units)} units"
        rows.append(("rounded down", f"{fewer} fewer: {report.rounding.sentence}"))
    if report.int8 is not None:
        rows += _int8(report.int8)
    if report.timing is not None and report.speed is not None:
        sentence = report.timing["compacted"].ratio.sentence(report.speed)
        rows.append(("latency", f"{sentence}, {report.threads} threads, one sample"))
        rows += [("  remark", remark) for remark in report.timing.remarks]
    return rows


def _int8(int8: Int8Report) -> list[tuple[str, str]]:
    rows = [("int8", "written" if int8.used else f"not used, float was written: {int8.reason}")]
    if int8.verdict is not None:
        rows.append(("  judged", f"against float: {int8.verdict.sentence}"))
    if int8.timing is not None and int8.speed is not None:
        rows.append(("  latency", int8.timing["int8"].ratio.sentence(int8.speed)))
    return rows


def _profile(report: CompactionReport) -> str:
    if report.profile is None:
        if report.masks_given:
            return f"none: the network as trained, masks for {report.masks_given} groups"
        return "none: the network as trained"
    told = f"{report.profile}, generation {report.generation}"
    if report.updated_generation is not None:
        return f"{told}; what is written computes generation {report.updated_generation}, saved now"
    if report.changed_units:
        return (
            f"{told}, and {count(report.changed_units)} units fewer, which no profile says "
            "(--update-profile saves it)"
        )
    return told


def _gone(before: int, after: int) -> str:
    share = percent(1 - after / before if before else 0.0)
    return f"{share} gone: {count(before)} before, {count(after)} after"


def _errors(made: CompactReport) -> str:
    told = f"{made.worst_error_random:.1e} against the masked network on random input"
    if made.worst_error_samples is not None:
        told += f", {made.worst_error_samples:.1e} on {made.samples_checked} real samples"
    return told
