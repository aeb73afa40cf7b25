"""C2: fine-tuning by backpropagation in PyTorch, as one would do it where it can be afforded.

Five epochs of Adam in batches of 16, cross-entropy against hard labels: the dense network's own
answers, or, as a ceiling, the true ones. BatchNorm keeps its statistics (evaluation mode): with
batches of a user's few classes its own are known to fail. The learning rates are those of
`Baselines`. For the last layer alone the network is run once and its features are kept, which is
the cheapest way to do it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import InputError
from ._cells import CellKey
from ._measure import measured
from ._packed import Stream
from ._study import Baselines
from ._torch_net import head_of, module_logits, same_module, stacked
from ._workbench import Answer, Workbench

if TYPE_CHECKING:
    import torch

__all__ = [
    "last_layer",
    "last_layer_taught",
    "train",
    "warm_up",
    "whole_net",
    "whole_net_taught",
]

_BATCH = 16


def last_layer(bench: Workbench, key: CellKey) -> Answer:
    """C2-last: the last layer, towards the dense network's own answers."""
    return _last(bench, key, _own_answers(bench, key), bench.baselines.lr_last)


def last_layer_taught(bench: Workbench, key: CellKey) -> Answer:
    """C2-last-labels: the last layer, with the true labels. A ceiling."""
    return _last(bench, key, bench.taught(key.samples or 0), bench.baselines.lr_last_labels)


def whole_net(bench: Workbench, key: CellKey) -> Answer:
    """C2-whole: all layers, towards the dense network's own answers."""
    return _whole(bench, key, _own_answers(bench, key), bench.baselines.lr_whole)


def whole_net_taught(bench: Workbench, key: CellKey) -> Answer:
    """C2-whole-labels: all layers, with the true labels. A ceiling."""
    return _whole(bench, key, bench.taught(key.samples or 0), bench.baselines.lr_whole_labels)


def _own_answers(bench: Workbench, key: CellKey) -> NDArray[np.int64]:
    return np.asarray(bench.dense_adapt(key.samples or 0).logits.argmax(1), np.int64)


def _last(bench: Workbench, key: CellKey, targets: NDArray[np.int64], rate: float) -> Answer:
    import torch

    warm_up()
    module = same_module(bench)
    name, found = head_of(module, bench.info.head)
    head = copy.deepcopy(found)
    with measured() as cost:
        features = _features(module, found, bench.stream(key.samples or 0))
        fetch, seed = features.__getitem__, bench.user.seed
        train(head, fetch, targets, recipe=bench.baselines, rate=rate, seed=seed)
    seen = bench.dense_test.features
    with torch.inference_mode():
        if seen is not None and seen.shape[1:] == features.shape[1:]:
            logits = head(torch.from_numpy(seen)).flatten(1).numpy()
        else:
            logits = module_logits(_with_head(module, name, head), bench.test)
    return Answer(logits, cost)


@cache
def warm_up() -> None:
    """Make torch import what it imports at the first step of training, which takes seconds."""
    import torch

    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters())
    torch.nn.functional.cross_entropy(net(torch.ones(1, 2)), torch.zeros(1).long()).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _features(module: torch.nn.Module, head: torch.nn.Module, stream: Stream) -> torch.Tensor:
    """What the last layer reads."""
    import torch

    kept: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0].clone()))
    try:
        with torch.no_grad():
            for batch in stream.batches(_BATCH):
                module(torch.from_numpy(batch))
    finally:
        hook.remove()
    return torch.cat(kept)


def _with_head(module: torch.nn.Module, name: str, head: torch.nn.Module) -> torch.nn.Module:
    copied = copy.deepcopy(module)
    copied.set_submodule(name, head)
    return copied


def _whole(bench: Workbench, key: CellKey, targets: NDArray[np.int64], rate: float) -> Answer:
    warm_up()
    module = same_module(bench)
    with measured() as cost:
        net = copy.deepcopy(module)
        fetch = partial(stacked, bench.stream(key.samples or 0))
        train(net, fetch, targets, recipe=bench.baselines, rate=rate, seed=bench.user.seed)
    return Answer(module_logits(net, bench.test), cost)


def train(
    net: torch.nn.Module,
    inputs: Callable[[torch.Tensor], torch.Tensor],
    targets: NDArray[np.int64],
    *,
    recipe: Baselines,
    rate: float,
    seed: int,
) -> None:
    """Train in place on the samples that `inputs` fetches; the same seed gives the same result."""
    import torch

    wanted = torch.from_numpy(targets)
    net.eval().requires_grad_(True)
    optimizer = torch.optim.Adam(net.parameters(), rate)
    dice = torch.Generator().manual_seed(seed)
    for _ in range(recipe.epochs):
        order = torch.randperm(len(wanted), generator=dice)
        for chosen in torch.split(order, recipe.batch):
            optimizer.zero_grad()
            _loss(net, inputs(chosen), wanted[chosen]).backward()
            optimizer.step()


def _loss(net: Callable[[Any], Any], inputs: torch.Tensor, wanted: torch.Tensor) -> Any:
    import torch

    said = net(inputs).flatten(1)
    if said.shape[1] <= int(wanted.max()):
        raise InputError("the last layer gives fewer numbers than there are classes.")
    return torch.nn.functional.cross_entropy(said, wanted)
