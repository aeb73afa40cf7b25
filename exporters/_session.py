"""Run graphs while exporting: the only place of this package that starts sessions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.errors import ExportError
from ._graph import Graph, to_model

__all__ = ["Runner", "batches", "run_tensors"]


class Runner:
    """A model in ONNX Runtime as a function of one array."""

    def __init__(self, model: onnx.ModelProto | Path) -> None:
        from ..runtime._ort import make_session

        source = model if isinstance(model, Path) else model.SerializeToString()
        try:
            self._session = make_session(source)
        except Exception as error:  # ONNX Runtime's own exceptions have no common public base
            raise ExportError(
                f"ONNX Runtime refuses the exported network: {_first_line(error)}. "
                "Nothing was written."
            ) from error
        self._input = self._session.get_inputs()[0].name

    def __call__(self, values: NDArray[Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """Run on a batch; return all outputs, or those named."""
        feed = {self._input: np.ascontiguousarray(values, np.float32)}
        try:
            return list(self._session.run(outputs and list(outputs), feed))
        except Exception as error:
            raise ExportError(
                f"the exported network fails on a batch of shape {values.shape}: "
                f"{_first_line(error)}. Nothing was written."
            ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def run_tensors(graph: Graph, names: Sequence[str], values: NDArray[Any]) -> dict[str, Any]:
    """Values of the named tensors for one batch."""
    wanted = [name for name in dict.fromkeys(names) if name != graph.output]
    runner = Runner(to_model(graph, wanted))
    return dict(zip([graph.output, *wanted], runner(values), strict=True))


def batches(samples: Sequence[NDArray[Any]], size: int = 16) -> Iterator[NDArray[Any]]:
    """Stack samples into batches."""
    for start in range(0, len(samples), size):
        yield np.stack(samples[start : start + size])
