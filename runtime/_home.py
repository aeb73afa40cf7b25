"""Where a user's profiles are kept; apart from the store, so that asking imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["default_root"]


def default_root() -> Path:
    """``$EDGEPRUNE_HOME/profiles``, or under ``$XDG_DATA_HOME``, or under ``~/.local/share``."""
    home = os.environ.get("EDGEPRUNE_HOME")
    if home:
        return Path(home).expanduser() / "profiles"
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    # The XDG specification tells readers to ignore a relative path.
    base = data if data.is_absolute() else Path.home() / ".local" / "share"
    return base / "edgeprune" / "profiles"
