"""Drift: noticed when it happens, not when it does not."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from edgeprune import Service
from edgeprune.service._by_class import ByClass, fit_by_class
from edgeprune.service._drift import FIGURES, DriftMonitor, DriftReference, fit_reference
from edgeprune.service._running_prior import RunningPrior

from .conftest import Events, Sounds, feed

Make = Callable[..., Service]
FEW = (0, 1, 2)
OTHERS = (3, 4, 5, 6, 7, 8, 9)


def some(sounds: Sounds, digits: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Logits of these digits in two halves."""
    logits = sounds.logits[np.isin(sounds.logits.argmax(1), digits)]
    order = np.random.default_rng(1).permutation(len(logits))
    return logits[order[::2]], logits[order[1::2]]


def alarms(reference: DriftReference, logits: np.ndarray, count: int) -> int | None:
    """After how many samples, drawn at random, the monitor alarms."""
    monitor, random = DriftMonitor(reference), np.random.default_rng(2)
    for number in range(count):
        if monitor.update(number, logits[random.integers(len(logits))]):
            return number + 1
    return None


def test_the_same_words_are_no_drift(sounds: Sounds) -> None:
    learnt, others = some(sounds, (0, 1, 2, 3, 4, 5, 6, 7, 8, 9))
    assert alarms(fit_reference(learnt), others, 3000) is None


def met(classes: np.ndarray, clarity: float, seed: int) -> np.ndarray:
    """Logits of ten classes, of which the first are much harder to tell than the last."""
    margins = clarity * np.linspace(2.0, 8.0, 10)
    noise = np.random.default_rng(seed).normal(size=(len(classes), 10))
    return np.asarray(noise + margins[classes, None] * (np.arange(10) == classes[:, None]))


def test_the_same_thing_for_long_is_no_drift() -> None:
    mixed = np.random.default_rng(0).integers(10, size=200)
    monitor = DriftMonitor(fit_reference(met(mixed, 1.0, 1)))
    for number, logits in enumerate(met(np.repeat(np.arange(10), 200), 1.0, 2)):
        assert not monitor.update(number, logits), number


@pytest.mark.parametrize("run", [1, 30])
def test_what_is_harder_to_tell_than_it_was_is_drift(run: int) -> None:
    mixed = np.random.default_rng(0).integers(10, size=(4, 200))
    reference = fit_reference(met(mixed[0], 1.0, 1))
    delays = []
    for seed in range(1, 4):
        monitor = DriftMonitor(reference)
        stream = met(np.repeat(mixed[seed], run), 0.4, seed + 10)
        delays.append(next(n for n, one in enumerate(stream) if monitor.update(n, one)))
    assert max(delays) <= 60, delays


def test_sums_and_what_they_are_made_of_survive_json(sounds: Sounds) -> None:
    learnt, _ = some(sounds, FEW)
    _, others = some(sounds, OTHERS)
    monitor = DriftMonitor(fit_reference(learnt))
    for number, logits in enumerate(others[:6]):
        assert not monitor.update(number, logits)
    assert monitor._seen.any()
    again = DriftMonitor.from_dict(json.loads(json.dumps(monitor.to_dict())))
    assert again.status() == monitor.status()
    for number, logits in enumerate(others[6:], 6):
        assert again.update(number, logits) == monitor.update(number, logits)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("seen", "classes", [10]),
        ("seen", "classes", [-1]),
        ("seen", "samples", [[1, 2, -3]]),
        ("seen", "samples", [[1, 2]]),
        ("reference", "by_class", {}),
    ],
)
def test_a_damaged_monitor_is_refused(sounds: Sounds, part: str, field: str, value: object) -> None:
    monitor = DriftMonitor(fit_reference(sounds.logits))
    fields = monitor.to_dict() | {"seen": {"classes": [1], "samples": [[1, 1, 1]]}}
    DriftMonitor.from_dict(fields)
    fields[part] = fields[part] | {field: value}
    with pytest.raises((ValueError, KeyError, TypeError)):
        DriftMonitor.from_dict(fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("met", [0, 99]),
        ("met", [-1, 2]),
        ("met", [1]),
        ("mean", [[0.0, 0.0, float("nan")]] * 2),
        ("variance", [[0.0, 0.0, -1.0]] * 2),
        ("between", [0.1, 0.1, -0.1]),
        ("between", [0.1, 0.1]),
    ],
)
def test_damaged_class_means_are_refused(field: str, value: object) -> None:
    figures = np.random.default_rng(0).normal(size=(20, 3))
    fields = fit_by_class(figures, np.arange(20) % 2, 10).to_dict()
    ByClass.from_dict(fields, 10)
    with pytest.raises(ValueError, match="damaged"):
        ByClass.from_dict(fields | {field: value}, 10)


