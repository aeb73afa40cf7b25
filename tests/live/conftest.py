from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..devices.live.sound_server import pulse, pulse_server
from ..edgeprune.conftest import pictures
from .running import Running

__all__ = ["pictures", "pulse", "pulse_server"]

Run = Callable[..., Running]


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty store. Not tmp_path: the name of a Unix socket has room for 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="edgeprune-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def run(home: Path) -> Iterator[Run]:
    """Start `edgeprune run` with these words; what still runs at the end is killed."""
    with contextlib.ExitStack() as started:

        def start(*words: object, **options: object) -> Running:
            running = Running(*words, **{"home": home, **options})  # type: ignore[arg-type]
            return started.enter_context(running)

        yield start
