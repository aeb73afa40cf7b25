"""``edgeprune devices …``: which microphones and cameras there are, and whether they work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from ._cli_common import FloatRange, Output, output_options
from ._cli_format import pairs, percent, table
from ._cli_groups import SuggestingGroup
from .devices import (
    AudioChunk,
    Camera,
    CameraInfo,
    DeviceError,
    DeviceEvent,
    DeviceUnavailable,
    EnergyGate,
    Microphone,
    MicrophoneInfo,
    VideoFrame,
    find_device,
    list_cameras,
    list_microphones,
    open_camera,
    open_microphone,
)

__all__ = ["devices"]

_KINDS: Final = ("microphone", "camera")
_LOWEST_DBFS: Final = -60.0
_FULL_SCALE: Final = 0.998
_BAR: Final = 40
_METER_S: Final = 0.1
_LINE_S: Final = 1.0


@click.group(cls=SuggestingGroup)
def devices() -> None:
    """List and test the microphones and cameras of this computer; calibrate its processor."""


@devices.command("list")
@output_options
def list_(*, output: Output) -> None:
    """List every microphone and camera; * is what is used when none is named."""
    notes: list[str] = []
    microphones = _found(list_microphones, notes)
    cameras = _found(list_cameras, notes)
    data = {
        "microphones": [asdict(info) for info in microphones],
        "cameras": [asdict(info) for info in cameras],
        "notes": notes,
    }
    output.result(data, "\n\n".join([_microphone_table(microphones), _camera_table(cameras)]))
    for note in notes:
        output.note(f"edgeprune: {note}")


def _found(look: Callable[[], tuple[Any, ...]], notes: list[str]) -> tuple[Any, ...]:
    try:
        return look()
    except DeviceError as error:  # the other kind of device may be there all the same
        notes.append(str(error))
        return ()


def _microphone_table(microphones: tuple[MicrophoneInfo, ...]) -> str:
    if not microphones:
        return "no microphones"
    rows = [
        [
            ("* " if info.is_default else "  ") + info.name,
            info.host_api,
            str(info.channels),
            str(info.sample_rate_hz),
        ]
        for info in microphones
    ]
    return table(["  microphone", "system", "channels", "rate (Hz)"], rows)


def _camera_table(cameras: tuple[CameraInfo, ...]) -> str:
    if not cameras:
        return "no cameras (network cameras are not looked for: give their address)"
    rows = [
        [("  " if number else "* ") + info.name, info.kind, info.address]
        for number, info in enumerate(cameras)
    ]
    return table(["  camera", "system", "address"], rows)


@devices.command()
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(_KINDS), help="Needed where a microphone and a camera share a name."
)
@click.option("--seconds", type=FloatRange(0.5, 3600.0), default=5.0, show_default=True)
@click.option(
    "--save",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Save the last picture of a camera as a PNG or JPEG file. Nothing is saved otherwise.",
)
@output_options
def test(*, name: str, kind: str | None, seconds: float, save: Path | None, output: Output) -> None:
    """Open the device NAME for some seconds, show what it delivers and say how well.

    NAME is a name from `edgeprune devices list` or a part of it, or the address of a network
    camera. A microphone shows its level; nothing is recorded. The exit code is 4 when the device
    is not there or delivers nothing.
    """
    info = find_device(name, kind)
    is_microphone = isinstance(info, MicrophoneInfo)
    if is_microphone and save is not None:
        raise click.UsageError("--save is for cameras: sound is never saved.")
    if save is not None:
        _check_place(save)
    if is_microphone:
        _test_microphone(name, seconds, output)
    else:
        _test_camera(name, seconds, save, output)


def _check_place(save: Path) -> None:
    """Refuse a place that no picture can go to before the camera is opened."""
    if save.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise click.UsageError("--save takes a file that ends in .png or .jpg.")
    if not save.parent.is_dir():
        raise click.UsageError(f"--save: there is no folder {save.parent}.")


def _test_microphone(name: str, seconds: float, output: Output) -> None:
    meter = _Meter(output)
    with open_microphone(name, on_event=meter.event) as source:
        report = _listen(source, seconds, meter)
    meter.finish()
    if not report["samples"]:
        raise DeviceUnavailable(f"{name} was opened and delivered nothing for {seconds:g} s.")
    rows = [
        ("microphone", report["device"]),
        ("opened at", f"{report['native_rate_hz']} Hz, {report['channels']} channels"),
        ("latency", f"{1000 * report['latency_s']:.0f} ms, as the driver states it"),
        ("heard", f"{report['samples'] / report['native_rate_hz']:.2f} s"),
        ("level", f"{report['level_dbfs']:.1f} dBFS, loudest {report['peak_dbfs']:.1f} dBFS"),
        ("background", f"{report['noise_floor_dbfs']:.1f} dBFS"),
        ("clipped", percent(report["clipped_share"], 2)),
        ("lost", f"{report['dropped_samples']} samples"),
        ("trouble", "; ".join(report["events"]) or "none"),
    ]
    output.result(report, pairs(rows))


def _listen(source: Microphone, seconds: float, meter: _Meter) -> dict[str, Any]:
    levels = _Levels()
    gate = EnergyGate()
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        chunk = source.read(left)
        if chunk is not None:
            levels.add(chunk)
            meter.level(levels)
            step = max(1, round(0.01 * chunk.sample_rate_hz))
            for start in range(0, len(chunk.samples) - step + 1, step):
                gate.push(chunk.samples[start : start + step])
    return {
        "kind": "microphone",
        "device": source.device_name,
        "native_rate_hz": source.native_rate_hz,
        "channels": source.channels,
        "latency_s": source.latency_s,
        "noise_floor_dbfs": gate.floor_dbfs,
        "events": [event.message for event in source.events],
        **levels.report(),
    }


class _Levels:
    """Sums over everything heard; all levels are in dB below full scale."""

    def __init__(self) -> None:
        self._samples = 0
        self._energy = 0.0
        self._peak = 0.0
        self._clipped = 0
        self._dropped = 0
        self.now_dbfs = self.now_peak_dbfs = _dbfs(0.0)

    def add(self, chunk: AudioChunk) -> None:
        wide = chunk.samples.astype(np.float64)
        energy, peak = float(wide @ wide), float(np.abs(wide).max())
        self._samples += len(wide)
        self._energy += energy
        self._peak = max(self._peak, peak)
        self._clipped += int((np.abs(wide) >= _FULL_SCALE).sum())
        self._dropped = chunk.dropped_samples
        self.now_dbfs, self.now_peak_dbfs = _dbfs((energy / len(wide)) ** 0.5), _dbfs(peak)

    def report(self) -> dict[str, Any]:
        samples = max(1, self._samples)
        return {
            "samples": self._samples,
            "level_dbfs": _dbfs((self._energy / samples) ** 0.5),
            "peak_dbfs": _dbfs(self._peak),
            "clipped_share": self._clipped / samples,
            "dropped_samples": self._dropped,
        }


def _dbfs(amplitude: float) -> float:
    return round(20.0 * float(np.log10(max(amplitude, 1e-6))), 2)


class _Meter:
    """What happens while it happens, on stderr: a moving bar on a terminal, else plain lines."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._moving = sys.stderr.isatty() and not output.quiet
        self._next_s = time.monotonic()

    def event(self, event: DeviceEvent) -> None:
        self.finish()
        self._output.note(f"edgeprune: {event.message}")

    def level(self, levels: _Levels) -> None:
        share = 1.0 - max(levels.now_dbfs, _LOWEST_DBFS) / _LOWEST_DBFS
        bar = ("#" * round(share * _BAR)).ljust(_BAR, "-")
        self._show(f"[{bar}] {levels.now_dbfs:6.1f} dBFS, peak {levels.now_peak_dbfs:6.1f}")

    def frame(self, frame: VideoFrame, count: int) -> None:
        self._show(f"{frame.width} x {frame.height}, {count} pictures")

    def finish(self) -> None:
        """Leave the moving line."""
        if self._moving:
            click.echo("\r" + " " * 78 + "\r", err=True, nl=False)

    def _show(self, text: str) -> None:
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + (_METER_S if self._moving else _LINE_S)
        if self._moving:
            click.echo("\r" + text.ljust(78), err=True, nl=False)
        else:
            self._output.note(f"edgeprune: {text}")


