"""Networks that the tests export; `python -m` style imports find this file from its folder."""

from __future__ import annotations

import torch
from torch import nn


def _block(a: int, b: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())


def _net(channels: int, classes: int) -> nn.Module:
    torch.manual_seed(0)
    blocks = [_block(channels, 16, 2), _block(16, 32, 2), _block(32, 32, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes)]
    return nn.Sequential(*blocks, *head).eval()


def pictures() -> nn.Module:
    """Four classes of 32 × 32 colour pictures."""
    return _net(3, 4)


def speech() -> nn.Module:
    """Ten words of 40 × 63 log-mel values."""
    return _net(1, 10)


def failing() -> nn.Module:
    raise ValueError("no such checkpoint")


def number() -> int:
    return 7
