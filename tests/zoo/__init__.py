"""Real architectures for the tests, each built small in code and true in shape.

The networks that edgeprune must understand are the ones that people export. Every entry of `ZOO`
is a published network, its layers and widths as published, so that what a test proves here holds
for the real one.
"""

from .model import Input, MissingPackage, ZooModel
from .registry import ZOO

__all__ = ["ZOO", "Input", "MissingPackage", "ZooModel"]
