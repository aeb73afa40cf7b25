"""Personalisation from end to end, on the bundled network and a voice that it never heard."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.personalize import Outcome, Settings, personalize
from edgeprune.runtime.prior import prior_shift, softmax
from edgeprune.runtime.profile import Profile
from edgeprune.runtime.session import Session
from edgeprune.runtime.store import DENSE, ProfileStore

from .personalizing import QUICK, outputs_of

STEPS = ["watching", "normalising", "pruning and repairing", "checking"]


def comparable(profile: Profile) -> bytes:
    """The profile's bytes without what depends on the clock."""
    report = {key: value for key, value in profile.report.items() if key != "seconds"}
    created = datetime(2026, 1, 1, tzinfo=UTC)
    return dataclasses.replace(profile, report=report, created=created).to_bytes()


@pytest.fixture(scope="module")
def deep(digits: Artifact, demo: Any) -> Outcome:
    return personalize(digits, demo.adapt, Settings(sparsity=0.5, threads=1))


@pytest.fixture(scope="module")
def light(digits: Artifact, demo: Any) -> Outcome:
    return personalize(digits, demo.adapt, Settings(sparsity=0.2, strength="light", threads=1))


@pytest.fixture(scope="module")
def quick(digits: Artifact, demo: Any) -> Outcome:
    return personalize(digits, demo.adapt, Settings(sparsity=0.5, **QUICK))


# ---- what it is for


def test_deep_takes_half_of_the_units_and_hears_better(digits, demo, deep):
    dense = demo.accuracy(outputs_of(digits, None, demo.test))
    personal = demo.accuracy(outputs_of(digits, deep.profile, demo.test))
    assert personal > dense + 0.2
    assert deep.report.sparsity.hidden_units == pytest.approx(0.5, abs=0.02)
    assert deep.report.sparsity.macs > 0.4
    assert deep.report.normalization == 1.0
    assert deep.report.guard.agreement >= 0.8
    assert deep.profile.strength == "deep"
    assert deep.profile.weights


def test_light_takes_some_and_hears_better(digits, demo, light):
    dense = demo.accuracy(outputs_of(digits, None, demo.test))
    assert demo.accuracy(outputs_of(digits, light.profile, demo.test)) > dense + 0.15
    assert light.report.sparsity.hidden_units == pytest.approx(0.2, abs=0.05)
    assert light.profile.strength == "light"
    assert not light.profile.weights
    assert len(light.profile.to_bytes()) < 16_000


def test_without_repair_it_is_much_worse(digits, demo, deep):
    control = Settings(sparsity=0.5, repair=False, min_agreement=0.0, threads=1)
    masked = personalize(digits, demo.adapt, control)
    assert masked.report.sparsity.hidden_units == pytest.approx(0.5, abs=0.02)
    assert set(masked.profile.weights) <= {digits.info.head}  # it is taught the user's classes
    accuracy = demo.accuracy(outputs_of(digits, masked.profile, demo.test))
    assert accuracy < demo.accuracy(outputs_of(digits, deep.profile, demo.test)) - 0.4


def test_real_speakers_are_not_forgotten(digits, fsdd):
    """On people that the network knows there is nothing to gain: half of it may go all the same."""
    outcome = personalize(digits, fsdd.adapt, Settings(sparsity=0.5, min_agreement=0.0, threads=1))
    dense = fsdd.accuracy(outputs_of(digits, None, fsdd.test))
    assert dense > 0.9
    assert fsdd.accuracy(outputs_of(digits, outcome.profile, fsdd.test)) > dense - 0.06
    assert outcome.report.sparsity.hidden_units == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("strength", ["deep", "light"])
def test_asked_for_nothing_it_changes_nothing(digits, demo, strength):
    nothing = Settings(sparsity=0.0, strength=strength, prior="off", normalization="off", **QUICK)
    outcome = personalize(digits, demo.adapt, nothing)
    got = outputs_of(digits, outcome.profile, demo.test)
    assert got.tobytes() == outputs_of(digits, None, demo.test).tobytes()
    assert outcome.report.sparsity.units_masked == 0
    assert outcome.report.guard.agreement == 1.0
    assert not (outcome.profile.gains or outcome.profile.shifts or outcome.profile.weights)


