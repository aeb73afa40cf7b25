"""edgeprune: personalise a trained network on the device, label-free, by forward passes alone.

::

    import edgeprune

    edgeprune.export(net, torch.zeros(1, 3, 224, 224), "net.onnx", preprocess="imagenet")

    model = edgeprune.load("net.onnx")          # on the device: no PyTorch from here on
    report = model.personalize("my_pictures/")  # no labels
    print(report.sparsity.units, model.predict("picture.jpg")[0].label)
    model.rollback("default")                   # bit for bit

Importing edgeprune imports nothing else: each name brings what it needs when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._api import Model, load, personalize
    from ._export import export
    from ._results import Accuracy, Evaluation, Prediction, ProfileReport
    from .devices import (
        BadSample,
        DeviceError,
        DeviceUnavailable,
        PreprocessError,
        SourceError,
    )
    from .runtime.errors import (
        ArtifactError,
        EdgepruneError,
        ExportError,
        GuardRefused,
        InputError,
        MissingExtra,
        NotEnoughSamples,
        ProfileError,
        ProfileMismatch,
        ProfileNotFound,
    )
    from .runtime.settings import Report, Settings
    from .runtime.store import ProfileStore, ProfileSummary

__all__ = [
    "Accuracy",
    "ArtifactError",
    "BadSample",
    "DeviceError",
    "DeviceUnavailable",
    "EdgepruneError",
    "Evaluation",
    "ExportError",
    "GuardRefused",
    "InputError",
    "MissingExtra",
    "Model",
    "NotEnoughSamples",
    "Prediction",
    "PreprocessError",
    "ProfileError",
    "ProfileMismatch",
    "ProfileNotFound",
    "ProfileReport",
    "ProfileStore",
    "ProfileSummary",
    "Report",
    "Settings",
    "SourceError",
    "__version__",
    "export",
    "load",
    "personalize",
]

__version__ = "0.1.0"

_HOMES = {
    "_api": ("Model", "load", "personalize"),
    "_export": ("export",),
    "_results": ("Accuracy", "Evaluation", "Prediction", "ProfileReport"),
    "devices": ("BadSample", "DeviceError", "DeviceUnavailable", "PreprocessError", "SourceError"),
    "runtime.errors": (
        "ArtifactError",
        "EdgepruneError",
        "ExportError",
        "GuardRefused",
        "InputError",
        "MissingExtra",
        "NotEnoughSamples",
        "ProfileError",
        "ProfileMismatch",
        "ProfileNotFound",
    ),
    "runtime.settings": ("Report", "Settings"),
    "runtime.store": ("ProfileStore", "ProfileSummary"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives, once (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
