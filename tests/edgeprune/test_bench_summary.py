"""Means, intervals and tables over users, by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeprune.bench._cells import Cell, open_results
from edgeprune.bench._stats import mean_interval, t_quantile
from edgeprune.bench._summary import summarize
from edgeprune.bench._tables import as_markdown, as_text
from edgeprune.bench.arms import plan

from .studies import cell


def three_users() -> Iterable[Cell]:
    for name, dense, kept, pruned, ceiling in (
        ("a", 40, 60, 50, 80),
        ("b", 50, 58, 47, 90),
        ("c", 60, 60, 60, 100),
    ):
        yield cell(name, "A0", dense)
        yield cell(name, "C1", ceiling)
        yield cell(name, "A1+", kept, cpu_seconds=2.0, added_mb=10.0)
        yield cell(name, "A4", pruned, sparsity=0.5, cpu_seconds=6.0, added_mb=30.0, agreement=0.9)


def test_means_and_paired_differences_by_hand() -> None:
    summary = summarize(three_users())
    rows = {row.arm: row for row in summary.rows}
    assert rows["A0"].accuracy.mean == pytest.approx(0.5)
    # Standard deviation 0.1, three users: 4.303 · 0.1 / √3 to each side.
    assert rows["A0"].accuracy.high == pytest.approx(0.5 + 0.248414, abs=1e-6)
    assert rows["A0"].difference is None
    # A4 gains 10, loses 3, gains nothing: mean 7/3, deviations 23/3, −16/3, −7/3.
    difference = rows["A4"].difference
    assert difference is not None
    assert difference.mean == pytest.approx(0.07 / 3)
    spread = np.sqrt(((23 / 3) ** 2 + (16 / 3) ** 2 + (7 / 3) ** 2) / 2) / 100
    assert difference.low == pytest.approx(0.07 / 3 - 4.302653 * spread / np.sqrt(3))
    assert rows["A4"].harmed == 1
    assert rows["A4"].gap_closed == pytest.approx(0.07 / 1.2)
    assert rows["A1+"].gap_closed == pytest.approx(0.28 / 1.2)
    contrasts = {(c.arm, c.minus): c for c in summary.contrasts}
    contrast = contrasts["A4", "A1+"]
    assert contrast.difference.mean == pytest.approx(-0.07)
    assert (contrast.better, contrast.worse) == (0, 2)
    assert contrast.time_ratio == contrast.memory_ratio == 3.0
    assert contrasts["A1+", "A0"].sparsity is None
    assert ("A4", "C4") not in contrasts


def test_harm_is_more_than_two_points() -> None:
    dense = cell("a", "A0", 50)
    for right, harmed in ((48, 0), (47, 1)):
        rows = summarize([dense, cell("a", "A4", right, sparsity=0.5)]).rows
        assert [row.harmed for row in rows if row.arm == "A4"] == [harmed]


def test_the_guard_is_judged_by_what_it_prevented() -> None:
    cases = [("a", 0.40, True), ("b", 0.45, False), ("c", 0.49, True), ("d", 0.6, False)]
    made = [cell(name, "A0", 50) for name, _, _ in cases]
    made += [
        cell(name, "A4", 50, sparsity=0.5, unguarded=unguarded, refused=refused)
        for name, unguarded, refused in cases
    ]
    (quality,) = summarize(made).guard
    assert (quality.harmful, quality.harmful_refused) == (2, 1)
    assert (quality.harmless, quality.harmless_allowed) == (1, 1)


def test_failed_cells_are_no_results() -> None:
    failed = replace(cell("d", "A4", 0, sparsity=0.5), status="failed", total=0)
    assert summarize([*three_users(), failed]) == summarize(three_users())


def test_tables_hold_every_arm() -> None:
    summary = summarize(three_users())
    for text in (as_text(summary), as_markdown(summary)):
        for words in ("A1+", "+0.023", "A4 − A1+", "-0.070", "20 samples", "23%"):
            assert words in text
    assert "…" not in as_text(summary)


def test_quantiles_are_students() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in (*range(1, 60), 1000):
        assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-5)
    assert mean_interval([0.3]).low is None


def test_results_come_back_as_they_went(tmp_path: Path) -> None:
    made = [cell("ü", "A4", 7, sparsity=0.5, more={"a": [1, None]}), cell("a", "A0", 1)]
    with open_results(tmp_path / "r.jsonl", {"settings": {"ridge": 0.1}}) as file:
        for each in made:
            file.append(each)
    with open_results(tmp_path / "r.jsonl", {"settings": {"ridge": 0.1}}) as file:
        assert list(file.cells.values()) == made


def test_a_plan_keeps_together_what_shares_work() -> None:
    keys = plan("u", ("A0", "A1+", "A4", "A5"), (0.0, 0.3, "auto"), (20, 50))
    told = [(key.arm, key.sparsity, key.samples) for key in keys]
    assert told[:6] == [
        ("A0", None, None),
        ("A1+", None, 20),
        ("A4", 0.3, 20),
        ("A5", 0.3, 20),
        ("A4", "auto", 20),
        ("A5", "auto", 20),
    ]
    assert len(told) == 11
