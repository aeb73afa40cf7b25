"""``edgeprune demo``."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from ._cli_common import Output, command_line, output_options, store_option
from ._cli_evaluate import evaluation_rows
from ._cli_format import pairs, percent
from ._cli_personalize import report_rows
from ._demo import DemoReport, demo_model, run_demo

__all__ = ["demo"]


@click.command()
@store_option
@output_options
def demo(*, store: Path | None, output: Output) -> None:
    """Personalise the bundled speech model, with everything it needs built in.

    A network of spoken English digits meets a voice that it never heard, and is fitted to it from
    recordings without labels; other recordings of that voice score it before and after. The voice
    is synthetic, in a computed room. Without --store the profile is thrown away at the end.
    """
    model = demo_model()
    with _store(store) as home, output.progress() as on_progress:
        report = run_demo(model, model.parent / "demo", home, on_progress)
    output.result(report.to_dict(), _text(report, kept=store is not None))


@contextlib.contextmanager
def _store(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="edgeprune-demo-") as folder:
        yield Path(folder)


def _text(report: DemoReport, *, kept: bool) -> str:
    made, scored = report.personalization, report.evaluation
    assert scored.personalized is not None
    assert scored.difference is not None
    rows = [row for row in report_rows(made) if kept or row[0] not in ("file", "profile")]
    if not kept:
        rows.append(("profile", f"{made.size_bytes / 1000:.1f} kB, thrown away after the demo"))
    exact = "bit for bit" if report.rollback_exact and report.redo_exact else "NOT EXACT: a bug"
    return "\n".join(
        [
            "The bundled network learnt the ten English digits from six people.",
            f"It listened to {made.samples_seen} recordings of a new voice, without labels.",
            "",
            pairs(rows),
            "",
            f"Scored on {scored.samples} other recordings of that voice (labels for scoring only):",
            "",
            pairs(
                [
                    *(r for r in evaluation_rows(scored) if r[0] not in ("samples", "profile")),
                    ("masks cost", _cost(report)),
                    ("rollback", f"undone and redone {exact}"),
                ]
            ),
            "",
            f"Right answers: {percent(scored.dense.top1, 0)} as trained, "
            f"{percent(scored.personalized.top1, 0)} personalised, in {report.seconds:.1f} s.",
            "The voice is synthetic, in a computed room, and says each digit equally often: this",
            "shows how the parts work together, not what people gain.",
            "",
            "Now with your own recordings of digits (a folder of WAV files, one word each):",
            f"  {command_line('personalize', report.model, 'FOLDER')}",
        ]
    )


def _cost(report: DemoReport) -> str:
    """What a gain owes to adapting, and what the pruning takes from it again."""
    assert report.evaluation.personalized is not None
    cost = report.unpruned.top1 - report.evaluation.personalized.top1
    return (
        f"{cost:.3f} of top-1: adapted alike with all units kept it is {report.unpruned.top1:.3f}"
    )
