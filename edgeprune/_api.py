"""The Python front door: export a network, load it, personalise it, ask it, take it back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ._evaluate import compare
from ._labels import Classes, LabelFrom, class_name, read_label_map, sample_labels
from ._profile_export import write_personalized_copy
from ._results import Evaluation, Prediction, ProfileReport
from ._sources import (
    ArraySource,
    FolderSource,
    OnUnusable,
    Samples,
    find_files,
    model_preprocess,
    reasons,
)
from .devices import Preprocess, SampleFolder, open_folder, read_label_csv
from .runtime import personalize as runtime
from .runtime.artifact import Artifact, ModelInfo
from .runtime.errors import InputError, NotEnoughSamples, ProfileError
from .runtime.profile import Profile
from .runtime.session import Session
from .runtime.settings import Settings
from .runtime.store import DENSE, ProfileStore, ProfileSummary

__all__ = ["Model", "load", "personalize"]

OnProgress = Callable[[str, float], None]
_BATCH = 8
_CACHE_SHARE = 4  # of the memory that personalisation may use, for decoded samples


def load(
    path: str | Path,
    *,
    threads: int | None = None,
    store: ProfileStore | str | Path | None = None,
) -> Model:
    """Open an exported model, with the profile that is active for it on this machine.

    Args:
        path: ``NAME.onnx``, with ``NAME.weights`` and ``NAME.masks`` beside it.
        threads: threads of one operator; None for what the machine offers, at most four.
        store: where profiles are kept: a folder (what ``EDGEPRUNE_HOME`` or ``--store`` names),
            a store, or None for the user's own.

    Raises:
        ArtifactError: the files are no artifact, or damaged.
    """
    if not isinstance(store, ProfileStore):
        store = ProfileStore(None if store is None else Path(store).expanduser() / "profiles")
    return Model(Artifact.open(path), store, threads)


def personalize(
    path: str | Path,
    samples: Samples,
    *,
    profile: str = "default",
    settings: Settings | None = None,
    store: ProfileStore | str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> ProfileReport:
    """Open an exported model and personalise it: `load` and `Model.personalize` in one call."""
    model = load(path, store=store)
    return model.personalize(samples, profile=profile, settings=settings, on_progress=on_progress)


class Model:
    """An exported network and this user's profiles of it. Made by `load`.

    Until `use` says otherwise it answers with the profile that is active in the store, or, where
    there is none, as the network was trained. One thread at a time.
    """

    def __init__(self, artifact: Artifact, store: ProfileStore, threads: int | None = None) -> None:
        self._artifact = artifact
        self._store = store
        self._threads = threads
        self._name = store.active(artifact.info.model_id)
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
    def store(self) -> ProfileStore:
        """Where the profiles are kept."""
        return self._store

    @property
    def profile(self) -> str | None:
        """The name of the profile in use, None for the dense network."""
        return self._name

    @property
    def preprocess(self) -> Preprocess:
        """What is done to a picture or a sound before the network sees it; callable.

        Raises:
            InputError: the model was exported without preprocessing.
        """
        return model_preprocess(self._artifact)

    def use(self, profile: str | None) -> None:
        """Answer with this profile from now on, with None as the network was trained.

        It concerns this object only; `activate` is for the machine.

        Raises:
            ProfileNotFound, ProfileError: there is none of that name, or it is damaged; what was
                in use stays in use.
        """
        loaded = None if profile is None else self._store.load(profile, self._artifact)
        self._session = self._new_session(loaded)
        self._name = profile

    def activate(self, profile: str | None) -> None:
        """Use this profile, here and wherever this user opens the model from now on."""
        self.use(profile)
        self._store.activate(self.info.model_id, profile)

    def personalize(
        self,
        samples: Samples,
        *,
        profile: str = "default",
        settings: Settings | None = None,
        activate: bool = True,
        on_progress: OnProgress | None = None,
    ) -> ProfileReport:
        """Fit the network to unlabelled samples, and save the outcome as a new generation.

        Args:
            samples: a folder of sound or pictures, a list of files, or preprocessed arrays
                without a batch axis.
            profile: the name to save under; an older generation of it stays for `rollback`.
            settings: how; None for the defaults.
            activate: use it from now on, here and wherever this user opens the model.
            on_progress: called with the name of a step and the share of it that is done.

        Raises:
            NotEnoughSamples: too few are usable.
            GuardRefused: the outcome would disagree too much with the network as trained.
            InputError, SourceError, ProfileError: wrong samples, or the store cannot be used.
                After any of these, everything is as it was.
        """
        settings = replace(settings or Settings(), threads=self._threads_for(settings))
        # What would stop the saving is found now, not after minutes of work.
        _check_writable(self._store.path(self.info.model_id, profile, 1).parent)
        source = self._source(samples, settings)
        try:
            outcome = runtime.personalize(
                self._artifact, source, settings, on_progress=on_progress or _silent
            )
        except NotEnoughSamples as error:
            why = reasons(source.rejected)
            raise (NotEnoughSamples(f"{error} {why}") if why not in str(error) else error) from None
        generation = self._store.save(profile, outcome.profile)
        if activate:
            self.activate(profile)
        path = self._store.path(self.info.model_id, profile, generation)
        return ProfileReport.of(
            outcome.report,
            profile=profile,
            generation=generation,
            path=path,
            size_bytes=path.stat().st_size,
            rejected=source.rejected,
        )

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
        if not self.info.classes:
            raise InputError("this model is no classifier: it has no classes to name.")
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

    def evaluate(
        self,
        source: str | Path,
        *,
        labels: str | Path | None = None,
        label_from: LabelFrom = "folder",
        label_map: str | Path | None = None,
        skip_unknown: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Evaluation:
        """Score the network on labelled samples: as trained, and with the profile in use.

        Args:
            source: a folder whose subfolders are named for classes, or a table of file,label.
            labels: a table of file,label for the files in `source`.
            label_from: ``folder``, or ``name-prefix``: a file's name up to the first ``_``.
            label_map: a table from what the data calls a class to what the model does.
            skip_unknown: leave out samples whose label the model does not know.
            on_progress: called with the name of a step and the share of it that is done.

        Raises:
            InputError: labels are missing, or unknown to the model.
            SourceError: the folder or a table cannot be used.
            NotEnoughSamples: no labelled file could be read.
        """
        folder = _labelled_folder(self.preprocess, Path(source), labels)
        classes = Classes(self.info, None if label_map is None else read_label_map(label_map))
        named = sample_labels(folder, label_from)
        wanted, unknown = classes.find_all(named, skip_unknown=skip_unknown)
        sessions = [self._new_session(None)]
        if self._name is not None:
            sessions.append(self._running())
        evaluation = compare(sessions, folder, wanted, classes.count, on_progress or _silent)
        return replace(
            evaluation,
            profile=self._name,
            generation=self.generation,
            unknown=tuple(unknown.most_common()),
            unlabelled=named.count(None),
        )

    @property
    def generation(self) -> int | None:
        """The generation of the profile in use, 0 if it was rolled back to the dense network."""
        if self._name is None:
            return None
        return next((p.current for p in self.profiles() if p.name == self._name), DENSE)

    def profiles(self) -> tuple[ProfileSummary, ...]:
        """This user's profiles of this model."""
        return self._store.list(self.info.model_id)

    def rollback(self, profile: str, steps: int = 1, *, to: int | None = None) -> int:
        """Put an earlier generation in force again, bit for bit; return its number.

        Args:
            profile: the name.
            steps: how many generations to go back; before the first is the dense network, 0.
            to: the generation to go to instead.

        Raises:
            ProfileNotFound: there is no such profile or generation.
        """
        generation = self._store.rollback(self.info.model_id, profile, steps, to=to)
        self._refresh(profile)
        return generation

    def forget(self, profile: str) -> None:
        """Erase a profile, all of its generations.

        Raises:
            ProfileNotFound: there is none of that name.
        """
        self._store.forget(self.info.model_id, profile)
        if self._name == profile:
            self._name = self._session = None

    def export_profile(
        self, profile: str, folder: str | Path, *, generation: int | None = None
    ) -> Path:
        """Write a copy of the model with a profile's tensors in it, for programs without edgeprune.

        Args:
            profile: the name.
            folder: a new or an empty folder.
            generation: another one than the one in force.

        Returns:
            The new ``.onnx`` file.

        Raises:
            ArtifactError: the folder is not empty or cannot be written; nothing was written.
        """
        chosen = self._store.load(profile, self._artifact, generation)
        return write_personalized_copy(self._artifact, chosen, Path(folder))

    def _threads_for(self, settings: Settings | None) -> int | None:
        return self._threads if settings is None or settings.threads is None else settings.threads

    def _new_session(self, profile: Profile | None) -> Session:
        return Session(self._artifact, profile, threads=self._threads)

    def _running(self) -> Session:
        if self._session is None:
            self.use(self._name)
        assert self._session is not None
        return self._session

    def _refresh(self, profile: str) -> None:
        if self._name == profile:
            self._session = None

    def _source(self, samples: Samples, settings: Settings) -> FolderSource | ArraySource:
        arrays = _arrays(samples)
        if arrays is not None:
            return ArraySource(arrays)
        folder = open_folder(_paths(samples), self.preprocess)
        return FolderSource(
            folder,
            most=settings.max_samples,
            cache_bytes=settings.memory_mb * 1_000_000 // _CACHE_SHARE,
        )

    def _batches(
        self, samples: Samples, on_unusable: OnUnusable | None
    ) -> Iterator[tuple[NDArray[np.float32], list[Path | None]]]:
        arrays = _arrays(samples)
        if arrays is None:
            yield from self._file_batches(_paths(samples), on_unusable)
            return
        if isinstance(samples, np.ndarray) and samples.ndim == len(self.info.input_shape) - 1:
            arrays = samples[None]
        for start in range(0, len(arrays), _BATCH):
            part = arrays[start : start + _BATCH]
            yield _stacked(part), [None] * len(part)

    def _file_batches(
        self, given: str | Path | Sequence[str | Path], on_unusable: OnUnusable | None
    ) -> Iterator[tuple[NDArray[np.float32], list[Path | None]]]:
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


def _check_writable(folder: Path) -> None:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ProfileError(
            f"profiles cannot be written to {folder}: {there} is no folder that you may write to. "
            "Nothing was changed; choose another with --store or EDGEPRUNE_HOME."
        )


def _silent(_step: str, _share: float) -> None:
    """Tell nobody."""


def _arrays(samples: Samples) -> Sequence[NDArray[Any]] | NDArray[Any] | None:
    """The samples if they are arrays, None if they are files."""
    if isinstance(samples, np.ndarray):
        return samples
    if isinstance(samples, str | Path) or any(isinstance(one, str | Path) for one in samples):
        return None
    return cast("Sequence[NDArray[Any]]", samples)


def _paths(samples: Samples) -> str | Path | Sequence[str | Path]:
    # `_arrays` said that they are no arrays.
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
    if labels is None and source.suffix.lower() in (".csv", ".tsv") and not source.is_dir():
        table = read_label_csv(source)
        return open_folder(list(table), preprocess, labels=table)
    return open_folder(
        source, preprocess, labels=None if labels is None else read_label_csv(labels)
    )
