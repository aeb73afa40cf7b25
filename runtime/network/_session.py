"""Run graphs while they are analysed and verified."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import ExportError
from ._graph import Graph, Input, to_light_model

__all__ = ["Runner", "batches", "random_feeds", "run_tensors"]


class Runner:
    """A model in ONNX Runtime as a function of its inputs.

    Args:
        model: a model or the path of one.
        tensors: values of tensors that stand outside the model.
        optimize: let ONNX Runtime fuse and fold, as it does in use.
    """

    def __init__(
        self,
        model: onnx.ModelProto | Path,
        tensors: Mapping[str, NDArray[Any]] | None = None,
        *,
        optimize: bool = True,
    ) -> None:
        from .._ort import make_session

        source = model if isinstance(model, Path) else model.SerializeToString()
        try:
            self._session = make_session(source, tensors, optimize=optimize)
        except Exception as error:  # ONNX Runtime's own exceptions have no common public base
            raise ExportError(
                f"ONNX Runtime refuses the network: {_first_line(error)}. Nothing was written."
            ) from error
        self.inputs = [item.name for item in self._session.get_inputs()]

    def __call__(
        self,
        values: NDArray[Any] | Mapping[str, NDArray[Any]],
        outputs: Sequence[str] | None = None,
    ) -> list[Any]:
        """Run on a batch, given by input name or, for the first input, alone."""
        feeds = values if isinstance(values, Mapping) else {self.inputs[0]: values}
        feeds = {name: value for name, value in feeds.items() if name in self.inputs}
        try:
            return list(self._session.run(outputs and list(outputs), feeds))
        except Exception as error:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in feeds.items())
            raise ExportError(
                f"the network fails on inputs of shape {shapes}: {_first_line(error)}. "
                "Nothing was written."
            ) from error


_CODES = re.compile(
    r"(ONNX Runtime \S+ cannot load \S.*?: )?\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : "
)


def _first_line(error: Exception) -> str:
    """The first line of ONNX Runtime's message, without its codes and the full stop at the end."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
    return _CODES.sub("", text, count=1).rstrip(". ")


def random_feeds(inputs: Sequence[Input], batch: int, seed: int) -> dict[str, NDArray[Any]]:
    """Random values for every input: normal where they are floats, else what it can be fed."""
    generator = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for item in inputs:
        sizes = [batch if size is None else size for size in item.shape]
        if item.dtype.kind == "f":
            feeds[item.name] = generator.standard_normal(sizes, np.float32).astype(item.dtype)
        else:
            feeds[item.name] = generator.integers(*item.values, sizes).astype(item.dtype)
    return feeds


def run_tensors(
    graph: Graph,
    names: Sequence[str],
    feeds: Mapping[str, Any],
    extra_nodes: Iterable[onnx.NodeProto] = (),
) -> dict[str, Any]:
    """Values of the named tensors for one batch, those that `extra_nodes` make included."""
    wanted = [name for name in dict.fromkeys(names) if name not in graph.outputs]
    model, weights = to_light_model(graph, wanted)
    model.graph.node.extend(extra_nodes)
    runner = Runner(model, weights, optimize=False)
    return dict(zip(names, runner(feeds, names), strict=True))


def batches(samples: Sequence[NDArray[Any]], size: int = 16) -> Iterator[NDArray[Any]]:
    """Stack samples into batches."""
    for start in range(0, len(samples), size):
        yield np.stack(samples[start : start + size])
