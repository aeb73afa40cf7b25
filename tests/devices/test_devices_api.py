"""The public surface, the error tree, and what importing the package costs."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune import devices
from edgeprune.devices import (
    BadSample,
    DeviceError,
    DeviceUnavailable,
    MissingExtra,
    PreprocessError,
    SourceError,
)

PUBLIC = {
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
}


def test_public_names_are_these_and_all_exist():
    assert set(devices.__all__) == PUBLIC
    assert all(getattr(devices, name) is not None for name in PUBLIC)


def test_public_functions_and_classes_are_documented():
    classes = PUBLIC - {"OnEvent", "Preprocess"}  # these two are names of types
    undocumented = [n for n in classes if not getattr(devices, n).__doc__]
    assert undocumented == []


def test_error_tree_and_exit_codes():
    classes = (BadSample, MissingExtra, PreprocessError, SourceError, DeviceUnavailable)
    assert all(issubclass(cls, DeviceError) for cls in classes)
    assert [cls.exit_code for cls in classes] == [1, 1, 1, 1, 4]


def test_messages_say_what_where_and_what_next():
    bad = BadSample(Path("a/b.wav"), "silent")
    assert (bad.path, bad.reason) == (Path("a/b.wav"), "silent")
    assert "a/b.wav: silent" in str(bad)
    assert "nothing was changed" in str(bad)
    assert 'pip install "edgeprune[audio]"' in str(MissingExtra("Reading", "soundfile"))
    assert "'std'" in str(PreprocessError("std", "must be above 0"))


@pytest.mark.parametrize(
    "error",
    [
        BadSample(Path("a.wav"), "silent"),
        PreprocessError("std", "zero"),
        MissingExtra("reading", "soxr"),
    ],
)
def test_errors_cross_process_boundaries(error: DeviceError):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_import_stays_light():
    heavy = ["torch", "onnx", "onnxruntime", "soundfile", "soxr", "librosa", "scipy", "sounddevice"]
    code = f"import edgeprune.devices, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
