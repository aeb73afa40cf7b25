"""When the service learns."""

from __future__ import annotations

import time

import numpy as np
import pytest

from edgeprune import InputError, ServiceSettings, Settings
from edgeprune.service._user import User

SAMPLE = np.zeros(500, np.float32)  # 1 kB in half precision
HOUR_S = 3600.0


def user(**settings: object) -> User:
    chosen = {"memory_mb": 1, "learn_after": 100, "personalize": Settings(max_samples=500)}
    return User("anna", ServiceSettings(**{**chosen, **settings}))  # type: ignore[arg-type]


def take(one: User, count: int) -> None:
    for _ in range(count):
        one.counts.samples += 1
        one.take_in(SAMPLE, 0.0)


def test_first_after_a_hundred_then_doubling_then_by_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, learnt = user(horizon=100_000), []
    for _ in range(2000):
        take(one, 1)
        if one.due(SAMPLE):
            learnt.append(len(one.reservoir))
            one.learned(len(one.reservoir), None)
    assert learnt == [100, 200, 400]
    take(one, 20_000)
    assert one.fresh >= 100 and not one.due(SAMPLE)
    later = time.time() + 24.1 * HOUR_S
    monkeypatch.setattr("edgeprune.service._user.time.time", lambda: later)
    assert one.due(SAMPLE)


def test_by_the_hour_where_everything_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    one = user(horizon=1000)
    take(one, 500)
    one.learned(500, None)
    take(one, 3000)
    assert not one.due(SAMPLE)
    later = time.time() + 1.1 * HOUR_S
    monkeypatch.setattr("edgeprune.service._user.time.time", lambda: later)
    assert one.due(SAMPLE)


def test_after_a_restart_it_waits_for_as_much_as_the_profile_was_learnt_from() -> None:
    before = user()
    take(before, 200)
    before.learned(200, None)
    after = user()
    after.restore(before.to_dict(), classes=10)
    take(after, 399)
    assert not after.due(SAMPLE)
    take(after, 1)
    assert after.due(SAMPLE)


def test_what_fits_the_memory_is_enough() -> None:
    one = user(memory_mb=1, learn_after=5000, personalize=Settings(max_samples=2000))
    take(one, 999)
    assert not one.due(SAMPLE)
    take(one, 1)
    assert one.due(SAMPLE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learn_after", 9),
        ("relearn_growth", 1.0),
        ("relearn_growth", float("nan")),
        ("relearn_hours", 0.0),
        ("memory_mb", 0),
        ("horizon", 9),
        ("watch_every", 0),
        ("threads", 0),
        ("save_every_s", 0.0),
        ("worker_timeout_s", 0.0),
        ("worker_nice", 20),
        ("top", 0),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(InputError, match=name):
        ServiceSettings(**{name: value})  # type: ignore[arg-type]
