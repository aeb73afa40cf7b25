"""What is learnt without labels: the prior, and the head's lesson."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeprune.runtime._outcome import taught_logits
from edgeprune.runtime._state import Classes
from edgeprune.runtime.prior import (
    LEAST_SHARE,
    ClassHistory,
    effective_classes,
    estimate_prior,
    information,
    log_softmax,
    prior_shift,
    share_of_the_unseen,
    softmax,
)
from edgeprune.runtime.teach import fit_head, neighbours, propagate

from .personalizing import FAST, LOGITS, SEEDS

PRIORS = hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)).map(
    lambda raw: (raw + 1e-9) / (raw + 1e-9).sum()
)


def calibrated(prior: np.ndarray, count: int, seed: int, spread: float = 1.2) -> Any:
    """Labels drawn from `prior`; logits that are right for balanced classes; the features."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(len(prior), 6)) * spread
    labels = rng.choice(len(prior), count, p=prior)
    features = centres[labels] + rng.normal(size=(count, 6))
    distance = ((features[:, None] - centres) ** 2).sum(2)
    return labels, (-distance / 2).astype(np.float32), features


# ---- prior


@given(LOGITS)
def test_softmax_is_a_distribution(logits):
    probabilities = softmax(logits)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-9)
    np.testing.assert_allclose(softmax(logits + np.float32(100)), probabilities, atol=1e-2)
    np.testing.assert_allclose(np.exp(log_softmax(logits)), probabilities)


@pytest.mark.parametrize("seed", range(5))
def test_em_finds_a_skewed_prior(seed):
    prior = np.array([0.5, 0.3, 0.1, 0.06, 0.04, 0, 0, 0])
    labels, logits, _ = calibrated(prior, 1500, seed)
    estimate = estimate_prior(logits)
    seen = np.bincount(labels, minlength=8) / len(labels)
    naive = softmax(logits).mean(0)
    assert np.abs(estimate - seen).sum() < 0.12
    assert np.abs(estimate - seen).sum() < 0.5 * np.abs(naive - seen).sum()
    assert estimate[5:].max() < 0.03


@pytest.mark.parametrize("seed", range(5))
def test_balance_holds_classes_to_equal_shares_without_forcing_them(seed):
    labels, logits, features = calibrated(np.full(8, 1 / 8), 400, seed, spread=0.7)
    biased = logits + np.array([3, 0, 0, 0, 0, 0, 0, -3], np.float32)
    plain, held = (propagate(biased, features, balance=strength) for strength in (0.0, 2.0))
    assert np.abs(held.mean(0) - 1 / 8).sum() < 0.7 * np.abs(plain.mean(0) - 1 / 8).sum()
    assert (held.argmax(1) == labels).mean() > (plain.argmax(1) == labels).mean()
    np.testing.assert_allclose(held.sum(1), 1)


def test_em_leaves_balanced_classes_balanced():
    _, logits, _ = calibrated(np.full(8, 1 / 8), 4000, 0)
    assert np.abs(estimate_prior(logits) - 1 / 8).max() < 0.03


def test_the_prior_makes_the_predictions_better():
    prior = np.array([0.6, 0.3, 0.1, 0, 0, 0, 0, 0])
    labels, logits, _ = calibrated(prior, 1500, 1, spread=0.7)
    better = logits + prior_shift(estimate_prior(logits), 1e-2)
    assert (better.argmax(1) == labels).mean() > (logits.argmax(1) == labels).mean() + 0.1


@given(LOGITS)
def test_an_estimated_prior_is_a_distribution(logits):
    prior = estimate_prior(logits)
    assert (prior >= 0).all()
    assert prior.sum() == pytest.approx(1)


@given(prior=PRIORS, floor=st.floats(1e-6, 1))
@example(prior=np.array([1.0, 0.0, 0.0]), floor=1e-2)
def test_a_prior_shift_is_floored(prior, floor):
    shift = prior_shift(prior, floor)
    assert shift.dtype == np.float32
    assert shift.min() >= np.log(floor) - 1e-5
    above = prior * len(prior) > floor
    np.testing.assert_allclose(shift[above], np.log(len(prior) * prior[above]), atol=1e-5)
    np.testing.assert_allclose(shift[~above], np.log(floor), atol=1e-5)


