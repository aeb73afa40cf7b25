"""Samples from the outside world: files, microphones and cameras, and what a model wants of them.

Importing this package needs numpy and pillow only. soundfile, soxr and sounddevice (the extra
``audio``) and PyAV (the extra ``camera``) are imported when a file or a device asks for them.
"""

from ._audio_clip import AudioClip
from ._audio_file import read_audio
from ._camera import Camera, open_camera
from ._camera_names import CameraInfo, find_camera, list_cameras
from ._chunks import AudioChunk, VideoFrame
from ._energy import EnergyGate
from ._errors import (
    BadSample,
    DeviceError,
    DeviceNotFound,
    DeviceStalled,
    DeviceUnavailable,
    MissingExtra,
    MissingLibrary,
    PreprocessError,
    SourceError,
)
from ._events import DeviceEvent, OnEvent
from ._find import find_device
from ._folder import Sample, SampleFolder, open_folder
from ._image_colors import read_image
from ._image_features import ImagePreprocess
from ._label_csv import read_label_csv
from ._live import LiveSource, LiveTiming
from ._microphone import Microphone, open_microphone
from ._open_source import open_source
from ._portaudio import MicrophoneInfo, list_microphones
from ._preprocess import Preprocess, preprocess_from_dict
from ._segment import Segmenter, SoundCounts, SoundSegment, VoiceDetector
from ._sound_features import LogMelPreprocess, WaveformPreprocess
from ._sound_file import SoundFile, open_sound_file
from ._source import Source
from ._thin import FrameCounts, FrameThinner
from ._video_file import VideoFile, open_video_file

__all__ = [
    "AudioChunk",
    "AudioClip",
    "BadSample",
    "Camera",
    "CameraInfo",
    "DeviceError",
    "DeviceEvent",
    "DeviceNotFound",
    "DeviceStalled",
    "DeviceUnavailable",
    "EnergyGate",
    "FrameCounts",
    "FrameThinner",
    "ImagePreprocess",
    "LiveSource",
    "LiveTiming",
    "LogMelPreprocess",
    "Microphone",
    "MicrophoneInfo",
    "MissingExtra",
    "MissingLibrary",
    "OnEvent",
    "Preprocess",
    "PreprocessError",
    "Sample",
    "SampleFolder",
    "Segmenter",
    "SoundCounts",
    "SoundFile",
    "SoundSegment",
    "Source",
    "SourceError",
    "VideoFile",
    "VideoFrame",
    "VoiceDetector",
    "WaveformPreprocess",
    "find_camera",
    "find_device",
    "list_cameras",
    "list_microphones",
    "open_camera",
    "open_folder",
    "open_microphone",
    "open_sound_file",
    "open_source",
    "open_video_file",
    "preprocess_from_dict",
    "read_audio",
    "read_image",
    "read_label_csv",
]
