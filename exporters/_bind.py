"""Inputs that become constants, and sizes that become fixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..runtime.errors import ExportError

__all__ = ["Size", "bind_inputs", "fix_sizes", "free_batch", "guessed_batches", "state_ranks"]

Size = int | Literal["batch"]
"""A number, or the batch, whose size stays free."""

_BATCH = "batch"


def bind_inputs(model: onnx.ModelProto, values: Mapping[str, Any]) -> None:
    """After: the named inputs are constants of these values, in the type that they had.

    A single value stands for all elements of an input.

    Raises:
        ExportError: there is no such input, or the value does not fit it.
    """
    inputs = {item.name: item for item in _inputs(model)}
    for name, value in values.items():
        if name not in inputs:
            raise ExportError(
                f"the network has no input {name!r}; its inputs are {', '.join(inputs)}. "
                "Nothing was written."
            )
        tensor = numpy_helper.from_array(_fitting(inputs[name], value), name)
        model.graph.initializer.append(tensor)
    kept = [item for item in model.graph.input if item.name not in values]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 4)  # before, every initializer had to be an input


def _inputs(model: onnx.ModelProto) -> Iterator[Any]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return (item for item in model.graph.input if item.name not in constants)


def _fitting(item: Any, value: Any) -> NDArray[Any]:
    """The value in the type and shape of an input."""
    kind = item.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    given = np.asarray(value)
    try:
        array = given.astype(dtype)
    except (TypeError, ValueError) as error:
        raise _unfit(item, value, f"is no {dtype}") from error
    if given.dtype.kind not in "biuf" or not np.array_equal(array, given):
        raise _unfit(item, value, f"cannot be a {dtype}")
    dims = [int(dim.dim_value) for dim in kind.shape.dim]
    if array.ndim == 0:
        return np.full(dims, array, dtype) if all(dims) else _free(item, value)
    if len(dims) != array.ndim or any(
        n not in (0, m) for n, m in zip(dims, array.shape, strict=True)
    ):
        raise _unfit(item, value, f"does not have the shape {tuple(n or None for n in dims)}")
    return array


def _free(item: Any, value: Any) -> NDArray[Any]:
    raise _unfit(item, value, "cannot fill it while its sizes are free; fix them too (--size)")


def _unfit(item: Any, value: Any, why: str) -> ExportError:
    return ExportError(f"{value!r} for the input {item.name!r} {why}. Nothing was written.")


def fix_sizes(model: onnx.ModelProto, sizes: Mapping[str, Size]) -> None:
    """After: free sizes of the inputs are fixed, or are the batch.

    Args:
        model: its inputs are edited.
        sizes: by the name that the model has for a size, or ``INPUT:AXIS`` where it has none.

    Raises:
        ExportError: there is no free size of that name.
    """
    for name, size in sizes.items():
        if isinstance(size, int) and size < 1:
            raise ExportError(f"the size {name}={size} is not positive; nothing was written.")
        found = [dim for item in _inputs(model) for dim in _named(item, name)]
        if not found:
            free = sorted({each for item in _inputs(model) for each in _free_names(item)})
            raise ExportError(
                f"the network has no free size {name!r}; free are: {', '.join(free) or 'none'}. "
                "Nothing was written."
            )
        for dim in found:
            if isinstance(size, int):
                dim.dim_value = size
            else:
                dim.dim_param = _batch_name(model)
    if sizes:
        _forget_shapes(model)


def state_ranks(model: onnx.ModelProto) -> None:
    """After: inputs and outputs say how many axes they have; of outputs it may be inferred.

    ONNX demands it, and ONNX Runtime runs models that do not say it of their outputs.

    Raises:
        ExportError: it is not known of one of them.
    """
    silent = [item for item in model.graph.output if _is_silent(item)]
    if silent:
        inferred = onnx.shape_inference.infer_shapes(model).graph.output
        types = {item.name: item.type for item in inferred}
        for item in silent:
            item.type.CopyFrom(types[item.name])
    for item, what in [*((i, "input") for i in _inputs(model)), *((i, "output") for i in silent)]:
        if _is_silent(item):
            raise ExportError(
                f"the {what} {item.name!r} does not say how many axes it has. State its shape in "
                "the model, with names for the sizes that are free. Nothing was written."
            )


def _is_silent(item: Any) -> bool:
    kind = item.type.WhichOneof("value")
    return kind is None or (kind == "tensor_type" and not item.type.tensor_type.HasField("shape"))


def free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a first input that takes any batch; the network itself may still not."""
    for item in list(_inputs(model))[:1]:
        for dim in item.type.tensor_type.shape.dim[:1]:
            if dim.dim_value:
                copy = onnx.ModelProto()
                copy.CopyFrom(model)
                next(_inputs(copy)).type.tensor_type.shape.dim[0].dim_param = _BATCH
                _forget_shapes(copy)
                return copy
    return model


def guessed_batches(model: onnx.ModelProto) -> list[str]:
    """Sizes without a name in inputs after the first; they are taken for the batch."""
    return [
        f"{item.name}:{axis}"
        for item in list(_inputs(model))[1:]
        for axis, dim in enumerate(item.type.tensor_type.shape.dim)
        if not (dim.dim_value or dim.dim_param)
    ]


def _batch_name(model: onnx.ModelProto) -> str:
    """The name of the first size of the first input, given one if it has none."""
    dims = next(_inputs(model)).type.tensor_type.shape.dim
    if not dims:
        raise ExportError("the first input has no axis for the batch; nothing was written.")
    if not dims[0].dim_param:
        dims[0].dim_param = _BATCH
    return str(dims[0].dim_param)


def _named(item: Any, name: str) -> list[Any]:
    dims = item.type.tensor_type.shape.dim
    return [
        dim
        for axis, dim in enumerate(dims)
        if not dim.dim_value and name in (dim.dim_param, f"{item.name}:{axis}")
    ]


def _free_names(item: Any) -> Iterator[str]:
    for axis, dim in enumerate(item.type.tensor_type.shape.dim):
        if not dim.dim_value:
            yield dim.dim_param or f"{item.name}:{axis}"


def _forget_shapes(model: onnx.ModelProto) -> None:
    """Drop the sizes noted for all but the inputs: they may contradict the new ones."""
    del model.graph.value_info[:]
    for item in model.graph.output:
        if item.type.HasField("tensor_type"):
            for dim in item.type.tensor_type.shape.dim:
                dim.Clear()
