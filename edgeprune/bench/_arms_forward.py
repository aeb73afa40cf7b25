"""What others adapt by forward passes alone, on the same ONNX model: small, from the papers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime._stream import Batches
from ..runtime.errors import InputError
from ..runtime.normalize import renormalize
from ..runtime.prior import log_softmax
from ._cells import CellKey
from ._measure import measured
from ._workbench import Answer, Workbench

__all__ = ["batchnorm_statistics", "template_adjustment", "templates"]

Float64 = NDArray[np.float64]
_BATCH = 8


def batchnorm_statistics(bench: Workbench, key: CellKey) -> Answer:
    """C3-bn: the user's BatchNorm statistics blended with those of training.

    Schneider et al. 2020 (arXiv 2006.16971), equation 3: with n samples and a pseudo-sample
    size N the user's statistics weigh n / (n + N), and each layer sees what the layers before it
    give with theirs already blended.
    """
    samples = key.samples or 0
    stream = bench.stream(samples)
    blend = samples / (samples + bench.baselines.bn_prior_samples)
    batches = Batches(stream, range(samples), _BATCH, bench.info.input_shape)
    with measured() as cost:
        changed, _ = renormalize(
            bench.graph,
            batches,
            bench.tensors,
            blend=blend,
            budget_bytes=bench.settings.memory_mb * 1_000_000,
            threads=1,
        )
    return Answer(bench.outputs(bench.tensors | changed), cost, more={"blend": blend})


def template_adjustment(bench: Workbench, key: CellKey) -> Answer:
    """C3-t3a: classes by the nearest of templates made of confident features.

    T3A (Iwasawa and Matsuo, NeurIPS 2021). Its templates grow with the very samples that are
    scored; here they are made of the adaptation samples and then kept, as every arm must.
    """
    samples = key.samples or 0
    features = bench.dense_test.features
    if features is None:
        raise InputError("T3A needs a network that ends in a linear layer.")
    flat = features.reshape(len(features), -1)

    def work() -> NDArray[Any]:
        seen = bench.dense_adapt(samples)
        rows, bias = _head(bench)
        found = templates(
            rows,
            rows @ rows.T + bias,
            np.asarray(seen.features).reshape(samples, -1),
            seen.logits,
            bench.baselines.t3a_supports,
        )
        return np.asarray(flat @ found.T)

    return bench.forward_only(samples, work)


def _head(bench: Workbench) -> tuple[Float64, Float64]:
    """The last layer's weight, ``(classes, features)``, and its bias."""
    head = bench.info.operator_by_name[bench.info.head or ""]
    if head.op not in ("Gemm", "MatMul"):
        raise InputError(f"T3A needs a network that ends in a linear layer, not in {head.op}.")
    weight = bench.artifact.tensors[head.weight].astype(np.float64)
    bias = bench.artifact.tensors.get(head.bias, np.zeros(head.out_channels, np.float32))
    return weight if head.out_axis == 0 else weight.T, bias.astype(np.float64)


def templates(
    head: Float64,
    own: Float64,
    features: NDArray[np.floating],
    logits: NDArray[np.floating],
    most: int,
) -> Float64:
    """A template for each class, of length 1: float64 ``(classes, features)``.

    Supports are the head's own rows and the samples' features, all scaled to length 1. A support
    belongs to the class that the head names; of each class the `most` with the least entropy are
    summed up. The head is asked of its own rows, too (`own`), as in the paper.
    """
    said = log_softmax(np.concatenate([own, logits.astype(np.float64)]))
    entropy = -(np.exp(said) * said).sum(1)
    supports = _unit(np.concatenate([head, features.astype(np.float64)]))
    named = said.argmax(1)
    found = np.zeros_like(head)
    for label in np.unique(named):
        members = np.flatnonzero(named == label)
        surest = members[np.argsort(entropy[members], kind="stable")[:most]]
        found[label] = supports[surest].sum(0)
    return _unit(found)


def _unit(rows: Float64) -> Float64:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
