"""From a PyTorch module to an ONNX model that still has its parameters' names."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.errors import ExportError, MissingExtra
from ._opset import standard_opset
from ._source import check_size

if TYPE_CHECKING:
    import torch

    from ._verify import Check

__all__ = ["check_module", "evaluating", "example_tensors", "parameters_sha256", "torch_function"]
__all__ += ["to_onnx"]

_LOGGERS = ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def check_module(module: Any) -> None:
    """Refuse what cannot be exported exactly.

    Raises:
        ExportError: no module, parameters that are not float32, or too many of them.
        MissingExtra: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra(
            "exporting needs PyTorch. Install it: pip install 'edgeprune[export]'"
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise ExportError(f"expected a torch.nn.Module, got {type(module).__name__}.")
    tensors = [*module.named_parameters(), *module.named_buffers()]
    check_size(sum(tensor.numel() * tensor.element_size() for _, tensor in tensors))
    for name, tensor in tensors:
        if (tensor.is_floating_point() and tensor.dtype != torch.float32) or tensor.is_quantized:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ExportError(
                f"{name} is {kind}; edgeprune exports float32 networks. Convert it with "
                "module.float() first. Nothing was written."
            )
    if any("quantized" in type(part).__module__ for part in module.modules()):
        raise ExportError("the network is quantised; export it before quantisation.")


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put every submodule into evaluation mode, and back as each was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def example_tensors(example: Any) -> tuple[torch.Tensor, ...]:
    """The example inputs, floats as float32, each with a batch of two.

    A batch of one would be taken for a constant by torch.export.

    Raises:
        ExportError: no input, or no array with a batch axis.
    """
    items = list(example) if isinstance(example, tuple | list) else [example]
    if not items:
        raise ExportError("there is no example input; give one with its batch axis.")
    # The first input tells what the batch is; another may be one number a sample.
    return tuple(_example_tensor(item, 1 if place else 2) for place, item in enumerate(items))


def _example_tensor(item: Any, least_rank: int) -> torch.Tensor:
    import torch

    try:
        tensor = torch.as_tensor(np.asarray(item) if not torch.is_tensor(item) else item)
    except (TypeError, ValueError) as error:
        raise ExportError(f"the example input is no array: {error}") from error
    if tensor.ndim < least_rank or 0 in tensor.shape:
        raise ExportError(
            f"the example input has shape {tuple(tensor.shape)} and type {tensor.dtype}; expected "
            "values with the batch first, such as (1, 3, 224, 224)."
        )
    first = tensor[:1].detach().cpu()
    first = first.to(torch.float32) if first.is_floating_point() else first
    return torch.cat([first, first])


def torch_function(module: torch.nn.Module) -> Check:
    """The module as a function from arrays, in the order of its arguments, to all its outputs."""

    def run(feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        import torch

        values = [torch.from_numpy(np.ascontiguousarray(value)) for value in feeds.values()]
        with evaluating(module), torch.inference_mode():
            try:
                output = module(*values)
            except Exception as error:  # whatever the user's module raises
                shapes = ", ".join(str(tuple(value.shape)) for value in values)
                raise ExportError(
                    f"the network does not accept an input of shape {shapes}: "
                    f"{type(error).__name__}: {_first_line(error)}. Nothing was written."
                ) from error
        return _arrays(output)

    return run


def _arrays(output: Any) -> list[NDArray[Any]]:
    import torch

    leaves = torch.utils._pytree.tree_leaves(output)
    strange = [leaf for leaf in leaves if not torch.is_tensor(leaf)]
    if strange or not leaves:
        what = type(strange[0]).__name__ if strange else type(output).__name__
        raise ExportError(
            f"the network returns a {what}; edgeprune exports networks that return tensors. "
            "Wrap it in a module that does. Nothing was written."
        )
    return [np.asarray(leaf.numpy()) for leaf in leaves]


def parameters_sha256(module: torch.nn.Module) -> str:
    """Hash of all parameters and buffers with their names, in a fixed order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def to_onnx(
    module: torch.nn.Module, examples: tuple[torch.Tensor, ...], *, opset: int, dynamo: bool
) -> onnx.ModelProto:
    """Export in evaluation mode with a free batch size, BatchNorm not yet folded.

    Raises:
        ExportError: torch's exporter refuses the module.
    """
    run = _with_dynamo if dynamo else _with_torchscript
    with evaluating(module), _quiet():
        try:
            model = run(module, examples, opset)
        except ImportError as error:
            raise MissingExtra(
                f"exporting needs {error.name}. Install it: pip install 'edgeprune[export]'"
            ) from error
        except Exception as error:  # torch's exporters raise a zoo of types
            why = _first_line(error)
            advice = (
                f"Choose another operator set, or {_other(dynamo)}."
                if "opset_version" in why
                else "Does it accept any batch size, without control flow on values? Otherwise try "
                f"{_other(dynamo)}."
            )
            raise ExportError(
                f"PyTorch could not export the network: {why}. {advice} Nothing was written."
            ) from error
    if (written := standard_opset(model)) != opset:
        raise ExportError(
            f"PyTorch's exporter does not write operator set {opset} for this network; it wrote "
            f"{written}. Choose one between 18 and 23 (--opset 20), or try {_other(dynamo)}. "
            "Nothing was written."
        )
    if len(model.graph.input) != len(examples):
        raise ExportError(
            f"the network is given {len(examples)} inputs, of which {len(model.graph.input)} have "
            "a say in its output. Leave out the others. Nothing was written."
        )
    return model


def _other(dynamo: bool) -> str:
    if dynamo:
        return "the older exporter (--legacy-exporter; dynamo=False in Python)"
    return "the current exporter (without --legacy-exporter; dynamo=True in Python)"


def _with_dynamo(
    module: torch.nn.Module, examples: tuple[torch.Tensor, ...], opset: int
) -> onnx.ModelProto:
    import torch

    program = torch.onnx.export(
        module,
        examples,
        dynamo=True,
        optimize=False,
        dynamic_shapes=tuple({0: "batch"} for _ in examples),
        opset_version=opset,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    assert isinstance(model, onnx.ModelProto)
    return model


def _with_torchscript(
    module: torch.nn.Module, examples: tuple[torch.Tensor, ...], opset: int
) -> Any:
    import torch

    names = ["input", *(f"input{place}" for place in range(1, len(examples)))]
    with tempfile.TemporaryDirectory() as folder, _no_graph_on_stdout():
        path = Path(folder) / "source.onnx"
        torch.onnx.export(
            module,
            examples,
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=names,
            output_names=["output"],
            dynamic_axes={name: {0: "batch"} for name in (*names, "output")},
            # PRESERVE keeps BatchNorm, which EVAL would fold with the names of the weights lost;
            # the module itself is in evaluation mode.
            training=torch.onnx.TrainingMode.PRESERVE,
        )
        return onnx.load(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress lines, log records and warnings to themselves."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    nowhere = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(nowhere),
        contextlib.redirect_stdout(nowhere),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _no_graph_on_stdout() -> Iterator[None]:
    """Keep the older exporter from printing its whole graph, past Python's stdout, when it fails.

    It asks whether its log is enabled without calling the function, so that it always is.
    """
    import torch

    log = getattr(torch._C, "_jit_onnx_log", None)
    if log is None:
        yield
        return
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


def _first_line(error: BaseException) -> str:
    """The first line of a message that says something."""
    lines = [line.strip(" \t#") for line in str(error).splitlines()]
    return next((line for line in lines if len(line) > 3), type(error).__name__)[:300]
