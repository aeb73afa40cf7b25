"""Manners of the command line: help, exit codes, streams, colours, interruptions."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields

import click
import pytest

import edgeprune
from edgeprune import __version__
from edgeprune._cli import _COMMANDS, cli
from edgeprune._cli_personalize import _HELP, personalize
from edgeprune.runtime.settings import Settings

ESCAPE = "\x1b"


def test_version_and_help(process):
    assert process("--version").stdout == f"edgeprune, version {__version__}\n"
    page = process("--help")
    assert page.returncode == 0
    assert all(name in page.stdout for name in _COMMANDS)
    assert all(code in page.stdout for code in ("0    done", "3    the guard", "130  inter"))


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_help(run, name):
    page = run(name, "--help")
    assert page.exit_code == 0
    assert "Usage:" in page.stdout
    assert not page.stderr


def test_short_helps_agree_with_the_commands():
    context = click.Context(cli)
    for name in _COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["persnalize"], "Did you mean 'personalize'?"),
        (["profiles", "rolback"], "Did you mean 'rollback'?"),
        (["inspect", "m.onnx", "--grups"], "Did you mean one of: '--group', '--groups'?"),
        (["personalize", "m.onnx", "f", "--sparsity", "1.5"], "sparsity = 1.5 is out of range"),
        (["personalize", "m.onnx", "f", "--strength", "max"], "'light', 'deep'"),
        (["predict", "m.onnx", "f", "--dense", "--profile", "x"], "exclude each other"),
        (["profiles", "activate", "m.onnx"], "--none"),
        (["profiles", "rollback", "m.onnx", "x", "--to", "1", "--steps", "2"], "exclude"),
        (["export", "a:b"], "--output"),
    ],
)
def test_wrong_usage_is_exit_2(run, words, hint):
    done = run(*words)
    assert done.exit_code == 2
    assert hint in done.stderr
    assert not done.stdout


def test_every_setting_is_an_option_with_its_default():
    options = {p.name: p for p in personalize.params if isinstance(p, click.Option)}
    for field in fields(Settings):
        measured = field.name == "channel_multiple"  # on this board, or the setting's default
        expected = "auto" if measured else field.default
        assert options[field.name].default == expected, field.name
        assert _HELP[field.name]
    assert set(_HELP) == {field.name for field in fields(Settings)}


def test_an_unexpected_error_is_one_line(run, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("the\nsky fell")

    monkeypatch.setattr("edgeprune._api.load", fail)
    done = run("inspect", "model.onnx")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "unexpected RuntimeError: the sky fell" in done.stderr
    assert "EDGEPRUNE_DEBUG=1" in done.stderr
    monkeypatch.setenv("EDGEPRUNE_DEBUG", "1")
    assert isinstance(run("inspect", "model.onnx").exception, RuntimeError)


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1"}, {"NO_COLOR": "1"}])
def test_no_escape_sequences_off_a_terminal(process, pictures, variables):
    done = process(
        *("personalize", pictures.model, pictures.adapt, "--min-agreement", "0"),
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr
    assert ESCAPE not in done.stdout + done.stderr
    assert "edgeprune: watching\n" in done.stderr
    assert "watching" not in done.stdout


def test_a_terminal_gets_bars_and_stdout_stays_clean(home, pictures):
    parent, child = pty.openpty()
    words = [pictures.model, pictures.adapt, "--min-agreement", "0", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "edgeprune", "personalize", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=child,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
    ) as running:
        os.close(child)
        shown = _read_all(parent)
        assert running.stdout is not None
        report = json.loads(running.stdout.read())
    os.close(parent)
    assert report["generation"] == 1
    assert "watching" in shown
    # NO_COLOR leaves cursor movements, and no colours.
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)


def _read_all(descriptor: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode("utf-8", "replace")


def test_quiet_says_nothing_but_the_result(run, pictures):
    done = run(
        "personalize", pictures.model, pictures.adapt, "--min-agreement", "0", "-q", "--json"
    )
    assert done.exit_code == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)["profile"] == "default"


def test_control_c_is_exit_130_and_changes_nothing(home, data, pictures):
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "edgeprune",
            "personalize",
            pictures.model,
            data / "imagenet-sample",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as running:
        assert running.stderr is not None
        assert "watching" in running.stderr.readline()
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not home.exists()


def test_a_reader_that_goes_away_is_no_error(home, pictures):
    command = f"'{sys.executable}' -m edgeprune predict '{pictures.model}' '{pictures.adapt}'"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert done.returncode in (0, 141)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (edgeprune.ArtifactError("m"), 1),
        (edgeprune.SourceError("m"), 1),
        (edgeprune.GuardRefused("m"), 3),
        (edgeprune.DeviceUnavailable("m"), 4),
    ],
)
def test_each_kind_of_error_has_its_exit_code(run, monkeypatch, error, code):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr("edgeprune._api.load", fail)
    done = run("profiles", "list", "model.onnx")
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", "edgeprune: error: m\n")