# ---- the settings do what they say


@pytest.mark.parametrize("criterion", ["variance", "activation", "wanda", "random"])
def test_every_criterion_takes_the_same_share(digits, demo, quick, criterion):
    outcome = personalize(digits, demo.adapt, Settings(sparsity=0.5, criterion=criterion, **QUICK))
    assert outcome.report.sparsity.units == quick.report.sparsity.units
    chosen, usual = outcome.profile.masks, quick.profile.masks
    assert chosen.keys() == usual.keys()
    assert not all(np.array_equal(chosen[name], usual[name]) for name in usual)
    assert demo.accuracy(outputs_of(digits, outcome.profile, demo.test)) > 0.6


def test_the_seed_is_for_random_units(digits, demo):
    def masks(seed: int) -> Any:
        chosen = Settings(
            sparsity=0.2,
            min_agreement=0.0,
            criterion="random",
            seed=seed,
            strength="light",
            **QUICK,
        )
        return personalize(digits, demo.adapt, chosen).profile.masks

    first, again, other = masks(1), masks(1), masks(2)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_faster_prunes_beyond_the_share_and_says_how_fast_it_should_be(digits, demo, deep):
    chosen = Settings(
        sparsity=0.5, faster=3.0, min_agreement=0.0, **QUICK | {"allocation": "damage"}
    )
    report = personalize(digits, demo.adapt, chosen).report
    assert report.speed is not None
    assert report.speed > 1.5
    assert report.sparsity.macs > deep.report.sparsity.macs
    assert deep.report.speed is None


@pytest.mark.parametrize("allocation", ["damage", "uniform"])
@pytest.mark.parametrize("sparsity", [0.3, 0.75])
def test_the_share_is_the_one_asked_for(residual, pictures, allocation, sparsity):
    chosen = Settings(
        sparsity=sparsity,
        allocation=allocation,
        channel_multiple=1,
        min_agreement=0.0,
        threads=1,
    )
    outcome = personalize(residual, pictures, chosen)
    assert outcome.report.sparsity.hidden_units == pytest.approx(sparsity, abs=0.03)


def test_kept_units_are_rounded_for_the_board(digits, demo, deep, light):
    for outcome in (deep, light):
        assert all(mask.sum() % 8 == 0 for mask in outcome.profile.masks.values())
    coarse = Settings(sparsity=0.5, **QUICK | {"channel_multiple": 32})
    masks = personalize(digits, demo.adapt, coarse).profile.masks
    assert masks
    assert all(mask.sum() % 32 == 0 for mask in masks.values())


def test_only_hidden_groups_lose_units_unless_told(residual, pictures):
    kinds = {group.name: group.kind for group in residual.info.prunable}
    fine = Settings(min_agreement=0.0, threads=1, channel_multiple=8)  # its groups have 16 units
    masks = {
        scope: personalize(residual, pictures, dataclasses.replace(fine, scope=scope)).profile.masks
        for scope in ("hidden", "all")
    }
    assert {kinds[name] for name in masks["hidden"]} == {"hidden"}
    assert {kinds[name] for name in masks["all"]} == {"hidden", "residual"}


def test_at_most_so_many_samples_evenly_chosen(digits, demo):
    asked: set[int] = set()

    class Stream:
        def __len__(self) -> int:
            return 1200

        def __getitem__(self, index: int) -> Any:
            asked.add(index)
            return demo.adapt[index % 120]

    report = personalize(digits, Stream(), Settings(**QUICK)).report
    assert report.samples_seen == 1200
    assert report.samples_adapted + report.samples_held_out == 40 == len(asked)
    assert report.samples_held_out == 8
    gaps = np.diff(sorted(asked))
    assert (min(asked), max(asked)) == (0, 1199)
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(("holdout", "held"), [(0.5, 20), (0.1, 4)])
def test_the_guard_sees_its_share(residual, pictures, holdout, held):
    chosen = Settings(holdout=holdout, max_samples=40, min_agreement=0.0, threads=1)
    report = personalize(residual, pictures, chosen).report
    assert (report.samples_adapted, report.samples_held_out) == (40 - held, held)


