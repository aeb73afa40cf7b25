"""A folder (a file, a list of files) of recordings or pictures as a sequence of samples."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ._audio_file import SOUND_SUFFIXES, read_audio
from ._errors import BadSample, SourceError
from ._image_colors import IMAGE_SUFFIXES, read_image
from ._image_features import ImagePreprocess
from ._preprocess import Preprocess

__all__ = ["Sample", "SampleFolder", "open_folder"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One preprocessed sample: ``array`` is float32 of the preprocess's ``output_shape``."""

    array: NDArray[np.float32]
    path: Path
    label: str | None


class SampleFolder:
    """Samples that are read from disk when they are asked for, in a fixed order.

    ``len(folder)`` counts the files; ``folder[i]`` reads one and raises BadSample where
    it is unusable; ``folder.load(i)`` returns None instead and keeps the reason in
    ``rejected``. Nothing is cached and nothing is ever written.

    Build it with :func:`open_folder`.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        entries: Iterable[tuple[Path, str | None]],
        rejected: Iterable[tuple[Path, str]] = (),
    ) -> None:
        self._preprocess = preprocess
        self._entries = tuple(entries)
        self._rejected = dict(rejected)

    @property
    def preprocess(self) -> Preprocess:
        """What is done to every sample."""
        return self._preprocess

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in order; nothing is read for it."""
        return tuple(path for path, _ in self._entries)

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The label of each file, in order; nothing is read for it."""
        return tuple(label for _, label in self._entries)

    @property
    def rejected(self) -> tuple[tuple[Path, str], ...]:
        """What could not be used so far and why: each path once, in order of discovery."""
        return tuple(self._rejected.items())

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        path, label = self._entries[index]
        try:
            return Sample(self._read(path), path, label)
        except BadSample as error:
            if error.path is not None:
                raise
            # The preprocess sees arrays, not files; here the reason gets its path.
            raise BadSample(path, error.reason) from error

    def load(self, index: int) -> Sample | None:
        """Return sample ``index``, or None (recorded in ``rejected``) if it is unusable.

        Raises:
            MissingExtra: the file's format needs a package that is not installed.
            IndexError: there is no such sample.
        """
        try:
            return self[index]
        except BadSample as error:
            self._rejected.setdefault(self._entries[index][0], error.reason)
            return None

    def _read(self, path: Path) -> NDArray[np.float32]:
        if isinstance(self._preprocess, ImagePreprocess):
            return self._preprocess(read_image(path))
        return self._preprocess(read_audio(path))


def open_folder(
    path: str | Path | Sequence[str | Path],
    preprocess: Preprocess,
    *,
    labels: Mapping[Path, str] | None = None,
) -> SampleFolder:
    """Find the samples that ``preprocess`` can read; nothing is decoded yet.

    ``path`` is a folder, searched with all its subfolders in sorted order; one file; or
    a list of files, kept in the order given. Hidden files and folders are passed over.
    Links to files are followed, links to folders are not (they may form loops): they
    are listed in ``rejected``, as are subfolders that cannot be read.

    A sample's label is the name of the folder that holds it, None for files directly in
    ``path`` or given by name; with ``labels`` (see ``read_label_csv``) it is what that
    mapping says, and None for files that it does not mention.

    Raises:
        SourceError: nothing is there, nothing of the right kind is there, or ``labels``
            mentions none of the files.
    """
    suffixes = IMAGE_SUFFIXES if isinstance(preprocess, ImagePreprocess) else SOUND_SUFFIXES
    skipped: list[tuple[Path, str]] = []
    if isinstance(path, str | Path) and Path(path).is_dir():
        root = Path(path)
        files = _walk(root, suffixes, skipped)
        entries = [(file, _folder_label(file, root)) for file in files]
        if not entries:
            raise _nothing_found(root, suffixes, skipped)
    else:
        given = [path] if isinstance(path, str | Path) else path
        entries = [(_checked_file(Path(file), suffixes), None) for file in given]
        if not entries:
            raise SourceError("An empty list of files was given; name at least one sample.")
    if labels is not None:
        entries = _relabel(entries, labels)
    return SampleFolder(preprocess, entries, skipped)


def _walk(root: Path, suffixes: Sequence[str], skipped: list[tuple[Path, str]]) -> list[Path]:
    """Return the files below ``root``, sorted; what is passed over goes into ``skipped``."""

    def unreadable(error: OSError) -> None:
        skipped.append((Path(error.filename), f"the folder cannot be read ({error.strerror})"))

    found = []
    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        here = Path(folder)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders:
            if (here / name).is_symlink():
                skipped.append((here / name, "a link to a folder is not followed; name its target"))
        found += [here / name for name in names if _is_sample(here / name, suffixes)]
    # By parts, so that the order is the same whatever characters the names hold.
    return sorted(found, key=lambda file: file.relative_to(root).parts)


def _is_sample(file: Path, suffixes: Sequence[str]) -> bool:
    if file.name.startswith(".") or file.suffix.lower() not in suffixes:
        return False
    try:
        return file.is_file()  # neither a dangling link nor a pipe that would block
    except OSError:
        return False


def _folder_label(file: Path, root: Path) -> str | None:
    return None if file.parent == root else file.parent.name


def _checked_file(file: Path, suffixes: Sequence[str]) -> Path:
    if not file.exists():
        raise SourceError(f"{file} does not exist. Nothing was read; check the path.")
    if not file.is_file():
        raise SourceError(f"{file} is not a file. Nothing was read; list files, or one folder.")
    if file.suffix.lower() not in suffixes:
        raise SourceError(
            f"{file} is not of a kind that this model reads ({', '.join(suffixes)}). "
            "Nothing was read; convert it or leave it out."
        )
    return file


def _nothing_found(
    root: Path, suffixes: Sequence[str], skipped: Sequence[tuple[Path, str]]
) -> SourceError:
    passed_over = "".join(f" Passed over: {path}: {reason}." for path, reason in skipped[:3])
    return SourceError(
        f"No sample was found in {root} or its subfolders; looked for "
        f"{', '.join(suffixes)} (in any case). Nothing was read; put files of these kinds "
        f"there or name another folder.{passed_over}"
    )


def _relabel(
    entries: Sequence[tuple[Path, str | None]], labels: Mapping[Path, str]
) -> list[tuple[Path, str | None]]:
    by_target = {Path(file).resolve(): label for file, label in labels.items()}
    relabelled = [(file, by_target.get(file.resolve())) for file, _ in entries]
    if all(label is None for _, label in relabelled):
        raise SourceError(
            "The label table mentions none of the samples. Nothing was read; its paths are "
            "relative to the folder that holds the table."
        )
    return relabelled