def test_a_uniform_prior_shifts_nothing():
    np.testing.assert_allclose(prior_shift(np.full(10, 0.1), 1e-2), 0, atol=1e-6)


@given(PRIORS)
def test_effective_classes_are_between_one_and_all(prior):
    assert 1 - 1e-6 <= effective_classes(prior) <= len(prior) * (1 + 1e-9)


@pytest.mark.parametrize("met", [1, 2, 7])
def test_effective_classes_count_equal_ones(met):
    prior = np.zeros(7)
    prior[:met] = 1 / met
    assert effective_classes(prior) == pytest.approx(met)


def test_information_is_that_of_sure_and_varied_predictions():
    sure = (50 * np.eye(4)[np.arange(40) % 4]).astype(np.float32)
    assert information(sure) == pytest.approx(np.log(4), abs=1e-6)
    assert information(np.zeros((40, 4), np.float32)) == pytest.approx(0, abs=1e-9)
    assert information(np.repeat(sure[:1], 40, 0)) == pytest.approx(0, abs=1e-9)


@given(LOGITS)
def test_information_is_bounded(logits):
    assert -1e-6 <= information(logits) <= np.log(logits.shape[1]) + 1e-6


# ---- teach


def clusters(seed: int, count: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Features in four tight clusters on orthogonal axes, and which is which."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    return labels, 5 * np.eye(4, 12)[labels] + 0.3 * rng.normal(size=(count, 12))


@FAST
@given(seed=SEEDS)
def test_labels_spread_over_clusters_and_mend_single_mistakes(seed):
    labels, features = clusters(seed)
    told = labels.copy()
    wrong = np.random.default_rng(seed).choice(len(labels), 20, replace=False)
    told[wrong] = (told[wrong] + 1) % 4
    spread = propagate((2 * np.eye(4)[told]).astype(np.float32), features)
    assert spread.shape == (240, 4)
    np.testing.assert_allclose(spread.sum(1), 1, atol=1e-9)
    assert (told == labels).mean() < 0.95
    assert (spread.argmax(1) == labels).mean() > 0.98


@FAST
@given(seed=SEEDS, count=st.integers(2, 40))
def test_spread_labels_are_distributions(seed, count):
    rng = np.random.default_rng(seed)
    spread = propagate(rng.normal(size=(count, 5)), rng.normal(size=(count, 3)))
    assert np.isfinite(spread).all()
    np.testing.assert_allclose(spread.sum(1), 1, atol=1e-9)


def test_identical_samples_do_not_break_the_graph():
    logits = np.random.default_rng(0).normal(size=(30, 4))
    spread = propagate(logits, np.ones((30, 6)))
    assert np.isfinite(spread).all()


def test_a_class_that_is_never_predicted_stays_away():
    labels, features = clusters(0)
    logits = np.full((len(labels), 6), -8.0)
    logits[np.arange(len(labels)), labels] = 0
    assert propagate(logits, features).mean(0)[4:].max() < 1e-3


def test_the_head_learns_what_it_is_told():
    labels, features = clusters(1)
    update = fit_head(features, np.eye(4)[labels])
    assert update.weight.shape == (4, 12)
    assert update.bias.shape == (4,)
    logits = features @ update.weight.T + update.bias
    assert (logits.argmax(1) == labels).all()
    new_labels, new_features = clusters(2)
    new = new_features @ update.weight.T + update.bias
    assert (new.argmax(1) == new_labels).mean() > 0.99


def test_the_heads_lesson_favours_nobody_on_average():
    """It is centred: the prior is put in elsewhere."""
    labels, features = clusters(1)
    update = fit_head(features, np.eye(4)[labels])
    np.testing.assert_allclose((features @ update.weight.T + update.bias).mean(0), 0, atol=1e-9)


def test_the_lesson_is_the_primal_ridge_regression():
    labels, features = clusters(3)
    x, y = features - features.mean(0), np.eye(4)[labels] - 0.25
    damping = np.trace(x @ x.T) / len(x)
    primal = np.linalg.solve(x.T @ x + damping * np.eye(12), x.T @ y).T
    update = fit_head(features, np.eye(4)[labels], ridge=1.0, scale=3.0)
    np.testing.assert_allclose(update.weight, 3 * primal, atol=1e-9)


def test_a_short_stream_teaches_the_head_softly():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(160, 6)), np.eye(4)[rng.integers(0, 4, 160)]
    for samples, share in ((160, 1.0), (80, 1.0), (40, 0.5), (16, 0.2)):
        part = features[:samples], labels[:samples]
        taught, full = fit_head(*part), fit_head(*part, scale=20.0)
        np.testing.assert_allclose(taught.weight, share * full.weight)
        np.testing.assert_allclose(taught.bias, share * full.bias)


