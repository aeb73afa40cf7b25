"""Samples from the outside world: files of sound and pictures, and what a model wants of them.

Importing this package needs numpy and pillow only. soundfile and soxr (the extra ``audio``)
are imported when a file or a sample rate asks for them.
"""

from ._audio_clip import AudioClip
from ._audio_file import read_audio
from ._errors import (
    BadSample,
    DeviceError,
    DeviceUnavailable,
    MissingExtra,
    PreprocessError,
    SourceError,
)
from ._folder import Sample, SampleFolder, open_folder
from ._image_colors import read_image
from ._image_features import ImagePreprocess
from ._label_csv import read_label_csv
from ._preprocess import Preprocess, preprocess_from_dict
from ._sound_features import LogMelPreprocess, WaveformPreprocess

__all__ = [
    "AudioClip",
    "BadSample",
    "DeviceError",
    "DeviceUnavailable",
    "ImagePreprocess",
    "LogMelPreprocess",
    "MissingExtra",
    "Preprocess",
    "PreprocessError",
    "Sample",
    "SampleFolder",
    "SourceError",
    "WaveformPreprocess",
    "open_folder",
    "preprocess_from_dict",
    "read_audio",
    "read_image",
    "read_label_csv",
]
