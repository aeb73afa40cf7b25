"""What the guard sees, and what it objects to."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from edgeprune.runtime.guard import (
    LEAST_CHANGE,
    LEAST_DISTINCTNESS,
    distinctness,
    dominance,
    estimated_change,
    judge,
    least_distinctness,
    too_dominated,
    too_uniform,
)

from .personalizing import LOGITS, SEEDS


def answers(rng: np.random.Generator, samples: int = 30, classes: int = 6) -> Any:
    """Logits of a network that tells its classes apart."""
    return 4.0 * np.eye(classes)[np.arange(samples) % classes] + rng.normal(size=(samples, classes))


def test_networks_that_say_the_same_gain_and_lose_nothing():
    logits = answers(np.random.default_rng(0))
    report = judge(logits, logits, logits + 3, logits)
    assert (report.samples, report.agreement) == (30, 1.0)
    assert report.learnt == report.lost == pytest.approx(0, abs=1e-6)
    assert report.score == pytest.approx(estimated_change(0.0, 0.0), abs=1e-6)
    assert report.confidence_dense == pytest.approx(report.confidence_personalized)
    assert report.entropy_dense == pytest.approx(report.entropy_personalized)


def test_the_figures_of_known_answers():
    dense = np.log(np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]))
    personal = np.array([[100.0, 0, 0], [0, 100.0, 0]])
    report = judge(dense, dense, personal, personal)
    assert report.agreement == 0.5
    assert report.confidence_dense == pytest.approx(0.5)
    assert report.entropy_dense == pytest.approx(1.5 * np.log(2))
    assert report.confidence_personalized == pytest.approx(1)
    assert report.entropy_personalized == pytest.approx(0, abs=1e-9)
    assert report.distinctness == pytest.approx(np.log(2) / np.log(3))
    # Jensen and Shannon's of (.5 .25 .25) with a certain first, and with a certain second class.
    first = (0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(2) - np.log(0.75)) / 2
    second = (0.5 * np.log(2) + 0.25 * np.log(0.4) + 0.25 * np.log(2) - np.log(0.625)) / 2
    assert report.lost**2 == pytest.approx((first + second) / 2)
    assert set(report.to_dict()) == {field.name for field in dataclasses.fields(report)}


@given(dense=LOGITS, seed=SEEDS)
def test_the_figures_are_bounded(dense, seed):
    rng = np.random.default_rng(seed)
    taught, personal = (rng.permuted(dense, axis=1) for _ in range(2))
    report = judge(dense, taught, personal, dense)
    classes = dense.shape[1]
    assert 0 <= report.agreement <= 1
    for confidence in (report.confidence_dense, report.confidence_personalized):
        assert 1 / classes - 1e-9 <= confidence <= 1 + 1e-9
    for entropy in (report.entropy_dense, report.entropy_personalized):
        assert -1e-9 <= entropy <= np.log(classes) + 1e-9
    for distance in (report.learnt, report.lost):
        assert 0 <= distance <= np.sqrt(np.log(2)) + 1e-9
    assert -1e-9 <= report.distinctness <= 1 + 1e-9


def test_what_pruning_blurs_costs_and_what_teaching_sharpens_gains():
    rng = np.random.default_rng(1)
    dense = answers(rng)
    blurred, sharpened = dense * 0.2, dense * 3.0
    untouched = judge(dense, dense, dense, dense).score
    assert judge(dense, dense, blurred, dense).score < untouched
    assert judge(dense, sharpened, sharpened, dense).score > untouched
    assert judge(dense, dense, blurred, dense).objection(LEAST_CHANGE, None) is not None
    assert judge(dense, sharpened, sharpened, dense).objection(LEAST_CHANGE, None) is None


def test_a_stream_that_says_one_thing_is_objected_to_whatever_came_of_it():
    dense = answers(np.random.default_rng(2))
    sharpened = dense * 3.0
    uniform = np.tile(dense[:1], (30, 1))
    objection = judge(dense, sharpened, sharpened, uniform).objection(-1.0, None)
    assert objection is not None and "0% of what it can tell" in objection
    assert too_uniform(LEAST_DISTINCTNESS, 1000) is None


@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
def test_two_things_are_the_least_that_a_stream_must_tell(classes):
    least = least_distinctness(classes)
    assert least == pytest.approx(np.clip(np.log(2) / np.log(classes), 0.2, 0.3))
    two = 20 * np.eye(classes)[[0, 1] * 20]
    assert (distinctness(two) >= least - 1e-6) == (classes < 32)
    assert too_uniform(least, classes) is None
    assert too_uniform(least * 0.99, classes) is not None


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_short_stream_of_mostly_one_class_is_objected_to(classes):
    def stream(one: int, others: int) -> np.ndarray:
        labels = np.r_[np.zeros(one, int), 1 + np.arange(others) % (classes - 1)]
        return (20 * np.eye(classes)[labels]).astype(np.float32)

    dense = answers(np.random.default_rng(4))
    for one, others, fine in (
        (14, 6, classes == 2),
        (19, 1, False),
        (5, 5 if classes == 2 else 15, True),
        (140, 60, True),
    ):
        found = dominance(stream(one, others))
        report = judge(dense, dense * 3.0, dense * 3.0, stream(one, others))
        assert report.dominance == found
        assert (too_dominated(found) is None) == fine
        if not fine:
            assert "one class for the most part" in str(too_dominated(found))
            assert report.objection(-1.0, None) is not None


def test_agreement_alone_judges_where_it_is_asked_for():
    dense = answers(np.random.default_rng(3))
    ruined = judge(dense, dense, -dense, dense)
    assert ruined.objection(1.0, 0.0) is None
    assert "limit 40%" in str(ruined.objection(-1.0, 0.4))
