"""What a swap leaves behind: the network before is let go at once, and its memory given back."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from edgeprune import LiveSample, Service
from edgeprune.service import _keeper

from .conftest import Events, Sounds, feed, stream

Make = Callable[..., Service]


def test_the_network_before_is_let_go_between_two_samples(
    make: Make, sounds: Sounds, events: Events
) -> None:
    """The next sample may be minutes away, and a large network is tens of megabytes."""
    service = make(learn_after=100_000)
    _learn(service, sounds, events)
    before, gone = weakref.ref(service._serving.session), list[bool]()

    def quiet_room() -> Iterator[LiveSample]:
        yield from stream(sounds.arrays, 3)
        assert before() is service._serving.session
        service.use("ben")
        gone.append(before() is None)

    service.run(quiet_room(), lambda result: None)
    assert gone == [True]


def test_memory_is_given_back_after_each_swap(
    make: Make, sounds: Sounds, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed = threading.Semaphore(0)
    monkeypatch.setattr(_keeper, "trim_memory", trimmed.release)
    service = make(learn_after=100_000)
    assert not trimmed.acquire(timeout=1.5)  # nothing was swapped: the heap is left alone
    _learn(service, sounds, events)
    assert trimmed.acquire(timeout=30.0)
    service.rollback()
    assert trimmed.acquire(timeout=30.0)


def _learn(service: Service, sounds: Sounds, events: Events) -> None:
    feed(service, sounds.arrays, 60)
    service.personalize_now()
    events.wait("personalized")
