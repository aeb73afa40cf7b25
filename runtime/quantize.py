"""Static int8 quantisation of a compacted network, calibrated on the user's own samples.

ONNX Runtime's own quantiser does it: uint8 activations and int8 weights, one scale for each output
channel, as QuantizeLinear and DequantizeLinear pairs, which its CPU kernels fuse into integer ones.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ._ort import make_session, quantize_static, run
from .answers import AnswerChange, answer_change
from .errors import CompactError

__all__ = ["has_dot_product", "judge_int8", "quantize"]

_CPUINFO = Path("/proc/cpuinfo")
_DOT_PRODUCT = {"avx512_vnni", "avx_vnni", "asimddp"}


def has_dot_product(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether this processor multiplies 8-bit integers into 32-bit sums in one instruction."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    fields = (line.partition(":") for line in lines)
    return any(
        _DOT_PRODUCT & set(value.split())
        for key, _, value in fields
        if key.strip() in ("flags", "Features")
    )


def quantize(model: bytes, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> bytes:
    """Quantise a network's weights and activations to 8 bits.

    Args:
        model: a serialised model in one piece, opset 13 or newer, of static shapes but the batch.
        feeds: inputs to calibrate the ranges of activations on: smallest and largest value seen.

    Returns:
        The quantised model with the metadata of the one given. What the quantiser does not know
        (recurrent layers, for instance) stays in float.

    Raises:
        CompactError: the network cannot be quantised.
    """
    # Without a dot product x86 adds pairs of products in 16 bits, which 8-bit weights overflow.
    seven_bits = platform.machine() in ("x86_64", "AMD64") and not has_dot_product()
    try:
        quantized = quantize_static(model, feeds, reduce_range=seven_bits)
    except Exception as error:  # the quantiser raises whatever it meets
        raise CompactError(
            f"the network cannot be quantised to int8: {error}. The compacted float network was "
            "kept."
        ) from error
    _tidy(quantized, onnx.load_from_string(model))
    return bytes(quantized.SerializeToString(deterministic=True))


def _tidy(quantized: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """The source's metadata, and of the operator sets those that are used."""
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(source.metadata_props)
    used = {node.domain for node in quantized.graph.node}
    kept = [opset for opset in quantized.opset_import if opset.domain in used]
    del quantized.opset_import[:]
    quantized.opset_import.extend(kept)


def judge_int8(
    model: bytes, quantized: bytes, feeds: Sequence[Mapping[str, NDArray[Any]]], *, logits: bool
) -> AnswerChange:
    """Compare two classifiers on inputs that calibration has not seen.

    Args:
        model, quantized: serialised models of one output ``(batch, classes)``.
        feeds: the inputs.
        logits: whether the output is logits, not probabilities.
    """
    wanted, got = (_outputs(one, feeds) for one in (model, quantized))
    return answer_change(wanted, got, logits=logits)


def _outputs(model: bytes, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> NDArray[np.float64]:
    session = make_session(model)
    return np.concatenate([np.asarray(run(session, None, one)[0], np.float64) for one in feeds])
