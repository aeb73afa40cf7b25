"""``edgeprune export``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ._cli_common import (
    Output,
    assignment,
    command_line,
    constants_of,
    constants_option,
    output_options,
)
from ._cli_format import count, pairs, share_of, size
from ._presets import PRESETS, find_preprocess
from .runtime.errors import ExportError

if TYPE_CHECKING:
    from .exporters import ExportReport

__all__ = ["export", "read_labels"]

_MOST_DIGITS = 9


@click.command()
@click.argument("source", metavar="PKG.MOD:FACTORY|MODEL.onnx")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="State dict that torch.save wrote."
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SHAPE",
    help="Of a factory's network, as in 1x3x224x224 or 1x16:int64; once for each input, in order.",
)
@constants_option("MODEL.onnx")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="NAME=N",
    help="A size that MODEL.onnx leaves free, as in time=100, INPUT:AXIS=100 or frames=batch.",
)
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
@click.option("--opset", type=int, help="ONNX operator set of a factory's network.  [default: 20]")
@click.option("--legacy-exporter", is_flag=True, help="PyTorch's older exporter (TorchScript).")
@output_options
def export(
    *,
    source: str,
    target: Path,
    preprocess: str | None,
    labels: str | None,
    samples: Path | None,
    max_samples: int,
    output: Output,
    **how: Any,
) -> None:
    """Turn a trained network into a model that can be personalised.

    FACTORY is called without arguments and returns a PyTorch network, which needs the extra
    "export"; MODEL.onnx is a float32 model from anywhere. The outcome is compared with its source
    before it is written; where they differ, or anything fails, nothing is left behind.

    \b
    edgeprune export mypkg.nets:small --weights small.pt --input 1x3x224x224 \\
        --preprocess imagenet --labels labels.txt -o small.onnx
    edgeprune export silero_vad.onnx --set sr=16000 --size input:1=576 -o vad.onnx
    """
    is_file = source.lower().endswith(".onnx")
    _check_options(how, is_file=is_file)
    rejected: list[tuple[Path, str]] = []
    # Cheap checks first: loading a network takes a while.
    common: dict[str, Any] = {
        "preprocess": None if preprocess is None else find_preprocess(preprocess),
        "labels": None if labels is None else read_labels(labels),
        "samples": samples,
        "max_samples": max_samples,
        "progress": lambda line: output.note(f"edgeprune: {line}"),
        "on_unusable": lambda path, reason: rejected.append((path, reason)),
    }
    write = _export_file if is_file else _export_factory
    report = write(source, target, how, common)
    output.unusable(rejected)
    output.result(_to_json(report), _to_text(report))
    output.note(f"\nNext: {_next(report)}")


_OF_FILES = {"constants": "--set", "sizes": "--size"}
_OF_FACTORIES = {
    "weights": "--weights",
    "inputs": "--input",
    "opset": "--opset",
    "legacy_exporter": "--legacy-exporter",
}


def _check_options(how: Mapping[str, Any], *, is_file: bool) -> None:
    for name, option in (_OF_FACTORIES if is_file else _OF_FILES).items():
        if how[name]:
            what = "a PyTorch network" if is_file else "a model in an .onnx file"
            raise click.UsageError(f"{option} is for {what}.")
    if not is_file and not how["inputs"]:
        raise click.UsageError("Missing option '--input': the shape that the network takes.")


def _export_factory(
    source: str, target: Path, how: Mapping[str, Any], common: Mapping[str, Any]
) -> ExportReport:
    from ._export import export as write
    from .exporters import load_factory, parse_example

    module = load_factory(source, how["weights"])
    examples = tuple(parse_example(text) for text in how["inputs"])
    dynamo = not how["legacy_exporter"]
    return write(module, examples, target, opset=how["opset"] or 20, dynamo=dynamo, **common)


def _export_file(
    source: str, target: Path, how: Mapping[str, Any], common: Mapping[str, Any]
) -> ExportReport:
    from ._export import export_onnx as write

    constants = constants_of(how["constants"])
    sizes = {name: _size(name, text) for name, text in map(assignment, how["sizes"])}
    return write(Path(source), target, constants=constants, sizes=sizes, **common)


def _size(name: str, text: str) -> int | Literal["batch"]:
    if text == "batch":
        return "batch"
    if not text.isascii() or not text.isdecimal() or len(text) > _MOST_DIGITS:
        raise click.UsageError(f"--size {name}={text}: write a number, or batch.")
    return int(text)


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


def _to_json(report: ExportReport) -> dict[str, Any]:
    return {
        "path": str(report.path),
        "model_id": report.info.model_id,
        "worst_error_random": report.worst_error_random,
        "worst_error_samples": report.worst_error_samples,
        "samples_checked": report.samples_checked,
        "parameters": report.info.parameters,
        "parameters_prunable": report.info.prunable_parameters,
        "macs": report.info.macs,
        "groups": len(report.info.groups),
        "frozen": [{"group": name, "reason": reason} for name, reason in report.frozen],
        "references": sorted({op.reference.source for op in report.info.operators if op.reference}),
        "seconds": report.seconds,
    }


def _to_text(report: ExportReport) -> str:
    info, stem = report.info, report.path.with_suffix("")
    files = ", ".join(
        f"{suffix} {size(stem.with_suffix(suffix).stat().st_size)}"
        for suffix in (".onnx", ".weights", ".masks")
    )
    checked = f"within {report.worst_error_random:.1e} of its source on random input"
    if report.worst_error_samples is not None:
        checked += f", {report.worst_error_samples:.1e} on {report.samples_checked} real samples"
    referenced = sum(op.reference is not None for op in info.operators)
    rows = [
        ("written", f"{report.path} ({files})"),
        ("verified", checked),
        (
            "parameters",
            f"{share_of(info.prunable_parameters, info.parameters)} can be pruned",
        ),
        ("multiply-adds", f"{count(info.macs)} for one sample"),
        ("groups", f"{len(info.prunable)} prunable, {len(report.frozen)} frozen"),
        ("references", f"{referenced} of {len(info.operators)} operators have statistics"),
        *(("  frozen", f"{name}: {reason}") for name, reason in report.frozen),
    ]
    return pairs(rows)


def _no_classifier(report: ExportReport) -> str:
    if not report.info.single:
        return "the model has several inputs or outputs, or takes no floats"
    return "the model does not answer with a score for each of several classes"


def _next(report: ExportReport) -> str:
    if not report.info.classifier:
        return f"{_no_classifier(report)}: it runs and can be compacted, and cannot be personalised"
    if report.info.preprocess is None:
        return (
            "the model has no preprocessing, so it reads arrays from Python only; export again "
            "with --preprocess for files"
        )
    return command_line("personalize", report.path, "FOLDER")
