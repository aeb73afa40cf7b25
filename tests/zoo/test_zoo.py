"""Every network of the zoo exports, is verified and compacts; the large ones in the slow run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .model import MissingPackage
from .proof import LEAST_SHARE, prove
from .registry import ZOO

# A small network of every kind of structure; the whole zoo takes a quarter of an hour.
QUICK = (
    *("bc_resnet_1", "conformer_mini", "crnn", "ds_cnn", "embedding_tagger", "llama_block"),
    *("m5_small", "onet", "pnet", "res8", "rnet", "shufflenet_v2_x1_0", "squeezenet1_1"),
    *("swin_mini", "tc_resnet8", "wav2vec2_mini", "silero_vad_16k"),
)


def _cases() -> Iterator[Any]:
    for name, model in ZOO.items():
        for dynamo in (True, False) if model.build is not None else (True,):
            quick = name in QUICK and dynamo
            marks = () if quick else (pytest.mark.slow, pytest.mark.timeout(1800))
            exporter = "dynamo" if dynamo else "script"
            yield pytest.param(name, dynamo, id=f"{name}-{exporter}", marks=marks)


@pytest.mark.parametrize(("name", "dynamo"), list(_cases()))
def test_exported_verified_and_compacted(name: str, dynamo: bool) -> None:
    try:
        proof = prove(ZOO[name], dynamo=dynamo, masks=4 if name in QUICK else 10)
    except MissingPackage as error:
        pytest.skip(str(error))
    assert proof.failures == ()
    assert proof.neutral_error <= 1e-4
    assert proof.masked_error <= 1e-4
    assert proof.prunable_share >= LEAST_SHARE[proof.family], proof.frozen
