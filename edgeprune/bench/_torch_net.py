"""The PyTorch module behind an artifact, for the arms that need one."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import InputError
from ._packed import Stream
from ._study import Network
from ._workbench import Workbench

if TYPE_CHECKING:
    import torch

__all__ = ["head_of", "module_logits", "same_module", "stacked"]

_TOLERANCE = 1e-2  # of the largest logit: another preprocessing of weights is far beyond it
_CHECKED = 4
_BATCH = 16


def same_module(bench: Workbench) -> torch.nn.Module:
    """The module, in evaluation mode, proved to be the artifact's network.

    Raises:
        InputError: it computes something else.
        ExportError: the factory or the weights are wrong.
    """
    module = _module(bench.task.network)
    few = bench.test.first(_CHECKED)
    found = module_logits(module, few)
    wanted = bench.dense_test.logits[: len(few)]
    if found.shape != wanted.shape or not _alike(found, wanted):
        raise InputError(
            f"{bench.task.network.factory} does not compute what {bench.artifact.path} does. Give "
            "the factory and the weights that it was exported from."
        )
    return module


def _alike(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> bool:
    # Adding a number to all logits of a sample changes nothing: probabilities lost it.
    centred = [values - values.mean(1, keepdims=True) for values in (found, wanted)]
    return bool(np.abs(centred[0] - centred[1]).max() <= _TOLERANCE * np.abs(centred[1]).max())


@lru_cache(maxsize=1)
def _module(network: Network) -> torch.nn.Module:
    import torch

    from ..exporters import load_factory

    assert network.factory is not None
    torch.set_num_threads(1)
    return load_factory(network.factory, network.weights).eval()


def stacked(stream: Stream, chosen: Iterable[int]) -> torch.Tensor:
    """Some samples of a stream as one tensor."""
    import torch

    return torch.from_numpy(np.stack([stream[place] for place in chosen]))


def module_logits(module: torch.nn.Module, stream: Stream) -> NDArray[np.float32]:
    """What a module says of a stream: float32 ``(n, classes)``."""
    import torch

    with torch.inference_mode():
        rows = [module(torch.from_numpy(batch)).numpy() for batch in stream.batches(_BATCH)]
    return np.concatenate(rows)


def head_of(module: torch.nn.Module, name: str | None) -> tuple[str, Any]:
    """The last dense layer and its name: as the artifact calls it, else the last linear layer.

    Raises:
        InputError: there is none.
    """
    import torch

    named = dict(module.named_modules())
    if name is not None and name in named:
        return name, named[name]
    linear = [n for n, part in named.items() if isinstance(part, torch.nn.Linear)]
    if not linear:
        raise InputError("the network has no last linear layer to train.")
    return linear[-1], named[linear[-1]]
