"""A task in a process of its own, because what is measured is the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from ..runtime.errors import InputError

__all__ = ["run_apart"]


def run_apart(module: str, way: str, task: Mapping[str, Any]) -> str:
    """Run ``python -m module`` with a task on its stdin; return the last line that it prints.

    Args:
        module: its full name.
        way: what is measured, for errors.
        task: what the module reads from its stdin, as JSON.

    Raises:
        InputError: the process fails; its last words are in the message.
    """
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(f"the process that was to be measured ({way}) failed: {last}")
    return done.stdout.strip().splitlines()[-1]
