"""What one entry of the zoo says of itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .layers import pretend_trained, seeded

__all__ = ["Build", "Family", "Input", "MissingPackage", "ZooModel", "packaged", "random_weights"]

Family = Literal["cnn", "transformer", "recurrent"]
Build = Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]


class MissingPackage(Exception):
    """The weights come in a package that is not installed; the message has the pip line."""


@dataclass(frozen=True)
class Input:
    """One input: its shape without the batch axis, and what to draw for it."""

    shape: tuple[int, ...]
    name: str = "input"
    tokens: int | None = None
    """Whole numbers below this, instead of normally distributed ones."""
    constant: int | None = None
    """Always this number; without a batch axis."""
    batch_axis: int = 0

    def draw(self, batch: int, seed: int = 0) -> NDArray[Any]:
        """Draw samples that all differ, the same ones for the same seed."""
        if self.constant is not None:
            return np.full(self.shape, self.constant, np.int64)
        rng = np.random.default_rng(seed)
        shape = (*self.shape[: self.batch_axis], batch, *self.shape[self.batch_axis :])
        if self.tokens is not None:
            return rng.integers(0, self.tokens, shape, np.int64)
        return rng.standard_normal(shape, np.float32)


@dataclass(frozen=True)
class ZooModel:
    """A PyTorch network (`build`) or a finished ONNX file (`path`); one of them is None."""

    name: str
    family: Family
    inputs: tuple[Input, ...]
    source: str
    build: Build | None = None
    path: Callable[[], Path] | None = None
    published_parameters: int | None = None
    tolerance: float = 0.0
    """How far the count may be from the published one, as a share: their figure is rounded."""
    slow: bool = False
    """Building it and running it three times takes more than about three seconds."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names to give the TorchScript exporter; the other one takes forward's own."""
        return tuple(item.name for item in self.inputs)

    def arrays(self, batch: int, seed: int = 0) -> dict[str, NDArray[Any]]:
        """Inputs by name, as ONNX Runtime takes them."""
        return {item.name: item.draw(batch, seed) for item in self.inputs}

    def example(self, batch: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs in order, as the module takes them."""
        return tuple(torch.from_numpy(array) for array in self.arrays(batch, seed).values())


def random_weights(make: Callable[[], nn.Module], spec: Input, seed: int = 0) -> Build:
    """Build with weights from a fixed seed."""

    def build() -> tuple[nn.Module, tuple[Tensor, ...]]:
        example = torch.from_numpy(spec.draw(2))
        with seeded(seed):
            return pretend_trained(make(), example), (example,)

    return build


def packaged(package: str, file: str, pip: str) -> Path:
    """Find a file that an installed package ships, without importing the package.

    Raises:
        MissingPackage: it is not installed, or another version has no such file.
    """
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise MissingPackage(f"no {file} of {package}. Install it: {pip}")