def test_a_strong_ridge_teaches_nothing():
    labels, features = clusters(1)
    update = fit_head(features, np.eye(4)[labels], ridge=1e12)
    assert np.abs(update.weight).max() < 1e-6


def test_features_that_never_vary_teach_nothing():
    update = fit_head(np.ones((20, 5), np.float32), np.eye(4)[np.arange(20) % 4])
    assert np.abs(update.weight).max() == 0
    assert np.isfinite(update.bias).all()


def test_an_estimate_goes_on_from_an_earlier_one():
    logits = np.random.default_rng(0).normal(size=(60, 7)) * 2
    whole = estimate_prior(logits)
    half = estimate_prior(logits, iterations=5)
    assert np.abs(half - whole).sum() > 1e-3
    np.testing.assert_allclose(estimate_prior(logits, start=half), whole, atol=1e-3)


def test_a_history_fades_by_its_weight():
    earlier, now = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    blended = ClassHistory(earlier, 10.0).blend(now, 40)
    np.testing.assert_allclose(blended, [0.2, 0.8])


def test_what_was_seen_once_speaks_for_what_was_not_seen():
    """Good and Turing: of a stream in which nothing comes twice all is still to come."""
    each_once = np.eye(40)[:12]
    assert share_of_the_unseen(each_once) == 1.0
    assert share_of_the_unseen(np.repeat(each_once, 2, axis=0)) == LEAST_SHARE
    assert share_of_the_unseen(np.concatenate([each_once, each_once[:9]])) == 3 / 21


def test_a_short_stream_leaves_more_to_the_classes_that_it_did_not_show():
    """What is put into the head of an unmet class is that share, not a hundredth."""
    prior = np.array([0.5, 0.5, 0.0, 0.0])
    for floor in (LEAST_SHARE, 0.3):
        told = taught_logits(
            Classes(prior, np.zeros(4), None, floor), np.zeros((1, 4)), np.zeros((1, 2))
        )
        np.testing.assert_allclose(told[0], np.log([2.0, 2.0, floor, floor]), rtol=1e-6)


@pytest.mark.parametrize("balance", [0.0, 2.0])
def test_rounds_of_float32_spread_the_same_labels(balance):
    rng = np.random.default_rng(3)
    logits, features = rng.normal(size=(80, 40)) * 3, rng.normal(size=(80, 16))
    unary, affinity = log_softmax(logits), neighbours(features)
    labels, handicap = np.exp(unary), np.zeros(40)
    for _ in range(30):
        scores = unary + affinity @ labels
        for _ in range(10 if balance else 0):
            shares = softmax(scores - handicap).mean(0)
            handicap = (handicap + balance * np.log(shares * 40 + 1e-6)) / 2
        labels = softmax(scores - handicap)
    found = propagate(logits, features, balance=balance)
    np.testing.assert_allclose(found, labels, atol=1e-4)
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-12)


def test_the_prior_in_float32_is_that_of_float64():
    logits = np.random.default_rng(5).normal(size=(200, 300)) * 4
    p, prior = softmax(logits), np.full(300, 1 / 300)
    for _ in range(50):
        prior = prior * ((1.0 / (p @ prior)) @ p) / len(p)
    found = estimate_prior(logits, iterations=50)
    np.testing.assert_allclose(found, prior / prior.sum(), rtol=1e-4, atol=1e-8)