def _test_camera(name: str, seconds: float, save: Path | None, output: Output) -> None:
    meter = _Meter(output)
    begun = time.monotonic()
    with open_camera(name, on_event=meter.event) as source:
        report, last = _watch(source, begun, seconds, meter)
    meter.finish()
    if last is None:
        raise DeviceUnavailable(f"{source.name} was opened and showed nothing for {seconds:g} s.")
    report["saved"] = None if save is None else _save(last, save)
    rows = [
        ("camera", report["device"]),
        ("size", f"{report['width']} x {report['height']}"),
        ("rate", f"{report['rate_hz']:.1f} pictures a second"),
        ("first picture", f"after {report['first_s']:.2f} s"),
        ("latency", f"{1000 * report['latency_s']:.0f} ms from arrival to the program (median)"),
        ("passed over", f"{report['dropped_frames']} pictures"),
        ("trouble", "; ".join(report["events"]) or "none"),
        ("saved", report["saved"] or "nothing"),
    ]
    output.result(report, pairs(rows))


def _watch(
    source: Camera, begun_s: float, seconds: float, meter: _Meter
) -> tuple[dict[str, Any], VideoFrame | None]:
    arrivals: list[tuple[float, int]] = []
    delays: list[float] = []
    last: VideoFrame | None = None
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        frame = source.read(left)
        if frame is not None:
            last = frame
            delays.append(time.monotonic() - frame.timestamp_s)
            arrivals.append((frame.timestamp_s, frame.sequence))
            meter.frame(frame, len(arrivals))
    report: dict[str, Any] = {
        "kind": "camera",
        "device": source.name,
        "events": [event.message for event in source.events],
    }
    if last is not None:
        report |= {
            "width": last.width,
            "height": last.height,
            "rate_hz": _rate_hz(arrivals),
            "first_s": round(arrivals[0][0] - begun_s, 3),
            "latency_s": round(float(np.median(delays)), 4),
            "dropped_frames": last.dropped_frames,
        }
    return report, last


