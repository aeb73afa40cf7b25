"""``edgeprune export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._cli_common import Output, command_line, output_options
from ._cli_format import count, pairs, share_of, size
from ._presets import PRESETS, find_preprocess
from .runtime.errors import ExportError

if TYPE_CHECKING:
    from .exporters import ExportReport

__all__ = ["export", "read_labels"]


@click.command()
@click.argument("factory", metavar="PKG.MOD:FACTORY")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="State dict that torch.save wrote."
)
@click.option("--input", "shape", required=True, metavar="SHAPE", help="As in 1x3x224x224.")
@click.option(
    "-o", "--output", "target", required=True, type=click.Path(path_type=Path), metavar="NAME.onnx"
)
@click.option(
    "--preprocess",
    metavar="WHICH",
    help=f"What is done to files: a JSON file, JSON text, or one of {', '.join(PRESETS)}.",
)
@click.option("--labels", metavar="WHICH", help='A file with one label a line, or "a,b,c".')
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Real input: verifies the export, and gives reference statistics without BatchNorm.",
)
@click.option(
    "--max-samples",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Most files to take from that folder.",
)
@click.option("--opset", type=int, default=20, show_default=True, help="ONNX operator set.")
@click.option("--legacy-exporter", is_flag=True, help="PyTorch's older exporter (TorchScript).")
@output_options
def export(
    *,
    factory: str,
    weights: Path | None,
    shape: str,
    target: Path,
    preprocess: str | None,
    labels: str | None,
    samples: Path | None,
    max_samples: int,
    opset: int,
    legacy_exporter: bool,
    output: Output,
) -> None:
    """Turn a trained PyTorch network into a model that can be personalised.

    FACTORY is called without arguments and returns the network. Needs the extra "export"
    (PyTorch). The outcome is compared with PyTorch before it is written; where they differ, or
    anything fails, nothing is left behind.

    \b
    edgeprune export mypkg.nets:small --weights small.pt --input 1x3x224x224 \\
        --preprocess imagenet --labels labels.txt -o small.onnx
    """
    # Cheap checks first: loading a network takes a while.
    specification = None if preprocess is None else find_preprocess(preprocess)
    names = None if labels is None else read_labels(labels)
    module, example = _network(factory, weights, shape)
    from ._export import export as write

    rejected: list[tuple[Path, str]] = []
    report = write(
        module,
        example,
        target,
        preprocess=specification,
        labels=names,
        samples=samples,
        max_samples=max_samples,
        opset=opset,
        dynamo=not legacy_exporter,
        progress=lambda line: output.note(f"edgeprune: {line}"),
        on_unusable=lambda path, reason: rejected.append((path, reason)),
    )
    output.unusable(rejected)
    output.result(_to_json(report), _to_text(report))
    output.note(f"\nNext: {_next(report)}")


def read_labels(text: str) -> list[str]:
    """Read a file with one label a line, or labels between commas.

    Raises:
        ExportError: it is neither.
    """
    path = Path(text)
    if not path.is_file():
        if "," not in text:
            raise ExportError(
                f"{text!r} is no file of labels, and no list such as a,b,c. Nothing was written."
            )
        return [label.strip() for label in text.split(",")]
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"cannot read {path}: {error}. Nothing was written.") from error
    return [line.strip() for line in lines if line.strip()]


def _network(factory: str, weights: Path | None, shape: str) -> tuple[Any, Any]:
    from .exporters import load_factory, parse_input_shape

    sizes = parse_input_shape(shape)
    module = load_factory(factory, weights)
    import torch

    return module, torch.zeros(sizes)


def _to_json(report: ExportReport) -> dict[str, Any]:
    from .exporters import prunable_parameters

    return {
        "path": str(report.path),
        "model_id": report.info.model_id,
        "worst_error_random": report.worst_error_random,
        "worst_error_samples": report.worst_error_samples,
        "samples_checked": report.samples_checked,
        "parameters": report.info.parameters,
        "parameters_prunable": prunable_parameters(report.info),
        "macs": report.info.macs,
        "groups": len(report.info.groups),
        "frozen": [{"group": name, "reason": reason} for name, reason in report.frozen],
        "references": sorted({op.reference.source for op in report.info.operators if op.reference}),
        "seconds": report.seconds,
    }


def _to_text(report: ExportReport) -> str:
    from .exporters import prunable_parameters

    info, stem = report.info, report.path.with_suffix("")
    files = ", ".join(
        f"{suffix} {size(stem.with_suffix(suffix).stat().st_size)}"
        for suffix in (".onnx", ".weights", ".masks")
    )
    checked = f"within {report.worst_error_random:.1e} of PyTorch on random input"
    if report.worst_error_samples is not None:
        checked += f", {report.worst_error_samples:.1e} on {report.samples_checked} real samples"
    referenced = sum(op.reference is not None for op in info.operators)
    rows = [
        ("written", f"{report.path} ({files})"),
        ("verified", checked),
        (
            "parameters",
            f"{share_of(prunable_parameters(info), info.parameters)} in prunable groups",
        ),
        ("multiply-adds", f"{count(info.macs)} for one sample"),
        ("groups", f"{len(info.prunable)} prunable, {len(report.frozen)} frozen"),
        ("references", f"{referenced} of {len(info.operators)} operators have statistics"),
        *(("  frozen", f"{name}: {reason}") for name, reason in report.frozen),
    ]
    return pairs(rows)


def _next(report: ExportReport) -> str:
    if report.info.preprocess is None:
        return (
            "the model has no preprocessing, so it reads arrays from Python only; export again "
            "with --preprocess for files"
        )
    return command_line("personalize", report.path, "FOLDER")
