"""Train the keyword spotter on a corpus, and score it on the speakers left out.

    python -m edgeprune.exporters.recipes.train_keyword --data DIR --corpus fsdd \\
        --hold-out theo -o theo.pt

One line of JSON on stdout for each speaker left out: accuracy of the network as trained, and of
the same network with its normalisation statistics re-estimated, forward passes only, on other and
unlabelled takes of that speaker. The weights are a plain ``state_dict``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from edgeprune.devices import LogMelPreprocess, WaveformPreprocess

from .corpora import Clip, Corpus, load_arabic, load_fsdd
from .keyword import keyword_net, log_mel

__all__ = ["RECIPES", "Recipe", "accuracy", "features", "reestimated", "train"]

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """Augmentation of the sound and length of the training.

    ``views`` random versions of each clip are computed once: gain of ±``gain_db``, shift of
    ±``shift_s``, playing speed (and pitch with it) of e^±``speed``, white noise at a
    signal-to-noise ratio drawn from ``noise_snr_db`` (None: no noise). In each epoch SpecAugment
    hides up to ``masked_bands`` neighbouring bands and ``masked_frames`` neighbouring frames.
    """

    views: int = 4
    gain_db: float = 6.0
    shift_s: float = 0.1
    speed: float = 0.0
    noise_snr_db: tuple[float, float] | None = None
    masked_bands: int = 0
    masked_frames: int = 0
    epochs: int = 12
    batch: int = 64
    peak_rate: float = 6e-3


RECIPES: Final = {
    "shifted": Recipe(gain_db=0.0),
    "plain": Recipe(),
    "masked": Recipe(masked_bands=6, masked_frames=10),
    "full": Recipe(noise_snr_db=(15.0, 45.0), speed=0.15, masked_bands=6, masked_frames=10),
}


def _respeeded(samples: Samples, speed: float, rng: np.random.Generator) -> Samples:
    if not speed:
        return samples
    factor = math.exp(rng.uniform(-speed, speed))
    return np.asarray(soxr.resample(samples, 1.0, factor), dtype=np.float32)


def _noisy(
    samples: Samples, snr_db: tuple[float, float] | None, rng: np.random.Generator
) -> Samples:
    if snr_db is None:
        return samples
    level = math.sqrt(float(np.mean(np.square(samples)))) * 10 ** (-rng.uniform(*snr_db) / 20)
    noise = rng.standard_normal(len(samples), dtype=np.float32)
    return samples + noise * np.float32(level)


def _view(
    samples: Samples, window: WaveformPreprocess, recipe: Recipe, rng: np.random.Generator
) -> Samples:
    """One random version of a clip, cut and padded to the window: shape (window.samples,)."""
    placed = window(_respeeded(samples, recipe.speed, rng))[0]
    shift = round(recipe.shift_s * window.sample_rate_hz)
    moved = np.roll(placed, int(rng.integers(-shift, shift + 1)))
    louder = moved * np.float32(10 ** (rng.uniform(-recipe.gain_db, recipe.gain_db) / 20))
    return _noisy(louder, recipe.noise_snr_db, rng)


def features(sounds: Sequence[Samples], preprocess: LogMelPreprocess) -> torch.Tensor:
    """Log-mel features of sounds (n,) of any length: (N, 1, bands, frames)."""
    return torch.from_numpy(np.stack([preprocess(samples) for samples in sounds]))


def _views(clips: Sequence[Clip], sample_rate_hz: int, recipe: Recipe, seed: int) -> torch.Tensor:
    """Features of ``recipe.views`` random versions of each clip: (views, N, 1, bands, frames)."""
    preprocess = log_mel(sample_rate_hz)
    window = WaveformPreprocess(
        sample_rate_hz=sample_rate_hz, duration_s=preprocess.duration_s, fit=preprocess.fit
    )
    rng = np.random.default_rng(seed)
    rounds = [
        features([_view(clip.samples, window, recipe, rng) for clip in clips], preprocess)
        for _ in range(recipe.views)
    ]
    return torch.stack(rounds)


def _stripe(count: int, length: int, widest: int, dice: torch.Generator) -> torch.Tensor:
    """A random stripe of up to ``widest`` positions in each row: bool (count, length)."""
    start = torch.randint(0, length, (count, 1), generator=dice)
    width = torch.randint(0, widest + 1, (count, 1), generator=dice)
    position = torch.arange(length)
    return (position >= start) & (position < start + width)


def _spec_augment(batch: torch.Tensor, recipe: Recipe, dice: torch.Generator) -> torch.Tensor:
    """Hide a stripe of bands and one of frames behind the mean, 0 (Park et al. 2019)."""
    count, _, bands, frames = batch.shape
    hidden = _stripe(count, bands, recipe.masked_bands, dice)[:, None, :, None]
    hidden = hidden | _stripe(count, frames, recipe.masked_frames, dice)[:, None, None, :]
    return batch.masked_fill(hidden, 0.0)


def _batches(
    views: torch.Tensor, labels: torch.Tensor, recipe: Recipe, dice: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of one epoch: each clip once, in one of its views. A short rest is left out."""
    order = torch.randperm(len(labels), generator=dice)
    whole = len(order) // recipe.batch * recipe.batch
    for chosen in torch.split(order[:whole], recipe.batch):
        view = torch.randint(0, len(views), (len(chosen),), generator=dice)
        yield _spec_augment(views[view, chosen], recipe, dice), labels[chosen]


