"""The arms of a comparison: what each is, what it may use, and what it needs to be there."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..runtime.artifact import ModelInfo
from ..runtime.errors import InputError
from . import _arms_compact, _arms_forward, _arms_ours, _torch_prune, _torch_tune
from ._cells import CellKey, Level
from ._study import Network
from ._workbench import Answer, Workbench

__all__ = ["ARMS", "Arm", "choose_arms", "plan", "why_skipped"]

_EXTRA = "pip install 'edgeprune[bench]'"


@dataclass(frozen=True)
class Arm:
    """One way of using a user's samples.

    Attributes:
        title: what it is, in a few words.
        run: measures it.
        levels: whether it depends on the sparsity.
        samples: whether it depends on the number of samples.
        labels: it may know what no device knows: a ceiling.
        modules: Python modules that it needs.
        module: whether it needs the PyTorch module behind the artifact.
    """

    title: str
    run: Callable[[Workbench, CellKey], Answer]
    levels: bool = False
    samples: bool = True
    labels: bool = False
    modules: tuple[str, ...] = ()
    module: bool = False


def _tuned(title: str, run: Callable[[Workbench, CellKey], Answer], *, labels: bool = False) -> Arm:
    return Arm(title, run, labels=labels, modules=("torch",), module=True)


ARMS: Mapping[str, Arm] = {
    "A0": Arm("dense", _arms_ours.dense, samples=False),
    "A1": Arm("dense + EM prior", _arms_ours.prior_by_em),
    "A1+": Arm("personalised, all units kept", _arms_ours.unpruned),
    "A2": Arm("masks only", _arms_ours.masked, levels=True),
    "A3": Arm("masks + repair", _arms_ours.repaired, levels=True),
    "A4": Arm("personalised", _arms_ours.personalized, levels=True),
    "A5": Arm("personalised, compacted", _arms_compact.compacted, levels=True),
    "C1": Arm("dense + known classes", _arms_ours.known_classes, samples=False, labels=True),
    "C2-last": _tuned("last layer, backprop", _torch_tune.last_layer),
    "C2-whole": _tuned("all layers, backprop", _torch_tune.whole_net),
    "C2-last-labels": _tuned("last layer, true labels", _torch_tune.last_layer_taught, labels=True),
    "C2-whole-labels": _tuned("all layers, true labels", _torch_tune.whole_net_taught, labels=True),
    "C3-bn": Arm("BatchNorm statistics", _arms_forward.batchnorm_statistics),
    "C3-t3a": Arm("T3A", _arms_forward.template_adjustment),
    "C4": Arm(
        "Torch-Pruning, multiply-adds of A4",
        _torch_prune.prune_by_taylor,
        levels=True,
        modules=("torch", "torch_pruning"),
        module=True,
    ),
}


def choose_arms(text: str) -> tuple[str, ...]:
    """Read a list of arms, such as ``A0,A4,C2``: ``all``, names, or the beginning of several.

    Raises:
        InputError: there is no such arm.
    """
    if text.strip() == "all":
        return tuple(ARMS)
    chosen: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        found = [name] if name in ARMS else [arm for arm in ARMS if arm.startswith(f"{name}-")]
        if not found:
            close = difflib.get_close_matches(name, list(ARMS), n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InputError(
                f"there is no arm {name!r}; there are {', '.join(ARMS)}, C2 and C3 for all of "
                f"theirs, and all.{hint} Nothing was run."
            )
        chosen += found
    return tuple(arm for arm in ARMS if arm in chosen)


def why_skipped(name: str, info: ModelInfo, network: Network) -> str | None:
    """Why an arm cannot be measured here, and what to do about it; None if it can."""
    arm = ARMS[name]
    absent = [module for module in arm.modules if importlib.util.find_spec(module) is None]
    if absent:
        return f"{' and '.join(absent)} not installed: {_EXTRA}"
    if arm.module and network.factory is None:
        return "it needs the PyTorch module: give --factory and --weights"
    if name == "C3-bn" and not _has_batchnorm(info):
        return "the model knows no BatchNorm statistics"
    if name == "C3-t3a" and (info.head is None or info.operator_by_name[info.head].op == "Conv"):
        return "the model does not end in a linear layer"
    return None


def _has_batchnorm(info: ModelInfo) -> bool:
    references = [operator.reference for operator in info.operators]
    return any(ref is not None and ref.source == "batchnorm" for ref in references)


def plan(
    user: str, arms: Sequence[str], levels: Sequence[Level], samples: Sequence[int]
) -> list[CellKey]:
    """The cells of one user, in an order in which arms that share work stand together.

    Sparsity 0 adds none: there A2 and A3 are A0, and A4 is A1+.
    """
    keys = [CellKey(user, arm) for arm in arms if not ARMS[arm].samples]
    for count in samples:
        varying = [arm for arm in arms if ARMS[arm].samples]
        keys += [CellKey(user, arm, None, count) for arm in varying if not ARMS[arm].levels]
        for level in (level for level in levels if level != 0):
            keys += [CellKey(user, arm, level, count) for arm in varying if ARMS[arm].levels]
    return keys
