"""Settings: every value out of range is refused by name, every one in range is taken."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.runtime.errors import InputError
from edgeprune.runtime.guard import GuardReport, estimated_change
from edgeprune.runtime.settings import Settings

BAD: dict[str, Any] = {
    "sparsity": st.floats(max_value=-1e-9) | st.floats(min_value=1) | st.just(float("nan")),
    "strength": st.text().filter(lambda text: text not in ("light", "deep")),
    "granularity": st.text().filter(lambda text: text not in ("unit", "weight")),
    "scope": st.text().filter(lambda text: text not in ("hidden", "all")),
    "criterion": st.text(max_size=5).filter(lambda text: text != "wanda"),
    "allocation": st.text(max_size=5),
    "order": st.text().filter(lambda text: text not in ("auto", "off")),
    "faster": st.floats(max_value=0.999) | st.floats(min_value=100.1) | st.just(float("nan")),
    "light_repair": st.text(max_size=3),
    "normalization": st.text(max_size=5).filter(lambda t: t not in ("auto", "on", "off")),
    "prior": st.text(max_size=5).filter(lambda t: t not in ("graph", "em", "off")),
    "channel_multiple": st.integers(max_value=0),
    "ridge": st.floats(max_value=0) | st.sampled_from([float("inf"), float("nan")]),
    "max_samples": st.integers(max_value=9),
    "holdout": st.floats(max_value=0.0499) | st.floats(min_value=0.5001) | st.just(float("nan")),
    "min_agreement": st.floats(max_value=-1e-9) | st.floats(min_value=1.0001),
    "min_change": st.floats(max_value=-1.0001) | st.floats(min_value=1.0001),
    "memory_mb": st.integers(max_value=0),
    "threads": st.integers(max_value=0),
    "seed": st.integers(max_value=-1),
}

GOOD: dict[str, Any] = {
    "sparsity": st.none() | st.floats(0, 1, exclude_max=True),
    "strength": st.sampled_from(["light", "deep"]),
    "granularity": st.just("unit"),
    "scope": st.sampled_from(["hidden", "all"]),
    "criterion": st.sampled_from(["repair_aware", "variance", "activation", "wanda", "random"]),
    "allocation": st.sampled_from(["damage", "uniform"]),
    "faster": st.none(),  # or at least 1, but not with all of these
    "light_repair": st.sampled_from(["walk", "one_pass"]),
    "order": st.sampled_from(["auto", "off"]),
    "normalization": st.sampled_from(["auto", "on", "off"]),
    "prior": st.sampled_from(["graph", "em", "off"]),
    "channel_multiple": st.integers(1, 1000),
    "ridge": st.floats(1e-12, 1e12),
    "max_samples": st.integers(10, 10**6),
    "holdout": st.floats(0.05, 0.5),
    "min_agreement": st.none() | st.floats(0, 1),
    "min_change": st.floats(-1, 1),
    "memory_mb": st.integers(1, 10**5),
    "threads": st.none() | st.integers(1, 64),
    "seed": st.integers(0, 2**32),
}


def test_every_setting_with_a_range_is_tried():
    fields = {field.name for field in dataclasses.fields(Settings)} - {"repair", "calibrate"}
    assert fields == set(BAD) == set(GOOD)


@pytest.mark.parametrize("name", BAD)
@settings(max_examples=25)
@given(data=st.data())
def test_a_setting_out_of_range_is_named(name, data):
    value = data.draw(BAD[name])
    with pytest.raises(InputError, match=f"^{name} = ") as caught:
        Settings(**{name: value})
    assert "Nothing was changed" in str(caught.value)


@given(values=st.fixed_dictionaries({}, optional=GOOD))
def test_settings_in_range_are_taken(values):
    chosen = Settings(**values)
    assert 0 <= chosen.target_sparsity < 1
    for name, value in values.items():
        assert getattr(chosen, name) == value


@pytest.mark.parametrize(
    "values",
    [
        {"sparsity": "half"},
        {"ridge": None},
        {"max_samples": 10.5},
        {"channel_multiple": 2.5},
        {"threads": 1.5},
        {"memory_mb": 1.5},
        {"repair": "no"},
    ],
    ids=str,
)
def test_a_setting_of_another_type(values):
    with pytest.raises(InputError):
        Settings(**values)


def test_what_is_tried_without_a_sparsity_depends_on_the_strength():
    assert Settings().sparsities == (0.7, 0.5, 0.3, 0.0)
    assert Settings(strength="light").sparsities == (0.3, 0.2, 0.1, 0.0)
    assert Settings(sparsity=0.6).sparsities == (0.6,)


def test_the_usual_sparsity_depends_on_the_strength():
    assert Settings().target_sparsity == 0.5
    assert Settings(strength="light").target_sparsity == 0.2
    assert Settings(strength="light", sparsity=0.6).target_sparsity == 0.6


def _judged(learnt: float, lost: float) -> GuardReport:
    score = estimated_change(learnt, lost)
    return GuardReport(50, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.1, learnt, lost, score, 10)


def test_a_search_has_to_leave_most_of_the_gain():
    searching, asked = Settings(), Settings(sparsity=0.7)
    gain = estimated_change(0.5, 0.0)
    for share in (0.9, 0.75, 0.65, 0.3):
        lost = next(
            lost for lost in np.linspace(0, 0.8, 2000) if estimated_change(0.5, lost) < share * gain
        )
        guard = _judged(0.5, float(lost))
        assert asked.objection_to(guard, 0.7) is None
        assert (searching.objection_to(guard, 0.7) is None) == (share > 0.7)
    assert searching.objection_to(_judged(0.5, 0.0), 0.0) is None


@given(st.floats(1, 100))
def test_faster_in_range_is_taken(faster):
    assert Settings(faster=faster).faster == faster


@pytest.mark.parametrize(
    "other", [{"strength": "light"}, {"allocation": "uniform"}, {"repair": False}]
)
def test_faster_needs_an_allocation_by_damage(other):
    with pytest.raises(InputError, match="faster"):
        Settings(faster=2.0, **other)
