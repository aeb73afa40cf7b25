"""What personalisation refuses, what it says then, and how far the guard lets it go."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeprune.runtime.errors import EdgepruneError, GuardRefused, InputError, NotEnoughSamples
from edgeprune.runtime.personalize import Settings, personalize

from .personalizing import QUICK, outputs_of


def test_the_guard_refuses_and_says_so(digits, demo):
    strict = Settings(sparsity=0.9, min_agreement=1.0, **QUICK)
    with pytest.raises(GuardRefused, match=r"agrees.*limit 100%.*Nothing was changed") as caught:
        personalize(digits, demo.adapt, strict)
    assert caught.value.exit_code == 3


def test_without_a_sparsity_it_goes_as_far_as_the_guard_allows(digits, demo):
    chosen = Settings(threads=1)
    report = personalize(digits, demo.adapt, chosen).report
    assert [one.allowed for one in report.tried] == [False] * (len(report.tried) - 1) + [True]
    assert tuple(one.sparsity for one in report.tried) == chosen.sparsities[: len(report.tried)]
    assert report.sparsity.hidden_units == pytest.approx(report.tried[-1].sparsity, abs=0.05)
    assert report.guard.score == report.tried[-1].score >= chosen.min_change


def test_a_stricter_limit_prunes_less_and_then_refuses(digits, demo):
    free = personalize(digits, demo.adapt, Settings(threads=1)).report
    stricter = dataclasses.replace(Settings(threads=1), min_change=free.guard.score + 1e-6)
    try:
        report = personalize(digits, demo.adapt, stricter).report
    except GuardRefused:
        return
    assert report.tried[-1].sparsity < free.tried[-1].sparsity


def test_what_was_tried_is_told_where_nothing_is_allowed(digits, demo):
    with pytest.raises(GuardRefused, match=r"Nothing was changed. Sparsities tried: 0.7, 0.5"):
        personalize(digits, demo.adapt, Settings(min_change=1.0, threads=1))


def test_the_outcome_is_that_of_asking_for_the_sparsity_it_chose(digits, demo):
    chosen = personalize(digits, demo.adapt, Settings(min_change=0.03, threads=1))
    asked = Settings(sparsity=chosen.report.tried[-1].sparsity, threads=1)
    same = personalize(digits, demo.adapt, asked).profile
    for name, mask in same.masks.items():
        np.testing.assert_array_equal(mask, chosen.profile.masks[name])
    for name, weight in same.weights.items():
        np.testing.assert_array_equal(weight, chosen.profile.weights[name])


@pytest.mark.parametrize("what", ["one word", "noise", "near silence"])
def test_a_stream_that_says_one_thing_is_refused(digits, demo, few, what):
    rng = np.random.default_rng(0)
    quiet = np.full_like(demo.adapt[:40], demo.adapt.min())
    level = {"noise": 1.0, "near silence": 0.02}
    stream = few
    if what in level:
        stream = quiet + level[what] * rng.standard_normal(quiet.shape).astype(np.float32)
    with pytest.raises((GuardRefused, NotEnoughSamples), match=r"alike.*Nothing was changed"):
        personalize(digits, stream, Settings(threads=1))


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_samples(digits, demo, count):
    with pytest.raises(NotEnoughSamples, match=f"{count} of {count}.*at least 10"):
        personalize(digits, demo.adapt[:count], Settings(threads=1))


def test_ten_samples_are_enough_as_the_documentation_says(residual, pictures):
    report = personalize(residual, pictures[:10], Settings(threads=1, min_agreement=0.0)).report
    assert (report.samples_adapted, report.samples_held_out) == (8, 2)


@pytest.mark.parametrize("count", [30, 60])
def test_a_stream_of_unusable_samples(digits, count):
    with pytest.raises(NotEnoughSamples, match=f"^0 of {count} "):
        personalize(digits, [None] * count, Settings(threads=1))  # type: ignore[list-item]


@pytest.mark.parametrize("usable", [1, 4, 9])
def test_too_few_usable_samples_among_many(digits, demo, usable):
    """What has not been read yet must not be counted as usable."""
    some = [x if index < usable else None for index, x in enumerate(demo.adapt)]
    with pytest.raises(NotEnoughSamples):
        personalize(digits, some, Settings(threads=1))


def test_unusable_samples_are_passed_over(digits, demo):
    some = [None if index % 3 == 0 else x for index, x in enumerate(demo.adapt)]
    outcome = personalize(digits, some, Settings(threads=1))
    assert outcome.report.samples_seen == 120
    assert outcome.report.samples_adapted == 64
    assert outcome.report.samples_held_out == 16
    dense = demo.accuracy(outputs_of(digits, None, demo.test))
    assert demo.accuracy(outputs_of(digits, outcome.profile, demo.test)) > dense + 0.2


def test_nothing_usable_left_for_the_guard(digits, demo):
    some = [None if index % 5 == 4 else x for index, x in enumerate(demo.adapt[:60])]
    with pytest.raises(NotEnoughSamples):
        personalize(digits, some, Settings(threads=1))


@pytest.mark.parametrize("place", [0, 4, 11])
def test_a_sample_of_the_wrong_shape(digits, demo, place):
    samples = list(demo.adapt[:20])
    samples[place] = samples[place][:, :, :30]
    with pytest.raises(InputError, match=r"shape.*Nothing was changed"):
        personalize(digits, samples, Settings(threads=1))


def test_samples_with_a_batch_axis(digits, demo):
    with pytest.raises(InputError, match="shape"):
        personalize(digits, demo.adapt[:20, None], Settings(threads=1))


def poisoned(samples: np.ndarray, place: int, value: float) -> np.ndarray:
    samples = samples[:20].copy()
    samples[place, 0, 3, 3] = value
    return samples


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_held_out_sample_that_is_not_finite(digits, demo, value):
    with pytest.raises(InputError, match="NaN or infinite"):
        personalize(digits, poisoned(demo.adapt, 4, value), Settings(threads=1))


@pytest.mark.parametrize("strength", ["deep", "light"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sample_that_is_not_finite(digits, demo, strength, value):
    with pytest.raises(InputError, match="NaN or infinite"):
        personalize(digits, poisoned(demo.adapt, 3, value), Settings(threads=1, strength=strength))


@pytest.mark.parametrize("strength", ["deep", "light"])
@pytest.mark.parametrize("normalization", ["auto", "on"])
def test_silence_does_not_crash(digits, demo, strength, normalization):
    silence = np.zeros_like(demo.adapt[:20])
    chosen = Settings(strength=strength, normalization=normalization, threads=1)
    try:
        profile = personalize(digits, silence, chosen).profile
    except EdgepruneError:
        return
    assert np.isfinite(outputs_of(digits, profile, demo.test)).all()


@pytest.mark.parametrize("strength", ["deep", "light"])
def test_silence_is_refused_or_harmless(digits, demo, strength):
    silence = np.zeros_like(demo.adapt[:40])
    try:
        profile = personalize(digits, silence, Settings(strength=strength, threads=1)).profile
    except EdgepruneError:
        return
    dense = demo.accuracy(outputs_of(digits, None, demo.test))
    assert demo.accuracy(outputs_of(digits, profile, demo.test)) > dense - 0.1


class Pulled:
    """Samples of which one is gone the second time that it is asked for: a card was pulled."""

    def __init__(self, samples: np.ndarray, gone: int) -> None:
        self._samples, self._gone, self._asked = samples, gone, 0

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> np.ndarray | None:
        self._asked += index == self._gone
        return None if index == self._gone and self._asked > 1 else self._samples[index]


@pytest.mark.parametrize("strength", ["light", "deep"])
@pytest.mark.parametrize("gone", [4, 0])  # held out, learnt from
def test_a_sample_that_is_gone_between_passes_is_told(digits, demo, strength, gone):
    settings = Settings(strength=strength, sparsity=0.3, **QUICK)
    with pytest.raises(InputError, match=f"sample {gone} could be read before.*Nothing was"):
        personalize(digits, Pulled(demo.adapt[:60], gone), settings)
