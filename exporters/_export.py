"""The pipeline: source model → simplified graph → groups → masks → verified files."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.artifact import ModelInfo, Operator
from ..runtime.errors import ExportError
from ._graph import Graph, from_model
from ._groups import Plan, make_plan, node_macs
from ._layout import analyse
from ._masks import insert_masks
from ._names import name_nodes
from ._session import Runner
from ._shapes import infer_shapes
from ._simplify import simplify
from ._static import specialize
from ._statistics import add_references
from ._verify import Check, verify
from ._write import check_target, write_artifact

__all__ = ["ExportReport", "export", "export_onnx", "prunable_parameters"]

_Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how closely it computes what the source network computes."""

    path: Path
    info: ModelInfo
    worst_error_random: float
    worst_error_samples: float | None
    samples_checked: int
    seconds: float
    frozen: tuple[tuple[str, str], ...]
    """Groups that cannot be pruned, each with the reason."""


@dataclass(frozen=True)
class _Source:
    """A network to export: as ONNX, as a function to compare with, and what is told about it."""

    model: onnx.ModelProto
    function: Check
    sha256: str
    versions: Mapping[str, str]
    preprocess: Mapping[str, Any] | None
    labels: tuple[str, ...] | None
    samples: Sequence[NDArray[Any]]
    progress: _Progress = field(repr=False)


def export(
    module: Any,
    example_inputs: Any,
    path: str | Path,
    *,
    preprocess: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    samples: Iterable[NDArray[Any]] | None = None,
    opset: int = 20,
    dynamo: bool = True,
    progress: _Progress | None = None,
) -> ExportReport:
    """Export a PyTorch module as ``NAME.onnx``, ``NAME.weights`` and ``NAME.masks``.

    Args:
        module: a float32 network with one input and one output; it is left as it was.
        example_inputs: one input with its batch axis, such as ``torch.zeros(1, 3, 224, 224)``.
        path: ``NAME.onnx`` in a folder that exists.
        preprocess: how raw data become inputs, stored as it is.
        labels: names of the classes.
        samples: inputs without the batch axis, preprocessed: they verify the export on real data
            and give reference statistics to operators without BatchNorm.
        opset: ONNX operator set.
        dynamo: use torch's current exporter; its older one otherwise.
        progress: called with a line at each stage.

    Raises:
        ExportError: the network could not be exported or differs; nothing was written.
        MissingExtra: torch or onnxscript is not installed.
    """
    from ._torch_export import (
        check_module,
        example_tensor,
        parameters_sha256,
        to_onnx,
        torch_function,
    )

    start, path, say = time.monotonic(), Path(path), progress or _silent
    check_target(path)
    check_module(module)
    example = example_tensor(example_inputs)
    function = torch_function(module)
    function(example.numpy())
    say("exporting the network with PyTorch")
    source = _Source(
        model=to_onnx(module, example, opset=opset, dynamo=dynamo),
        function=function,
        sha256=parameters_sha256(module),
        versions=_versions("torch", *(["onnxscript"] if dynamo else [])),
        preprocess=preprocess,
        labels=None if labels is None else tuple(labels),
        samples=_checked_samples(samples, tuple(example.shape[1:])),
        progress=say,
    )
    return _finish(source, path, start)


def export_onnx(
    model: onnx.ModelProto | str | Path,
    path: str | Path,
    *,
    preprocess: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    samples: Iterable[NDArray[Any]] | None = None,
    progress: _Progress | None = None,
) -> ExportReport:
    """Make an artifact of a float32 ONNX model; the arguments are those of `export`.

    Raises:
        ExportError: the model could not be converted or differs; nothing was written.
    """
    start, path = time.monotonic(), Path(path)
    check_target(path)
    loaded = model if isinstance(model, onnx.ModelProto) else _load(Path(model))
    runner = Runner(loaded)
    source = _Source(
        model=loaded,
        function=lambda values: np.asarray(runner(values)[0]),
        sha256=_initializers_sha256(loaded),
        versions=_versions(),
        preprocess=preprocess,
        labels=None if labels is None else tuple(labels),
        samples=_checked_samples(samples, None),
        progress=progress or _silent,
    )
    return _finish(source, path, start)


def _silent(_: str) -> None:
    """Tell nobody."""


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)
    except Exception as error:  # OSError, protobuf's DecodeError, onnx's own
        raise ExportError(f"cannot read the model {path}: {error}") from error


def _initializers_sha256(model: onnx.ModelProto) -> str:
    digest = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda item: item.name):
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _versions(*packages: str) -> dict[str, str]:
    return {name: metadata.version(name) for name in ("edgeprune", "onnx", *packages)}


