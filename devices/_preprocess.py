"""The kinds of preprocessing, and how a stored specification finds its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from ._errors import PreprocessError
from ._image_features import ImagePreprocess
from ._sound_features import LogMelPreprocess, WaveformPreprocess
from ._spec import check_choice

__all__ = ["Preprocess", "preprocess_from_dict"]

Preprocess: TypeAlias = ImagePreprocess | LogMelPreprocess | WaveformPreprocess

_KINDS: Final[dict[str, type[Preprocess]]] = {
    cls.kind: cls for cls in (ImagePreprocess, LogMelPreprocess, WaveformPreprocess)
}


def preprocess_from_dict(data: Mapping[str, Any]) -> Preprocess:
    """Build the preprocessing that ``data["kind"]`` names: "image", "log_mel" or "waveform".

    Raises:
        PreprocessError: the kind is missing or not known, or another key is wrong; the
            error names the key.
    """
    if not isinstance(data, Mapping):
        raise PreprocessError("kind", f"a specification is a mapping, got {type(data).__name__}")
    if "kind" not in data:
        raise PreprocessError("kind", "is missing")
    return _KINDS[check_choice("kind", data["kind"], tuple(_KINDS))].from_dict(data)
