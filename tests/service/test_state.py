"""What survives a restart, and what does not survive being forgotten."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune import ProfileError, Service
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.store import ProfileStore

from .conftest import MODEL, Events, Sounds, feed

Make = Callable[..., Service]


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    model_id = Artifact.open(MODEL).info.model_id
    return ProfileStore(tmp_path / "profiles").path(model_id, "anna", 1).with_name("live.json")


def quiet(make: Make, **settings: Any) -> Service:
    return make(learn_after=100_000, **settings)


def test_counts_and_profile_continue_over_twenty_restarts(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service = quiet(make)
    feed(service, sounds.arrays, 60)
    service.personalize_now()
    events.wait("personalized")
    drift = service._user.monitor
    assert drift is not None
    service.close()
    for number in range(1, 21):
        service = quiet(make)
        assert feed(service, sounds.arrays, 3)[0].state == "personalized"
        counts = service.status()["counts"]
        assert counts["samples"] == 60 + 3 * number
        assert counts["personalizations"] == 1
        assert counts["starts"] == 1 + number
        monitor = service._user.monitor
        assert monitor is not None
        assert monitor.reference.to_dict() == drift.reference.to_dict()
        service.close()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}', b'{"format": 99}', b"null", b"x" * 100_000],
)
def test_a_damaged_state_is_told_once_and_set_aside(
    make: Make, sounds: Sounds, events: Events, state_file: Path, content: bytes
) -> None:
    service = quiet(make)
    feed(service, sounds.arrays, 20)
    service.close()
    state_file.write_bytes(content)
    service = quiet(make)
    assert events.kinds == ["state-damaged"]
    assert "live.damaged.json" in events.all[0].message
    assert service.status()["counts"]["samples"] == 0
    assert state_file.with_name("live.damaged.json").read_bytes() == content
    service.close()
    quiet(make).close()
    assert events.kinds == ["state-damaged"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("counts", {"samples": -1}),
        ("counts", None),
        ("learn_at", 0),
        ("learned_at_s", "yesterday"),
        ("relaxed", ["a"]),
        ("relaxed", [0.0] * 3),
        ("drift", {"sums": [0, 0, 0], "reference": {}}),
        ("drift", {"sums": [0, 0]}),
    ],
)
def test_a_state_with_wrong_figures_is_damaged(
    make: Make, events: Events, state_file: Path, name: str, value: Any
) -> None:
    quiet(make).close()
    fields = json.loads(state_file.read_text())
    state_file.write_text(json.dumps(fields | {name: value}))
    quiet(make).close()
    assert events.kinds == ["state-damaged"]


def test_forgetting_from_outside_erases_what_a_running_service_knows(
    make: Make, sounds: Sounds, events: Events, tmp_path: Path, state_file: Path
) -> None:
    service = quiet(make)
    feed(service, sounds.arrays, 60)
    service.personalize_now()
    events.wait("personalized")
    command = ["profiles", "forget", str(MODEL), "anna", "--yes", "--store", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "edgeprune", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    events.wait("forgotten")
    status = service.status()
    assert (status["state"], status["generation"]) == ("dense", 0)
    assert status["counts"]["samples"] == status["learning"]["waiting"] == 0
    assert list(state_file.parent.glob("*.safetensors")) == []


def test_what_is_learnt_of_somebody_forgotten_is_erased_too(
    make: Make,
    sounds: Sounds,
    events: Events,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeprune.service._keeper._LOOK_S", 1000.0)  # it will not look by itself
    service = quiet(make)
    feed(service, sounds.arrays, 60)
    service.personalize_now()
    ProfileStore(tmp_path / "profiles").forget(Artifact.open(MODEL).info.model_id, "anna")
    events.wait("forgotten")
    assert "personalized" not in events.kinds
    assert service.status()["generation"] == 0
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_forgetting_a_stopped_one_leaves_nothing(
    make: Make, sounds: Sounds, tmp_path: Path, state_file: Path
) -> None:
    service = quiet(make)
    feed(service, sounds.arrays, 5)
    service.close()
    assert state_file.exists()
    store = ProfileStore(tmp_path / "profiles")
    store.forget(Artifact.open(MODEL).info.model_id, "anna")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_store_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "profiles").write_text("a file where the folder should be")
    with pytest.raises(ProfileError):
        Service(MODEL, profile="anna", store=tmp_path)


def test_a_disk_that_refuses_later_is_told_once_and_answers_go_on(
    make: Make,
    sounds: Sounds,
    events: Events,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = quiet(make, save_every_s=0.01)

    def full(*_: Any, **__: Any) -> None:
        raise ProfileError("cannot write: the disk is full.")

    monkeypatch.setattr("edgeprune.service._state_file.write_atomically", full)
    service._keeper.save_soon()
    events.wait("state-unsaved")
    service._keeper.save_soon()
    assert len(feed(service, sounds.arrays, 20)) == 20
    service.close()
    assert events.kinds == ["state-unsaved"]
