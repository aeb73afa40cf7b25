"""What follows each other belongs together, on streams that stay with what they show."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.runtime.persistence import links_in_time, persistence
from edgeprune.runtime.teach import propagate

CLASSES = 10


def in_stays(rng, count, stay):
    """Labels of which each stays for a geometric time before another is drawn."""
    labels = []
    while len(labels) < count:
        labels += [int(rng.integers(CLASSES))] * int(rng.geometric(1 / stay))
    return np.array(labels[:count])


def heard(rng, labels, *, spread=0.8):
    """Logits that are right for balanced classes, and the features that they are made of."""
    centres = np.random.default_rng(0).normal(size=(CLASSES, 6)) * spread
    features = centres[labels] + rng.normal(size=(len(labels), 6))
    distance = ((features[:, None] - centres) ** 2).sum(2)
    return (-distance / 2).astype(np.float32), features


@pytest.mark.parametrize("stay", [3, 5, 15])
def test_persistence_is_read_off_the_labels(stay):
    rng = np.random.default_rng(stay)
    labels = np.eye(CLASSES)[in_stays(rng, 2000, stay)]
    # A stay of mean n ends with a chance of 1/n, and one time in ten the same class is drawn again.
    assert persistence(labels) == pytest.approx(1 - 1 / stay, abs=0.06)


def test_a_shuffled_stream_seldom_persists_and_then_hardly():
    rng = np.random.default_rng(0)
    found = [persistence(np.eye(CLASSES)[rng.integers(0, CLASSES, 200)]) for _ in range(40)]
    assert np.count_nonzero(found) <= 8
    assert max(found) < 0.2


@pytest.mark.parametrize("labels", [np.empty((0, 3)), np.ones((1, 3)) / 3, np.ones((50, 3)) / 3])
def test_a_stream_without_variety_does_not_persist(labels):
    assert persistence(labels) == 0.0


def test_links_fall_with_the_distance_in_time_and_end():
    rng = np.random.default_rng(1)
    logits, _ = heard(rng, in_stays(rng, 300, 6), spread=2.0)
    links = links_in_time(logits)
    np.testing.assert_array_equal(links, links.T)
    np.testing.assert_array_equal(np.diag(links), 0)
    steps = links[100, 101:112]
    assert (np.diff(steps[:10]) < 0).all()
    assert steps[9] > 0
    assert steps[10] == 0


def test_time_makes_better_labels_where_what_is_shown_stays():
    gains = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        labels = in_stays(rng, 300, 6)
        logits, features = heard(rng, labels, spread=1.5)
        links = (None, links_in_time(logits))
        spread = [propagate(logits, features, links=each) for each in links]
        without, timed = ((each.argmax(1) == labels).mean() for each in spread)
        gains.append(timed - without)
    assert np.mean(gains) > 0.02
    assert np.sort(gains)[2] > 0  # eight of ten at the least


def test_a_shuffled_stream_is_left_as_it_was():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 300)
    logits, features = heard(rng, labels)
    links = links_in_time(logits)
    assert links.max() < 0.3
    plain, timed = propagate(logits, features), propagate(logits, features, links=links)
    assert (plain.argmax(1) == timed.argmax(1)).mean() > 0.97
