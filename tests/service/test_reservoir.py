"""The reservoir: bounded, ordered, younger samples favoured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeprune import Service
from edgeprune.service._reservoir import Reservoir

from .conftest import Sounds, feed


def filled(count: int, *, most: int = 50, horizon: int = 200, seed: int = 0) -> Reservoir:
    reservoir = Reservoir(budget_bytes=10**9, most=most, horizon=horizon, seed=seed)
    for number in range(count):
        reservoir.offer(number, float(number), np.full(4, number, np.float32))
    return reservoir


@given(st.integers(0, 400), st.integers(10, 60), st.integers(10, 500), st.integers(0, 3))
def test_it_is_bounded_ordered_and_holds_what_came(
    count: int, most: int, horizon: int, seed: int
) -> None:
    kept = filled(count, most=most, horizon=horizon, seed=seed).in_order()
    numbers = [one.sequence for one in kept]
    assert len(numbers) == min(count, most)
    assert numbers == sorted(set(numbers))
    assert all((one.array == one.sequence).all() for one in kept)


def test_memory_stays_within_its_budget() -> None:
    reservoir = Reservoir(budget_bytes=100_000, most=1000, horizon=10)
    for number in range(500):
        reservoir.offer(number, 0.0, np.ones(1000, np.float32))
        assert reservoir.size_bytes <= 100_000
    assert len(reservoir) == 50  # in half precision


def test_samples_age_exponentially() -> None:
    horizon = 400
    ages = np.concatenate(
        [
            [5999 - one.sequence for one in filled(6000, horizon=horizon, seed=seed).in_order()]
            for seed in range(10)
        ]
    )
    # Of an exponential distribution the mean is the horizon, and 1 - 1/e are younger than it.
    assert abs(ages.mean() / horizon - 1) < 0.15
    assert abs((ages < horizon).mean() - (1 - np.exp(-1))) < 0.05


def test_what_half_precision_cannot_hold_stays_whole() -> None:
    reservoir = Reservoir(budget_bytes=10**6, most=10, horizon=10)
    reservoir.offer(0, 0.0, np.array([1e6, 1.0], np.float32))
    assert reservoir.in_order()[0].array.dtype == np.float32
    assert reservoir.in_order()[0].array[0] == 1e6


def test_it_copies_what_it_keeps() -> None:
    reservoir, array = filled(0), np.ones(4, np.float32)
    reservoir.offer(0, 0.0, array)
    array[:] = 5
    assert (reservoir.in_order()[0].array == 1).all()


def test_forgetting_keeps_what_came_since() -> None:
    reservoir = filled(20)
    reservoir.forget(before=15)
    assert [one.sequence for one in reservoir.in_order()] == [15, 16, 17, 18, 19]
    reservoir.forget()
    assert len(reservoir) == reservoir.size_bytes == 0


def test_all_users_together_keep_within_the_memory(
    make: Callable[..., Service], sounds: Sounds
) -> None:
    service = make(learn_after=100_000, memory_mb=1)
    room = 1_000_000 // (sounds.arrays[0].nbytes // 2)
    for name in ("anna", "ben", "carl"):
        service.use(name)
        feed(service, sounds.arrays, room + 20)
        users = service._keeper._users.values()
        assert sum(user.reservoir.size_bytes for user in users) <= 1_000_000
    assert service.status()["learning"]["waiting"] == room
