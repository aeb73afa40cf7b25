"""From what a folder, a file name or a table calls a sample to the model's class."""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ._prediction import class_name
from .devices import SampleFolder, SourceError
from .runtime.artifact import ModelInfo
from .runtime.errors import InputError

__all__ = ["Classes", "LabelFrom", "class_name", "read_label_map", "sample_labels"]

LabelFrom = Literal["folder", "name-prefix"]


class Classes:
    """Finds the class that a text means.

    In this order: a label of the model; the first word of exactly one label (``tench`` for
    ``tench, Tinca tinca``); the number of a class. A label map is asked before all of them.
    """

    def __init__(self, info: ModelInfo, label_map: Mapping[str, str] | None = None) -> None:
        self.count = info.classes or len(info.labels or ())
        self._labels = info.labels or ()
        self._map = label_map or {}
        self._exact = {label: index for index, label in enumerate(self._labels)}
        words = Counter(_first_word(label) for label in self._labels)
        self._words = {
            _first_word(label): index
            for index, label in enumerate(self._labels)
            if words[_first_word(label)] == 1
        }
        if not self.count:
            raise InputError("this model names no classes: its answers cannot be scored.")

    def find(self, text: str) -> int | None:
        """The class, or None if the model knows none of that name."""
        text = self._map.get(text, text)
        for names in (self._exact, self._words):
            if text in names:
                return names[text]
        if text.isascii() and text.isdigit() and int(text) < self.count:
            return int(text)
        return None

    def find_all(
        self, labels: Sequence[str | None], *, skip_unknown: bool
    ) -> tuple[list[int | None], Counter[str]]:
        """The class of each sample, None where there is none; and the unknown labels counted.

        Raises:
            InputError: a label is unknown and `skip_unknown` is not set, or all are.
        """
        found = [None if label is None else self.find(label) for label in labels]
        unknown = Counter(
            label
            for label, index in zip(labels, found, strict=True)
            if label is not None and index is None
        )
        if unknown and (not skip_unknown or all(index is None for index in found)):
            raise self._unknown(unknown, len(labels), skip_unknown)
        return found, unknown

    def _unknown(self, unknown: Counter[str], total: int, skipping: bool) -> InputError:
        named = ", ".join(f"{name!r}{self._hint(name)}" for name in list(unknown)[:3])
        more = f" and {len(unknown) - 3} other labels" if len(unknown) > 3 else ""
        known = f"Its labels begin {', '.join(self._labels[:3])}. " if self._labels else ""
        advice = "" if skipping else ", or leave such samples out with --skip-unknown"
        return InputError(
            f"{unknown.total()} of {total} samples have labels that the model does not know: "
            f"{named}{more}. {known}Nothing was scored. Translate them with --label-map{advice}."
        )

    def _hint(self, name: str) -> str:
        close = difflib.get_close_matches(name, self._labels, n=1)
        return f" (did you mean {close[0]!r}?)" if close else ""


def _first_word(label: str) -> str:
    return label.partition(",")[0].partition(" ")[0]


def sample_labels(folder: SampleFolder, label_from: LabelFrom) -> list[str | None]:
    """What each sample is called: by its folder or table, or by its name up to the first ``_``.

    Raises:
        InputError: no sample is called anything.
    """
    if label_from == "name-prefix":
        return [path.stem.split("_")[0] for path in folder.paths]
    labels = list(folder.labels)
    if not any(labels):
        raise InputError(
            "no sample has a label: put each class's files into a folder of its name, give a "
            "table with --labels, or take labels from file names with --label-from name-prefix. "
            "Nothing was scored."
        )
    return labels


def read_label_map(path: str | Path) -> dict[str, str]:
    """Read a table whose first two columns are what the data calls a class and what the model does.

    Commas or tabs; the model's side may be a label or a number; a header does no harm.

    Raises:
        SourceError: it cannot be read, or has no row of two columns.
    """
    path = Path(path)
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"cannot read the label map {path}: {error}. Nothing was scored."
        ) from error
    found = dict(_pairs(lines))
    if not found:
        raise SourceError(f"{path} holds no rows of name,label. Nothing was scored.")
    return found


def _pairs(lines: Sequence[str]) -> Iterable[tuple[str, str]]:
    delimiter = "\t" if any("\t" in line for line in lines[:1]) else ","
    for row in csv.reader(lines, delimiter=delimiter):
        cells = [cell.strip() for cell in row]
        if len(cells) >= 2 and cells[0] and cells[1]:
            yield cells[0], cells[1]
