"""docs/service.md says what is so: keys, kinds, commands, and a unit that systemd takes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from edgeprune._cli_run import run
from edgeprune.service._events import EventKind
from edgeprune.service._inputs import InputOptions
from edgeprune.service._protocol import COMMANDS, MOST_REQUEST_BYTES

from .test_run_files import KEYS

PAGE = (Path(__file__).parents[2] / "docs" / "service.md").read_text("utf-8")


def test_every_key_kind_command_and_option_of_the_page():
    for name in (*KEYS, *get_args(EventKind), *COMMANDS):
        assert f"`{name}" in PAGE or f'"{name}"' in PAGE, name
    assert f"{MOST_REQUEST_BYTES:,} bytes" in PAGE
    known = {option for param in run.params for option in (*param.opts, *param.secondary_opts)}
    section = PAGE.replace("profiles show", "")
    others = {"--json", "--user", "--now"}
    assert set(re.findall(r"(--[a-z][a-z-]+)", section)) - others <= known


def test_options_and_settings_agree():
    defaults = {param.name: param.default for param in run.params}
    options = InputOptions()
    for name in ("gate", "thin", "pace"):
        assert defaults[name] == getattr(options, name)


def test_systemd_takes_the_unit(tmp_path):
    found = re.search(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    unit = tmp_path / "edgeprune.service"
    unit.write_text(found[1].replace("%h/venv/bin/edgeprune", sys.executable))
    assert "Type=notify" in found[1]
    assert "WatchdogSec=" in found[1]
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze to check the unit with")
    (tmp_path / "runtime").mkdir(mode=0o700)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(unit)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "runtime")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Unknown" not in done.stderr


def test_asking_a_service_needs_no_network_library():
    code = (
        "import sys, edgeprune._cli_ctl; print({'onnx', 'onnxruntime', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("set()", "{'numpy'}")
