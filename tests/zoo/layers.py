"""What several families share: normalised convolutions, gates, and weights that are not special."""

# mypy: disable-error-code="no-any-return"
# Calling a torch module has type Any; every forward here does nothing else.

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["ConvNorm", "Gate", "RMSNorm", "count_parameters", "divisible", "pretend_trained"]
__all__ += ["seeded"]

Activation = Callable[[], nn.Module]
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_SCALES = (*_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)


class ConvNorm(nn.Sequential):
    """Convolution without bias, BatchNorm, activation; padded to keep the size."""

    def __init__(
        self,
        a: int,
        b: int,
        k: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        act: Activation | None = nn.ReLU,
        eps: float = 1e-5,
    ):
        conv = nn.Conv2d(a, b, k, stride, (k - 1) // 2, groups=groups, bias=False)
        norm = nn.BatchNorm2d(b, eps)
        super().__init__(*(conv, norm) if act is None else (conv, norm, act()))


class Gate(nn.Module):
    """Squeeze-and-excitation: every channel times a number between 0 and 1 (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int, act: Activation = nn.Sigmoid):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down = nn.Conv2d(channels, squeezed, 1)
        self.up = nn.Conv2d(squeezed, channels, 1)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.act(self.up(self.down(self.pool(x)).relu()))


class RMSNorm(nn.RMSNorm):
    """Written out, as language models have it; torch's own has no TorchScript exporter."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + (self.eps or 0)) * self.weight


def divisible(value: float, by: int = 8) -> int:
    """Round a width as the MobileNets do: to a multiple, and never down by more than a tenth."""
    rounded = max(by, int(value + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * value else rounded


def count_parameters(module: nn.Module) -> int:
    """Count what training would change; BatchNorm's statistics are not parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a fixed seed, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def pretend_trained(net: nn.Module, example: Tensor) -> nn.Module:
    """Give a fresh network weights and statistics as training might leave them, in eval mode.

    Neutral values would hide errors: a BatchNorm of mean 0 and variance 1, a LayerNorm of ones, a
    layer scale of 1e-6 or a bias of zeros may be dropped or swapped and nobody sees it.
    """
    with torch.no_grad():
        for module in net.modules():
            _draw(module)
        for name, parameter in net.named_parameters():
            if name.endswith("layer_scale"):
                parameter.uniform_(0.3, 1)
        net.eval()
        _calibrate(net, example)
        for module in net.modules():
            if isinstance(module, _NORMS):
                _disturb(module)
    return net


def _draw(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0, module.weight.shape[1] ** -0.5)
    elif isinstance(module, _SCALES):
        if module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
    else:
        return
    if getattr(module, "bias", None) is not None:
        assert isinstance(module.bias, Tensor)
        nn.init.normal_(module.bias, 0, 0.2)


def _calibrate(net: nn.Module, example: Tensor) -> None:
    """Measure every BatchNorm's statistics on the example, so that depth changes no scale."""
    norms = [module for module in net.modules() if isinstance(module, _NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    net(example)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _disturb(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Move the statistics away from the example's: other data have others."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    # A channel that a ReLU before it has silenced would be amplified three hundred times.
    var.clamp_(min=0.01 * var.mean().item())
    mean += 0.2 * var.sqrt() * torch.randn_like(mean)
    var *= torch.empty_like(var).uniform_(0.6, 1.6)
