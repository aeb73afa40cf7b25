"""The closed-form repair against plain least squares, and against its own promises."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.runtime.artifact import Operator
from edgeprune.runtime.repair import (
    Elimination,
    Mixing,
    fit_mixing,
    mixed_weight,
    repair_aware_mask,
    weight_matrix,
)
from edgeprune.runtime.statistics import CrossMoments

SEEDS = st.integers(0, 2**32 - 1)
FAST = settings(max_examples=30, deadline=None)
TINY = 1e-9


def data(seed: int, units: int = 12, count: int = 400, rank: int = 5) -> np.ndarray:
    """Rows of units that share `rank` causes, with noise and a mean."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(count, rank)) @ rng.normal(size=(rank, units))
    scale = rng.uniform(0.2, 2.0, units)
    noise = 0.2 * rng.normal(size=(count, units))
    return ((causes + noise) * scale + rng.normal(size=units)).astype(np.float32)


def observe(x: np.ndarray, d: np.ndarray) -> CrossMoments:
    moments = CrossMoments(x.shape[1], d.shape[1])
    moments.update(x, d)
    return moments


def operator(op: str, outputs: int, inputs: int, in_axis: int | None, out_axis: int) -> Operator:
    names: dict[str, Any] = {"name": "layer", "op": op, "depthwise": in_axis is None}
    return Operator(
        **names, input="x", output="y", in_channels=inputs, out_channels=outputs,
        in_axis=in_axis, out_axis=out_axis, reads=("group",), masked=True, writes=(),
        parameters=0, macs=0,
    )  # fmt: skip


def gemm(outputs: int, inputs: int) -> Operator:
    return operator("Gemm", outputs, inputs, 1, 0)


def mask_of(units: int, *pruned: int) -> np.ndarray:
    return ~np.isin(np.arange(units), pruned)


def output_error(x: np.ndarray, d: np.ndarray, weight: np.ndarray, mixing: Mixing) -> float:
    """Mean squared error that the consumers' outputs are left with."""
    restored = x[:, mixing.kept] @ mixing.matrix.T + mixing.offset
    return float((((d - restored) @ weight.T) ** 2).sum(1).mean())


@FAST
@given(seed=SEEDS, ridge=st.sampled_from([1e-9, 0.1, 100.0]))
def test_nothing_pruned_and_nothing_changed_is_the_identity(seed, ridge):
    x = data(seed)
    mixing = fit_mixing(observe(x, x), np.ones(12, np.bool_), ridge)
    np.testing.assert_allclose(mixing.matrix, np.eye(12), atol=1e-9)
    np.testing.assert_allclose(mixing.offset, 0, atol=1e-8)


@FAST
@given(seed=SEEDS)
def test_units_that_others_can_stand_in_for_cost_nothing(seed):
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(300, 4)) + rng.normal(size=4)
    x = (basis @ np.concatenate([np.eye(4), rng.normal(size=(4, 5))], 1)).astype(np.float32)
    kept = mask_of(9, 4, 5, 6, 7, 8)
    mixing = fit_mixing(observe(x, x), kept, TINY)
    restored = x[:, kept] @ mixing.matrix.T + mixing.offset
    assert np.abs(restored - x).max() < 1e-3 * x.std()


def test_a_stronger_ridge_moves_towards_masking_with_the_mean_folded_in():
    x = data(3)
    kept = mask_of(12, 0, 5, 6)
    moments = observe(x, x)
    distance = []
    for ridge in (1e-6, 1e-2, 1.0, 1e2, 1e8):
        mixing = fit_mixing(moments, kept, ridge)
        distance.append(np.abs(mixing.matrix - np.eye(12)[:, kept]).max())
    assert distance == sorted(distance, reverse=True)
    assert distance[-1] < 1e-6
    # What is left: kept units as they are, and each pruned one by its mean.
    np.testing.assert_allclose(mixing.offset[kept], 0, atol=1e-5)
    np.testing.assert_allclose(mixing.offset[~kept], x.mean(0)[~kept], atol=1e-5)


@pytest.mark.parametrize("ridge", [1e-9, 0.1, 10.0, 1e6])
def test_the_mean_is_right_whatever_the_ridge(ridge):
    d = data(1)
    x = (d * 0.7 + 0.1 * data(2)).astype(np.float32)
    mixing = fit_mixing(observe(x, d), mask_of(12, 1, 2, 3), ridge)
    restored = x[:, mixing.kept] @ mixing.matrix.T + mixing.offset
    np.testing.assert_allclose(restored.mean(0), d.mean(0), atol=1e-4)