def _initialised(classes: int, seed: int) -> nn.Module:
    # Forked, so that training leaves the caller's random state alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return keyword_net(classes)


def train(
    corpus: Corpus,
    recipe: Recipe,
    *,
    seed: int = 0,
    log: Callable[[str], object] = lambda _: None,
) -> nn.Module:
    """Train on the speakers that are not held out; the same seed gives the same weights.

    Raises:
        ValueError: there are fewer clips than one batch holds.
    """
    clips = corpus.training()
    if len(clips) < recipe.batch:
        raise ValueError(f"{len(clips)} clips are fewer than one batch of {recipe.batch}")
    views = _views(clips, corpus.sample_rate_hz, recipe, seed)
    labels = torch.tensor([clip.label for clip in clips])
    model = _initialised(len(corpus.words), seed)
    dice = torch.Generator().manual_seed(seed)
    for epoch, loss in enumerate(_epochs(model, views, labels, recipe, dice), start=1):
        log(f"epoch {epoch}/{recipe.epochs}: loss {loss:.3f}")
    return model.eval()


def _epochs(
    model: nn.Module,
    views: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    dice: torch.Generator,
) -> Iterator[float]:
    """Train epoch by epoch, yielding the mean loss of each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.peak_rate, weight_decay=1e-3)
    steps = recipe.epochs * (len(labels) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_rate, total_steps=steps)
    model.train()
    for _ in range(recipe.epochs):
        losses = []
        for batch, wanted in _batches(views, labels, recipe, dice):
            losses.append(_step(model, batch, wanted, optimizer))
            schedule.step()
        yield sum(losses) / len(losses)


def _step(
    model: nn.Module, batch: torch.Tensor, wanted: torch.Tensor, optimizer: torch.optim.Optimizer
) -> float:
    """One step on features (N, 1, bands, frames) and labels (N,); returns the loss."""
    optimizer.zero_grad()
    # Channels last: 1.5 times faster for these shapes on a CPU.
    loss = F.cross_entropy(model(batch.contiguous(memory_format=torch.channels_last)), wanted)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def reestimated(model: nn.Module, batch: torch.Tensor) -> nn.Module:
    """Copy the model with every BatchNorm's statistics taken from one unlabelled batch.

    ``batch`` is (N, 1, bands, frames). One forward pass in training mode and no gradient: each
    layer sees what the layers before it give once they are normalised by the new statistics.
    """
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over batches, and there is one batch
    copied.train()
    with torch.no_grad():
        copied(batch)
    return copied.eval()


def accuracy(model: nn.Module, batch: torch.Tensor, labels: Sequence[int]) -> float:
    """Share of (N, 1, bands, frames) whose largest logit is the label."""
    with torch.no_grad():
        found = model(batch).argmax(dim=1)
    return float((found == torch.tensor(labels)).float().mean())


def _scores(model: nn.Module, corpus: Corpus, speaker: str) -> dict[str, str | float]:
    """Accuracy on one held-out speaker, as trained and with re-estimated statistics."""
    preprocess = log_mel(corpus.sample_rate_hz)
    scored = corpus.user(speaker, adapts=False)
    heard = features([clip.samples for clip in corpus.user(speaker, adapts=True)], preprocess)
    batch = features([clip.samples for clip in scored], preprocess)
    labels = [clip.label for clip in scored]
    return {
        "speaker": speaker,
        "dense": round(accuracy(model, batch, labels), 4),
        "reestimated": round(accuracy(reestimated(model, heard), batch, labels), 4),
    }


def save(model: nn.Module, path: Path) -> None:
    """Write the ``state_dict`` by a temporary file beside ``path``, so no half file remains."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    torch.save(model.state_dict(), partial)
    partial.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the corpus's own folder")
    parser.add_argument("--corpus", choices=("fsdd", "arabic"), required=True)
    parser.add_argument("--hold-out", metavar="SPEAKER", help="fsdd: the speaker not to train on")
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="plain")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, required=True, help="weights, a state_dict")
    return parser


def _corpus(options: argparse.Namespace) -> Corpus:
    if options.corpus == "fsdd":
        return load_fsdd(options.data, hold_out=options.hold_out)
    return load_arabic(options.data)


def _recipe(options: argparse.Namespace) -> Recipe:
    recipe = RECIPES[options.recipe]
    if options.epochs is None:
        return recipe
    return Recipe(**{**vars(recipe), "epochs": options.epochs})


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, save, score; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        corpus = _corpus(options)
        model = train(corpus, _recipe(options), seed=options.seed, log=_to_stderr)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}; nothing was written\n")
    save(model, options.out)
    for speaker in sorted(corpus.held_out):
        print(json.dumps(_scores(model, corpus, speaker)), flush=True)
    return 0


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
