"""Preprocessings that many networks share, by name. This table is the only place they stand."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .runtime.errors import ExportError

__all__ = ["PRESETS", "find_preprocess"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # torchvision's classification transform; mean and std times 255.
    "imagenet": {
        "kind": "image",
        "height": 224,
        "width": 224,
        "resize": "short_side",
        "short_side": 256,
        "interpolation": "bilinear",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
    },
    # TensorFlow's centre crop for EfficientNet-Lite: 224 of 256, values in about -1..1.
    "efficientnet-lite0": {
        "kind": "image",
        "height": 224,
        "width": 224,
        "resize": "crop_fraction",
        "crop_padding": 32,
        "interpolation": "bicubic",
        "mean": [127.0],
        "std": [128.0],
    },
}


def find_preprocess(text: str) -> Mapping[str, Any]:
    """Read a preset's name, JSON, or the name of a file of JSON.

    Raises:
        ExportError: it is none of them.
    """
    if text in PRESETS:
        return PRESETS[text]
    if text.lstrip().startswith("{"):
        return _parsed(text, "--preprocess")
    path = Path(text)
    if path.is_file():
        return _parsed(_read(path), text)
    close = difflib.get_close_matches(text, list(PRESETS), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ExportError(
        f"{text!r} is no preprocessing: give a JSON file, JSON text, or one of "
        f"{', '.join(PRESETS)}.{hint} Nothing was written."
    )


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"cannot read {path}: {error}. Nothing was written.") from error


def _parsed(text: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ExportError(f"{where} is not JSON ({error}). Nothing was written.") from error
    if not isinstance(value, dict):
        raise ExportError(f"{where} holds no JSON object. Nothing was written.")
    return value
