"""What is done to a sound before a model sees it: log-mel features, or the waveform itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from ._audio_clip import MAX_RATE_HZ, MIN_RATE_HZ, AudioClip
from ._errors import PreprocessError
from ._mel import filterbank, hann_periodic, spectrum
from ._sound_window import FITS, LOUDNESS, crop, level, mono_at, pad
from ._spec import as_floats, as_json, build, check_choice, check_flag, check_integer, check_number

__all__ = ["LogMelPreprocess", "WaveformPreprocess"]

_MAX_DURATION_S: Final = 600.0
_MAX_WINDOW_SAMPLES: Final = 65_536
# One model input: 2**24 values of float64 are 128 MB, held about three times over while the
# spectrum is computed; a keyword spotter asks for a thousandth of that.
_MAX_FRAMED_VALUES: Final = 2**24
_PER_SAMPLE_EPSILON: Final = 1e-5


def _checked_samples(spec: LogMelPreprocess | WaveformPreprocess) -> int:
    """Check what both kinds share and return the fixed length in samples."""
    check_integer("sample_rate_hz", spec.sample_rate_hz, MIN_RATE_HZ, MAX_RATE_HZ)
    duration_s = check_number("duration_s", spec.duration_s, 1e-3, _MAX_DURATION_S)
    object.__setattr__(spec, "duration_s", duration_s)
    check_choice("fit", spec.fit, FITS)
    check_choice("loudness", spec.loudness, LOUDNESS)
    level_dbfs = check_number("loudness_dbfs", spec.loudness_dbfs, -90.0, 0.0)
    object.__setattr__(spec, "loudness_dbfs", level_dbfs)
    return spec.samples


def _window(
    spec: LogMelPreprocess | WaveformPreprocess, sound: AudioClip | NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return exactly ``spec.samples`` samples: mixed, resampled, cropped, levelled, padded.

    The level is taken between crop and padding: it is that of what the model hears, and
    padding does not dilute an RMS.
    """
    kept = crop(mono_at(sound, spec.sample_rate_hz), spec.samples, spec.fit)
    return pad(level(kept, spec.loudness, spec.loudness_dbfs), spec.samples, spec.fit)


