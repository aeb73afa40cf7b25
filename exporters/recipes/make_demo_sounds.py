"""Make the demo's sounds: English digits spoken by a synthetic voice in a small room.

    python -m edgeprune.exporters.recipes.make_demo_sounds --voice VOICE -o FOLDER

Needs the Debian packages ``flite`` and ``espeak-ng``. The result is

    OUT/adapt/take_0001.wav ...   shuffled, no label anywhere: what a device would hear
    OUT/test/DIGIT/00.wav ...     labelled by folder, used only to score

8 kHz, mono, 16 bit. Rate, pitch, loudness, noise and echo differ from take to take because a
synthesiser repeats itself to the bit, and a person never does.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Wave = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 8000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FLITE_VOICES = ("slt", "rms", "awb", "kal16")
ESPEAK_VOICES = ("en-us", "en-us+f2", "en-gb-scotland", "en-gb-x-rp+f4")
CANDIDATES = (
    *(f"flite:{name}" for name in FLITE_VOICES),
    *(f"espeak:{name}" for name in ESPEAK_VOICES),
)


@dataclass(frozen=True)
class Delivery:
    """How one take is spoken: relative speaking rate (1 is usual) and pitch (1 is usual)."""

    rate: float
    pitch: float


@dataclass(frozen=True)
class Room:
    """Where takes are recorded, each as (least, most).

    Signal-to-noise ratio in dB, reverberation time (to -60 dB) in seconds, and the level of the
    echo against the direct sound in dB.
    """

    snr_db: tuple[float, float]
    reverb_s: tuple[float, float]
    echo_db: tuple[float, float]


ROOMS = {
    # The microphone is held close in a quiet room.
    "near": Room(snr_db=(25, 40), reverb_s=(0.15, 0.3), echo_db=(-20, -12)),
    # The board stands across the room from its user, and a fan runs.
    "far": Room(snr_db=(12, 20), reverb_s=(0.3, 0.5), echo_db=(-8, -3)),
}


def draw_delivery(rng: np.random.Generator) -> Delivery:
    """How one person varies within a session: a quarter faster or slower, two semitones."""
    return Delivery(rate=float(rng.uniform(0.85, 1.3)), pitch=float(2 ** (rng.uniform(-2, 2) / 12)))


_FLITE_PITCH_HZ = {"slt": 175.0, "rms": 95.0, "awb": 110.0, "kal16": 105.0}


def flite_command(voice: str, word: str, how: Delivery, path: Path) -> list[str]:
    """Command that writes ``word`` to the WAV file ``path``."""
    return [
        *("flite", "-voice", voice),
        *("--setf", f"duration_stretch={1 / how.rate:.3f}"),
        *("--setf", f"int_f0_target_mean={_FLITE_PITCH_HZ[voice] * how.pitch:.1f}"),
        *("-t", word, "-o", str(path)),
    ]


def espeak_command(voice: str, word: str, how: Delivery, path: Path) -> list[str]:
    """Command that writes ``word`` to the WAV file ``path``."""
    pitch = round(min(99.0, max(0.0, 50 + 60 * np.log2(how.pitch))))
    words_per_minute = round(160 * how.rate)
    options = ("-v", voice, "-p", str(pitch), "-s", str(words_per_minute))
    return ["espeak-ng", *options, "-w", str(path), word]


def speak(voice: str, word: str, how: Delivery) -> Wave:
    """Synthesise one word; ``voice`` is ``flite:NAME`` or ``espeak:NAME``. 8 kHz, shape (n,)."""
    engine, name = voice.split(":", 1)
    command = flite_command if engine == "flite" else espeak_command
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "word.wav"
        subprocess.run(command(name, word, how, path), check=True, capture_output=True)
        wave, rate_hz = soundfile.read(path, dtype="float32")
    return np.asarray(soxr.resample(wave, rate_hz, SAMPLE_RATE_HZ), dtype=np.float32)


def trim(wave: Wave, *, floor_db: float = -45.0, longest_s: float = 0.7) -> Wave:
    """Cut the silence at both ends (10 ms frames more than ``-floor_db`` below the loudest)."""
    frame = SAMPLE_RATE_HZ // 100
    frames = wave[: len(wave) // frame * frame].reshape(-1, frame)
    power = np.square(frames).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (floor_db / 10))
    first, last = int(loud[0]) * frame, (int(loud[-1]) + 1) * frame
    return wave[first : min(last, first + round(longest_s * SAMPLE_RATE_HZ))]


def add_echo(wave: Wave, room: Room, rng: np.random.Generator) -> Wave:
    """Convolve with a decaying noise tail: the usual statistical model of a small room."""
    count = round(rng.uniform(*room.reverb_s) * SAMPLE_RATE_HZ)
    decay = np.exp(-6.9 * np.arange(count) / count)  # 6.9 = ln(1000): 60 dB over the tail
    tail = rng.standard_normal(count) * decay
    tail[: SAMPLE_RATE_HZ // 200] = 0  # the nearest wall is 5 ms away
    tail *= 10 ** (rng.uniform(*room.echo_db) / 20) / np.linalg.norm(tail)
    tail[0] = 1.0
    return np.asarray(np.convolve(wave, tail)[: len(wave)], dtype=np.float32)


def add_noise(wave: Wave, room: Room, rng: np.random.Generator) -> Wave:
    """Add room noise: louder towards low frequencies, as fans and traffic are."""
    spectrum = np.fft.rfft(rng.standard_normal(len(wave)))
    frequency_hz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE_HZ)
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequency_hz, 50.0)), len(wave))
    level = np.sqrt(np.mean(np.square(wave))) * 10 ** (-rng.uniform(*room.snr_db) / 20)
    return np.asarray(wave + noise * (level / noise.std()), dtype=np.float32)


def take(voice: str, digit: int, room: Room, rng: np.random.Generator) -> Wave:
    """One recorded take of a digit, shape (n,), 8 kHz, within ±1."""
    spoken = trim(speak(voice, DIGITS[digit], draw_delivery(rng)))
    wave = add_noise(add_echo(spoken, room, rng), room, rng)
    peak = 10 ** rng.uniform(-0.8, -0.2)  # loudness differs from take to take
    return np.asarray(wave * (peak / np.abs(wave).max()), dtype=np.float32)


def takes(
    voice: str, count: int, room: Room, rng: np.random.Generator
) -> Iterator[tuple[int, Wave]]:
    """``count`` takes of every digit, as (digit, wave), in shuffled order."""
    for digit in rng.permutation(np.repeat(np.arange(len(DIGITS)), count)):
        yield int(digit), take(voice, int(digit), room, rng)


def write(path: Path, wave: Wave) -> None:
    """Write 16-bit mono WAV, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, SAMPLE_RATE_HZ, subtype="PCM_16")


def make_voice(voice: str, room: Room, out: Path, *, adapt: int, test: int, seed: int) -> None:
    """Write ``adapt`` unlabelled and ``test`` labelled takes of each digit into ``out``."""
    rng = np.random.default_rng(seed)
    for number, (_, wave) in enumerate(takes(voice, adapt, room, rng), start=1):
        write(out / "adapt" / f"take_{number:04d}.wav", wave)
    seen = [0] * len(DIGITS)
    for digit, wave in takes(voice, test, room, rng):
        write(out / "test" / str(digit) / f"{seen[digit]:02d}.wav", wave)
        seen[digit] += 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--voice", required=True, help=f"one of {', '.join(CANDIDATES)}")
    parser.add_argument("--room", choices=tuple(ROOMS), default="far")
    parser.add_argument("--adapt", type=int, default=12, help="unlabelled takes of each digit")
    parser.add_argument("--test", type=int, default=10, help="labelled takes of each digit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the sounds of one voice; returns the exit code."""
    options = _parser().parse_args(arguments)
    room, counts = ROOMS[options.room], {"adapt": options.adapt, "test": options.test}
    make_voice(options.voice, room, options.out, **counts, seed=options.seed)
    print(f"{options.voice}: wrote {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
