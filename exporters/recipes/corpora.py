"""Two public corpora of spoken words, read as this project splits them.

A user is a speaker whom the network never heard. Some of that speaker's takes adapt, unlabelled;
the others score. The split is by take number and is fixed here, in one place.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

__all__ = ["Clip", "Corpus", "load_arabic", "load_fsdd"]


@dataclass(frozen=True)
class Clip:
    """One spoken word: float32 samples (n,), its class, who spoke, and what it may be used for."""

    samples: NDArray[np.float32]
    label: int
    speaker: str
    adapts: bool  # of an unseen speaker: True adapts (its label is never looked at), False scores


@dataclass(frozen=True)
class Corpus:
    """Clips at one rate with the words behind their labels, and the speakers to leave out."""

    clips: tuple[Clip, ...]
    sample_rate_hz: int
    words: tuple[str, ...]
    held_out: frozenset[str]

    def training(self) -> list[Clip]:
        """Clips of the speakers that the network may hear."""
        return [clip for clip in self.clips if clip.speaker not in self.held_out]

    def user(self, speaker: str, *, adapts: bool) -> list[Clip]:
        """Clips of one speaker: those that adapt, or those that score."""
        return [c for c in self.clips if c.speaker == speaker and c.adapts == adapts]


def _read(path: Path, sample_rate_hz: int) -> NDArray[np.float32]:
    samples, rate_hz = soundfile.read(path, dtype="float32")
    if rate_hz != sample_rate_hz or samples.ndim != 1:
        raise ValueError(f"{path}: expected mono at {sample_rate_hz} Hz; is this the corpus?")
    return np.asarray(samples, dtype=np.float32)


def _fsdd_clip(path: Path) -> Clip:
    digit, speaker, take = path.stem.split("_")
    return Clip(_read(path, 8000), int(digit), speaker, adapts=int(take) % 2 == 0)


def load_fsdd(folder: Path, *, hold_out: str | None = None) -> Corpus:
    """Read the Free Spoken Digit Dataset, ``DIGIT_SPEAKER_TAKE.wav``: even takes adapt.

    Raises:
        ValueError: there is no such speaker, or the files are something else.
    """
    clips = tuple(_fsdd_clip(path) for path in sorted(folder.glob("*.wav")))
    speakers = sorted({clip.speaker for clip in clips})
    if hold_out is not None and hold_out not in speakers:
        raise ValueError(f"no speaker {hold_out!r} in {folder}; there are: {', '.join(speakers)}")
    words = tuple(map(str, range(10)))
    return Corpus(clips, 8000, words, frozenset() if hold_out is None else frozenset({hold_out}))


def _arabic_speakers(folder: Path) -> dict[str, str]:
    """Speaker to split ("train" or "val")."""
    with (folder / "speakers.tsv").open(encoding="utf-8", newline="") as table:
        return {row["speaker"]: row["split"] for row in csv.DictReader(table, delimiter="\t")}


def load_arabic(folder: Path) -> Corpus:
    """Read Arabic Speech Commands, ``SPEAKER/WORD_TAKE.flac``: takes 01 to 05 adapt.

    The held-out speakers are those of the ``val`` split in ``speakers.tsv``.
    """
    splits = _arabic_speakers(folder)
    paths = [path for who in splits for path in sorted((folder / who).glob("*.flac"))]
    words = tuple(sorted({path.stem.rpartition("_")[0] for path in paths}))
    clips = tuple(_arabic_clip(path, words) for path in paths)
    held_out = frozenset(who for who, split in splits.items() if split == "val")
    return Corpus(clips, 16000, words, held_out)


def _arabic_clip(path: Path, words: tuple[str, ...]) -> Clip:
    word, _, take = path.stem.rpartition("_")
    return Clip(_read(path, 16000), words.index(word), path.parent.name, adapts=int(take) <= 5)
