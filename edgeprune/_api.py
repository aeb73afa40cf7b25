"""The Python front door: export a network, load it, personalise it, ask it, take it back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._network import Network, OnProgress, as_arrays, as_paths, silent
from .runtime.artifact import Artifact
from .runtime.errors import NotEnoughSamples, ProfileError
from .runtime.session import Session
from .runtime.store import DENSE, ProfileStore, ProfileSummary

if TYPE_CHECKING:  # what a first prediction does not need is imported where it is needed
    from ._compaction import CompactionReport
    from ._labels import LabelFrom
    from ._results import Evaluation, ProfileReport
    from ._sources import ArraySource, FolderSource, OnUnusable, Samples
    from .runtime.compact import Rounding
    from .runtime.profile import Profile
    from .runtime.settings import Settings

__all__ = ["Model", "load", "personalize"]


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


class Model(Network):
    """An exported network and this user's profiles of it. Made by `load`.

    Until `use` says otherwise it answers with the profile that is active in the store, or, where
    there is none, as the network was trained. One thread at a time.
    """

    def __init__(self, artifact: Artifact, store: ProfileStore, threads: int | None = None) -> None:
        super().__init__(artifact, threads)
        self._store = store
        self._name = store.active(artifact.info.model_id)

    @property
    def store(self) -> ProfileStore:
        """Where the profiles are kept."""
        return self._store

    @property
    def profile(self) -> str | None:
        """The name of the profile in use, None for the dense network."""
        return self._name

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
        from ._board import rates as board_rates
        from ._results import ProfileReport
        from ._sources import reasons
        from .runtime import personalize as runtime
        from .runtime.settings import Settings

        self.info.require_classifier("personalising")
        settings = replace(settings or Settings(), threads=self._threads_for(settings))
        # What would stop the saving is found now, not after minutes of work.
        _check_writable(self._store.path(self.info.model_id, profile, 1).parent)
        source = self._source(samples, settings)
        try:
            outcome = runtime.personalize(
                self._artifact,
                source,
                settings,
                rates=board_rates(),
                on_progress=on_progress or silent,
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
        from ._evaluate import compare

        found = self._labelled(Path(source), labels, label_from, label_map, skip_unknown)
        sessions = [self._new_session(None)]
        if self._name is not None:
            sessions.append(self._running())
        evaluation = compare(
            sessions, found.folder, found.wanted, found.classes, on_progress or silent
        )
        return replace(
            evaluation,
            profile=self._name,
            generation=self.generation,
            unknown=found.unknown,
            unlabelled=found.unlabelled,
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
        from ._profile_export import write_personalized_copy

        chosen = self._store.load(profile, self._artifact, generation)
        return write_personalized_copy(self._artifact, chosen, Path(folder))

    def compact(
        self,
        path: str | Path,
        *,
        masks: Mapping[str, NDArray[np.bool_]] | None = None,
        channel_multiple: int = 16,
        rounding: Rounding = "up",
        samples: str | Path | Sequence[NDArray[Any]] | None = None,
        timing: bool = True,
        update_profile: bool = False,
        int8: bool = False,
        on_progress: OnProgress | None = None,
        on_unusable: OnUnusable | None = None,
    ) -> CompactionReport:
        """Write the network that is in use as one plain ONNX file without its masked units.

        Args:
            path: ``NAME.onnx`` in a folder that exists; a file of that name is replaced.
            masks: bool ``(units,)`` by group, true keeps, in place of the profile's masks of these
                groups: for networks that cannot be personalised, or units chosen in another way.
            channel_multiple: round kept units to multiples of this, for speed.
            rounding: ``up`` keeps masked units where they fill a multiple, and computes the same;
                ``down`` removes further units, which nothing makes up for, and computes something
                else; with `samples` it is refused where that harms.
            samples: real input to compare on: a folder, or preprocessed arrays.
            timing: measure whether it is faster here than the masked network.
            update_profile: after rounding down, save the masks that are in force as a new
                generation of the profile in use.
            int8: quantise it, calibrated on two thirds of `samples` and judged on the others; what
                is written stays in float where int8 is not faster here, or harms.
            on_progress: called with the name of a step and the share of it that is done.
            on_unusable: called with each file of `samples` that cannot be used, and why.

        Raises:
            GuardRefused: rounding down would harm by these samples; nothing was written.
            InputError, NotEnoughSamples: int8 is asked for and cannot be calibrated or judged.
            CompactError: it would compute something else, or cannot be written; nothing was.
            ProfileError: the profile cannot be saved.
        """
        from ._compaction import Job, compact_model

        if update_profile:
            if self._name is None:
                raise ProfileError(
                    "no profile is in use that could be updated. Nothing was written."
                )
            _check_writable(self._store.path(self.info.model_id, self._name, 1).parent)
        loaded = None if self._name is None else self._store.load(self._name, self._artifact)
        job = Job(
            self._artifact,
            loaded,
            Path(path),
            masks=masks,
            channel_multiple=channel_multiple,
            rounding=rounding,
            samples=samples,
            threads=self._threads,
            timing=timing,
            int8=int8,
            on_progress=on_progress or silent,
            on_unusable=on_unusable,
        )
        report, rounded = compact_model(job)
        report = replace(report, profile=self._name, generation=self.generation)
        if not update_profile or rounded is None or self._name is None:
            return report
        generation = self._store.save(self._name, rounded)
        self._refresh(self._name)
        return replace(report, updated_generation=generation)

    @property
    def title(self) -> str:
        """The file and the profile, or that there is none."""
        used = "as trained" if self._name is None else f"profile {self._name}"
        return f"{self.path.name} ({used})"

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
        from ._sources import CACHE_SHARE, ArraySource, FolderSource
        from .devices import open_folder

        arrays = as_arrays(samples)
        if arrays is not None:
            return ArraySource(arrays)
        folder = open_folder(as_paths(samples), self.preprocess)
        return FolderSource(
            folder,
            most=settings.max_samples,
            cache_bytes=settings.memory_mb * 1_000_000 // CACHE_SHARE,
        )


def _check_writable(folder: Path) -> None:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ProfileError(
            f"profiles cannot be written to {folder}: {there} is no folder that you may write to. "
            "Nothing was changed; choose another with --store or EDGEPRUNE_HOME."
        )