@dataclass(frozen=True, kw_only=True)
class WaveformPreprocess:
    """Sound as it is: mono float32 of shape (1, samples), full scale ±1.

    ``fit`` says what happens to other lengths than ``duration_s``: "start" keeps the
    start of what is longer and pads what is shorter at its end; "center" keeps the
    middle and pads both sides; "energy" keeps what lies around the centre of the
    signal's energy and pads both sides. Padding is zeros.

    ``loudness`` "peak" or "rms" scales what was kept to ``loudness_dbfs``; silence
    (peak below −90 dBFS) is never scaled.

    Raises:
        PreprocessError: a field is out of its range; the error names it.
    """

    kind: ClassVar[str] = "waveform"

    sample_rate_hz: int
    duration_s: float
    fit: str = "energy"
    loudness: str = "none"
    loudness_dbfs: float = -20.0

    def __post_init__(self) -> None:
        _checked_samples(self)

    @property
    def samples(self) -> int:
        """Length of the output in samples."""
        return max(1, round(self.duration_s * self.sample_rate_hz))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what a call returns."""
        return (1, self.samples)

    def __call__(self, sound: AudioClip | NDArray[np.floating]) -> NDArray[np.float32]:
        """Return float32 of shape (1, samples).

        An array is taken as mono (frames,) at ``sample_rate_hz``; a clip is mixed to
        mono and resampled where it needs to be.

        Raises:
            BadSample: the sound is empty, not finite or not floating-point.
            MissingExtra: the clip has another rate and soxr is not installed.
        """
        # A copy: what is returned must not change when the caller reuses its buffer.
        return np.array(_window(self, sound)[None, :], dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as plain JSON types."""
        return as_json(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WaveformPreprocess:
        """Build from :meth:`to_dict`'s form; raises PreprocessError naming a wrong key."""
        return build(cls, data)


@dataclass(frozen=True, kw_only=True)
class LogMelPreprocess:
    """Log-mel features of a fixed length of sound, as training code computes them.

    Lengths and loudness are handled as in :class:`WaveformPreprocess`. Then, in order:

    1. frames of ``fft_samples`` every ``hop_samples``; with ``center`` the sound is
       first padded by half a frame on both sides (``pad_mode`` "reflect" as torch.stft
       does, or "constant" zeros as librosa does);
    2. a periodic Hann window of ``window_samples`` in the middle of each frame;
    3. the magnitude to the ``power`` 1 or 2, summed into ``bands`` triangular mel
       filters between ``low_hz`` and ``high_hz`` (``mel_scale`` "htk" or "slaney",
       ``mel_norm`` "none" or "slaney");
    4. ``log`` "ln", "log10" or "db" (10·log10 of power, 20·log10 of magnitude) of
       ``max(value, log_floor) + log_offset``;
    5. ``normalize``: "none"; "fixed", (x − mean) / std with one value or one a band;
       or "per_sample", which subtracts each band's mean over time (``normalize_over``
       "time") or the mean of everything ("all") and, with ``normalize_std``, divides by
       the standard deviation + 1e-5.

    The output is float32 of shape (1, bands, frames) for ``layout`` "1FT" or
    (bands, frames) for "FT". The arithmetic within is float64.

    Three lines to see it::

        features = LogMelPreprocess(sample_rate_hz=16000, duration_s=1.0, window_samples=400,
                                    fft_samples=512, hop_samples=160, bands=40)
        features(clip).shape  # (1, 40, 101)

    Raises:
        PreprocessError: a field is out of its range; the error names it.
    """

    kind: ClassVar[str] = "log_mel"

    sample_rate_hz: int
    duration_s: float
    window_samples: int
    fft_samples: int
    hop_samples: int
    bands: int
    low_hz: float = 20.0
    high_hz: float | None = None
    fit: str = "energy"
    loudness: str = "none"
    loudness_dbfs: float = -20.0
    center: bool = True
    pad_mode: str = "reflect"
    power: int = 2
    mel_scale: str = "htk"
    mel_norm: str = "none"
    log: str = "ln"
    log_floor: float = 0.0
    log_offset: float = 1e-6
    normalize: str = "none"
    normalize_over: str = "time"
    normalize_std: bool = True
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "1FT"

    def __post_init__(self) -> None:
        samples = _checked_samples(self)
        self._check_frames(samples)
        self._check_bands()
        self._check_log_and_normalization()
        check_choice("layout", self.layout, ("1FT", "FT"))

    def _check_frames(self, samples: int) -> None:
        check_flag("center", self.center)
        check_choice("pad_mode", self.pad_mode, ("reflect", "constant"))
        check_integer("fft_samples", self.fft_samples, 16, _MAX_WINDOW_SAMPLES)
        check_integer("window_samples", self.window_samples, 2, self.fft_samples)
        check_integer("hop_samples", self.hop_samples, 1, _MAX_WINDOW_SAMPLES)
        if not self.center and samples < self.fft_samples:
            raise PreprocessError(
                "fft_samples", f"{self.fft_samples} is longer than the sound ({samples} samples)"
            )
        if self.center and self.pad_mode == "reflect" and samples <= self.fft_samples // 2:
            raise PreprocessError(
                "fft_samples", f"{samples} samples are too few to reflect; use pad_mode 'constant'"
            )
        if self.frames * self.fft_samples > _MAX_FRAMED_VALUES:
            raise PreprocessError(
                "hop_samples", f"{self.frames} frames of {self.fft_samples} need too much memory"
            )

    def _check_bands(self) -> None:
        half_rate_hz = self.sample_rate_hz / 2
        check_integer("power", self.power, 1, 2)
        check_integer("bands", self.bands, 1, 1024)
        check_choice("mel_scale", self.mel_scale, ("htk", "slaney"))
        check_choice("mel_norm", self.mel_norm, ("none", "slaney"))
        high_hz = half_rate_hz if self.high_hz is None else self.high_hz
        high_hz = check_number("high_hz", high_hz, 1.0, half_rate_hz)
        low_hz = check_number("low_hz", self.low_hz, 0.0, half_rate_hz)
        if high_hz - low_hz < 1.0:
            raise PreprocessError("low_hz", f"{low_hz:g} must be 1 Hz or more below {high_hz:g}")
        object.__setattr__(self, "low_hz", low_hz)
        object.__setattr__(self, "high_hz", high_hz)

    def _check_log_and_normalization(self) -> None:
        check_choice("log", self.log, ("ln", "log10", "db"))
        for key in ("log_floor", "log_offset"):
            object.__setattr__(self, key, check_number(key, getattr(self, key), 0.0, 1e6))
        if self.log_floor + self.log_offset < 1e-30:
            raise PreprocessError("log_offset", "with log_floor 0 it must be above 0 (log of 0)")
        check_choice("normalize", self.normalize, ("none", "fixed", "per_sample"))
        check_choice("normalize_over", self.normalize_over, ("time", "all"))
        check_flag("normalize_std", self.normalize_std)
        lengths = (1, self.bands)
        object.__setattr__(self, "mean", as_floats("mean", self.mean, lengths))
        object.__setattr__(self, "std", as_floats("std", self.std, lengths, positive=True))

    @property
    def samples(self) -> int:
        """Length of the sound behind one output, in samples."""
        return max(1, round(self.duration_s * self.sample_rate_hz))

    @property
    def frames(self) -> int:
        """Number of frames (columns) of the output."""
        padded = self.samples + (2 * (self.fft_samples // 2) if self.center else 0)
        return 1 + (padded - self.fft_samples) // self.hop_samples

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what a call returns."""
        shape = (self.bands, self.frames)
        return (1, *shape) if self.layout == "1FT" else shape

    def __call__(self, sound: AudioClip | NDArray[np.floating]) -> NDArray[np.float32]:
        """Return float32 features of :attr:`output_shape`.

        An array is taken as mono (frames,) at ``sample_rate_hz``; a clip is mixed to
        mono and resampled where it needs to be.

        Raises:
            BadSample: the sound is empty, not finite or not floating-point.
            MissingExtra: the clip has another rate and soxr is not installed.
        """
        logs = self._to_log(self._mel_energies(_window(self, sound)))
        out = np.ascontiguousarray(self._normalized(logs).T, dtype=np.float32)
        return out[None] if self.layout == "1FT" else out

    def _mel_energies(self, samples: NDArray[np.float32]) -> NDArray[np.float64]:
        wide = samples.astype(np.float64)
        if self.center:
            half = self.fft_samples // 2
            # Spelled out because numpy's overloads want literals.
            wide = (
                np.pad(wide, half, mode="reflect")
                if self.pad_mode == "reflect"
                else np.pad(wide, half)
            )
        window = hann_periodic(self.window_samples, self.fft_samples)
        return spectrum(wide, window, self.hop_samples, self.power) @ self._filterbank()

    def _filterbank(self) -> NDArray[np.float64]:
        high_hz = self.sample_rate_hz / 2 if self.high_hz is None else self.high_hz
        return filterbank(
            sample_rate_hz=self.sample_rate_hz,
            fft_samples=self.fft_samples,
            bands=self.bands,
            low_hz=self.low_hz,
            high_hz=high_hz,
            scale=self.mel_scale,
            norm=self.mel_norm,
        )

    def _to_log(self, energies: NDArray[np.float64]) -> NDArray[np.float64]:
        safe = np.maximum(energies, self.log_floor) + self.log_offset
        logs: NDArray[np.float64] = np.log(safe) if self.log == "ln" else np.log10(safe)
        return logs * (20.0 / self.power) if self.log == "db" else logs

    def _normalized(self, logs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Normalise (frames, bands) as the specification says."""
        if self.normalize == "none":
            return logs
        if self.normalize == "fixed":
            fixed: NDArray[np.float64] = (logs - np.array(self.mean)) / np.array(self.std)
            return fixed
        axis = 0 if self.normalize_over == "time" else None
        centered: NDArray[np.float64] = logs - logs.mean(axis=axis, keepdims=True)
        if self.normalize_std:
            centered /= logs.std(axis=axis, keepdims=True) + _PER_SAMPLE_EPSILON
        return centered

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as plain JSON types."""
        return as_json(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LogMelPreprocess:
        """Build from :meth:`to_dict`'s form; raises PreprocessError naming a wrong key."""
        return build(cls, data)
