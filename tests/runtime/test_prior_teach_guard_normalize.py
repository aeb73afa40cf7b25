"""What is learnt without labels: the prior, the head's lesson, the guard's figures, statistics."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeprune.runtime._graph import Graph
from edgeprune.runtime._ort import run
from edgeprune.runtime._outcome import taught_logits
from edgeprune.runtime._plan import channel_axis
from edgeprune.runtime._state import Classes
from edgeprune.runtime._stream import Batches
from edgeprune.runtime.artifact import Artifact, Operator, Reference
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
from edgeprune.runtime.normalize import corrected_gain_shift, renormalize
from edgeprune.runtime.personalize import _tells_more
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
from edgeprune.runtime.statistics import rows
from edgeprune.runtime.teach import fit_head, propagate

SEEDS = st.integers(0, 2**32 - 1)
FAST = settings(max_examples=30, deadline=None)
LOGITS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-1e4, 1e4, width=32)
)
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


# ---- guard


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


def test_variety_without_certainty_tells_no_more():
    three = 6 * np.eye(10)[[0, 1, 2] * 8].astype(np.float32)
    spread = 4 * np.eye(10)[np.arange(24) % 8].astype(np.float32)
    assert information(spread) > information(three)
    assert not _tells_more(spread, three)
    assert _tells_more(6 * np.eye(10)[np.arange(24) % 8], three)


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


# ---- normalisation


def with_reference(mean: Any, std: Any) -> Operator:
    channels = len(mean)
    reference = Reference("samples", np.array(mean, np.float32), np.array(std, np.float32))
    return Operator(
        "op", "Conv", False, "x", "y", 3, channels, 1, 0, (), False, None, 0, 0, reference
    )


@FAST
@given(seed=SEEDS, blend=st.floats(0, 1))
def test_the_blend_says_whose_statistics_count(seed, blend):
    rng = np.random.default_rng(seed)
    ref_mean, mean = rng.normal(size=(2, 6))
    ref_std, std = rng.uniform(0.5, 2, size=(2, 6))
    gain, shift = corrected_gain_shift(with_reference(ref_mean, ref_std), mean, std, blend)
    assert gain.dtype == shift.dtype == np.float32
    variance = blend * std**2 + (1 - blend) * ref_std**2
    np.testing.assert_allclose(gain, ref_std / np.sqrt(variance), rtol=1e-4)
    blended_mean = blend * mean + (1 - blend) * ref_mean
    np.testing.assert_allclose(gain * blended_mean + shift, ref_mean, atol=1e-4)


def test_without_blend_nothing_moves():
    operator = with_reference([1.0, -2.0, 0.5], [1.0, 2.0, 0.3])
    gain, shift = corrected_gain_shift(operator, np.array([9.0, 9, 9]), np.array([3.0, 3, 3]), 0.0)
    np.testing.assert_allclose(gain, 1, atol=1e-6)
    np.testing.assert_allclose(shift, 0, atol=1e-6)


@pytest.mark.parametrize("std", [[0.0, 1.0], [1e-7, 1.0]])
def test_channels_that_hardly_vary_are_left_alone(std):
    operator = with_reference([1.0, 1.0], std)
    gain, shift = corrected_gain_shift(operator, np.array([5.0, 5.0]), np.array([2.0, 2.0]), 1.0)
    assert (gain[0], shift[0]) == (1.0, 0.0)
    assert gain[1] == pytest.approx(0.5)
    flat = corrected_gain_shift(with_reference([1.0], [1.0]), np.array([5.0]), np.array([0.0]), 1.0)
    assert [part.tolist() for part in flat] == [[1.0], [0.0]]


def test_an_operator_without_reference_has_nothing_to_return_to():
    operator = dataclasses.replace(with_reference([1.0], [1.0]), reference=None)
    with pytest.raises(ValueError, match="reference"):
        corrected_gain_shift(operator, np.zeros(1), np.ones(1), 1.0)


def renormalized(artifact: Artifact, samples: np.ndarray, blend: float) -> Any:
    batches = Batches(samples, range(len(samples)), 8, artifact.info.input_shape)
    tensors = dict(artifact.tensors) | dict(artifact.neutral_masks)
    return renormalize(
        Graph(artifact), batches, tensors, blend=blend, budget_bytes=10**9, threads=1
    )


def deviations(artifact: Artifact, changed: dict[str, Any], samples: np.ndarray) -> Any:
    """For each operator with a reference: how far its output's statistics are from it, in std."""
    graph = Graph(artifact)
    operators = [o for o in artifact.info.operators if o.reference is not None]
    names = [operator.output for operator in operators]
    session = graph.session([graph.input], names, dict(artifact.tensors) | changed, 1)
    for operator, value in zip(operators, run(session, names, {graph.input: samples}), strict=True):
        reference = operator.reference
        assert reference is not None
        seen = rows(value, channel_axis(operator), 256).astype(np.float64)
        usable = (reference.std > 1e-2 * reference.std.max()) & (seen.std(0) > 0)
        scale = reference.std[usable]
        mean = np.abs(seen.mean(0) - reference.mean)[usable] / scale
        std = np.abs(seen.std(0) - reference.std)[usable] / scale
        yield operator.name, mean, std


