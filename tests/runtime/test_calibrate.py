"""The lean that a stream puts on all logits: found where it is one, left where it is the class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeprune.runtime.calibrate import domain_bias, neighbour_agreement, usable_bias
from edgeprune.runtime.prior import softmax

CLASSES = 40


def stream(classes: int, per_class: int, seed: int, lean: float = 3.0) -> tuple[Any, Any, Any, Any]:
    """Logits of a user of few classes, all leaning towards five others; features; labels; lean."""
    rng = np.random.default_rng(seed)
    met = rng.permutation(CLASSES)[:classes]
    labels = np.repeat(met, per_class)
    leaning = np.zeros(CLASSES)
    leaning[rng.permutation(np.setdiff1d(np.arange(CLASSES), met))[:5]] = lean
    logits = 2.0 * np.eye(CLASSES)[labels] + leaning + rng.normal(size=(len(labels), CLASSES))
    centres = rng.normal(size=(CLASSES, 16))
    features = centres[labels] + 0.4 * rng.normal(size=(len(labels), 16))
    return logits.astype(np.float32), features, labels, leaning


@pytest.mark.parametrize("seed", range(5))
def test_the_lean_is_found_and_taken_off(seed: int) -> None:
    logits, features, labels, leaning = stream(8, 20, seed)
    bias = usable_bias(logits, features)
    assert np.corrcoef(bias, leaning)[0, 1] > 0.9
    before, after = (np.mean(z.argmax(1) == labels) for z in (logits, logits - bias))
    assert after > before + 0.1


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_of_one_class_keeps_its_class(seed: int) -> None:
    logits, features, labels, _ = stream(1, 40, seed, lean=0.0)
    logits[np.arange(len(logits)), labels] += 2.0
    assert domain_bias(logits)[labels[0]] > 1.5  # the class itself is what all have in common
    np.testing.assert_array_equal(usable_bias(logits, features), 0.0)


@pytest.mark.parametrize(("met", "used"), [(3, False), (5, True)])
def test_it_takes_four_classes_to_see_a_lean(met: int, used: bool) -> None:
    logits, features, labels, _ = stream(met, 20, 0, lean=0.0)
    sure = (0.5 * logits + 3.0 * np.eye(CLASSES)[labels]).astype(np.float32)
    assert bool(usable_bias(sure, features).any()) == used


def test_few_samples_tell_nothing() -> None:
    logits, features, _, _ = stream(2, 5, 0)
    np.testing.assert_array_equal(usable_bias(logits, features), 0.0)


def test_the_bias_moves_no_total() -> None:
    logits, _, _, _ = stream(8, 20, 1)
    assert domain_bias(logits).sum() == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(
        domain_bias(logits + np.float32(7.0)), domain_bias(logits), atol=1e-4
    )


def test_agreement_is_a_probability_and_highest_for_clear_classes() -> None:
    logits, features, labels, _ = stream(4, 20, 2, lean=0.0)
    clear = (20.0 * np.eye(CLASSES)[labels]).astype(np.float32)
    flat = np.zeros_like(logits)
    values = [neighbour_agreement(z, features) for z in (flat, logits, clear)]
    assert 0.0 <= values[0] < values[1] < values[2] <= 1.0
    assert softmax(clear).max() > 0.99