def test_normalisation_may_be_forbidden_or_forced(digits, demo, few):
    off = personalize(digits, demo.adapt, Settings(normalization="off", **QUICK))
    forced = Settings(normalization="on", min_agreement=0.0, **QUICK)
    assert off.report.normalization == 0.0
    assert personalize(digits, few, forced).report.normalization == 1.0


def test_a_stream_of_few_classes_is_not_renormalised(digits, few):
    report = personalize(digits, few, Settings(min_agreement=0.0, **QUICK)).report
    assert report.normalization == 0.0
    assert report.effective_classes is not None
    assert report.effective_classes < 4


@pytest.mark.parametrize("prior", ["graph", "em"])
def test_a_user_of_few_words_is_heard_better(digits, fsdd, prior):
    chosen = Settings(prior=prior, sparsity=0.0, normalization="off", min_agreement=0.0, threads=1)
    few = fsdd.adapt[: 3 * len(fsdd.adapt) // 10]  # they are sorted by digit: 0, 1 and 2
    profile = personalize(digits, few, chosen).profile
    assert profile.prior is not None
    assert profile.prior[:3].sum() > 0.9
    shift = profile.shifts[digits.info.head]
    assert shift[:3].min() > shift[3:].max()


def test_the_prior_is_put_into_the_head(digits, few):
    chosen = Settings(prior="em", sparsity=0.0, normalization="off", min_agreement=0, threads=1)
    outcome = personalize(digits, few, chosen)
    prior = outcome.profile.prior
    assert prior is not None
    assert prior.max() > 0.3
    shift = outcome.profile.shifts[digits.info.head]
    np.testing.assert_allclose(shift, prior_shift(prior, 1e-2), atol=1e-4)
    dense, personal = (outputs_of(digits, p, few) for p in (None, outcome.profile))
    np.testing.assert_allclose(personal, dense + shift, rtol=1e-4, atol=1e-3)


def test_a_prior_may_be_left_out(digits, demo):
    outcome = personalize(digits, demo.adapt, Settings(prior="off", **QUICK))
    assert outcome.profile.prior is None
    assert outcome.report.effective_classes is None


def test_the_same_samples_give_the_same_profile(digits, demo, quick):
    again = personalize(digits, demo.adapt.copy(), Settings(sparsity=0.5, **QUICK))
    assert comparable(again.profile) == comparable(quick.profile)


def test_two_threads_agree_closely_with_one(digits, demo, quick):
    two = personalize(digits, demo.adapt, Settings(sparsity=0.5, **QUICK | {"threads": 2}))
    first = outputs_of(digits, quick.profile, demo.test)
    second = outputs_of(digits, two.profile, demo.test)
    assert (first.argmax(1) == second.argmax(1)).mean() >= 0.97
    for name, mask in quick.profile.masks.items():
        assert (mask == two.profile.masks[name]).mean() > 0.9


def test_the_settings_are_deep_by_default(residual, pictures):
    outcome = personalize(residual, pictures)
    assert outcome.report.strength == "deep"


# ---- what comes back


def test_the_report_is_in_the_profile(deep):
    assert deep.profile.report == json.loads(json.dumps(deep.report.to_dict()))
    assert deep.report.samples_seen == 120
    assert deep.report.samples_adapted == 96
    assert deep.report.samples_held_out == 24
    assert deep.report.seconds > 0


def test_the_parent_is_recorded(residual, pictures):
    assert personalize(residual, pictures, parent=3).profile.parent == 3


@pytest.mark.parametrize("kind", ["deep", "light"])
def test_stored_loaded_and_rolled_back_bit_for_bit(kind, digits, demo, tmp_path, request):
    profile = request.getfixturevalue(kind).profile
    dense = outputs_of(digits, None, demo.test)
    personal = outputs_of(digits, profile, demo.test)
    assert personal.tobytes() != dense.tobytes()
    files = [digits.path.with_suffix(s) for s in (".onnx", ".weights", ".masks")]
    before = [file.read_bytes() for file in files]
    model_id, store = digits.info.model_id, ProfileStore(tmp_path)
    generation = store.save("me", profile)
    loaded = store.load("me", digits)
    assert outputs_of(digits, loaded, demo.test).tobytes() == personal.tobytes()
    assert store.rollback(model_id, "me") == DENSE
    restored = outputs_of(digits, store.load("me", digits), demo.test)
    assert restored.tobytes() == dense.tobytes()
    store.rollback(model_id, "me", to=generation)
    again = outputs_of(digits, store.load("me", digits), demo.test)
    assert again.tobytes() == personal.tobytes()
    assert [file.read_bytes() for file in files] == before


def test_a_profile_is_kept_in_a_file(deep, digits, demo, tmp_path: Path):
    deep.profile.save(tmp_path / "me.safetensors")
    loaded = Profile.load(tmp_path / "me.safetensors", digits)
    assert loaded.to_bytes() == deep.profile.to_bytes()


def test_a_network_that_ends_in_a_softmax(make_residual, pictures):
    logits, probabilities = make_residual(), make_residual(probabilities=True)
    assert probabilities.info.output_kind == "probabilities"
    chosen = Settings(threads=1, min_agreement=0.0, normalization="on")
    outputs = []
    for artifact in (logits, probabilities):
        outcome = personalize(artifact, pictures, chosen)
        session = Session(artifact, outcome.profile, threads=1)
        outputs.append((session.run(pictures), session.probabilities(pictures), outcome.report))
    np.testing.assert_allclose(outputs[1][0].sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(outputs[1][0], outputs[1][1])
    np.testing.assert_allclose(softmax(outputs[0][0]), outputs[1][0], atol=2e-2)
    assert outputs[0][2].guard.agreement == outputs[1][2].guard.agreement


def test_progress_rises_step_by_step_to_its_end(digits, demo):
    told: list[tuple[str, float]] = []
    chosen = Settings(sparsity=0.5, normalization="on", **QUICK)
    personalize(digits, demo.adapt, chosen, on_progress=lambda *step: told.append(step))
    assert list(dict.fromkeys(step for step, _ in told)) == STEPS
    for step in STEPS:
        shares = [share for name, share in told if name == step]
        assert shares == sorted(shares)
        assert min(shares) > 0
        assert shares[-1] == 1.0


@pytest.mark.parametrize("strength", ["deep", "light"])
def test_progress_ends_at_one_for_residual_networks(residual, pictures, strength):
    told: dict[str, float] = {}
    chosen = Settings(strength=strength, scope="all", min_agreement=0.0, threads=1)
    personalize(residual, pictures, chosen, on_progress=told.__setitem__)
    assert set(told.values()) == {1.0}


# ---- memory


def test_a_long_stream_takes_no_more_memory_than_a_short_one(residual, pictures):
    class Stream:
        def __init__(self, count: int) -> None:
            self.count = count

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, index: int) -> Any:
            return pictures[index % len(pictures)] + np.float32(1e-3 * index)

    chosen = Settings(memory_mb=1, min_agreement=0.0, max_samples=10_000, threads=1, prior="em")
    personalize(residual, Stream(40), chosen)  # imports and caches

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            personalize(residual, Stream(count), chosen)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(400) < peak(80) + 1_200_000  # all activations of one cut would be 20 MB


@pytest.mark.parametrize(("samples", "held"), [(40, 8), (160, 32), (170, 28), (330, 30)])
def test_light_holds_out_no_more_than_it_needs(digits, demo, samples, held):
    """Each costs it two runs; the rest is learnt from."""
    stream = np.concatenate([demo.adapt, demo.test, demo.adapt, demo.test])[:samples]
    chosen = Settings(strength="light", threads=1, min_agreement=0.0)
    report = personalize(digits, stream, chosen).report
    assert (report.samples_held_out, report.samples_adapted) == (held, samples - held)
