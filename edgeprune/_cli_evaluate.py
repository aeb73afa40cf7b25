"""``edgeprune evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._api import Model
from ._cli_common import (
    Output,
    against_option,
    model_argument,
    open_model,
    open_network,
    output_options,
    profile_options,
    store_option,
    threads_option,
)
from ._cli_format import pairs, percent, signed
from ._labels import LabelFrom
from ._network import Network
from ._results import Accuracy, Evaluation
from ._side_by_side import Comparison, Scored

__all__ = ["evaluate", "evaluation_rows"]

_TABLE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@model_argument
@click.argument("source", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--labels", type=_TABLE, metavar="CSV", help="Table of file,label.")
@click.option(
    "--label-from",
    type=click.Choice(["folder", "name-prefix"]),
    default="folder",
    show_default=True,
    help="Label of a file: its folder's name, or its own name up to the first '_'.",
)
@click.option(
    "--label-map",
    type=_TABLE,
    metavar="CSV",
    help="Table from the data's labels to the model's labels or class numbers.",
)
@click.option("--skip-unknown", is_flag=True, help="Leave out labels that the model does not know.")
@profile_options
@against_option
@store_option
@threads_option
@output_options
def evaluate(
    *,
    model: Path,
    source: Path,
    labels: Path | None,
    label_from: LabelFrom,
    label_map: Path | None,
    skip_unknown: bool,
    profile: str | None,
    dense: bool,
    against: Path | None,
    store: Path | None,
    threads: int | None,
    output: Output,
) -> None:
    """Score the network as trained and as personalised on labelled samples, side by side.

    FOLDER has a subfolder for each class, or is a table of file,label. A label is one of the
    model's, the first word of one, or the number of a class. Both networks see the same samples
    in one run; labels are used for scoring only. MODEL may be a compacted network, too; with
    --against another network is scored beside it.
    """
    opened = open_network(model, store, threads, profile=profile, dense=dense)
    options: dict[str, Any] = {
        "labels": labels,
        "label_from": label_from,
        "label_map": label_map,
        "skip_unknown": skip_unknown,
    }
    if against is not None or not isinstance(opened, Model):
        others = _others(opened, model, against, store, threads)
        with output.progress() as on_progress:
            comparison = opened.compare(source, *others, **options, on_progress=on_progress)
        output.unusable(comparison.rejected)
        output.result(comparison.to_dict(), _comparison_text(comparison))
        return
    with output.progress() as on_progress:
        evaluation = opened.evaluate(source, **options, on_progress=on_progress)
    output.unusable(evaluation.rejected)
    output.result(evaluation.to_dict(), pairs(evaluation_rows(evaluation)))
    if evaluation.profile is None and not dense:
        output.note("\nNo profile is active: only the network as trained was scored.")


def _others(
    opened: Network, model: Path, against: Path | None, store: Path | None, threads: int | None
) -> list[Network]:
    """What stands beside a network: a profile's own dense network, and what the user names."""
    others: list[Network] = []
    if isinstance(opened, Model) and opened.profile is not None:
        others.append(open_model(model, store, threads, dense=True))
    if against is not None:
        others.append(open_network(against, store, threads))
    return others


def _comparison_text(comparison: Comparison) -> str:
    rows = [("samples", f"{comparison.samples}{_left_out(comparison)}")]
    for scored in comparison.networks:
        rows.append((scored.name, _accuracy(scored.accuracy)))
        rows += [("", text) for text in _relation(scored, comparison.networks[0].name)]
    return pairs([*rows, *(("remark", remark) for remark in comparison.remarks)])


def _relation(scored: Scored, first: str) -> list[str]:
    if scored.difference is None or scored.difference_interval is None:
        return []
    low, high = map(signed, scored.difference_interval)
    found = [
        f"against {first}: {signed(scored.difference)} ({low} to {high}, paired, 95 %)",
        f"same answer on {percent(scored.agreement or 0.0)} of the samples",
    ]
    if scored.time_ratio is not None and scored.speed is not None:
        found.append(scored.time_ratio.sentence(scored.speed) + ", one sample at a time")
    return found


def _left_out(scored: Evaluation | Comparison) -> str:
    left_out = [
        (len(scored.rejected), "unusable"),
        (sum(number for _, number in scored.unknown), "of unknown label"),
        (scored.unlabelled, "without a label"),
    ]
    return "".join(f", {number} {what} left out" for number, what in left_out if number)


def evaluation_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The outcome, line by line."""
    rows = [
        ("samples", f"{evaluation.samples}{_left_out(evaluation)}"),
        ("as trained", _accuracy(evaluation.dense)),
    ]
    if evaluation.personalized is not None:
        rows.append(("personalised", _accuracy(evaluation.personalized)))
        rows.append(("profile", f"{evaluation.profile}, generation {evaluation.generation}"))
    if evaluation.difference is not None and evaluation.difference_interval is not None:
        low, high = map(signed, evaluation.difference_interval)
        rows.append(
            ("difference", f"{signed(evaluation.difference)} ({low} to {high}, paired, 95 %)")
        )
    if evaluation.agreement is not None:
        rows.append(("same answer", f"{percent(evaluation.agreement)} of the samples"))
    if evaluation.latency_ratio is not None:
        ratio = evaluation.latency_ratio
        rows.append(
            (
                "time ratio",
                f"{ratio.median:.3f} (quartiles {ratio.first:.3f} to {ratio.third:.3f}), "
                "personalised to as trained, one sample at a time",
            )
        )
    return rows


def _accuracy(accuracy: Accuracy) -> str:
    low, high = accuracy.top1_interval
    top5 = "" if accuracy.top5 is None else f", top-5 {accuracy.top5:.3f}"
    return f"top-1 {accuracy.top1:.3f} ({low:.3f} to {high:.3f}){top5}"
