"""A network that answers, whatever its weights come from: what every opened model can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ._prediction import Prediction, class_name
from .runtime.errors import InputError
from .runtime.session import Session

if TYPE_CHECKING:  # a prediction of an array needs neither Pillow nor the devices
    from ._labels import LabelFrom
    from ._side_by_side import Comparison
    from ._sources import OnUnusable, Samples
    from .devices import Preprocess, SampleFolder
    from .runtime.artifact import Artifact, ModelInfo

__all__ = ["Network", "OnProgress", "as_arrays", "as_paths", "silent"]

OnProgress = Callable[[str, float], None]
_BATCH = 8


@dataclass(frozen=True)
class Labelled:
    """Samples to score on: for each the class that it should be given, None to leave it out."""

    folder: SampleFolder
    wanted: Sequence[int | None]
    classes: int
    unknown: tuple[tuple[str, int], ...]
    unlabelled: int


class Network:
    """What answers: a model with one of its profiles, or a compacted network."""

    def __init__(self, artifact: Artifact, threads: int | None) -> None:
        self._artifact = artifact
        self._threads = threads
        self._session: Session | None = None

    @property
    def path(self) -> Path:
        """The ``.onnx`` file."""
        return self._artifact.path

    @property
    def info(self) -> ModelInfo:
        """What the model's metadata says."""
        return self._artifact.info

    @property
    def preprocess(self) -> Preprocess:
        """What is done to a picture or a sound before the network sees it; callable.

        Raises:
            InputError: the model was exported without preprocessing.
        """
        from ._sources import model_preprocess

        return model_preprocess(self._artifact)

    @property
    def title(self) -> str:
        """What it is called beside others."""
        return self.path.name

    def predict(
        self, samples: Samples, *, top: int = 5, on_unusable: OnUnusable | None = None
    ) -> list[Prediction]:
        """Ask the network.

        Args:
            samples: a file, a folder, a list of files, one preprocessed array, or a batch of them.
            top: how many of the likeliest classes to name.
            on_unusable: called with each file that cannot be used and the reason, and the others
                are answered; without it the first such file raises.

        Raises:
            BadSample, SourceError: a file cannot be used (only without `on_unusable`).
            InputError: an array does not fit the model, or the model is no classifier.
        """
        self.info.require_classifier("predicting")
        predictions: list[Prediction] = []
        for batch, paths in self._batches(samples, on_unusable):
            for row, path in zip(self.probabilities(batch), paths, strict=True):
                predictions.append(_prediction(self.info, row, top, path))
        return predictions

    def probabilities(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Class probabilities of preprocessed samples, float32 ``(batch, classes)``.

        Raises:
            InputError: the shape or type does not fit, or values are not finite.
        """
        return self._running().probabilities(batch)

    def compare(
        self,
        source: str | Path,
        *others: Network,
        labels: str | Path | None = None,
        label_from: LabelFrom = "folder",
        label_map: str | Path | None = None,
        skip_unknown: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Comparison:
        """Score this network and others on the same labelled samples, this one as the reference.

        Args:
            source: a folder whose subfolders are named for classes, or a table of file,label.
            others: networks of the same classes and the same preprocessing, such as a compacted
                one and the model that it was made from.
            labels: a table of file,label for the files in `source`.
            label_from: ``folder``, or ``name-prefix``: a file's name up to the first ``_``.
            label_map: a table from what the data calls a class to what the model does.
            skip_unknown: leave out samples whose label the model does not know.
            on_progress: called with the name of a step and the share of it that is done.

        Raises:
            InputError: labels are missing or unknown, or the networks do not answer alike.
            SourceError: the folder or a table cannot be used.
            NotEnoughSamples: no labelled file could be read.
        """
        from ._side_by_side import side_by_side

        self._check_alike(others)
        found = self._labelled(Path(source), labels, label_from, label_map, skip_unknown)
        return side_by_side(
            [(one.title, one._running()) for one in (self, *others)],
            found.folder,
            found.wanted,
            found.classes,
            unknown=found.unknown,
            unlabelled=found.unlabelled,
            on_progress=on_progress or silent,
        )

    def _labelled(
        self,
        source: Path,
        labels: str | Path | None,
        label_from: LabelFrom,
        label_map: str | Path | None,
        skip_unknown: bool,
    ) -> Labelled:
        from ._labels import Classes, read_label_map, sample_labels

        self.info.require_classifier("scoring")
        folder = _labelled_folder(self.preprocess, source, labels)
        classes = Classes(self.info, None if label_map is None else read_label_map(label_map))
        named = sample_labels(folder, label_from)
        wanted, unknown = classes.find_all(named, skip_unknown=skip_unknown)
        return Labelled(
            folder, wanted, classes.count, tuple(unknown.most_common()), named.count(None)
        )

    def _check_alike(self, others: Sequence[Network]) -> None:
        for other in others:
            mine, its = self.info, other.info
            if (mine.classes, mine.labels) != (its.classes, its.labels):
                raise InputError(f"{other.path} and {self.path} do not have the same classes.")
            if mine.preprocess != its.preprocess or mine.input_shape != its.input_shape:
                raise InputError(f"{other.path} and {self.path} do not read samples alike.")

    def _running(self) -> Session:
        if self._session is None:
            self._session = Session(self._artifact, threads=self._threads)
        return self._session

    def _batches(
        self, samples: Samples, on_unusable: OnUnusable | None
    ) -> Iterator[tuple[NDArray[np.float32], list[Path | None]]]:
        arrays = as_arrays(samples)
        if arrays is None:
            yield from self._file_batches(as_paths(samples), on_unusable)
            return
        if isinstance(samples, np.ndarray) and samples.ndim == len(self.info.input_shape) - 1:
            arrays = samples[None]
        for start in range(0, len(arrays), _BATCH):
            part = arrays[start : start + _BATCH]
            yield _stacked(part), [None] * len(part)

    def _file_batches(
        self, given: str | Path | Sequence[str | Path], on_unusable: OnUnusable | None
    ) -> Iterator[tuple[NDArray[np.float32], list[Path | None]]]:
        from ._sources import find_files
        from .devices import open_folder

        entries = [given] if isinstance(given, str | Path) else given
        files = find_files(self.preprocess, entries, on_unusable)
        for start in range(0, len(files), _BATCH):
            folder = open_folder(files[start : start + _BATCH], self.preprocess)
            found = [
                folder[index] if on_unusable is None else folder.load(index)
                for index in range(len(folder))
            ]
            usable = [sample for sample in found if sample is not None]
            for path, reason in folder.rejected:
                if on_unusable is not None:
                    on_unusable(path, reason)
            if usable:
                yield np.stack([one.array for one in usable]), [one.path for one in usable]


def silent(_step: str, _share: float) -> None:
    """Tell nobody."""


def as_arrays(samples: Samples) -> Sequence[NDArray[Any]] | NDArray[Any] | None:
    """The samples if they are arrays, None if they are files."""
    if isinstance(samples, np.ndarray):
        return samples
    if isinstance(samples, str | Path) or any(isinstance(one, str | Path) for one in samples):
        return None
    return cast("Sequence[NDArray[Any]]", samples)


def as_paths(samples: Samples) -> str | Path | Sequence[str | Path]:
    """The samples that `as_arrays` said are no arrays."""
    return cast("str | Path | Sequence[str | Path]", samples)


def _stacked(arrays: Sequence[NDArray[Any]] | NDArray[Any]) -> NDArray[np.float32]:
    try:
        return np.stack([np.asarray(one, np.float32) for one in arrays])
    except (TypeError, ValueError) as error:
        raise InputError(f"the samples do not make a batch: {error}.") from error


def _prediction(
    info: ModelInfo, row: NDArray[np.float32], top: int, path: Path | None
) -> Prediction:
    order = np.argsort(-row, kind="stable")[: max(top, 1)].tolist()
    ranked = tuple((class_name(info, index), float(row[index])) for index in order)
    return Prediction(ranked[0][0], order[0], ranked[0][1], ranked, path)


def _labelled_folder(
    preprocess: Preprocess, source: Path, labels: str | Path | None
) -> SampleFolder:
    """A folder of classes, a table of file,label, or a folder with a table beside it."""
    from .devices import open_folder, read_label_csv

    if labels is None and source.suffix.lower() in (".csv", ".tsv") and not source.is_dir():
        table = read_label_csv(source)
        return open_folder(list(table), preprocess, labels=table)
    return open_folder(
        source, preprocess, labels=None if labels is None else read_label_csv(labels)
    )
