"""C4: Torch-Pruning (Fang et al., CVPR 2023) at the multiply-adds that A4 leaves.

Its dependency graph finds the groups, its Taylor importance scores them with the gradients of the
same samples (cross-entropy against the dense network's own answers), and the channels of all layers
compete; nothing is trained afterwards, as nothing is in A4. The classifier's outputs stay. Channel
counts are not rounded: that would only remove more than was asked for. On development users the
same importance layer by layer, and magnitudes, were no better on average.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import InputError
from ._arms_ours import asked
from ._cells import CellKey
from ._measure import measured
from ._packed import Stream
from ._torch_net import head_of, module_logits, same_module, stacked
from ._workbench import Answer, Workbench

if TYPE_CHECKING:
    import torch

__all__ = ["as_far_as", "prune_by_taylor"]

_BATCH = 16
_HALVINGS = 7  # of the ratio: to a hundredth
_MOST = 0.95
_MOST_OF_A_LAYER = 0.9


def prune_by_taylor(bench: Workbench, key: CellKey) -> Answer:
    """C4: structurally pruned by Torch-Pruning, as far as A4 goes in multiply-adds."""
    wanted = _share_to_remove(bench, key)
    module = same_module(bench)
    samples = bench.stream(key.samples or 0)
    targets = bench.dense_adapt(key.samples or 0).logits.argmax(1)
    with measured() as cost:
        found = as_far_as(module, samples, targets, bench.info.head, wanted)
    logits = module_logits(found.net, bench.test)
    return Answer(logits, cost, more={"macs": found.removed, "macs_wanted": wanted})


def _share_to_remove(bench: Workbench, key: CellKey) -> float:
    """The share of multiply-adds that A4 removes, measured before or now."""
    known = bench.task.macs.get((key.sparsity, key.samples))
    if known is not None:
        return known
    settings = replace(bench.settings, sparsity=asked(key.sparsity))
    made = bench.personalized(settings, key.samples or 0)
    if made.report is None:
        raise InputError(f"A4 made nothing that could be matched: {made.reason}")
    return made.report.sparsity.macs


@dataclass(frozen=True)
class _Found:
    net: torch.nn.Module
    removed: float


def as_far_as(
    module: torch.nn.Module,
    samples: Stream,
    targets: NDArray[np.int64],
    head: str | None,
    wanted: float,
) -> _Found:
    """The least pruned network that lacks at least the wanted share of multiply-adds."""
    gradients, example = _gradients(module, samples, targets), stacked(samples, [0])
    low, high = 0.0, _MOST
    best = _pruned(module, gradients, example, head, high)
    for _ in range(_HALVINGS):
        ratio = (low + high) / 2
        found = _pruned(module, gradients, example, head, ratio)
        if found.removed >= wanted:
            best, high = found, ratio
        else:
            low = ratio
    return best


def _gradients(
    module: torch.nn.Module, samples: Stream, targets: NDArray[np.int64]
) -> dict[str, torch.Tensor]:
    import torch

    net, wanted = copy.deepcopy(module).eval().requires_grad_(True), torch.from_numpy(targets)
    batches = zip(samples.batches(_BATCH), torch.split(wanted, _BATCH), strict=True)
    for inputs, labels in batches:
        said = net(torch.from_numpy(inputs)).flatten(1)
        loss = torch.nn.functional.cross_entropy(said, labels, reduction="sum")
        (loss / len(samples)).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def _pruned(
    module: torch.nn.Module,
    gradients: dict[str, torch.Tensor],
    example: torch.Tensor,
    head: str | None,
    ratio: float,
) -> _Found:
    net = copy.deepcopy(module).requires_grad_(True)
    for name, parameter in net.named_parameters():
        parameter.grad = gradients[name].clone() if name in gradients else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers that it passes over
        before, after = _prune(net, example, head_of(net, head)[1], ratio)
    return _Found(net, 1.0 - after / before)


def _prune(net: Any, example: torch.Tensor, head: Any, ratio: float) -> tuple[float, float]:
    """Prune in place; returns the multiply-adds before and after."""
    import torch_pruning

    before, _ = torch_pruning.utils.count_ops_and_params(net, example)
    pruner = torch_pruning.pruner.BasePruner(
        net,
        example,
        importance=torch_pruning.importance.GroupTaylorImportance(),
        pruning_ratio=ratio,
        global_pruning=True,
        max_pruning_ratio=_MOST_OF_A_LAYER,
        ignored_layers=[head],
    )
    pruner.step()
    after, _ = torch_pruning.utils.count_ops_and_params(net, example)
    return before, after
