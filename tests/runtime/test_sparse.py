"""Masks of single weights: which stay, what they become, and how a profile holds them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.compact import compact
from edgeprune.runtime.errors import CompactError, InputError, ProfileError
from edgeprune.runtime.personalize import personalize
from edgeprune.runtime.profile import Profile
from edgeprune.runtime.session import Session
from edgeprune.runtime.settings import Settings
from edgeprune.runtime.sparse import (
    Harm,
    Problem,
    choose_weights,
    refit_rows,
    shares_by_harm,
    spread_shares,
)
from edgeprune.runtime.statistics import CrossMoments

SEEDS = st.integers(0, 2**32 - 1)


def observed(rng: np.random.Generator, inputs: int, *, count: int = 400) -> Any:
    """Correlated inputs, as activations are, and their moments."""
    mixing = rng.normal(size=(inputs, inputs)) * 0.6 + np.eye(inputs)
    x = (rng.normal(size=(count, inputs)) @ mixing).astype(np.float32)
    moments = CrossMoments(inputs, inputs)
    moments.update(x, x)
    return x, moments


def error(x: Any, weight: Any, sparse: Any) -> float:
    centred = x - x.mean(0)
    return float(((centred @ (weight - sparse).T) ** 2).sum())


@settings(max_examples=20)
@given(seed=SEEDS, share=st.sampled_from([0.0, 0.3, 0.7, 0.9]))
def test_the_share_that_was_asked_for_is_gone(seed, share):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(7, 12))
    problem = Problem(observed(rng, 12)[1], weight, 0.01)
    kept = choose_weights(problem, share)
    assert np.count_nonzero(kept) == round(kept.size * (1 - share))
    assert not refit_rows(problem, kept)[~kept].any()


@settings(max_examples=20)
@given(seed=SEEDS)
def test_every_row_is_the_least_squares_fit_on_what_it_keeps(seed):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(5, 8))
    x, moments = observed(rng, 8)
    kept = rng.random((5, 8)) < 0.5
    fitted = refit_rows(Problem(moments, weight, 1e-9), kept)
    centred = (x - x.mean(0)).astype(np.float64)
    for row, wanted, columns in zip(fitted, weight, kept, strict=True):
        best = np.linalg.lstsq(centred[:, columns], centred @ wanted, rcond=None)[0]
        np.testing.assert_allclose(row[columns], best, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_it_loses_less_than_the_largest_weights_do(seed):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(20, 24))
    x, moments = observed(rng, 24)
    problem = Problem(moments, weight, 1e-3)
    fitted = refit_rows(problem, choose_weights(problem, 0.7))
    largest = np.abs(weight) >= np.quantile(np.abs(weight), 0.7)
    assert error(x, weight, fitted) < 0.9 * error(x, weight, refit_rows(problem, largest))
    assert error(x, weight, fitted) < 0.5 * error(x, weight, weight * largest)


def test_a_row_may_lose_everything():
    rng = np.random.default_rng(0)
    problem = Problem(observed(rng, 4)[1], rng.normal(size=(3, 4)), 0.1)
    kept = np.array([[True] * 4, [False] * 4, [True, False, False, True]])
    fitted = refit_rows(problem, kept)
    assert not fitted[1].any()
    assert fitted[0].all()


def test_classes_that_count_less_lose_more():
    rng = np.random.default_rng(1)
    problem = Problem(observed(rng, 10)[1], rng.normal(size=(6, 10)), 0.01)
    importance = np.array([1.0, 1.0, 1.0, 0.01, 0.01, 0.01])
    kept = choose_weights(problem, 0.5, importance)
    assert kept[:3].mean() > 0.9
    assert kept[3:].mean() < 0.1


@given(
    st.dictionaries(
        st.text(max_size=3), st.tuples(st.integers(1, 2000), st.integers(1, 2000)), min_size=1
    ),
    st.floats(0, 0.99),
    st.floats(0.001, 1),
)
def test_the_shares_add_up_to_what_was_asked_for(sizes, share, part):
    shares = spread_shares(sizes, share, {min(sizes): part})
    total = sum(out * inputs for out, inputs in sizes.values())
    gone = sum(shares[name] * out * inputs for name, (out, inputs) in sizes.items())
    assert gone / total == pytest.approx(share, abs=1e-6)
    assert all(0 <= one < 1 for one in shares.values())


def test_large_matrices_give_up_more():
    shares = spread_shares({"large": (1000, 1280), "small": (24, 96)}, 0.7)
    assert shares["large"] > shares["small"]


def test_outputs_that_nobody_wants_pay_for_the_others():
    sizes = {"head": (1000, 1280), "large": (192, 1152), "small": (24, 96)}
    fair, mine = spread_shares(sizes, 0.7), spread_shares(sizes, 0.7, {"head": 0.02})
    assert mine["head"] > fair["head"] + 0.05
    assert mine["large"] < fair["large"]
    assert mine["small"] <= fair["small"]


HARMS = st.lists(
    st.tuples(st.integers(1, 5000), st.floats(1e-6, 10.0), st.floats(0.0, 0.95)), min_size=1
)


@settings(max_examples=30)
@given(found=HARMS, seed=SEEDS)
def test_by_harm_as_many_weights_go_as_by_size(found, seed):
    rng = np.random.default_rng(seed)
    harm = {
        str(number): Harm.of(rng.lognormal(size=count), 0.7, damage)
        for number, (count, damage, _) in enumerate(found)
    }
    shares = {str(number): share for number, (_, _, share) in enumerate(found)} | {"head": 0.9}
    spread = shares_by_harm(shares, harm)
    gone, wanted = (sum(s[name] * harm[name].count for name in harm) for s in (spread, shares))
    assert gone == pytest.approx(wanted, abs=1e-6 * sum(one.count for one in harm.values()))
    assert spread["head"] == 0.9
    assert all(0 <= one <= 1 for one in spread.values())


def test_what_costs_the_answers_more_keeps_more():
    scores = np.random.default_rng(0).lognormal(size=(2, 1000))
    harm = {"branch": Harm.of(scores[0], 0.7, 0.001), "trunk": Harm.of(scores[1], 0.7, 0.05)}
    spread = shares_by_harm({"branch": 0.7, "trunk": 0.7}, harm)
    assert spread["trunk"] < 0.6
    assert spread["branch"] > 0.75


# ---- the whole of it


@pytest.fixture(scope="module")
def sparse(digits: Artifact, demo: Any) -> Any:
    chosen = Settings(granularity="weight", sparsity=0.7, threads=1)
    return personalize(digits, demo.adapt, chosen)


def test_most_weights_go_and_it_hears_better(digits, demo, sparse):
    def accuracy(profile: Profile | None) -> float:
        return float(demo.accuracy(Session(digits, profile, threads=1).run(demo.test)))

    assert accuracy(sparse.profile) > accuracy(None) + 0.2
    removed = sparse.report.sparsity
    assert removed.units == removed.macs == 0
    assert removed.weights > 0.55
    masks = sparse.profile.weight_masks
    kept = np.concatenate([mask.ravel() for mask in masks.values()])
    assert kept.mean() == pytest.approx(0.3, abs=0.02)
    for name, mask in masks.items():
        assert not sparse.profile.weights[name][~mask].any()


def test_by_size_alone_as_many_go_and_others(digits, demo, sparse):
    chosen = Settings(granularity="weight", sparsity=0.7, allocation="uniform", threads=1)
    by_size = personalize(digits, demo.adapt, chosen).profile.weight_masks
    by_harm = sparse.profile.weight_masks
    counts = [sum(int(m.sum()) for m in masks.values()) for masks in (by_size, by_harm)]
    assert counts[0] == pytest.approx(counts[1], rel=0.01)
    assert any(by_size[name].sum() != by_harm[name].sum() for name in by_size)


def test_it_goes_as_far_as_the_guard_allows_as_well(digits, demo):
    report = personalize(digits, demo.adapt, Settings(granularity="weight", threads=1)).report
    assert report.tried[-1].allowed
    assert report.tried[-1].sparsity > 0


def test_the_file_holds_bits_and_what_is_left(digits, sparse):
    data = sparse.profile.to_bytes()
    assert Profile.from_bytes(data, digits).to_bytes() == data
    whole = dataclasses.replace(sparse.profile, weight_masks={}).to_bytes()
    assert len(data) < 0.5 * len(whole)


def test_what_was_read_computes_the_same(digits, demo, sparse):
    read = Profile.from_bytes(sparse.profile.to_bytes(), digits)
    outputs = [Session(digits, p, threads=1).run(demo.test) for p in (sparse.profile, read)]
    assert outputs[0].tobytes() == outputs[1].tobytes()


def test_profiles_without_it_are_still_of_format_1(digits, sparse):
    plain = dataclasses.replace(sparse.profile, weight_masks={})
    assert b'"edgeprune.profile":"1"' in plain.to_bytes()
    assert b'"edgeprune.profile":"2"' in sparse.profile.to_bytes()


def test_a_file_of_format_1_cannot_hold_it(digits, sparse):
    data = sparse.profile.to_bytes().replace(b'"edgeprune.profile":"2"', b'"edgeprune.profile":"1"')
    with pytest.raises(ProfileError, match="unknown tensor 'kept/"):
        Profile.from_bytes(data, digits)


def test_compaction_says_that_it_gains_nothing(digits, sparse, tmp_path):
    with pytest.raises(CompactError, match="makes no tensor smaller"):
        compact(digits, sparse.profile, tmp_path / "small.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"strength": "light"}, {"repair": False}])
def test_it_needs_new_weights(changes):
    with pytest.raises(InputError, match=r"^granularity = .weight."):
        Settings(granularity="weight", **changes)


@pytest.mark.parametrize("what", ["a weight that is not zero", "no weight", "another shape"])
def test_refuses_masks_that_fit_nothing(sparse, what):
    name, mask = next(iter(sparse.profile.weight_masks.items()))
    weights = dict(sparse.profile.weights)
    masks = {name: mask}
    if what == "a weight that is not zero":
        weights[name] = np.ones_like(weights[name])
    elif what == "no weight":
        del weights[name]
    else:
        masks = {name: mask.ravel()}
    with pytest.raises(ProfileError, match="kept/"):
        dataclasses.replace(sparse.profile, weights=weights, weight_masks=masks)


def test_with_all_weights_kept_it_is_what_it_is_with_all_units(digits, demo):
    """Nothing is fitted where nothing goes: the same profile, and not a pass more."""
    weights, units = (
        personalize(digits, demo.adapt, Settings(granularity=kind, sparsity=0.0, threads=1)).profile
        for kind in ("weight", "unit")
    )
    assert weights.weights.keys() == units.weights.keys()
    for name, value in units.weights.items():
        assert np.array_equal(weights.weights[name], value)
    assert not weights.weight_masks