def _rate_hz(arrivals: list[tuple[float, int]]) -> float:
    (first_s, first), (last_s, last) = arrivals[0], arrivals[-1]
    return round((last - first) / (last_s - first_s), 2) if last_s > first_s else 0.0


def _save(frame: VideoFrame, path: Path) -> str:
    from PIL import Image

    try:
        Image.fromarray(frame.rgb).save(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise click.ClickException(f"the picture cannot be saved as {path}: {reason}.") from error
    return str(path)


@devices.command()
@click.option("--threads", type=click.IntRange(min=1, max=1024), default=1, show_default=True)
@click.option(
    "--seconds",
    type=FloatRange(min=0.1),
    default=20.0,
    show_default=True,
    help="How long to measure at most.",
)
@output_options
def calibrate(*, threads: int, seconds: float, output: Output) -> None:
    """Find which channel counts this processor is fastest with, and what takes it how long.

    Networks of pruned sizes are rounded up to several multiples and timed in turns; chains of
    operators tell what a multiply-add and the moving of data take, by which `edgeprune personalize`
    chooses where units go. It and `edgeprune compact` use the outcome from then on, until the
    processor or ONNX Runtime is another one. Let the machine be quiet meanwhile.
    """
    from ._board import calibrate as measure
    from ._board import save_board
    from ._timing import Limits

    limits = Limits(budget_s=seconds, fewest=12, most=100)
    with output.progress() as on_progress:
        board = measure(
            threads, limits=limits, on_progress=lambda share: on_progress("calibrating", share)
        )
    path = save_board(board)
    fastest = min(board.ratios.values())
    rows = [
        [str(multiple), f"{ratio / fastest:.3f}", "*" if multiple == board.channel_multiple else ""]
        for multiple, ratio in sorted(board.ratios.items())
    ]
    text = table(["multiple", "time / fastest", ""], rows)
    found = board.rates
    speeds = [
        ("multiply-adds", f"{found.per_mac:.4f} ns each"),
        ("activations", f"{found.per_byte:.4f} ns a byte"),
        ("weights", f"{found.per_weight_byte:.4f} ns a byte"),
        ("operators", f"{found.per_operator:.0f} ns each"),
    ]
    output.result({**board.to_dict(), "path": str(path)}, f"{text}\n\n{pairs(speeds)}")
    for remark in board.remarks:
        output.note(f"edgeprune: {remark}")
    output.note(f"\nRemembered in {path}; delete it to go back to the default.")
