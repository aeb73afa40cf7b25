"""Recordings from files, and the one place that touches soundfile.

Plain PCM WAV is always read by the standard library, with or without the ``audio`` extra:
the same bytes give the same samples on every installation.
"""

from __future__ import annotations

import importlib
import struct
import wave
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ._audio_clip import MAX_RATE_HZ, MIN_RATE_HZ, AudioClip
from ._errors import BadSample, MissingExtra
from ._sound_window import SILENCE_DBFS

__all__ = ["MAX_FILE_DURATION_S", "SOUND_SUFFIXES", "read_audio"]

SOUND_SUFFIXES: Final = (".flac", ".ogg", ".wav")
# Longer is a meeting, not a sample; a model's window would see a fraction of a per cent of it.
MAX_FILE_DURATION_S: Final = 600.0
# All channels together: 256 MB of float32. Ten minutes of 48 kHz stereo is 58 million.
_MAX_VALUES: Final = 2**26
_MAX_CHANNELS: Final = 64
# A chunk that claims to be longer than the file makes the standard library seek beyond it,
# which it reports as a bare RuntimeError.
_WAVE_ERRORS: Final = (wave.Error, EOFError, RuntimeError, struct.error)
# Programs that write WAV into a pipe (ffmpeg, arecord) cannot know the length: they put the
# largest number there, and the sound goes on to the end of the file.
_UNKNOWN_BYTES: Final = 0x7FFF_0000


def read_audio(path: str | Path) -> AudioClip:
    """Read a WAV, FLAC or OGG file at its own rate, all channels, float32 full scale ±1.

    The shape is (frames,) for mono and (frames, channels) otherwise. PCM WAV of 8, 16,
    24 or 32 bits needs nothing but the standard library.

    Raises:
        BadSample: no such file; empty, damaged or truncated; longer than ten minutes;
            not finite; or silent: the mix to mono never leaves −90 dBFS around its mean.
        MissingExtra: the format needs soundfile and it is not installed.
    """
    path = Path(path)
    magic = _magic(path)
    try:
        clip = _read_pcm_wav(path) if magic == b"RIFF" else None
        clip = clip or _read_with_soundfile(path, magic)
        _refuse_silence(clip)
    except BadSample as error:
        raise BadSample(path, error.reason) from error.__cause__
    return clip


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise BadSample(path, f"cannot be opened ({error.strerror})") from error
    if not magic:
        raise BadSample(path, "zero length: the file is empty")
    return magic


def _read_pcm_wav(path: Path) -> AudioClip | None:
    """Return the clip, or None for a WAV that the standard library does not know."""
    try:
        with wave.open(str(path), "rb") as stream:
            return _decode_wave(stream, path.stat().st_size)
    except _WAVE_ERRORS as error:
        # Also how float, A-law and extensible WAV show themselves: soundfile knows those.
        if "unknown format" in str(error):
            return None
        raise BadSample(path, f"damaged WAV file ({error or 'it ends too early'})") from error


def _decode_wave(stream: wave.Wave_read, file_bytes: int) -> AudioClip:
    frames, channels = stream.getnframes(), stream.getnchannels()
    frame_bytes = channels * stream.getsampwidth()
    if frames * frame_bytes >= _UNKNOWN_BYTES:
        return _decode_to_the_end(stream, file_bytes)
    _check_extent(frames, channels, stream.getframerate())
    # Checked against the file before reading: a lying header must not size an allocation.
    data = stream.readframes(frames) if frames * frame_bytes <= file_bytes else b""
    if len(data) < frames * frame_bytes:
        raise BadSample(None, f"truncated: its header promises {frames} frames")
    values = _decode_pcm(data, stream.getsampwidth())
    return _clip(values.reshape(frames, channels), stream.getframerate())


def _decode_to_the_end(stream: wave.Wave_read, file_bytes: int) -> AudioClip:
    """Decode a WAV whose header does not know how long it is."""
    channels = stream.getnchannels()
    frame_bytes = channels * stream.getsampwidth()
    # All of the file, header included: a little more than there can be.
    _check_extent(file_bytes // frame_bytes, channels, stream.getframerate())
    data = stream.readframes(file_bytes // frame_bytes)
    frames = len(data) // frame_bytes
    values = _decode_pcm(data[: frames * frame_bytes], stream.getsampwidth())
    return _clip(values.reshape(frames, channels), stream.getframerate())


def _decode_pcm(data: bytes, sample_bytes: int) -> NDArray[np.float32]:
    """Return little-endian PCM of 1 to 4 bytes a sample as float32 of full scale ±1."""
    if sample_bytes == 1:  # the one unsigned width
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128.0) / np.float32(128.0)
    if sample_bytes == 2:
        return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(2**15)
    if sample_bytes == 4:
        return np.frombuffer(data, "<i4").astype(np.float32) / np.float32(2**31)
    if sample_bytes != 3:
        raise BadSample(None, f"{8 * sample_bytes}-bit samples are not understood")
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)


def _read_with_soundfile(path: Path, magic: bytes) -> AudioClip:
    soundfile = _import_soundfile(path, magic)
    try:
        with soundfile.SoundFile(path) as stream:
            frames, rate_hz = stream.frames, stream.samplerate
            _check_extent(frames, stream.channels, rate_hz)
            values: NDArray[np.float32] = stream.read(frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise BadSample(path, f"damaged, or not a sound file ({error})") from error
    if len(values) < frames:
        raise BadSample(path, f"truncated: {len(values)} of {frames} frames could be read")
    return _clip(values, rate_hz)


def _import_soundfile(path: Path, magic: bytes) -> Any:
    try:
        return importlib.import_module("soundfile")
    except (ImportError, OSError) as error:  # OSError: it is there and libsndfile is not
        if path.suffix.lower() == ".wav" and magic != b"RIFF":
            raise BadSample(path, "damaged: it does not begin as a WAV file") from error
        raise MissingExtra(f"reading {path}, which is not plain PCM WAV,", "soundfile") from error


def _check_extent(frames: int, channels: int, rate_hz: int) -> None:
    if frames <= 0:
        raise BadSample(None, "zero length: there is no sound in it")
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise BadSample(None, f"sample rate {rate_hz} Hz is not a usable one")
    if not 1 <= channels <= _MAX_CHANNELS:
        raise BadSample(None, f"{channels} channels; 1 to {_MAX_CHANNELS} are understood")
    if frames > MAX_FILE_DURATION_S * rate_hz or frames * channels > _MAX_VALUES:
        raise BadSample(
            None,
            f"too long: {frames} frames at {rate_hz} Hz; at most "
            f"{MAX_FILE_DURATION_S / 60:g} minutes, so cut it into pieces",
        )


def _clip(values: NDArray[np.float32], rate_hz: int) -> AudioClip:
    mono = values.shape[1] == 1
    return AudioClip(np.ascontiguousarray(values[:, 0] if mono else values), rate_hz)


def _refuse_silence(clip: AudioClip) -> None:
    mono = clip.mono().samples.astype(np.float64)
    # Around the mean: a dead microphone often leaves a constant offset.
    peak = float(np.abs(mono - mono.mean()).max())
    if peak < 10.0 ** (SILENCE_DBFS / 20.0):
        raise BadSample(None, f"silent: the mix to mono stays below {SILENCE_DBFS:g} dBFS")
