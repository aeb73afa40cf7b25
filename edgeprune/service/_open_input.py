"""From one word for a source to what the model hears or sees of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..devices import (
    FrameThinner,
    ImagePreprocess,
    LiveTiming,
    LogMelPreprocess,
    Microphone,
    OnEvent,
    Preprocess,
    Segmenter,
    SoundFile,
    SourceError,
    VoiceDetector,
    WaveformPreprocess,
    open_folder,
    open_source,
)
from ._folder_input import FolderInput
from ._inputs import InputOptions, LiveInput
from ._picture_input import PictureInput
from ._sound_input import SoundInput

__all__ = ["open_input"]

_CAMERA_WORDS: Final = ("camera", "http", "https", "rtsp", "rtsps")
_HANG_OVER_S: Final = 0.2


def open_input(
    text: str,
    preprocess: Preprocess,
    options: InputOptions | None = None,
    on_event: OnEvent | None = None,
) -> LiveInput:
    """Open what ``text`` names as a stream of samples for a model that wants ``preprocess``.

    Args:
        text: ``mic``, ``mic:NAME``, ``camera``, ``camera:NAME``, an address (``http://…``,
            ``rtsp://…``), ``/dev/video0``, the path of a recording or a video file, or a folder.
        preprocess: of the model; it says whether sound or pictures are wanted.
        options: how it is read.
        on_event: told of every trouble of a device, from the device's thread.

    Raises:
        SourceError: it names no source, or one of the other kind; nothing stays open.
        DeviceUnavailable: there is no such device, or it cannot be opened.
        BadSample: the file is damaged.
        MissingExtra, MissingLibrary: a package or a library is not installed.
    """
    options = options or InputOptions()
    _check_kind(text, preprocess)
    if text and Path(text).is_dir():  # an empty word, as of an unset variable, is no folder
        return FolderInput(open_folder(text, preprocess), text, options.pace)
    if isinstance(preprocess, ImagePreprocess):
        return _open_pictures(text, preprocess, options, on_event)
    return _open_sound(text, preprocess, options, on_event)


def _check_kind(text: str, preprocess: Preprocess) -> None:
    """Refuse a device of the wrong kind before it is opened."""
    word = text.partition(":")[0]
    sees = isinstance(preprocess, ImagePreprocess)
    if sees and word == "mic":
        raise _wrong_kind(text, sees)
    if not sees and (word in _CAMERA_WORDS or text.startswith("/dev/")):
        raise _wrong_kind(text, sees)


def _wrong_kind(text: str, sees: bool) -> SourceError:
    wanted, got = ("pictures", "sound") if sees else ("sound", "pictures")
    example = "camera" if sees else "mic"
    return SourceError(
        f"this model wants {wanted}, and {text} delivers {got}. Nothing was opened; name another "
        f"source, such as --source {example}."
    )


def _timing(options: InputOptions) -> LiveTiming:
    if options.stall_after_s is None:
        return LiveTiming()
    # A device may take as long for its first data as for any other.
    patience_s = max(LiveTiming().open_timeout_s, options.stall_after_s)
    return LiveTiming(stall_after_s=options.stall_after_s, open_timeout_s=patience_s)


def _open_pictures(
    text: str, preprocess: ImagePreprocess, options: InputOptions, on_event: OnEvent | None
) -> LiveInput:
    source = open_source(
        text,
        paced=options.pace == "realtime",
        timing=_timing(options),
        on_event=on_event,
        wait=options.wait,
    )
    if isinstance(source, Microphone | SoundFile):
        source.close()
        raise _wrong_kind(text, sees=True)
    kind = "camera" if source.live else "video file"
    return PictureInput(source, preprocess, FrameThinner(enabled=options.thin), kind)


def _open_sound(
    text: str,
    preprocess: LogMelPreprocess | WaveformPreprocess,
    options: InputOptions,
    on_event: OnEvent | None,
) -> LiveInput:
    # First, so that what is missing for it is told before a device opens.
    segmenter = _segmenter(preprocess, options)
    source = open_source(
        text,
        sample_rate_hz=preprocess.sample_rate_hz,
        paced=options.pace == "realtime",
        timing=_timing(options),
        on_event=on_event,
        wait=options.wait,
    )
    if not isinstance(source, Microphone | SoundFile):
        source.close()
        raise _wrong_kind(text, sees=False)
    kind = "microphone" if source.live else "sound file"
    return SoundInput(source, preprocess, segmenter, kind)


def _segmenter(
    preprocess: LogMelPreprocess | WaveformPreprocess, options: InputOptions
) -> Segmenter:
    try:
        return Segmenter(
            sample_rate_hz=preprocess.sample_rate_hz,
            window_s=preprocess.duration_s,
            gate=options.gate,
            hang_over_s=min(_HANG_OVER_S, preprocess.duration_s),
            voice=_voice() if options.voice else None,
        )
    except ValueError as error:
        raise SourceError(
            f"this model hears {preprocess.duration_s:g} s at a time, and a stream can be cut into "
            f"0.05 to 60 s only ({error}). Nothing was opened; personalise it from a folder."
        ) from error


def _voice() -> VoiceDetector:
    from .._voice import SileroVoice  # onnxruntime: only for who asks

    return SileroVoice()
