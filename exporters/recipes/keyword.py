"""A keyword spotter small enough for any board: 39k parameters, 156 kB in float32.

A depthwise-separable network in the manner of "Hello Edge" (Zhang et al. 2017): one dense
convolution, four depthwise-separable blocks, the mean over time and frequency, one linear layer.
Every convolution has its own BatchNorm and ReLU, the depthwise ones too, so that normalisation
statistics can be re-estimated behind each of them and every channel group ends in a ReLU.
Channel counts are multiples of 32, on which ONNX Runtime stays on its fast path.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from edgeprune.devices import LogMelPreprocess

__all__ = ["BANDS", "DIGITS", "KeywordNet", "keyword_net", "log_mel"]

DIGITS: Final = (
    *("zero", "one", "two", "three", "four"),
    *("five", "six", "seven", "eight", "nine"),
)
BANDS: Final = 40
DURATION_S: Final = 1.0
WINDOW_S: Final = 0.032
HOP_S: Final = 0.016
LOW_HZ: Final = 60.0
# The top 5 % below the Nyquist frequency are where resamplers and anti-alias filters differ.
HIGH_OF_NYQUIST: Final = 0.95
# Rounded mean and standard deviation of the log-mel values of the Free Spoken Digit Dataset,
# padding included. Constants, not fitted per model: the first BatchNorm does the rest.
LOG_MEAN: Final = -10.0
LOG_STD: Final = 5.0

_WIDTHS: Final = (64, 64, 96, 96, 128)
_STRIDES: Final = (2, 1, 1, 1)


def log_mel(sample_rate_hz: int) -> LogMelPreprocess:
    """Features of one second of sound for :class:`KeywordNet`: shape (1, 40, 63).

    The same window and hop in seconds at every rate, so the network's shape stays the same.
    The FFT is twice the window: 40 bands would leave some low filters without a bin otherwise.
    """
    window_samples = round(WINDOW_S * sample_rate_hz)
    return LogMelPreprocess(
        sample_rate_hz=sample_rate_hz,
        duration_s=DURATION_S,
        window_samples=window_samples,
        fft_samples=2 * window_samples,
        hop_samples=round(HOP_S * sample_rate_hz),
        bands=BANDS,
        low_hz=LOW_HZ,
        high_hz=HIGH_OF_NYQUIST * sample_rate_hz / 2,
        fit="energy",
        pad_mode="constant",
        normalize="fixed",
        mean=(LOG_MEAN,),
        std=(LOG_STD,),
    )


def _normalised(conv: nn.Conv2d) -> list[nn.Module]:
    """A convolution, its BatchNorm and its ReLU."""
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()]


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A depthwise 3 × 3 and a pointwise convolution, each normalised."""
    depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
    pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(*_normalised(depthwise), *_normalised(pointwise))


class KeywordNet(nn.Module):
    """Log-mel features (N, 1, 40, frames) to logits (N, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        first = nn.Conv2d(1, _WIDTHS[0], 5, stride=2, padding=2, bias=False)
        self.stem = nn.Sequential(*_normalised(first))
        self.blocks = nn.Sequential(*map(_separable, _WIDTHS, _WIDTHS[1:], _STRIDES))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(_WIDTHS[-1], classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) of features (N, 1, 40, frames)."""
        pooled: torch.Tensor = self.pool(self.blocks(self.stem(features)))
        logits: torch.Tensor = self.head(pooled.flatten(1))
        return logits


def keyword_net(classes: int = len(DIGITS)) -> nn.Module:
    """Build an untrained :class:`KeywordNet`; the factory that the exporter is pointed at."""
    return KeywordNet(classes)
