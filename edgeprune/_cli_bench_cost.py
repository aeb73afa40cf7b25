"""``edgeprune bench cost``."""

from __future__ import annotations

from pathlib import Path

import click

from ._cli_bench_common import check_formats, finish, numbers, run_options
from ._cli_common import Output, model_argument, output_options, threads_option
from .runtime.artifact import Artifact

__all__ = ["cost"]


@click.command()
@model_argument
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--strength",
    "strengths",
    type=click.Choice(["light", "deep"]),
    multiple=True,
    default=("light", "deep"),
    show_default=True,
    help="May be repeated.",
)
@click.option("--samples", type=click.IntRange(min=10), default=300, show_default=True)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="How often each is run; below six nothing can be claimed.",
)
@click.option(
    "--memory-rounds",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Processes of each kind whose memory is compared.",
)
@numbers(
    "--growth",
    int,
    10,
    10_000_000,
    help="Numbers of samples to watch the memory grow with, as in 100,1000,10000.",
)
@click.option(
    "--start-rounds",
    type=click.IntRange(min=0),
    default=12,
    show_default=True,
    help="Processes of each kind that are timed up to their first answer.",
)
@click.option(
    "--factory",
    metavar="PKG.MOD:F",
    help="PyTorch module behind MODEL: fine-tuning and Torch-Pruning are measured, too.",
)
@click.option("--weights", type=click.Path(path_type=Path, dir_okay=False), help="Its weights.")
@click.option(
    "--tune-rounds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes of each kind beside PyTorch's.",
)
@run_options
@threads_option
@output_options
def cost(
    *,
    model: Path,
    folder: Path,
    strengths: tuple[str, ...],
    samples: int,
    rounds: int,
    memory_rounds: int,
    growth: tuple[int, ...] | None,
    start_rounds: int,
    factory: str | None,
    weights: Path | None,
    tune_rounds: int,
    plot: Path | None,
    as_markdown: bool,
    threads: int | None,
    output: Output,
) -> None:
    """Personalise MODEL to samples of FOLDER, against plain inference over the same samples.

    Time in turns in one process; peak memory and the time to a first answer process to process.
    Nothing is saved.
    """
    from .bench.cost import cost as measure
    from .bench.cost import need_torch

    if weights is not None and factory is None:
        raise click.UsageError("--weights goes with --factory.")
    if factory is not None:
        need_torch()

    check_formats(output, plot, as_markdown)
    rejected: list[tuple[Path, str]] = []
    with output.progress() as on_progress:
        run = measure(
            Artifact.open(model),
            folder,
            strengths=strengths,
            samples=samples,
            rounds=rounds,
            memory_rounds=memory_rounds,
            growth=growth or (),
            start_rounds=start_rounds,
            factory=factory,
            weights=weights,
            tune_rounds=tune_rounds,
            threads=threads,
            on_progress=on_progress,
            on_unusable=lambda path, reason: rejected.append((path, reason)),
        )
    output.unusable(rejected)
    finish(run, output, plot, as_markdown)
