"""Folders of samples: what is kept in memory between passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeprune._sources import FolderSource


class Folder:
    """Samples of 40 bytes each that count how often they are loaded."""

    rejected: tuple[Any, ...] = ()

    def __init__(self) -> None:
        self.loads = 0

    def __len__(self) -> int:
        return 8

    def load(self, index: int) -> Any:
        self.loads += 1
        return type("Sample", (), {"array": np.full(10, index, np.float32)})


@pytest.mark.parametrize(
    ("most", "cache_bytes", "loads"), [(8, 320, 8), (8, 319, 24), (4, 160, 16), (100, 320, 8)]
)
def test_samples_are_kept_if_all_fit(most, cache_bytes, loads):
    folder: Any = Folder()
    source = FolderSource(folder, most=most, cache_bytes=cache_bytes)
    for _ in range(3):
        for index in range(8):
            sample = source[index]
            assert sample is not None
            assert (sample == index).all()
    assert folder.loads == loads
