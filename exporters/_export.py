"""The pipeline: source model → simplified graph → groups → masks → verified files."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import inliner

from ..runtime.artifact import InputInfo, ModelInfo, Operator
from ..runtime.errors import ExportError
from ..runtime.network._cost import node_macs
from ..runtime.network._graph import Graph, Input, from_model, order_nodes
from ..runtime.network._layout import analyse
from ..runtime.network._ranges import note_ranges
from ..runtime.network._session import Runner
from ..runtime.network._shapes import infer_shapes
from ._bind import Size, bind_inputs, fix_sizes, free_batch, guessed_batches, state_ranks
from ._branches import inline_ifs
from ._groups import Plan, make_plan
from ._masks import insert_masks
from ._names import free_reserved_names, name_nodes
from ._opset import OLDEST_OPSET, check_valid, foreign_operators, modern, standard_opset
from ._simplify import RANDOM, simplify
from ._source import read_source
from ._static import specialize
from ._statistics import add_references
from ._types import check_types
from ._verify import Check, Verdict, verify
from ._write import check_apart, check_target, write_artifact

__all__ = ["ExportReport", "export", "export_onnx", "prunable_parameters", "read_bound"]

Progress = Callable[[str], None]


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
    """A network to export: as a graph, as a function to compare with, and what is told about it."""

    graph: Graph
    function: Check
    sha256: str
    versions: Mapping[str, str]
    preprocess: Mapping[str, Any] | None
    labels: tuple[str, ...] | None
    samples: Sequence[NDArray[Any]]
    sample_shape: tuple[int, ...] | None
    progress: Progress = field(repr=False)
    converted_from: int | None = None
    """The operator set that it was written in, if that was not ours."""


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
    progress: Progress | None = None,
) -> ExportReport:
    """Export a PyTorch module as ``NAME.onnx``, ``NAME.weights`` and ``NAME.masks``.

    Args:
        module: a float32 network; it is left as it was.
        example_inputs: one input with its batch axis, such as ``torch.zeros(1, 3, 224, 224)``,
            or a tuple of them.
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
        example_tensors,
        parameters_sha256,
        to_onnx,
        torch_function,
    )

    start, path, say = time.monotonic(), Path(path), progress or _silent
    check_target(path)
    check_module(module)
    examples = example_tensors(example_inputs)
    function = torch_function(module)
    function({str(place): example.numpy() for place, example in enumerate(examples)})
    say("exporting the network with PyTorch")
    graph = prepare(to_onnx(module, examples, opset=opset, dynamo=dynamo))
    source = _Source(
        graph=graph,
        function=function,
        sha256=parameters_sha256(module),
        versions=_versions("torch", *(["onnxscript"] if dynamo else [])),
        preprocess=preprocess,
        labels=None if labels is None else tuple(labels),
        samples=_arrays(samples),
        sample_shape=tuple(examples[0].shape[1:]),
        progress=say,
    )
    return _finish(source, path, start)


def export_onnx(
    source: onnx.ModelProto | str | Path,
    path: str | Path,
    *,
    constants: Mapping[str, Any] | None = None,
    sizes: Mapping[str, Size] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    samples: Iterable[NDArray[Any]] | None = None,
    sample_shape: tuple[int, ...] | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Make an artifact of a float32 ONNX model; what is not told here is as for `export`.

    Args:
        source: a model in memory, or the path of one. Tensors in files of their own are read from
            the folder that the model is in, and from nowhere else.
        path: ``NAME.onnx`` in a folder that exists; not one of the model's own files.
        constants: inputs that always have the same value, such as ``{"sr": 16000}``. They are no
            inputs any more, and branches that depend on nothing else are decided.
        sizes: sizes that the model leaves free, by the name that it has for them or as
            ``"INPUT:AXIS"``: a number, or ``"batch"`` for what is the batch under another name.
        sample_shape: what the preprocessing makes; a network that takes something else is refused.

    Raises:
        ExportError: the model could not be read, converted or run, or what came of it differs;
            nothing was written.
    """
    start, path = time.monotonic(), Path(path)
    check_target(path)
    read = read_source(source)
    check_apart(path, read.files)
    sha256 = _initializers_sha256(read.model)
    bound = _bound(read.model, constants or {}, sizes or {})
    del read  # large models are not kept twice
    opset = standard_opset(bound)
    function = _runner(free_batch(bound))
    try:
        graph = prepare(modern(bound))
    except ExportError as error:
        raise ExportError(f"{error}{_about_batch(bound)}") from error
    del bound
    network = _Source(
        graph=graph,
        function=function,
        sha256=sha256,
        versions=_versions(),
        preprocess=preprocess,
        labels=None if labels is None else tuple(labels),
        samples=_arrays(samples),
        sample_shape=sample_shape,
        progress=progress or _silent,
        converted_from=opset if opset < OLDEST_OPSET else None,
    )
    return _finish(network, path, start)


def read_bound(path: str | Path, constants: Mapping[str, Any]) -> onnx.ModelProto:
    """Read a model as `export_onnx` does, with some of its inputs bound to values.

    Raises:
        ExportError: it cannot be read, or the values do not fit it.
    """
    return _bound(read_source(path).model, constants, {})


def _bound(
    model: onnx.ModelProto, constants: Mapping[str, Any], sizes: Mapping[str, Size]
) -> onnx.ModelProto:
    """A valid copy of the model, without functions, with inputs and sizes bound."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    standard_opset(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    order_nodes(copy)
    bind_inputs(copy, constants)
    fix_sizes(copy, sizes)
    state_ranks(copy)
    check_valid(copy)
    return copy


def _about_batch(model: onnx.ModelProto) -> str:
    """What to try where a size without a name was taken for the batch."""
    guessed = guessed_batches(model)
    if not guessed:
        return ""
    fixes = " ".join(f"--size {name}=N" for name in guessed)
    return f" Taken for the batch: {', '.join(guessed)}. If that is wrong, fix them: {fixes}."


def _runner(model: onnx.ModelProto) -> Runner:
    """The source as a function."""
    try:
        return Runner(model)
    except ExportError as error:
        foreign = foreign_operators(model)
        if not foreign:
            raise
        raise ExportError(
            f"ONNX Runtime cannot run the network; it uses operators that are not standard: "
            f"{', '.join(foreign)}. Export it again from its source with standard operators. "
            "Nothing was written."
        ) from error


def _silent(_: str) -> None:
    """Tell nobody."""


def _initializers_sha256(model: onnx.ModelProto) -> str:
    digest = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda item: item.name):
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _versions(*packages: str) -> dict[str, str]:
    return {name: metadata.version(name) for name in ("edgeprune", "onnx", *packages)}


