"""Networks with a memory: GRUs and LSTMs after convolutions, embeddings, or nothing."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CRNN", "EmbeddingTagger", "VoiceEncoder"]


class CRNN(nn.Module):
    """Arik et al. 2017, section 2: a convolution, two bidirectional GRUs, two Linears."""

    def __init__(self, frames: int = 151, bins: int = 40, classes: int = 2):
        super().__init__()
        width, hidden, wide = 32, 32, 64
        self.conv = nn.Conv2d(1, width, (20, 5), (8, 2))
        left = -(-frames // 8), -(-bins // 2)
        self.pad = (*_same(bins, 5, 2), *_same(frames, 20, 8))
        self.gru = nn.GRU(width * left[1], hidden, 2, batch_first=True, bidirectional=True)
        self.fc1 = nn.Linear(2 * hidden * left[0], wide)
        self.fc2 = nn.Linear(wide, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.pad(x, self.pad)).relu()
        x = x.transpose(1, 2).flatten(2)
        return self.fc2(self.fc1(self.gru(x)[0].flatten(1)).relu())


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's padding, which keeps ceil(size / stride) places."""
    missing = (-(-size // stride) - 1) * stride + kernel - size
    return missing // 2, missing - missing // 2


class VoiceEncoder(nn.Module):
    """Wan et al. 2018 as Resemblyzer trained it: three LSTMs, a Linear, unit length."""

    def __init__(self, bins: int = 40, width: int = 256):
        super().__init__()
        self.lstm = nn.LSTM(bins, width, 3, batch_first=True)
        self.linear = nn.Linear(width, width)

    def forward(self, mels: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(mels)
        raw = self.linear(hidden[-1]).relu()
        return raw / raw.norm(dim=1, keepdim=True)


class EmbeddingTagger(nn.Module):
    """A label for every token: an embedding, a convolution over neighbours, a GRU, a Linear."""

    def __init__(self, words: int = 1000, width: int = 64, tags: int = 17):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.conv = nn.Conv1d(width, 96, 3, padding=1)
        self.gru = nn.GRU(96, 48, batch_first=True)
        self.fc = nn.Linear(48, tags)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.conv(self.embedding(tokens).transpose(1, 2)).relu()
        return self.fc(self.gru(x.transpose(1, 2))[0])
