"""What the zoo has to show: each network exported, verified and compacted."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

import edgeprune
from edgeprune.exporters import ExportReport, export, export_onnx, prunable_parameters
from edgeprune.exporters._bind import Size

from .model import ZooModel

__all__ = ["LEAST_SHARE", "Proof", "prove"]

LEAST_SHARE = {"cnn": 0.9, "transformer": 0.6, "recurrent": 0.6}
"""Share of the parameters that has to be prunable, by family."""

Function = Callable[[Mapping[str, Any]], list[Any]]


@dataclass(frozen=True)
class Proof:
    """One network through the whole of edgeprune."""

    name: str
    exporter: str
    family: str
    parameters: int
    prunable_share: float
    groups: int
    frozen: tuple[tuple[str, str], ...]
    neutral_error: float
    masked_error: float
    export_s: float
    failures: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether it shows all that a network of its family has to."""
        return not self.failures and self.prunable_share >= LEAST_SHARE[self.family]


def prove(model: ZooModel, *, dynamo: bool = True, masks: int = 10) -> Proof:
    """Export, then compare neutral with the source and masked with compacted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{model.name}.onnx"
        started = time.perf_counter()
        report, source = _exported(model, path, dynamo=dynamo)
        seconds = time.perf_counter() - started
        verdict = edgeprune.verify(path, source=source, masks=masks)
    info = report.info
    return Proof(
        name=model.name,
        exporter="ONNX file" if model.build is None else "dynamo" if dynamo else "TorchScript",
        family=model.family,
        parameters=info.parameters,
        prunable_share=prunable_parameters(info) / info.parameters,
        groups=len(info.prunable),
        frozen=report.frozen,
        neutral_error=verdict.neutral_error or report.worst_error_random,
        masked_error=verdict.masked_error or 0.0,
        export_s=seconds,
        failures=verdict.failures,
    )


def _exported(model: ZooModel, path: Path, *, dynamo: bool) -> tuple[ExportReport, Function | None]:
    if model.build is None:
        assert model.path is not None
        constants = {i.name: i.constant for i in model.inputs if i.constant is not None}
        sizes = _free_sizes(model, model.path())
        return export_onnx(model.path(), path, constants=constants, sizes=sizes), None
    module, examples = model.build()
    return export(module, examples, path, dynamo=dynamo), _function(module)


def _free_sizes(model: ZooModel, path: Path) -> dict[str, Size]:
    """What the file leaves open, as the zoo's entry has it; the first axis of all is the batch."""
    graph = onnx.load(path, load_external_data=False).graph
    known = {item.name: item for item in graph.input}
    sizes: dict[str, Size] = {}
    for place, item in enumerate(model.inputs):
        full = list(item.shape)
        full.insert(item.batch_axis, 0)
        for axis, dim in enumerate(known[item.name].type.tensor_type.shape.dim):
            if dim.dim_value or dim.dim_param == "batch" or place == axis == 0:
                continue
            batch = axis == item.batch_axis
            sizes[dim.dim_param or f"{item.name}:{axis}"] = "batch" if batch else full[axis]
    return sizes


def _function(module: torch.nn.Module) -> Function:
    def run(feeds: Mapping[str, Any]) -> list[Any]:
        with torch.inference_mode():
            output = module(*(torch.from_numpy(value) for value in feeds.values()))
        return [leaf.numpy() for leaf in torch.utils._pytree.tree_leaves(output)]

    return run
