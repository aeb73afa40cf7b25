"""What all tests share: where the real data are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real recordings and pictures."""
    folder = os.environ.get("EDGEPRUNE_DATA")
    if not folder:
        pytest.skip("EDGEPRUNE_DATA is not set: no real data to test with")
    return Path(folder)