@FAST
@given(seed=SEEDS)
def test_without_ridge_it_is_ordinary_least_squares(seed):
    d = data(seed)
    x = (d + 0.3 * data(seed + 1)).astype(np.float32)
    kept = mask_of(12, 2, 3, 9, 11)
    mixing = fit_mixing(observe(x, d), kept, 1e-12)
    design = np.column_stack([x[:, kept], np.ones(len(x))]).astype(np.float64)
    wanted = np.linalg.lstsq(design, d.astype(np.float64), rcond=None)[0]
    fitted = np.column_stack([mixing.matrix, mixing.offset])
    np.testing.assert_allclose(fitted, wanted.T, rtol=1e-2, atol=1e-2)
    residual = d - design @ fitted.T
    best = d - design @ wanted
    np.testing.assert_allclose((residual**2).mean(0), (best**2).mean(0), rtol=1e-4)


@FAST
@given(seed=SEEDS)
def test_no_other_weights_do_better_at_the_layers_output(seed):
    rng = np.random.default_rng(seed)
    d = data(seed)
    x = (d + 0.3 * data(seed + 1)).astype(np.float32)
    weight = rng.normal(size=(4, 12)).astype(np.float32)
    bias = rng.normal(size=4)
    kept = mask_of(12, 0, 1, 7)
    fitted, added = mixed_weight(weight, gemm(4, 12), fit_mixing(observe(x, d), kept, 1e-12))
    wanted = d @ weight.T + bias

    def error(w: np.ndarray, b: np.ndarray) -> float:
        return float(((wanted - (x[:, kept].astype(np.float64) @ w.T + b)) ** 2).mean())

    least = error(fitted, bias + added)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(5):
            w = fitted + size * rng.normal(size=fitted.shape)
            b = bias + added + size * rng.normal(size=4)
            assert least <= error(w, b) + 1e-6
    assert least <= error(weight[:, kept], bias)


# Every kind of consumer, with the function that it computes from patches (samples, inputs, taps).
CONSUMERS = {
    "Conv 3x3": (operator("Conv", 5, 12, 1, 0), (5, 12, 3, 3)),
    "Conv 1x1": (operator("Conv", 5, 12, 1, 0), (5, 12, 1, 1)),
    "Conv 1-d": (operator("Conv", 5, 12, 1, 0), (5, 12, 7)),
    "Gemm": (operator("Gemm", 5, 12, 1, 0), (5, 12)),
    "Gemm, not transposed": (operator("Gemm", 5, 12, 0, 1), (12, 5)),
    "ConvTranspose": (operator("ConvTranspose", 5, 12, 0, 1), (12, 5, 2, 3)),
}


@pytest.mark.parametrize("kind", CONSUMERS)
def test_a_mixing_folds_into_any_consumer(kind):
    consumer, shape = CONSUMERS[kind]
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape).astype(np.float32)
    kept = mask_of(12, 3, 4, 10)
    mixing = Mixing(kept, rng.normal(size=(12, 9)), rng.normal(size=12))
    mixed, added = mixed_weight(weight, consumer, mixing)
    small = list(shape)
    small[consumer.in_axis or 0] = 9
    assert mixed.shape == tuple(small)
    assert mixed.dtype == added.dtype == np.float32
    assert mixed.flags.c_contiguous
    taps = weight_matrix(weight, consumer)
    patches = rng.normal(size=(20, 9, taps.shape[2]))
    restored = np.einsum("ik,nkt->nit", mixing.matrix, patches) + mixing.offset[:, None]
    wanted = np.einsum("oit,nit->no", taps, restored)
    got = np.einsum("okt,nkt->no", weight_matrix(mixed, consumer), patches) + added
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", CONSUMERS)
def test_the_identity_leaves_a_consumer_as_it_is(kind):
    consumer, shape = CONSUMERS[kind]
    weight = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    kept = mask_of(12, 0, 8)
    mixed, added = mixed_weight(weight, consumer, Mixing(kept, np.eye(12)[:, kept], np.zeros(12)))
    np.testing.assert_array_equal(mixed, np.compress(kept, weight, axis=consumer.in_axis))
    assert not added.any()


def test_a_depthwise_operator_mixes_nothing():
    depthwise = operator("Conv", 4, 4, None, 0)
    with pytest.raises(ValueError, match="depthwise"):
        weight_matrix(np.zeros((4, 1, 3, 3), np.float32), depthwise)


