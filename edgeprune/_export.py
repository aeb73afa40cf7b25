"""`edgeprune.export`: what the exporter needs, checked and read from where users have it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._presets import find_preprocess
from ._sources import OnUnusable, reasons
from .devices import Preprocess, open_folder, preprocess_from_dict
from .runtime.errors import ExportError, MissingExtra

if TYPE_CHECKING:
    import onnx

    from .exporters import ExportReport

__all__ = ["export", "export_onnx"]

_PACKAGES = ("torch", "onnxscript")


def export(
    module: Any,
    example_inputs: Any,
    path: str | Path,
    *,
    preprocess: Preprocess | Mapping[str, Any] | str | None = None,
    labels: Sequence[str] | None = None,
    samples: str | Path | Iterable[NDArray[Any]] | None = None,
    max_samples: int = 256,
    opset: int = 20,
    dynamo: bool = True,
    progress: Callable[[str], None] | None = None,
    on_unusable: OnUnusable | None = None,
) -> ExportReport:
    """Export a PyTorch network as ``NAME.onnx``, ``NAME.weights`` and ``NAME.masks``.

    The outcome is compared with PyTorch on random and on the given input before it is written.

    Args:
        module: a float32 network that takes and returns tensors; it is left as it was.
        example_inputs: one input with its batch axis, such as ``torch.zeros(1, 3, 224, 224)``, or
            a tuple of them.
        path: ``NAME.onnx`` in a folder that exists.
        preprocess: what a picture or a sound needs: a specification of `edgeprune.devices`, its
            dict, or the name of a preset such as ``imagenet``.
        labels: names of the classes.
        samples: real input to verify the export with, and to take reference statistics from where
            there is no BatchNorm: a folder, or preprocessed arrays without the batch axis.
        max_samples: how many files of a folder to use at most.
        opset: ONNX operator set.
        dynamo: use torch's current exporter; its older one otherwise.
        progress: called with a line at each stage.
        on_unusable: called with each file of `samples` that cannot be used, and why.

    Raises:
        ExportError: the network could not be exported or computes something else.
        PreprocessError, SourceError: the preprocessing or the folder is wrong.
        MissingExtra: PyTorch is not installed.
            After any of these nothing is written.
    """
    try:
        from .exporters import export as write
    except ModuleNotFoundError as error:
        raise _explained(error) from error
    spec = _specification(preprocess)
    _check_shape(spec, example_inputs)
    arrays = _read_samples(samples, spec, max_samples, on_unusable)
    try:
        return write(
            module,
            example_inputs,
            path,
            preprocess=None if spec is None else spec.to_dict(),
            labels=labels,
            samples=arrays,
            opset=opset,
            dynamo=dynamo,
            progress=progress,
        )
    except ModuleNotFoundError as error:
        raise _explained(error) from error


def export_onnx(
    model: onnx.ModelProto | str | Path,
    path: str | Path,
    *,
    constants: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int | Literal["batch"]] | None = None,
    preprocess: Preprocess | Mapping[str, Any] | str | None = None,
    labels: Sequence[str] | None = None,
    samples: str | Path | Iterable[NDArray[Any]] | None = None,
    max_samples: int = 256,
    progress: Callable[[str], None] | None = None,
    on_unusable: OnUnusable | None = None,
) -> ExportReport:
    """Export a float32 ONNX model as ``NAME.onnx``, ``NAME.weights`` and ``NAME.masks``.

    What is not told here is as for `export`; PyTorch is not needed.

    Args:
        model: the path of a model, or one in memory. Tensors in files of their own are read from
            the folder that the model is in, and from nowhere else.
        path: ``NAME.onnx`` in a folder that exists; not one of the model's own files.
        constants: inputs that always have the same value, such as ``{"sr": 16000}``: they are no
            inputs any more.
        sizes: sizes that the model leaves free, by the name that it has for them or as
            ``"INPUT:AXIS"``: a number, or ``"batch"`` for what is the batch under another name.
        preprocess, labels, samples, max_samples, progress, on_unusable: as for `export`.

    Raises:
        ExportError: the model could not be read, converted or run, or what came of it differs.
        PreprocessError, SourceError: the preprocessing or the folder is wrong.
            After any of these nothing is written.
    """
    from .exporters import export_onnx as write

    spec = _specification(preprocess)
    return write(
        model,
        path,
        constants=constants,
        sizes=sizes,
        preprocess=None if spec is None else spec.to_dict(),
        labels=labels,
        samples=_read_samples(samples, spec, max_samples, on_unusable),
        sample_shape=None if spec is None else spec.output_shape,
        progress=progress,
    )


def _explained(error: ModuleNotFoundError) -> Exception:
    if (error.name or "").partition(".")[0] not in _PACKAGES:
        return error
    return MissingExtra(
        f"exporting needs the package {error.name}, which is not installed. Nothing was written. "
        'Install it with: pip install "edgeprune[export]"'
    )


def _specification(preprocess: Preprocess | Mapping[str, Any] | str | None) -> Preprocess | None:
    if preprocess is None:
        return None
    if isinstance(preprocess, str):
        preprocess = find_preprocess(preprocess)
    return preprocess_from_dict(
        preprocess if isinstance(preprocess, Mapping) else preprocess.to_dict()
    )


def _check_shape(spec: Preprocess | None, example_inputs: Any) -> None:
    if isinstance(example_inputs, tuple | list) and example_inputs:
        example_inputs = example_inputs[0]
    shape = tuple(getattr(example_inputs, "shape", ()))[1:]
    if spec is not None and shape and spec.output_shape != shape:
        raise ExportError(
            f"the preprocessing makes samples of shape {spec.output_shape}, and the network is "
            f"given {shape}. Nothing was written; correct one of them."
        )


def _read_samples(
    samples: str | Path | Iterable[NDArray[Any]] | None,
    spec: Preprocess | None,
    most: int,
    on_unusable: OnUnusable | None,
) -> Iterable[NDArray[Any]] | None:
    if not isinstance(samples, str | Path):
        return samples
    if spec is None:
        raise ExportError(
            "a folder of samples needs a preprocessing to read it with. Nothing was written; add "
            "--preprocess."
        )
    folder = open_folder(samples, spec)
    chosen = np.linspace(0, len(folder) - 1, min(most, len(folder))).astype(int).tolist()
    loaded = (folder.load(index) for index in chosen)
    arrays = [sample.array for sample in loaded if sample is not None]
    for path, reason in folder.rejected:
        if on_unusable is not None:
            on_unusable(path, reason)
    if not arrays:
        raise ExportError(
            f"no file in {samples} can be used. Nothing was written. {reasons(folder.rejected)}"
        )
    return arrays