def _arrays(samples: Iterable[NDArray[Any]] | None) -> list[NDArray[Any]]:
    return [np.asarray(sample) for sample in (() if samples is None else samples)]


def _checked_samples(source: _Source, inputs: Sequence[Input]) -> list[NDArray[Any]]:
    """The samples in the type of the first input, which has to be the only one."""
    shape = tuple(inputs[0].shape[1:])
    if source.sample_shape not in (None, shape):
        raise ExportError(
            f"the preprocessing makes samples of shape {source.sample_shape}, and the network "
            f"takes {shape}. Nothing was written; correct one of them."
        )
    if source.samples and len(inputs) > 1:
        names = ", ".join(item.name for item in inputs)
        raise ExportError(
            f"samples are for networks of one input; this one has {names}. Export it without. "
            "Nothing was written."
        )
    for sample in source.samples:
        if sample.shape != shape:
            raise ExportError(
                f"a sample has shape {sample.shape}, expected {shape} (without the batch). "
                "Nothing was written."
            )
    return [sample.astype(inputs[0].dtype) for sample in source.samples]


def _finish(source: _Source, path: Path, start: float) -> ExportReport:
    """The second half, the same for every kind of source."""
    _check_preprocess(source.preprocess)
    source.progress("finding channel groups")
    graph = source.graph
    samples = _checked_samples(source, graph.inputs)
    plan = make_plan(analyse(graph))
    operators = add_references(graph, plan.operators, samples)
    plan = replace(plan, operators=operators)
    info = _model_info(source, graph, plan)
    masked = insert_masks(graph, plan)
    source.progress("writing and verifying")
    info, verdict = write_artifact(
        masked,
        info,
        path,
        lambda draft: _verified(draft, source, graph.inputs, samples),
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


def _verified(
    draft: Path, source: _Source, inputs: Sequence[Input], samples: Sequence[NDArray[Any]]
) -> Verdict:
    try:
        return verify(draft, source.function, inputs, samples)
    except ExportError as error:
        drawn = next((n.op_type for n in source.graph.nodes if n.op_type in RANDOM), None)
        if drawn is not None:
            raise ExportError(
                f"the network draws random numbers each time it runs ({drawn}), so its copy cannot "
                "be compared with it. Take that out, or export it in evaluation mode. "
                "Nothing was written."
            ) from error
        if source.converted_from is None:
            raise
        raise ExportError(
            f"{error} The model was converted from operator set {source.converted_from} to "
            f"{OLDEST_OPSET}, which may be why: export it from its source with a newer one."
        ) from error


def _check_preprocess(preprocess: Mapping[str, Any] | None) -> None:
    try:
        json.dumps(preprocess and dict(preprocess), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(f"preprocess cannot be stored as JSON: {error}") from error


def prepare(model: onnx.ModelProto) -> Graph:
    """The simplified graph of a model, with shapes and names: the plain form of the artifact."""
    check_types(model)
    graph = from_model(model)
    free_reserved_names(graph)
    simplify(graph)
    note_ranges(graph)
    infer_shapes(graph)
    while inline_ifs(graph):  # now that sizes are known, more conditions may be
        simplify(graph)
        infer_shapes(graph)
    specialize(graph)
    name_nodes(graph)
    return graph


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
        inputs=tuple(InputInfo(item.name, item.shape, item.dtype.name) for item in graph.inputs),
        outputs=tuple(graph.outputs),
        classes=classes,
        head=head.name if head is not None and classes == head.out_channels else None,
        output_kind=kind,
        groups=plan.groups,
        operators=plan.operators,
        parameters=_count_parameters(graph, plan),
        macs=sum(node_macs(graph, node) for node in graph.nodes),
        prunable_parameters=plan.prunable_parameters,
        prunable_macs=plan.prunable_macs,
        preprocess=source.preprocess,
        labels=source.labels,
        versions=source.versions,
    )


def _head(
    graph: Graph, operators: Sequence[Operator]
) -> tuple[Operator | None, Literal["logits", "probabilities"]]:
    """The dense operator whose outputs are the answer, and whether a Softmax follows it."""
    by_output = {op.output: op for op in operators if not (op.depthwise or op.recurrent)}
    producers, tensor = graph.producers(), graph.output
    if len(graph.outputs) > 1:
        return None, "logits"
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
    nodes = {node.name: node for node in graph.nodes}
    owned = {name for dense in plan.dense.values() for name in dense.parameters(nodes)}
    others = (v for n, v in graph.constants.items() if n not in owned and v.dtype.kind == "f")
    return sum(op.parameters for op in plan.operators) + sum(v.size for v in others if v.ndim)


def prunable_parameters(info: ModelInfo) -> int:
    """Parameters that would go with all units that can be pruned."""
    return info.prunable_parameters
