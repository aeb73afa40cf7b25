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

from typing import TYPE_CHECKING

from ._lazy import lazy

if TYPE_CHECKING:
    from ._api import Model, load, personalize
    from ._compact_model import CompactModel, load_compact
    from ._compaction import CompactionReport
    from ._export import export, export_onnx
    from ._results import Accuracy, Evaluation, Prediction, ProfileReport
    from ._side_by_side import Comparison
    from ._verify import VerifyReport, verify
    from .devices import (
        BadSample,
        DeviceError,
        DeviceUnavailable,
        PreprocessError,
        SourceError,
    )
    from .runtime.errors import (
        ArtifactError,
        CompactError,
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
    from .service import LiveResult, LiveSample, Service, ServiceEvent, ServiceSettings

__all__ = [
    "Accuracy",
    "ArtifactError",
    "BadSample",
    "CompactError",
    "CompactModel",
    "CompactionReport",
    "Comparison",
    "DeviceError",
    "DeviceUnavailable",
    "EdgepruneError",
    "Evaluation",
    "ExportError",
    "GuardRefused",
    "InputError",
    "LiveResult",
    "LiveSample",
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
    "Service",
    "ServiceEvent",
    "ServiceSettings",
    "Settings",
    "SourceError",
    "VerifyReport",
    "__version__",
    "export",
    "export_onnx",
    "load",
    "load_compact",
    "personalize",
    "verify",
]

__version__ = "0.1.0"

_HOMES = {
    "_api": ("Model", "load", "personalize"),
    "_compact_model": ("CompactModel", "load_compact"),
    "_compaction": ("CompactionReport",),
    "_export": ("export", "export_onnx"),
    "_results": ("Accuracy", "Evaluation", "Prediction", "ProfileReport"),
    "_side_by_side": ("Comparison",),
    "_verify": ("VerifyReport", "verify"),
    "devices": ("BadSample", "DeviceError", "DeviceUnavailable", "PreprocessError", "SourceError"),
    "runtime.errors": (
        "ArtifactError",
        "CompactError",
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
    "service": ("LiveResult", "LiveSample", "Service", "ServiceEvent", "ServiceSettings"),
}
__getattr__, __dir__ = lazy(__name__, _HOMES)
