"""How each operator passes units on. What is not listed here freezes its group."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from . import _rules_dense as dense
from . import _rules_elementwise as element
from . import _rules_mixing as mixing
from . import _rules_shape as shape
from ._layout import Layout

__all__ = ["GATES", "LINEAR", "PRODUCERS", "RULES"]

_Rule = Callable[[Layout, onnx.NodeProto], None]

_UNARY = """
    Abs Cast Ceil Celu Clip Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Mish Neg
    Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Swish Tanh ThresholdedRelu
    Identity Dropout Not IsNaN IsInf
"""
_POOLS = "AveragePool MaxPool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool"
_ELEMENTWISE = """
    Add Sub Mul Div Min Max Pow Sum Mean PRelu Mod
    Where Greater GreaterOrEqual Less LessOrEqual Equal And Or Xor
"""
_REDUCTIONS = """
    ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceProd
    ReduceLogSum ReduceLogSumExp
"""
_GATES = "Mul Div Where Greater GreaterOrEqual Less LessOrEqual Equal And Or Xor"
_LINEAR = """
    Add Sub Sum Mean Neg Identity Dropout Cast AveragePool GlobalAveragePool ReduceMean ReduceSum
    BatchNormalization Pad Reshape Flatten Squeeze Unsqueeze Transpose Concat Slice Split Gather
    Expand Tile Resize Conv ConvTranspose DepthToSpace SpaceToDepth
"""

GATES = frozenset(_GATES.split())
"""Operators that join activations to make a nonlinearity or a gate, not to add branches."""

LINEAR = frozenset(_LINEAR.split())
"""Operators that are linear in their activations; Mul and Div are, if the rest is constant."""

PRODUCERS = frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Gather"])
"""Operators that can begin units where they read none."""

RULES: dict[str, _Rule] = {
    **dict.fromkeys(_UNARY.split(), element.unary),
    **dict.fromkeys(_POOLS.split(), element.pool),
    **dict.fromkeys(_ELEMENTWISE.split(), element.elementwise),
    **dict.fromkeys(_REDUCTIONS.split(), mixing.reduce_),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"), mixing.mix_along),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), mixing.layer_norm),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), shape.reshape),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), dense.recurrent),
    "Attention": mixing.attention,
    "BatchNormalization": element.batchnorm,
    "CumSum": mixing.accumulate,
    "Concat": shape.concat,
    "Conv": dense.conv,
    "ConvTranspose": dense.conv_transpose,
    "DepthToSpace": shape.depth_to_space,
    "Expand": shape.expand,
    "Gather": shape.gather,
    "Gemm": dense.gemm,
    "GroupNormalization": mixing.group_norm,
    "InstanceNormalization": mixing.instance_norm,
    "MatMul": dense.matmul,
    "MeanVarianceNormalization": mixing.mix_declared,
    "Pad": element.pad,
    "Resize": element.resize,
    "Slice": shape.slice_,
    "SpaceToDepth": shape.space_to_depth,
    "Split": shape.split,
    "Tile": shape.tile,
    "Transpose": shape.transpose,
}
