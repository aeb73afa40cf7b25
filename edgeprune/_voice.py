"""Voice activity by Silero's network, run by ONNX Runtime: no torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .devices import MissingLibrary

__all__ = ["SileroVoice"]

# The package asks for torch, which only its Python code needs; the model file does without.
_PIP_LINE: Final = "pip install --no-deps silero-vad"
_FRAME: Final = 512
_CONTEXT: Final = 64
_STATE: Final = (2, 1, 128)
# About 100 ms: one frame alone may be a slamming door.
_VOICED_FRAMES: Final = 3


class SileroVoice:
    """A voice detector for `edgeprune.devices.Segmenter`.

    Reads the model file of the PyPI package silero-vad (MIT licence) without importing the
    package, or the file at ``path``.

    Raises:
        MissingLibrary: the package is not installed: ``pip install --no-deps silero-vad``.
        ArtifactError: ONNX Runtime cannot load the file.
    """

    sample_rate_hz: int = 16_000

    def __init__(self, path: str | Path | None = None) -> None:
        from .runtime._ort import make_session

        self._session: Any = make_session(Path(path) if path else _installed(), threads=1)

    def __call__(self, samples: NDArray[np.float32]) -> float:
        """Return 0..1 for float32 (frames,) at 16 kHz: the mean of the three surest frames."""
        surest = np.sort(self.frames(samples))[-_VOICED_FRAMES:]
        return float(surest.mean()) if len(surest) else 0.0

    def frames(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability of voice for each 32 ms of float32 (frames,) at 16 kHz.

        The result is float32 of shape (frames,); the last 32 ms are filled up with zeros.
        """
        padded = np.pad(samples.astype(np.float32), (_CONTEXT, -len(samples) % _FRAME))
        state = np.zeros(_STATE, np.float32)
        rate = np.array(self.sample_rate_hz, np.int64)
        out = []
        for start in range(0, len(padded) - _CONTEXT, _FRAME):
            frame = padded[None, start : start + _CONTEXT + _FRAME]
            voice, state = self._session.run(None, {"input": frame, "state": state, "sr": rate})
            out.append(float(voice[0, 0]))
        return np.array(out, np.float32)


def _installed() -> Path:
    spec = importlib.util.find_spec("silero_vad")  # found, not imported: importing wants torch
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "data" / "silero_vad.onnx"
        if path.is_file():
            return path
    raise MissingLibrary("The voice gate", "the model of silero-vad", _PIP_LINE)