@FAST
@given(seed=SEEDS, keep=st.integers(1, 12), ridge=st.sampled_from([1e-6, 0.1, 10.0]))
def test_the_mask_keeps_exactly_so_many(seed, keep, ridge):
    x = data(seed)
    weight = np.random.default_rng(seed).normal(size=(6, 12))
    mask = repair_aware_mask(observe(x, x), weight.copy(), keep, ridge)
    assert mask.shape == (12,)
    assert mask.dtype == np.bool_
    assert mask.sum() == keep


@pytest.mark.parametrize("keep", [1, 7, 40, 100, 129, 130])
def test_a_wide_layer_is_eliminated_in_blocks(keep):
    """More units than steps: the last block must be cut to size."""
    x = data(0, units=130, rank=20)
    weight = np.random.default_rng(0).normal(size=(8, 130))
    assert repair_aware_mask(observe(x, x), weight.copy(), keep, 0.1).sum() == keep


@FAST
@given(seed=SEEDS)
def test_one_of_two_twins_goes_first(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, 8)).astype(np.float32)
    one, other = rng.choice(8, 2, replace=False)
    x[:, one] = x[:, other]
    weight = rng.normal(size=(5, 8)) + np.sign(rng.normal(size=(5, 8)))
    mask = repair_aware_mask(observe(x, x), weight.copy(), 7, 1e-6)
    assert set(np.flatnonzero(~mask)) <= {one, other}


@FAST
@given(seed=SEEDS)
def test_a_unit_that_nobody_reads_goes_first(seed):
    x = np.random.default_rng(seed).normal(size=(300, 8)).astype(np.float32)
    weight = np.random.default_rng(seed + 1).normal(size=(5, 8))
    weight[:, 3] = 0
    assert not repair_aware_mask(observe(x, x), weight.copy(), 7, 1e-6)[3]


@FAST
@given(seed=SEEDS)
def test_the_first_unit_to_go_is_the_best_of_all(seed):
    """The saliency is exact: trying every unit in turn finds none better."""
    x = data(seed, units=8, rank=8)
    weight = np.random.default_rng(seed).normal(size=(5, 8))
    moments = observe(x, x)
    errors = [
        output_error(x, x, weight, fit_mixing(moments, mask_of(8, unit), TINY)) for unit in range(8)
    ]
    mask = repair_aware_mask(moments, weight.copy(), 7, TINY)
    assert errors[int(np.flatnonzero(~mask)[0])] <= min(errors) * 1.001 + 1e-9


@FAST
@given(seed=SEEDS)
def test_it_is_never_worse_than_chance(seed):
    rng = np.random.default_rng(seed)
    d = data(seed)
    x = (d + 0.2 * data(seed + 1)).astype(np.float32)
    weight = rng.normal(size=(6, 12))
    moments = observe(x, d)
    chosen = fit_mixing(moments, repair_aware_mask(moments, weight.copy(), 6, 1e-3), 1e-3)
    random = [fit_mixing(moments, rng.permutation(12) < 6, 1e-3) for _ in range(20)]
    errors = [output_error(x, d, weight, mixing) for mixing in random]
    assert output_error(x, d, weight, chosen) <= np.mean(errors)


def test_it_is_close_to_the_best_of_all_masks():
    ratios = []
    for seed in range(8):
        x = data(seed, units=8, rank=8)
        weight = np.random.default_rng(seed).normal(size=(5, 8))
        moments = observe(x, x)
        errors = [
            output_error(x, x, weight, fit_mixing(moments, mask_of(8, *pruned), TINY))
            for pruned in itertools.combinations(range(8), 4)
        ]
        chosen = fit_mixing(moments, repair_aware_mask(moments, weight.copy(), 4, TINY), TINY)
        ratios.append(output_error(x, x, weight, chosen) / min(errors))
    assert min(ratios) >= 0.999
    assert np.mean(ratios) < 1.25


@FAST
@given(seed=SEEDS, step=st.sampled_from([1, 2, 5]))
def test_what_an_elimination_says_it_adds_is_what_the_refit_loses(seed, step):
    """Without ridge, on student equal to teacher: the error starts at 0 and the costs add up."""
    x = data(seed, units=12, rank=12)
    weight = np.random.default_rng(seed).normal(size=(6, 12))
    moments = observe(x, x)
    elimination = Elimination(moments, weight.copy(), TINY)
    said = 0.0
    while len(elimination.alive) > 2:
        added = elimination.remove(step)
        assert added >= 0
        said += added
        kept = np.isin(np.arange(12), elimination.alive)
        lost = output_error(x, x, weight, fit_mixing(moments, kept, TINY))
        assert said == pytest.approx(lost, rel=1e-3, abs=1e-4 * float(np.trace(moments.xx)))