@pytest.mark.parametrize("name", ["digits", "residual"])
def test_statistics_come_back_to_the_reference_at_every_operator(name, request, demo, pictures):
    artifact = request.getfixturevalue(name)
    samples = demo.adapt if name == "digits" else 2 * pictures + 1
    before = {op: (mean, std) for op, mean, std in deviations(artifact, {}, samples)}
    changed, _ = renormalized(artifact, samples, 1.0)
    count = 0
    for operator, mean, std in deviations(artifact, changed, samples):
        assert mean.max() < 2e-3, operator
        assert std.max() < 2e-3, operator
        count += 1
    assert count == len(before) > 5
    assert np.mean([mean.mean() for mean, _ in before.values()]) > 0.1


def test_without_blend_the_networks_gains_and_shifts_are_neutral(digits, demo):
    changed, _ = renormalized(digits, demo.adapt[:16], 0.0)
    for name, value in changed.items():
        np.testing.assert_allclose(value, digits.neutral_masks[name], atol=1e-5, err_msg=name)


def test_only_gains_and_shifts_of_operators_with_a_reference_change(digits, demo):
    changed, outputs = renormalized(digits, demo.adapt[:16], 1.0)
    wanted = {n for o in digits.info.operators if o.reference for n in (o.gain, o.shift)}
    assert set(changed) == wanted
    assert outputs.shape == (16, 10)
    graph = Graph(digits)
    tensors = dict(digits.tensors) | changed
    session = graph.session([graph.input], [graph.output], tensors, 1)
    direct = run(session, [graph.output], {graph.input: demo.adapt[:16]})[0]
    np.testing.assert_allclose(outputs, direct, rtol=1e-3, atol=1e-3)


def test_normalisation_helps_in_a_strange_room(digits, demo):
    changed, _ = renormalized(digits, demo.adapt, 1.0)
    graph = Graph(digits)
    accuracy = []
    for tensors in (dict(digits.tensors), dict(digits.tensors) | changed):
        session = graph.session([graph.input], [graph.output], tensors, 1)
        accuracy.append(demo.accuracy(run(session, None, {graph.input: demo.test})[0]))
    assert accuracy[1] > accuracy[0] + 0.2


def test_speakers_that_the_network_knows_need_little(digits, fsdd, demo):
    """Real recordings lie near the statistics of training; the demo's far voice does not."""
    distance = {}
    for name, user in (("real", fsdd), ("demo", demo)):
        found = [mean.mean() for _, mean, _ in deviations(digits, {}, user.adapt)]
        distance[name] = np.mean(found)
    assert distance["real"] < 0.7 * distance["demo"]
    changed, _ = renormalized(digits, fsdd.adapt, 1.0)
    for operator, mean, std in deviations(digits, changed, fsdd.adapt):
        assert max(mean.max(), std.max()) < 2e-3, operator


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
