"""Answers, swaps, users and control of the live service, on the bundled network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeprune
from edgeprune import (
    LiveResult,
    LiveSample,
    NotEnoughSamples,
    ProfileError,
    ProfileNotFound,
    Service,
    ServiceEvent,
    Settings,
)
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.store import ProfileStore

from .conftest import FAST, MODEL, Events, Sounds, feed, stream

Make = Callable[..., Service]
STRICT = Settings(sparsity=0.9, repair=False, prior="off", normalization="off", min_agreement=1.0)


def learn(service: Service, sounds: Sounds, events: Events, count: int = 1) -> None:
    """Let a service personalise itself once."""
    feed(service, sounds.arrays, 60)
    service.personalize_now()
    events.wait("personalized", count)


def quiet(make: Make, **settings: Any) -> Service:
    """A service that learns only when it is asked to."""
    return make(learn_after=100_000, **settings)


def test_every_sample_is_answered_as_the_network_would(make: Make, sounds: Sounds) -> None:
    service = quiet(make)
    wanted = edgeprune.load(MODEL, store=service._store).predict(sounds.arrays[0])[0]
    result = service.process(LiveSample(sounds.arrays[0], 12.5, 7, "test"))
    assert (result.sequence, result.timestamp_s) == (7, 12.5)
    assert (result.label, result.index) == (wanted.label, wanted.index)
    assert result.confidence == pytest.approx(wanted.probability, rel=1e-5)
    assert result.top[0] == (result.label, result.confidence)
    assert len(result.top) == 5 and result.latency_ms > 0
    assert (result.profile, result.generation, result.state) == ("anna", 0, "dense")


def test_run_answers_in_order_until_it_is_stopped(make: Make, sounds: Sounds) -> None:
    service, results = quiet(make), list[LiveResult]()

    def on_result(result: LiveResult) -> None:
        results.append(result)
        if result.sequence == 30:
            service.stop()

    service.run(stream(sounds.arrays, 100), on_result)
    assert [result.sequence for result in results] == list(range(31))


def test_a_sample_that_does_not_fit_is_told_once_and_passed_over(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service, results = quiet(make), list[LiveResult]()
    good, bad = sounds.arrays[0], np.full_like(sounds.arrays[0], np.nan)
    samples = [LiveSample(a, 0.0, i, "test") for i, a in enumerate([good, bad, bad, good])]
    service.run(samples, results.append)
    assert [result.sequence for result in results] == [0, 3]
    assert events.kinds == ["unusable"]
    assert service.status()["counts"]["unusable"] == 2


def test_no_sample_is_missed_over_a_swap(make: Make, sounds: Sounds, events: Events) -> None:
    service, results = make(learn_after=60), list[LiveResult]()

    def paced() -> Iterator[LiveSample]:
        for sample in stream(sounds.arrays, 100_000):
            time.sleep(0.001)
            if "personalized" in events.kinds:
                service.stop()
            yield sample

    service.run(paced(), results.append)
    extra = feed(service, sounds.arrays, 5, first=len(results))
    assert [r.sequence for r in results + extra] == list(range(len(results) + 5))
    states = [result.state for result in results + extra]
    assert states == sorted(states)  # dense, then personalized: one swap
    assert {states[0], states[-1]} == {"dense", "personalized"}
    assert extra[-1].generation == 1


def test_the_outcome_is_the_profile_in_the_store(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service = quiet(make)
    learn(service, sounds, events)
    model = edgeprune.load(MODEL, store=service._store, threads=1)
    model.use("anna")
    for array in sounds.arrays[:10]:
        mine = service.process(LiveSample(array, 0.0, 0, "test"))
        assert mine.confidence == pytest.approx(model.predict(array)[0].probability, rel=1e-5)


def test_it_learns_again_when_twice_as_much_was_heard(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service = make(learn_after=30, relearn_growth=2.0, drift=False)
    for number in (1, 2):
        feed(service, sounds.arrays, 30)
        events.wait("personalized", number)
    learnt_from = [e.details["samples"] for e in events.all if e.kind == "learning"]
    assert learnt_from == [30, 60]
    assert service.status()["learning"]["next_at"] == 120


def test_what_does_not_teach_is_answered_only(make: Make, sounds: Sounds) -> None:
    service = quiet(make)
    service.process(LiveSample(sounds.arrays[0], 0.0, 0, "test", teaches=False))
    status = service.status()
    assert (status["counts"]["samples"], status["counts"]["taught"]) == (1, 0)
    assert status["learning"]["waiting"] == 0


def test_a_refusal_of_the_guard_leaves_everything(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service = quiet(make, personalize=STRICT)
    feed(service, sounds.arrays, 60)
    service.personalize_now()
    assert "agrees with the dense one" in events.wait("refused").message
    after = feed(service, sounds.arrays, 1)[0]
    assert (after.state, after.generation) == ("dense", 0)
    (met,) = ProfileStore(service._store.root).list(Artifact.open(MODEL).info.model_id)
    assert met.generations == ()
    assert service.status()["counts"]["refusals"] == 1


def test_a_worker_that_is_killed_changes_nothing(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service = quiet(make)
    feed(service, sounds.arrays, 60)
    service.personalize_now()
    os.kill(_worker(service), signal.SIGKILL)
    assert "ended without an outcome" in events.wait("failed").message
    assert feed(service, sounds.arrays, 1)[0].state == "dense"
    service.personalize_now()
    events.wait("personalized")
    assert feed(service, sounds.arrays, 1)[0].state == "personalized"


def test_a_worker_that_takes_too_long_is_ended(make: Make, sounds: Sounds, events: Events) -> None:
    service = quiet(make, worker_timeout_s=0.05)
    feed(service, sounds.arrays, 60)
    service.personalize_now()
    events.wait("failed")
    assert feed(service, sounds.arrays, 1)[0].state == "dense"


def _worker(service: Service) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pid = service.status()["learning"]["worker_pid"]
        if pid is not None:
            assert isinstance(pid, int)
            return pid
        time.sleep(0.005)
    raise AssertionError("no worker")


def test_too_few_samples_are_refused_at_once(make: Make, sounds: Sounds) -> None:
    service = quiet(make)
    feed(service, sounds.arrays, 9)
    with pytest.raises(NotEnoughSamples, match="9 samples wait"):
        service.personalize_now()


def test_rollback_is_exact_and_learning_begins_anew(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service, probe = quiet(make), LiveSample(sounds.arrays[3], 0.0, 0, "test")
    dense = service.process(probe)
    learn(service, sounds, events)
    first = service.process(probe)
    learn(service, sounds, events, 2)
    assert service.process(probe).generation == 2
    service.rollback()
    again = service.process(probe)
    assert (again.top, again.generation) == (first.top, 1)
    assert service.status()["learning"]["waiting"] == 1  # the probe
    service.rollback()
    back = service.process(probe)
    assert (back.top, back.state) == (dense.top, "dense")


def test_rollback_while_learning_keeps_the_late_outcome_out(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service = quiet(make)
    learn(service, sounds, events)
    feed(service, sounds.arrays, 60)
    service.personalize_now()
    service.rollback()
    time.sleep(0.5)
    assert feed(service, sounds.arrays, 1)[0].generation == 0
    assert events.kinds.count("personalized") == 1


def test_who_pauses_at_the_word_of_it_takes_nothing_back(
    make: Make, sounds: Sounds, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = quiet(make)

    def pause(event: ServiceEvent) -> None:
        events(event)
        if event.kind == "personalized":
            service.pause()

    monkeypatch.setattr(service, "_on_event", pause)
    learn(service, sounds, events)
    events.wait("paused")
    assert feed(service, sounds.arrays, 1)[0].generation == 1
    assert service._store.current(service._artifact.info.model_id, "anna") == 1


def test_nothing_to_go_back_to_is_said(make: Make) -> None:
    with pytest.raises(ProfileNotFound, match="nothing to go back to"):
        quiet(make).rollback()


def test_a_generation_that_another_program_puts_in_force_answers(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service, probe = quiet(make), LiveSample(sounds.arrays[3], 0.0, 0, "test")
    dense = service.process(probe)
    learn(service, sounds, events)
    learn(service, sounds, events, 2)
    other = ProfileStore(service._store.root)
    model_id = service._artifact.info.model_id
    other.rollback(model_id, "anna", to=1)
    assert events.wait("replaced").details == {"generation": 1}
    assert service.process(probe).generation == 1
    other.rollback(model_id, "anna", to=0)
    events.wait("replaced", 2)
    again = service.process(probe)
    assert (again.top, again.state) == (dense.top, "dense")
    assert service.status()["learning"]["waiting"] == 1  # the probe: learning begins anew
    time.sleep(1.5)
    assert events.kinds.count("replaced") == 2  # said once


def test_a_damaged_generation_of_another_program_changes_nothing(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service = quiet(make)
    learn(service, sounds, events)
    learn(service, sounds, events, 2)
    model_id = service._artifact.info.model_id
    service._store.path(model_id, "anna", 1).write_bytes(b"damaged")
    ProfileStore(service._store.root).rollback(model_id, "anna", to=1)
    time.sleep(1.5)
    assert feed(service, sounds.arrays, 1)[0].generation == 2
    assert not {"replaced", "state-unsaved"} & set(events.kinds)


def test_a_damaged_pointer_is_told_at_the_start_and_changes_nothing_later(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service = quiet(make)
    learn(service, sounds, events)
    path = service._store.path(service._artifact.info.model_id, "anna", 1)
    (path.parent / "current").write_text("damaged")
    time.sleep(1.5)
    assert feed(service, sounds.arrays, 1)[0].generation == 1
    assert not {"replaced", "state-unsaved"} & set(events.kinds)
    with pytest.raises(ProfileError, match=r"rollback MODEL anna --to N"):
        quiet(make)


def test_users_are_switched_and_keep_their_own_state(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service = quiet(make)
    learn(service, sounds, events)
    service.use("ben")
    assert {(r.profile, r.state) for r in feed(service, sounds.arrays, 20)} == {("ben", "dense")}
    assert service.status()["counts"]["samples"] == 20
    service.use("anna")
    assert feed(service, sounds.arrays, 1)[0].state == "personalized"
    assert service.status()["counts"]["samples"] == 61


def test_what_was_learnt_of_one_user_is_not_put_before_another(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service = quiet(make)
    feed(service, sounds.arrays, 60)
    service.personalize_now()
    service.use("ben")
    events.wait("personalized")
    assert feed(service, sounds.arrays, 1)[0].generation == 0
    service.use("anna")
    assert feed(service, sounds.arrays, 1)[0].generation == 1


def test_paused_nothing_is_kept_and_answers_go_on(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service = make(learn_after=30)
    service.pause()
    assert len(feed(service, sounds.arrays, 60)) == 60
    assert service.status()["learning"]["state"] == "paused"
    assert service.status()["learning"]["waiting"] == 0
    service.resume()
    feed(service, sounds.arrays, 30)
    events.wait("personalized")


def test_pausing_ends_a_personalisation(make: Make, sounds: Sounds, events: Events) -> None:
    service = quiet(make)
    feed(service, sounds.arrays, 60)
    service.personalize_now()
    worker = _worker(service)
    service.pause()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert service.status()["learning"]["waiting"] == 60


def test_closing_leaves_no_thread_and_no_process(
    make: Make, sounds: Sounds, events: Events
) -> None:
    before = threading.active_count()
    service = quiet(make)
    feed(service, sounds.arrays, 60)
    service.personalize_now()
    worker = _worker(service)
    service.close()
    assert threading.active_count() == before
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    service.close()  # twice is no harm


ORPHAN = """
import sys, time
from pathlib import Path
import numpy as np
from edgeprune import LiveSample, Service, ServiceSettings
arrays = np.load(sys.argv[2])
settings = ServiceSettings(learn_after=100_000)
service = Service(Path(sys.argv[1]), profile="anna", store=Path(sys.argv[3]), settings=settings)
for number in range(600):
    service.process(LiveSample(arrays[number % len(arrays)], 0.0, number, "test"))
