"""The demonstration: a bundled network meets a voice that it never heard."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._api import Model, load
from ._results import Accuracy, Evaluation, ProfileReport
from .devices import open_folder
from .runtime.errors import ArtifactError
from .runtime.settings import Settings

__all__ = ["DemoReport", "demo_model", "run_demo"]

PROFILE = "demo"


@dataclass(frozen=True)
class DemoReport:
    """What the demonstration measured.

    Attributes:
        model: the bundled network.
        personalization: the report on the personalisation.
        evaluation: both networks on recordings that took no part.
        unpruned: the control, adapted in the same way with every unit kept. What it gains too
            does not come from the pruning.
        rollback_exact: the outputs after going back were those from before, bit for bit.
        redo_exact: and after going forward again those of the personalised network.
        seconds: all of it.
    """

    model: Path
    personalization: ProfileReport
    evaluation: Evaluation
    unpruned: Accuracy
    rollback_exact: bool
    redo_exact: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "model": str(self.model),
            "voice": "synthetic",
            "personalization": self.personalization.to_dict(),
            "evaluation": self.evaluation.to_dict(),
            "unpruned": asdict(self.unpruned),
            "rollback_exact": self.rollback_exact,
            "redo_exact": self.redo_exact,
            "seconds": self.seconds,
        }


def demo_model() -> Path:
    """The bundled keyword network.

    Raises:
        ArtifactError: this installation lacks it.
    """
    from . import assets

    path = Path(next(iter(assets.__path__))) / "digits.onnx"
    if not path.is_file():
        raise ArtifactError(
            "this installation lacks the bundled model (edgeprune/assets/digits.onnx). Install "
            "edgeprune again."
        )
    return path


def run_demo(
    path: Path, sounds: Path, store: Path, on_progress: Callable[[str, float], None]
) -> DemoReport:
    """Personalise, score, roll back and forward again.

    Args:
        path: the network.
        sounds: a folder with ``adapt`` (no labels) and ``test`` (folders named for classes).
        store: where the profile goes.
        on_progress: called with the name of a step and the share of it that is done.
    """
    started = time.perf_counter()
    model = load(path, store=store)
    model.use(None)
    probe = _probe(model, sounds / "test")
    before = model.probabilities(probe)
    report = model.personalize(sounds / "adapt", profile=PROFILE, on_progress=on_progress)
    after = model.probabilities(probe)
    evaluation = model.evaluate(sounds / "test", on_progress=on_progress)
    model.rollback(PROFILE, to=0)
    undone = model.probabilities(probe)
    model.rollback(PROFILE, to=report.generation)
    redone = model.probabilities(probe)
    unpruned = _control(path, sounds, on_progress)
    return DemoReport(
        model=path,
        personalization=report,
        evaluation=evaluation,
        unpruned=unpruned,
        rollback_exact=undone.tobytes() == before.tobytes() != after.tobytes(),
        redo_exact=redone.tobytes() == after.tobytes(),
        seconds=time.perf_counter() - started,
    )


def _control(path: Path, sounds: Path, on_progress: Callable[[str, float], None]) -> Accuracy:
    """Adapt with every unit kept, in a store of its own, and score."""
    with tempfile.TemporaryDirectory(prefix="edgeprune-demo-") as store:
        model = load(path, store=store)
        model.personalize(sounds / "adapt", settings=Settings(sparsity=0.0))
        evaluation = model.evaluate(
            sounds / "test", on_progress=lambda _, share: on_progress("control", share)
        )
    assert evaluation.personalized is not None
    return evaluation.personalized


def _probe(model: Model, folder: Path) -> NDArray[np.float32]:
    """A few recordings of every class, to compare outputs on."""
    samples = open_folder(folder, model.preprocess)
    chosen = np.linspace(0, len(samples) - 1, 20).astype(int).tolist()
    return np.stack([samples[index].array for index in chosen])
