"""Factories for `edgeprune export`."""

from __future__ import annotations

from torch import nn

from edgeprune.exporters.recipes import keyword


def keyword_net() -> nn.Module:
    return keyword.keyword_net(10)


def keyword_net_20() -> nn.Module:
    return keyword.keyword_net(20)