service.personalize_now()
while (pid := service.status()["learning"]["worker_pid"]) is None:
    time.sleep(0.01)
print(pid, flush=True)
time.sleep(60)
"""


def test_a_worker_goes_when_the_service_was_killed(sounds: Sounds, tmp_path: Path) -> None:
    np.save(tmp_path / "sounds.npy", np.stack(sounds.arrays))
    command = [sys.executable, "-c", ORPHAN, MODEL, tmp_path / "sounds.npy", tmp_path / "store"]
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while _alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody waits for an orphan in a container


def test_nothing_but_numbers_is_written(
    make: Make, sounds: Sounds, events: Events, tmp_path: Path
) -> None:
    service = quiet(make)
    learn(service, sounds, events)
    service.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {".lock", "current", "live.json", "000001.safetensors"}
    state = json.loads(next(path for path in files if path.name == "live.json").read_text())
    held = json.dumps(state)
    for array in sounds.arrays:
        assert f"{float(array.ravel()[1000]):.6f}" not in held


def test_a_profile_from_elsewhere_is_not_replaced_after_fewer_samples(
    make: Make, sounds: Sounds, tmp_path: Path
) -> None:
    edgeprune.personalize(MODEL, sounds.arrays, profile="anna", settings=FAST, store=tmp_path)
    service = make(learn_after=30)
    results = feed(service, sounds.arrays, 40)
    assert {result.state for result in results} == {"personalized"}
    assert service.status()["learning"]["next_at"] == len(sounds.arrays)
