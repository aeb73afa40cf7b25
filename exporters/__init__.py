"""Offline conversion: a trained network becomes an artifact with explicit mask tensors.

Needs the `export` extra (PyTorch); importing this package does not import PyTorch.
"""

from __future__ import annotations

from ._export import ExportReport, export, export_onnx, prunable_parameters, read_bound
from ._factory import load_factory, parse_example, parse_input_shape

__all__ = [
    "ExportReport",
    "export",
    "export_onnx",
    "load_factory",
    "parse_example",
    "parse_input_shape",
    "prunable_parameters",
    "read_bound",
]
