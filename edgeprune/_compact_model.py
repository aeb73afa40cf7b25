"""Running a compacted network: a plain ONNX file that says how it is used, and has no profiles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._network import Network
from .runtime._metadata import COMPACTED_KEY
from .runtime.artifact import Artifact, InputInfo, ModelInfo, parse_graph, read_graph
from .runtime.errors import ArtifactError

__all__ = ["CompactModel", "is_compacted", "load_compact"]

# What broken JSON can make Python's parser and our constructors raise.
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


def load_compact(path: str | Path, *, threads: int | None = None) -> CompactModel:
    """Open what `Model.compact` or ``edgeprune compact`` wrote.

    Args:
        path: the ``.onnx`` file; it needs no other.
        threads: threads of one operator; None for what the machine offers, at most four.

    Raises:
        ArtifactError: it cannot be read, or is no compacted network.
    """
    path = Path(path)
    graph, metadata = _read(path)
    if COMPACTED_KEY not in metadata:
        raise ArtifactError(
            f"{path} is no compacted network. Open an exported model with `edgeprune.load`, or "
            "make one with `edgeprune compact`."
        )
    try:
        about = json.loads(metadata[COMPACTED_KEY])
        units = {str(name): int(kept) for name, kept in about["units"].items()}
        info = _info(metadata, str(about["model_id"]))
    except _DAMAGE as error:
        raise ArtifactError(
            f"{path} has damaged edgeprune metadata ({type(error).__name__}: {error}). Compact "
            "the model again."
        ) from error
    return CompactModel(Artifact(path, graph, info), units, threads)


def is_compacted(path: Path) -> bool:
    """Whether a file is a compacted network; False for what cannot be read, too."""
    try:
        # Most models do not hold the word anywhere, and need not be parsed once more.
        return COMPACTED_KEY.encode() in path.read_bytes() and COMPACTED_KEY in _read(path)[1]
    except (OSError, ArtifactError):
        return False


class CompactModel(Network):
    """A network without its masked units. Made by `load_compact`.

    It has no masks, so no profile can be put in or taken out: go back to the model that it was
    made from. One thread at a time.
    """

    def __init__(self, artifact: Artifact, units: Mapping[str, int], threads: int | None) -> None:
        super().__init__(artifact, threads)
        self._units = dict(units)

    @property
    def base_model_id(self) -> str:
        """The `ModelInfo.model_id` of the model that it was made from."""
        return self.info.model_id

    @property
    def units(self) -> Mapping[str, int]:
        """How many units of each channel group the masks keep."""
        return dict(self._units)


def _read(path: Path) -> tuple[bytes, dict[str, str]]:
    graph = read_graph(path)
    return graph, dict(parse_graph(graph, path).metadata)


def _info(metadata: Mapping[str, str], model_id: str) -> ModelInfo:
    """What of a model's metadata a compacted network still has; groups and operators it has not."""

    def parsed(key: str) -> Any:
        return json.loads(metadata.get(f"edgeprune.{key}", "null"))

    first, output, labels = parsed("input"), parsed("output"), parsed("labels")
    return ModelInfo(
        model_id=model_id,
        source_sha256="",
        weights_sha256="",
        masks_sha256="",
        input_name=str(first["name"]),
        input_shape=tuple(first["shape"]),
        output_name=str(output["name"]),
        classes=output["classes"],
        head=None,
        output_kind=output["kind"],
        groups=(),
        operators=(),
        parameters=0,
        macs=0,
        preprocess=parsed("preprocess"),
        labels=None if labels is None else tuple(labels),
        inputs=tuple(
            InputInfo(name, tuple(shape), dtype) for name, shape, dtype in parsed("inputs") or ()
        ),
        outputs=tuple(parsed("outputs") or ()),
    )
