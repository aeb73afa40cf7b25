"""The one place that imports onnxruntime.

Telemetry is switched off before it is imported: from 1.29 on, ONNX Runtime reports from Linux
unless told not to. Spinning is off (a waiting thread must not burn a board's battery) and thread
counts are always explicit (a container's CPU limit is not what ONNX Runtime counts).
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._external import forget_pages
from .errors import ArtifactError, InputError

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort

if TYPE_CHECKING:
    import onnx

__all__ = [
    "ORT_VERSION",
    "InferenceSession",
    "give_back",
    "make_session",
    "quantize_static",
    "run",
    "trim_memory",
]

ort.disable_telemetry_events()
ORT_VERSION: str = ort.__version__
InferenceSession = ort.InferenceSession
_FOLDER_KEY = "session.model_external_initializers_file_folder_path"
_LARGE_BYTES = 4_000_000
_FATAL_ONLY = 4  # what goes wrong is raised and told once, by us


def make_session(
    model: bytes | Path,
    tensors: Mapping[str, NDArray[Any]] | None = None,
    *,
    threads: int = 1,
    folder: Path | None = None,
    optimized_model: Path | None = None,
    optimize: bool = True,
    arena: bool = True,
    brief: bool = False,
) -> Any:
    """Build an inference session on the CPU.

    Args:
        model: a serialised model, or the path of one.
        tensors: values for external initializers by name; they replace what stands on disk before
            any graph optimisation, so masks among them cost nothing at run time.
        threads: threads that one operator may use.
        folder: where a model given as bytes finds external tensors that `tensors` does not hold.
        optimized_model: write the optimised graph there, for tests and for the curious.
        optimize: False runs the graph as it is written, which starts faster and runs slower.
        arena: False lets memory go as soon as it is not needed; what a run returns stands in the
            arena, which would keep the room for all that was ever kept of it at once.
        brief: for a session that is used for a moment: room is not planned ahead by the pattern of
            the first run, which takes 5 MB more while a session is built and saves it no time.

    Raises:
        ArtifactError: ONNX Runtime cannot load the model.
    """
    options = _options(threads)
    if folder is not None:
        options.add_session_config_entry(_FOLDER_KEY, str(folder))
    if optimized_model is not None:
        options.optimized_model_filepath = str(optimized_model)
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Runs a Shape as soon as it can, so that what is only asked for its size is freed at once.
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.enable_cpu_mem_arena = arena
    options.enable_mem_pattern = not brief
    injected = _inject(options, tensors or {})
    source: Any = model if isinstance(model, bytes) else str(model)
    try:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exception types share no public base class
        name = "the model" if isinstance(model, bytes) else str(model)
        raise ArtifactError(f"ONNX Runtime {ORT_VERSION} cannot load {name}: {error}") from error
    session.edgeprune_injected = injected  # ONNX Runtime only borrows their memory
    if tensors and sum(tensor.nbytes for tensor in tensors.values()) > _LARGE_BYTES:
        give_back(tensors.values())
    return session


def give_back(tensors: Iterable[NDArray[Any]]) -> None:
    """Give back freed memory, and the pages of mapped files that `tensors` were read from."""
    forget_pages(tensors)
    trim_memory()


def trim_memory() -> None:
    """Return freed memory to the system: a session's building leaves copies of its weights.

    The GNU allocator would keep them, as much again as a session needs. Elsewhere there is nothing
    to call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _inject(options: Any, tensors: Mapping[str, NDArray[Any]]) -> list[Any]:
    names = list(tensors)
    if not names:
        return []
    # Over a read-only memory map ONNX Runtime would be handed memory that a rewrite of the file
    # could change under it; contiguous arrays that we own are copied only when they must be.
    values = [
        ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensors[name])) for name in names
    ]
    options.add_external_initializers(names, values)
    return values


def run(
    session: Any, outputs: Sequence[str] | None, feeds: Mapping[str, NDArray[Any]]
) -> list[Any]:
    """Run a session; ONNX Runtime's complaint about an input becomes an `InputError`."""
    try:
        return list(session.run(outputs, dict(feeds)))
    except Exception as error:  # onnxruntime's exception types share no public base class
        shapes = {name: value.shape for name, value in feeds.items()}
        raise InputError(f"the model refused an input of shape {shapes}: {error}") from error


def quantize_static(
    model: bytes, feeds: Sequence[Mapping[str, NDArray[Any]]], *, reduce_range: bool
) -> onnx.ModelProto:
    """Quantise a model to int8 with ONNX Runtime's own quantiser: QDQ, one scale per channel.

    Raises:
        Exception: whatever the quantiser raises.
    """
    import tempfile

    import onnx

    with _quantizer() as quantizer, tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        prepared = onnx.load_from_string(model)
        # Fuses BatchNorm into convolutions; its symbolic shapes would need another package.
        quantizer.shape_inference.quant_pre_process(prepared, source, skip_symbolic_shape=True)
        reader = type("Reader", (quantizer.CalibrationDataReader,), {"get_next": _Next(feeds)})
        quantizer.quantize_static(
            source,
            target,
            reader(),
            quant_format=quantizer.QuantFormat.QDQ,
            activation_type=quantizer.QuantType.QUInt8,
            weight_type=quantizer.QuantType.QInt8,
            per_channel=True,
            reduce_range=reduce_range,
        )
        return onnx.load(target)


class _Next:
    """One feed after the other, then None."""

    def __init__(self, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self._feeds = iter(feeds)

    def __call__(self) -> dict[str, NDArray[Any]] | None:
        feed = next(self._feeds, None)
        return None if feed is None else dict(feed)


@contextmanager
def _quantizer() -> Iterator[Any]:
    """The quantiser; what it does to the import path and to the root logger is taken back."""
    path, root = list(sys.path), logging.getLogger()
    handlers, disabled = list(root.handlers), logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import onnxruntime.quantization as quantizer

        yield quantizer
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        sys.path[:] = path