def _checked_samples(
    samples: Iterable[NDArray[Any]] | None, shape: tuple[int, ...] | None
) -> list[NDArray[Any]]:
    arrays = [np.asarray(sample, np.float32) for sample in (() if samples is None else samples)]
    for sample in arrays:
        if sample.shape != (shape or arrays[0].shape):
            raise ExportError(
                f"a sample has shape {sample.shape}, expected {shape or arrays[0].shape} "
                "(without the batch). Nothing was written."
            )
    return arrays


def _finish(source: _Source, path: Path, start: float) -> ExportReport:
    """The second half, the same for every kind of source."""
    _check_preprocess(source.preprocess)
    source.progress("finding channel groups")
    graph = prepare(source.model)
    plan = make_plan(analyse(graph))
    operators = add_references(graph, plan.operators, source.samples)
    plan = Plan(plan.groups, operators, plan.index)
    info = _model_info(source, graph, plan)
    masked = insert_masks(graph, plan)
    source.progress("writing and verifying")
    info, verdict = write_artifact(
        masked,
        info,
        path,
        lambda draft: verify(draft, source.function, graph.input_shape, source.samples),
    )
    return ExportReport(
        path=path,
        info=info,
        worst_error_random=verdict.worst_error_random,
        worst_error_samples=verdict.worst_error_samples,
        samples_checked=verdict.samples_checked,
        seconds=time.monotonic() - start,
        frozen=tuple((group.name, group.frozen) for group in plan.groups if group.frozen),
    )


def _check_preprocess(preprocess: Mapping[str, Any] | None) -> None:
    try:
        json.dumps(preprocess and dict(preprocess), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(f"preprocess cannot be stored as JSON: {error}") from error


def prepare(model: onnx.ModelProto) -> Graph:
    """The simplified graph of a model, with shapes and names: the plain form of the artifact."""
    graph = from_model(model)
    _check_types(graph)
    simplify(graph)
    infer_shapes(graph)
    specialize(graph)
    name_nodes(graph)
    return graph


def _check_types(graph: Graph) -> None:
    for name, value in graph.constants.items():
        if value.dtype.kind == "f" and value.dtype not in (np.float32, np.float64):
            raise ExportError(f"{name} is {value.dtype}; edgeprune exports float32 networks.")
    for node in graph.nodes:
        if "Quantize" in node.op_type or "Integer" in node.op_type:
            raise ExportError("the network is quantised; export it before quantisation.")


def _model_info(source: _Source, graph: Graph, plan: Plan) -> ModelInfo:
    head, kind = _head(graph, plan.operators)
    shape = graph.shapes.get(graph.output, ())
    classes = int(shape[1] or 0) if len(shape) == 2 else None
    if source.labels is not None and len(source.labels) != classes:
        raise ExportError(
            f"{len(source.labels)} labels for a network with {classes or 'no'} classes. "
            "Nothing was written."
        )
    return ModelInfo(
        model_id="",
        source_sha256=source.sha256,
        weights_sha256="",
        masks_sha256="",
        input_name=graph.input,
        input_shape=graph.input_shape,
        output_name=graph.output,
        classes=classes,
        head=head.name if head is not None and classes == head.out_channels else None,
        output_kind=kind,
        groups=plan.groups,
        operators=plan.operators,
        parameters=_count_parameters(graph, plan),
        macs=sum(node_macs(graph, node) for node in graph.nodes),
        preprocess=source.preprocess,
        labels=source.labels,
        versions=source.versions,
    )


def _head(
    graph: Graph, operators: Sequence[Operator]
) -> tuple[Operator | None, Literal["logits", "probabilities"]]:
    """The dense operator whose outputs are the answer, and whether a Softmax follows it."""
    by_output = {operator.output: operator for operator in operators if not operator.depthwise}
    producers, tensor = graph.producers(), graph.output
    kind: Literal["logits", "probabilities"] = "logits"
    while tensor not in by_output:
        node = producers.get(tensor)
        if node is None or node.op_type not in _AFTER_HEAD:
            return None, kind
        if node.op_type == "Softmax":
            kind = "probabilities"
        tensor = node.input[0]
    return by_output[tensor], kind


_AFTER_HEAD = ("Softmax", "LogSoftmax", "Flatten", "Reshape", "Squeeze")


def _count_parameters(graph: Graph, plan: Plan) -> int:
    names = {operator.name for operator in plan.operators}
    owned = {n for node in graph.nodes if node.name in names for n in node.input[1:]}
    others = (v for n, v in graph.constants.items() if n not in owned and v.dtype.kind == "f")
    return sum(op.parameters for op in plan.operators) + sum(v.size for v in others if v.ndim)


def prunable_parameters(info: ModelInfo) -> int:
    """Parameters of the operators that read or write a group which can be pruned."""
    return sum(op.parameters for op in info.operators if op.masked or op.writes is not None)
