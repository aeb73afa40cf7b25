"""Reading an ONNX model that somebody else made: from its own folder only, and never too much."""

from __future__ import annotations

import math
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from ..runtime.errors import ExportError
from ._protos import all_tensors, check_texts
from ._types import check_types

__all__ = ["LARGEST_BYTES", "Source", "check_size", "read_source"]

LARGEST_BYTES = 2**31 - 2**24
"""What one ONNX file may hold is 2 GiB; a little of it is for the graph that we add."""

_KEYS = frozenset(["location", "offset", "length", "checksum", "basepath"])


@dataclass(frozen=True)
class Source:
    """A model with all of its tensors in memory, and the files that it was read from."""

    model: onnx.ModelProto
    files: tuple[Path, ...]


def read_source(model: onnx.ModelProto | str | Path) -> Source:
    """Read a model and what it keeps in files beside it.

    Raises:
        ExportError: it cannot be read, is no ONNX model, is an artifact already, is larger than
            `LARGEST_BYTES`, is of other types than we export, or keeps tensors where they must
            not be.
    """
    if isinstance(model, onnx.ModelProto):
        check_size(sum(map(_bytes_inside, all_tensors(model))))
        check_texts(model)
        check_types(model)
        _check_self_contained(model)
        source = Source(model, ())
    else:
        source = _read_files(Path(model))
    _check_model(source.model)
    return source


def check_size(size: int) -> None:
    """Refuse weights that do not fit into one ONNX file.

    Raises:
        ExportError: there are too many.
    """
    if size > LARGEST_BYTES:
        raise ExportError(
            f"the network has {size / 1e9:.1f} GB of weights; edgeprune exports up to "
            f"{LARGEST_BYTES / 1e9:.1f} GB, what one ONNX file can hold. Nothing was written."
        )


def _read_files(path: Path) -> Source:
    try:
        check_size(path.stat().st_size)
        model = onnx.load_from_string(path.read_bytes())
    except OSError as error:
        raise ExportError(f"cannot read the model {path}: {error.strerror or error}.") from error
    except ExportError:
        raise
    except Exception as error:  # protobuf's DecodeError, which moves between its modules
        raise ExportError(f"{path} is no ONNX model: it cannot be parsed.") from error
    check_texts(model)
    check_types(model)  # before sizes are computed: the small types are packed
    outside = [t for t in all_tensors(model) if t.data_location == TensorProto.EXTERNAL]
    places = [_place(tensor, path.parent) for tensor in outside]
    check_size(path.stat().st_size + sum(place.length for place in places))
    for tensor, place in zip(outside, places, strict=True):
        _take_in(tensor, place)
    return Source(model, (path, *dict.fromkeys(place.file for place in places)))


def _bytes_inside(tensor: onnx.TensorProto) -> int:
    return len(tensor.raw_data) or 4 * max(
        len(tensor.float_data), len(tensor.int32_data), 2 * len(tensor.int64_data)
    )


def _check_self_contained(model: onnx.ModelProto) -> None:
    for tensor in all_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ExportError(
                f"the tensor {tensor.name!r} stands outside the model, and a model in memory has "
                "no folder. Give the path of the .onnx file, or load it with its external data."
            )


@dataclass(frozen=True)
class _Place:
    """Where the bytes of an external tensor stand."""

    file: Path
    offset: int
    length: int


def _place(tensor: onnx.TensorProto, folder: Path) -> _Place:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _file_inside(tensor.name, entries.get("location", ""), folder)
    wanted = _size_in_bytes(tensor)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", wanted))
    except ValueError as error:
        raise _misplaced(tensor.name, f"its place in {file.name} is no number") from error
    if not entries.keys() <= _KEYS or length != wanted or offset < 0:
        raise _misplaced(tensor.name, f"its place in {file.name} does not fit its shape")
    if offset + length > file.stat().st_size:
        raise _misplaced(tensor.name, f"{file.name} is too short; it may be truncated")
    return _Place(file, offset, length)


def _misplaced(name: str, why: str) -> ExportError:
    return ExportError(
        f"cannot read the tensor {name!r} of the model: {why}. Get the model's files again, all "
        "from one place. Nothing was written."
    )


def _size_in_bytes(tensor: onnx.TensorProto) -> int:
    try:
        itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError as error:
        raise _misplaced(tensor.name, "it is of no known type") from error
    if min(tensor.dims, default=0) < 0:
        raise _misplaced(tensor.name, "it has a negative size")
    return int(itemsize * math.prod(tensor.dims))


def _file_inside(name: str, location: str, folder: Path) -> Path:
    """The file of that name below the model's folder; whatever leads out of it is refused."""
    parts = re.split(r"[/\\]", location)
    if not location or "\0" in location:
        raise _misplaced(name, "it does not say in which file it stands")
    if Path(location).is_absolute() or ".." in parts or re.match(r"[A-Za-z]:", location):
        raise _misplaced(name, f"{location!r} is outside the folder of the model")
    file = folder / location
    try:
        inside = file.resolve(strict=True).is_relative_to(folder.resolve(strict=True))
        regular = stat.S_ISREG(file.stat().st_mode)
    except (OSError, RuntimeError) as error:
        raise _misplaced(name, f"the file {location!r} beside the model is missing") from error
    if not inside:
        raise _misplaced(name, f"{location!r} is a link that leads out of the model's folder")
    if not regular:
        raise _misplaced(name, f"{location!r} is no regular file")
    return file


def _take_in(tensor: onnx.TensorProto, place: _Place) -> None:
    try:
        with place.file.open("rb") as file:
            file.seek(place.offset)
            raw = file.read(place.length)
    except OSError as error:
        raise _misplaced(tensor.name, f"{place.file.name}: {error.strerror or error}") from error
    if len(raw) != place.length:
        raise _misplaced(tensor.name, f"{place.file.name} became shorter while it was read")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = raw


def _check_model(model: onnx.ModelProto) -> None:
    """Refuse what is no model, or one of ours."""
    if not model.graph.node:
        raise ExportError("the file is no ONNX model: it holds no graph. Nothing was written.")
    keys = {prop.key for prop in model.metadata_props}
    if "edgeprune.format" in keys and "edgeprune.compacted" not in keys:
        raise ExportError(
            "the model was exported by edgeprune already. Give the model that it was made from; "
            "nothing was written."
        )
