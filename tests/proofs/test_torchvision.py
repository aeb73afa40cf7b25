"""torchvision's own modules, not our shorter ones: exported, verified and compacted.

torchvision is no dependency; without it these are skipped. `pip install torchvision` takes the
release that belongs to the torch which is installed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from ..zoo.model import Input, ZooModel, random_weights
from ..zoo.proof import LEAST_SHARE, prove

models = pytest.importorskip("torchvision.models", exc_type=Exception)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CNNS = (
    *("alexnet", "vgg11_bn", "squeezenet1_1", "resnet18", "resnet50", "resnext50_32x4d"),
    *("densenet121", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x1_0"),
    *("regnet_x_400mf", "regnet_y_400mf", "efficientnet_b0", "efficientnet_v2_s", "convnext_tiny"),
)
TRANSFORMERS = ("vit_b_16", "swin_t", "swin_v2_t", "maxvit_t")
# Two outputs more in training only; in eval mode they are the plain networks.
WITH_HEADS_FOR_TRAINING = ("googlenet", "inception_v3")
SIDES = {"inception_v3": 299, "swin_v2_t": 256}


def _cases() -> list[Any]:
    names = (*CNNS, *WITH_HEADS_FOR_TRAINING, *TRANSFORMERS)
    return [
        pytest.param(name, dynamo, id=f"{name}-{'dynamo' if dynamo else 'script'}")
        for name in names
        for dynamo in (True, False)
    ]


def _make(name: str) -> Any:
    options = {"init_weights": True} if name in WITH_HEADS_FOR_TRAINING else {}
    return getattr(models, name)(weights=None, **options)


@pytest.mark.parametrize(("name", "dynamo"), _cases())
def test_torchvision(name: str, dynamo: bool) -> None:
    side = SIDES.get(name, 224)
    family = "transformer" if name in TRANSFORMERS else "cnn"
    spec = Input((3, side, side))
    build = random_weights(partial(_make, name), spec)
    proof = prove(ZooModel(name, family, (spec,), "torchvision", build=build), dynamo=dynamo)
    print(
        f"\n{name:20} {proof.exporter:12} {proof.parameters:>11,} parameters, "
        f"{proof.prunable_share:.1%} prunable, {proof.groups} groups, {len(proof.frozen)} frozen, "
        f"neutral {proof.neutral_error:.1e}, masked {proof.masked_error:.1e}, "
        f"export {proof.export_s:.1f} s"
    )
    print("  " + "\n  ".join(f"{group}: {why}" for group, why in proof.frozen))
    assert proof.failures == ()
    assert proof.neutral_error <= 1e-4
    assert proof.masked_error <= 1e-4
    assert proof.prunable_share >= LEAST_SHARE[proof.family]
