"""Factories for `edgeprune export`."""

from __future__ import annotations

from efficientnet_lite_pytorch import EfficientNet
from torch import nn


def efficientnet_lite0() -> nn.Module:
    return EfficientNet.from_name("efficientnet-lite0")
