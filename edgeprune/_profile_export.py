"""A copy of a model with a profile written into its files, for programs without edgeprune."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .runtime.artifact import PERSONALIZED_KEY, Artifact
from .runtime.errors import ArtifactError
from .runtime.profile import Profile

__all__ = ["write_personalized_copy"]


def write_personalized_copy(artifact: Artifact, profile: Profile, folder: Path) -> Path:
    """Write ``NAME.onnx``, ``.weights`` and ``.masks`` into a new or empty folder, all or none.

    The graph is the same but for one entry in its metadata, which says that this is no base model.

    Raises:
        ArtifactError: the folder is not empty or cannot be written.
        ProfileError: the profile does not belong to the model.
    """
    tensors = profile.tensors(artifact)
    try:
        _check_free(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _write(artifact, profile, tensors, draft)
            draft.chmod(0o755)
            draft.rename(folder)  # onto nothing or an empty folder: one step, or an error
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as error:
        raise ArtifactError(
            f"cannot write {folder}: {error.strerror or error}. Nothing was written."
        ) from error
    return folder / artifact.path.name


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(
            f"{folder} exists and is no empty folder. Nothing was written; name a new one."
        )


def _write(
    artifact: Artifact, profile: Profile, tensors: Mapping[str, NDArray[Any]], draft: Path
) -> None:
    onnx_file = draft / artifact.path.name
    onnx_file.write_bytes(_marked_graph(artifact, profile))
    places = _places(artifact)
    for suffix in (".weights", ".masks"):
        data = bytearray(artifact.path.with_suffix(suffix).read_bytes())
        for name, (location, offset) in places.items():
            if name in tensors and location == artifact.path.with_suffix(suffix).name:
                raw = np.ascontiguousarray(tensors[name], "<f4").tobytes()
                data[offset : offset + len(raw)] = raw
        onnx_file.with_suffix(suffix).write_bytes(data)


def _places(artifact: Artifact) -> dict[str, tuple[str, int]]:
    """File and offset of each external tensor."""
    places = {}
    for tensor in artifact.model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            places[tensor.name] = (entries["location"], int(entries.get("offset", 0)))
    return places


def _marked_graph(artifact: Artifact, profile: Profile) -> bytes:
    import onnx

    model = onnx.load_from_string(artifact.graph)
    entry = model.metadata_props.add()
    entry.key = PERSONALIZED_KEY
    entry.value = json.dumps({"created": profile.created.isoformat(), "strength": profile.strength})
    return bytes(model.SerializeToString(deterministic=True))