def test_class_means_are_those_of_a_random_effects_model() -> None:
    random = np.random.default_rng(3)
    classes = np.repeat(np.arange(40), 25)
    effects = random.normal(0.0, 0.6, size=(40, 3))
    figures = effects[classes] + random.normal(0.0, 0.8, size=(1000, 3))
    fitted = fit_by_class(figures, classes, 50)
    np.testing.assert_allclose(fitted.between, 0.36, rtol=0.6)
    errors = ((fitted.mean[:40] - effects) ** 2).mean(0)
    np.testing.assert_allclose(fitted.variance[:40].mean(0), errors, rtol=0.6)
    assert (fitted.mean[40:] == 0.0).all()
    np.testing.assert_array_equal(fitted.variance[40:], np.tile(fitted.between, (10, 1)))


def test_other_words_are_drift(sounds: Sounds) -> None:
    learnt, _ = some(sounds, FEW)
    _, others = some(sounds, OTHERS)
    after = alarms(fit_reference(learnt), others, 3000)
    assert after is not None and after <= 40


def test_the_place_of_the_change_is_found(sounds: Sounds) -> None:
    learnt, same = some(sounds, FEW)
    _, others = some(sounds, OTHERS)
    monitor = DriftMonitor(fit_reference(learnt))
    for number, logits in enumerate([*same, *others, *others]):
        if monitor.update(number, logits):
            break
    assert abs(monitor.changed[0].number - len(same)) <= 3
    assert monitor.suspicious


def test_a_reference_survives_json(sounds: Sounds) -> None:
    reference = fit_reference(sounds.logits)
    copy = DriftReference.from_dict(reference.to_dict())
    np.testing.assert_array_equal(copy.surprise(sounds.logits), reference.surprise(sounds.logits))


def test_ten_samples_of_a_thousand_classes_make_a_finite_reference() -> None:
    logits = np.random.default_rng(0).normal(size=(10, 1000)).astype(np.float32)
    surprise = fit_reference(logits).surprise(logits)
    assert surprise.shape == (10, len(FIGURES)) and np.isfinite(surprise).all()


@pytest.mark.parametrize("samples", [1, 2])
def test_hardly_any_samples_do_not_break_it(sounds: Sounds, samples: int) -> None:
    logits = np.repeat(sounds.logits[:samples], 10, axis=0)
    assert np.isfinite(fit_reference(logits).surprise(logits)).all()


def test_the_service_relaxes_and_specialises_again(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service = make(learn_after=40, watch_every=4)
    feed(service, sounds.of(*FEW), 40)
    events.wait("personalized")
    same = feed(service, sounds.of(*FEW), 39, first=40)
    assert {result.state for result in same} == {"personalized"}
    assert "drift" not in events.kinds
    other = feed(service, sounds.of(*OTHERS), 120, first=79)
    events.wait("drift")
    relaxed = [result.sequence for result in other if result.state == "relaxed"]
    assert relaxed and relaxed[0] - 79 <= 100
    events.wait("personalized", 2)
    assert feed(service, sounds.of(*OTHERS), 1)[0].state == "personalized"
    assert service.status()["counts"]["drifts"] == 1


def test_a_class_met_anew_is_learnt_and_those_of_before_are_remembered(
    make: Make, sounds: Sounds, events: Events
) -> None:
    service = make(learn_after=100_000, drift=False)
    feed(service, sounds.of(*FEW), 60)
    service.personalize_now()
    events.wait("personalized")
    feed(service, sounds.of(*FEW, 6), 120)
    service.personalize_now()
    events.wait("personalized", 2)
    right = [result.index == 6 for result in feed(service, sounds.of(6), 30)]
    assert np.mean(right) >= 0.9
    service.rollback()  # forgets the samples
    service._store.rollback(service._artifact.info.model_id, "anna", to=2)
    feed(service, sounds.of(3, 9), 60)
    service.personalize_now()
    events.wait("personalized", 3)
    profile = service._serving.session.profile
    assert profile is not None and profile.prior is not None
    before = profile.prior[list(FEW)].sum()
    assert 0.05 < before < 0.3  # of the 15 % that the generation before goes in with


def test_relaxed_survives_a_restart(make: Make, sounds: Sounds, events: Events) -> None:
    service = make(learn_after=40)
    feed(service, sounds.of(*FEW), 40)
    events.wait("personalized")
    service.pause()  # so that nothing is learnt of what comes now
    feed(service, sounds.of(*OTHERS), 120)
    events.wait("drift")
    service.close()
    assert feed(make(learn_after=40), sounds.of(*OTHERS), 1)[0].state == "relaxed"


def test_a_stationary_stream_is_never_relaxed(make: Make, sounds: Sounds, events: Events) -> None:
    service = make(learn_after=60, watch_every=1, relearn_growth=1000.0)
    feed(service, sounds.arrays, 60)
    events.wait("personalized")
    feed(service, sounds.arrays, 1500, seed=5)
    assert "drift" not in events.kinds
    assert service.status()["counts"]["watched"] == 1500


def test_a_running_prior_follows_few_classes_only(sounds: Sounds) -> None:
    few, _ = some(sounds, FEW)
    prior = RunningPrior(np.zeros(10), few[:10])
    assert prior.shift is None  # too few samples
    for logits in [*few, *few]:
        prior.add(logits)
    shift = prior.shift
    assert shift is not None
    assert shift[list(FEW)].min() > shift[list(OTHERS)].max()
    everything = RunningPrior(np.zeros(10), sounds.logits)
    assert everything.shift is None
