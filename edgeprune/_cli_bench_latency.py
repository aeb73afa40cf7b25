"""``edgeprune bench latency``."""

from __future__ import annotations

from pathlib import Path

import click

from ._cli_bench_common import check_formats, finish, numbers, run_options
from ._cli_common import (
    FloatRange,
    Output,
    model_argument,
    open_model,
    output_options,
    store_option,
)
from ._timing import Limits
from .runtime._plan import Scope
from .runtime.artifact import Artifact

__all__ = ["latency"]


@click.command()
@model_argument
@click.option("--profile", metavar="NAME", help="Time this profile's masks, not random ones.")
@numbers(
    "--sparsity",
    float,
    0.0,
    0.99,
    default="0.5,0.7",
    show_default=True,
    help="Shares of the units in scope to mask at random.",
)
@click.option(
    "--scope",
    type=click.Choice(["hidden", "all"]),
    default="hidden",
    show_default=True,
    help="What random masks may take: units inside blocks, or the residual streams too.",
)
@numbers("--threads", int, 1, 1024, default="1", show_default=True)
@numbers("--batch", int, 1, 4096, default="1", show_default=True)
@click.option(
    "--channel-multiple",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Round compacted networks up to this; they are timed unrounded, too.",
)
@click.option(
    "--plain",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="MODEL.onnx",
    help="The dense network as its framework exports it. Default: MODEL without its masks.",
)
@click.option("--no-statistics", is_flag=True, help="Leave out the statistics pass.")
@click.option("--no-int8", is_flag=True, help="Leave out the compacted networks in int8.")
@click.option(
    "--seconds",
    type=FloatRange(min=0.1),
    default=20.0,
    show_default=True,
    help="For each number of threads and batch; the statistics pass takes more.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@run_options
@store_option
@output_options
def latency(
    *,
    model: Path,
    profile: str | None,
    sparsity: tuple[float, ...],
    scope: Scope,
    threads: tuple[int, ...],
    batch: tuple[int, ...],
    channel_multiple: int,
    plain: Path | None,
    no_statistics: bool,
    no_int8: bool,
    seconds: float,
    seed: int,
    plot: Path | None,
    as_markdown: bool,
    store: Path | None,
    output: Output,
) -> None:
    """Time MODEL dense, masked, watched (the statistics pass), compacted and in int8, in turns.

    The reference is the dense network. A ratio whose interval touches what the dense network
    differs from itself is no difference.
    """
    from .bench.latency import latency as measure

    check_formats(output, plot, as_markdown)
    opened = open_model(model, store, dense=True)
    artifact = Artifact.open(model)
    chosen = None if profile is None else (profile, opened.store.load(profile, artifact))
    with output.progress() as on_progress:
        run = measure(
            artifact,
            profile=chosen,
            plain=plain,
            threads=threads,
            batches=batch,
            shares=sparsity,
            channel_multiple=channel_multiple,
            scope=scope,
            statistics=not no_statistics,
            int8=not no_int8,
            limits=Limits(budget_s=seconds),
            seed=seed,
            on_progress=on_progress,
        )
    finish(run, output, plot, as_markdown)
