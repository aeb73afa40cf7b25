"""``edgeprune verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._cli_common import (
    CliError,
    FloatRange,
    Output,
    constants_of,
    constants_option,
    model_argument,
    output_options,
    threads_option,
)
from ._cli_format import pairs
from ._verify import VerifyReport
from ._verify import verify as check

__all__ = ["verify"]


@click.command()
@model_argument
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    metavar="SOURCE.onnx",
    help="What it was exported from: the network with neutral tensors must equal it.",
)
@constants_option("SOURCE.onnx")
@click.option(
    "--factory",
    metavar="PKG.MOD:FACTORY",
    help="The same, for a model that came from PyTorch. Needs the extra export.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for --factory.")
@click.option(
    "--samples", type=click.Path(path_type=Path), metavar="FOLDER", help="Real input as well."
)
@click.option(
    "--masks",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many choices of masks to compact: none, 95 % of all, the others at random.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--tolerance",
    type=FloatRange(min=0.0),
    default=1e-4,
    show_default=True,
    help="Largest error that passes, relative to the largest output.",
)
@threads_option
@output_options
def verify(
    *,
    model: Path,
    source: Path | None,
    constants: tuple[str, ...],
    factory: str | None,
    weights: Path | None,
    samples: Path | None,
    masks: int,
    seed: int,
    tolerance: float,
    threads: int | None,
    output: Output,
) -> None:
    """Check a model: against its source, masked against compacted, and that every mask is alive.

    The exit code is 1 if any check fails; the report says which.
    """
    if source is not None and factory is not None:
        raise click.UsageError("--source and --factory exclude each other.")
    if weights is not None and factory is None:
        raise click.UsageError("--weights belongs to --factory.")
    if constants and source is None:
        raise click.UsageError("--set belongs to --source.")
    rejected: list[tuple[Path, str]] = []
    with output.progress() as on_progress:
        report = check(
            model,
            source=source if factory is None else _module(factory, weights),
            constants=constants_of(constants),
            samples=samples,
            masks=masks,
            seed=seed,
            tolerance=tolerance,
            threads=threads or 1,
            on_progress=on_progress,
            on_unusable=lambda path, reason: rejected.append((path, reason)),
        )
    output.unusable(rejected)
    output.result(report.to_dict(), pairs(_rows(report)))
    if not report.ok:
        raise CliError(f"{model} failed {len(report.failures)} checks; nothing was changed.")


def _module(factory: str, weights: Path | None) -> Any:
    from .exporters import load_factory

    return load_factory(factory, weights)


def _rows(report: VerifyReport) -> list[tuple[str, str]]:
    alive = report.groups - len(report.dead)
    return [
        ("model", f"{report.path} ({report.model_id[:16]})"),
        ("neutral", _neutral(report)),
        ("masked", _masked(report)),
        ("masks", f"{alive} of {report.groups} change the output"),
        ("time", f"{report.seconds:.1f} s"),
        *(("FAILED", failure) for failure in report.failures),
        *([("verified", "all of it")] if report.ok else []),
    ]


def _neutral(report: VerifyReport) -> str:
    if report.source is None or report.neutral_error is None:
        return "not compared: give --source or --factory"
    return _errors(report, report.neutral_error, report.neutral_error_samples, "the source")


def _masked(report: VerifyReport) -> str:
    if report.masked_error is None:
        return "not compared: --masks 0"
    told = _errors(report, report.masked_error, report.masked_error_samples, "compacted")
    return f"{told}, worst of {len(report.draws)} choices of masks"


def _errors(report: VerifyReport, random: float, real: float | None, what: str) -> str:
    told = f"within {random:.1e} of {what} on random input"
    return told if real is None else f"{told}, {real:.1e} on {report.samples} real samples"
