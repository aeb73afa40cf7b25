from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def digits(data: Path) -> list[Path]:
    """A few 8 kHz WAV recordings of spoken digits, of all digits and speakers."""
    return sorted((data / "fsdd").glob("*_7.wav"))[::7]


@pytest.fixture(scope="session")
def words(data: Path) -> list[Path]:
    """A few 16 kHz FLAC recordings of Arabic words."""
    return sorted((data / "arabic-speech-commands").glob("*/*_01.flac"))[::60]


@pytest.fixture(scope="session")
def pictures(data: Path) -> list[Path]:
    """A few photographs, colour and greyscale, portrait and landscape."""
    return sorted((data / "imagenet-sample").glob("*.JPEG"))[::90]


@pytest.fixture
def write_wav(tmp_path: Path) -> Callable[..., Path]:
    """Write PCM with the standard library; samples of full scale ±1, (frames[, channels])."""

    def write(
        samples: NDArray[np.floating], rate_hz: int = 8000, bits: int = 16, name: str = "a.wav"
    ) -> Path:
        values = np.atleast_2d(np.asarray(samples, np.float64).T).T
        whole = np.clip(np.round(values * 2 ** (bits - 1)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        path = tmp_path / name
        with wave.open(str(path), "wb") as stream:
            stream.setnchannels(values.shape[1])
            stream.setsampwidth(bits // 8)
            stream.setframerate(rate_hz)
            stream.writeframes(_pcm(whole.astype(np.int64), bits))
        return path

    return write


def _pcm(whole: NDArray[np.int64], bits: int) -> bytes:
    if bits == 8:
        return (whole + 128).astype(np.uint8).tobytes()
    words = whole.astype("<i4").reshape(-1, 1).view(np.uint8)
    return words[:, : bits // 8].tobytes()
