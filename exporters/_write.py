"""Write the three files of an artifact, all or none."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.artifact import ModelInfo
from ..runtime.errors import ExportError
from ..runtime.network._graph import to_model
from ._masks import Masked

__all__ = ["check_apart", "check_target", "write_artifact"]

_ALIGNMENT = 64
_SUFFIXES = (".weights", ".masks", ".onnx")
"""In the order of publication: whoever finds a new graph finds its tensors too."""


def check_target(path: Path) -> None:
    """Refuse a path that cannot be written, before the work is done.

    Raises:
        ExportError: no such folder, or the name does not end in ``.onnx``.
    """
    if path.suffix != ".onnx":
        raise ExportError(f"{path} does not end in .onnx; name the file NAME.onnx.")
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else f"cannot be written: no folder {path.parent}"
        raise ExportError(f"{path} {problem}. Nothing was written.")


def check_apart(path: Path, sources: Iterable[Path]) -> None:
    """Refuse to write over what is being exported.

    Raises:
        ExportError: one of the three files is one of the sources.
    """
    taken = {path.with_suffix(suffix).resolve() for suffix in _SUFFIXES}
    for source in sources:
        if source.resolve() in taken:
            raise ExportError(
                f"writing {path} would overwrite {source}, which is what is exported. Choose "
                "another name. Nothing was written."
            )


def write_artifact(
    masked: Masked, info: ModelInfo, path: Path, verify: Callable[[Path], Any]
) -> tuple[ModelInfo, Any]:
    """Write beside the target, verify there, then move; return the final info and the verdict.

    After a failure nothing new is left and what was there before is untouched.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            info = _write_files(masked, info, draft)
            verdict = verify(draft)
            _publish(draft, path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error}. Nothing was changed.") from error
    return info, verdict


def _write_files(masked: Masked, info: ModelInfo, draft: Path) -> ModelInfo:
    weights, weight_places = _pack(masked.weights)
    masks, mask_places = _pack(masked.masks)
    draft.with_suffix(".weights").write_bytes(weights)
    draft.with_suffix(".masks").write_bytes(masks)
    model = to_model(masked.graph)
    _declare(model, masked.weights, weight_places, draft.with_suffix(".weights").name)
    _declare(model, masked.masks, mask_places, draft.with_suffix(".masks").name)
    identity = hashlib.sha256(weights)
    identity.update(model.graph.SerializeToString(deterministic=True))
    info = replace(
        info,
        model_id=identity.hexdigest(),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        masks_sha256=hashlib.sha256(masks).hexdigest(),
    )
    onnx.helper.set_model_props(model, info.to_metadata())
    draft.write_bytes(model.SerializeToString(deterministic=True))
    return info


def _pack(tensors: Mapping[str, NDArray[np.float32]]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Lay tensors out at aligned places; return the bytes and offset and length of each."""
    parts, places, end = [], {}, 0
    for name, value in tensors.items():
        gap = -end % _ALIGNMENT
        raw = np.ascontiguousarray(value, "<f4").tobytes()
        places[name] = (end + gap, len(raw))
        parts += [b"\0" * gap, raw]
        end += gap + len(raw)
    return b"".join(parts), places


def _declare(
    model: onnx.ModelProto,
    tensors: Mapping[str, NDArray[np.float32]],
    places: Mapping[str, tuple[int, int]],
    location: str,
) -> None:
    for name, value in tensors.items():
        tensor = model.graph.initializer.add()
        tensor.name = name
        tensor.data_type = onnx.TensorProto.FLOAT
        tensor.dims.extend(value.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        offset, length = places[name]
        for key, text in (("location", location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(text))


def _publish(draft: Path, path: Path) -> None:
    """Move the three files into place; put the old ones back if that fails half way."""
    old = draft.parent / "old"
    old.mkdir()
    for suffix in _SUFFIXES:
        if path.with_suffix(suffix).exists():
            shutil.copy2(path.with_suffix(suffix), old / suffix)
    done: list[str] = []
    try:
        for suffix in _SUFFIXES:
            draft.with_suffix(suffix).replace(path.with_suffix(suffix))
            done.append(suffix)
    except OSError:
        for suffix in done:
            _restore(old / suffix, path.with_suffix(suffix))
        raise


def _restore(backup: Path, target: Path) -> None:
    if backup.exists():
        backup.replace(target)
    else:
        target.unlink(missing_ok=True)
