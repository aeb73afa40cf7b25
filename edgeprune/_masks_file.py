"""Masks from a file, for those who choose the units themselves."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .runtime.errors import InputError

__all__ = ["read_masks"]


def read_masks(path: Path) -> dict[str, NDArray[np.bool_]]:
    """Read an ``.npz`` of one vector for each channel group: 1 or true keeps a unit, 0 does not.

    Groups that it leaves out keep all of their units.

    Raises:
        InputError: it cannot be read, or holds anything but zeros and ones.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"cannot read masks from {path}: {error}. Write them with "
            "numpy.savez(FILE, **{group: mask}). Nothing was written."
        ) from error
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
            raise InputError(
                f"the mask {name!r} in {path} holds something else than 0 and 1. "
                "Nothing was written."
            )
    return {name: array.astype(np.bool_) for name, array in arrays.items()}
