"""Judging the guard by studies, and the streams that it is there for."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.bench._cells import Cell, CellKey, read_results
from edgeprune.bench._guard_fit import Judged, left_out, rates, refit
from edgeprune.bench._streams import STREAMS, bent
from edgeprune.bench._users import UserFiles
from edgeprune.bench.guard import study_guard
from edgeprune.runtime.errors import InputError


def judged(rng: np.random.Generator, users: int = 12, each: int = 30) -> list[Judged]:
    """Personalisations whose truth follows the estimate's form, with some noise."""
    cells = []
    for user in range(users):
        for _ in range(each):
            learnt, lost = rng.uniform(0, 0.5, 2)
            change = float(np.clip(0.02 + 0.3 * learnt - 0.2 * lost, -0.1, 0.1))
            change += float(rng.normal(0, 0.002))
            cells.append(Judged("a", f"a/{user}", "A4", 0.8, learnt, lost, 0.9, change))
    return cells


def test_the_fit_finds_the_constants_behind_the_truth():
    fit = refit(judged(np.random.default_rng(0)))
    assert fit.base == pytest.approx(0.02, abs=0.01)
    assert fit.learnt == pytest.approx(0.3, abs=0.05)
    assert fit.lost == pytest.approx(0.2, abs=0.05)


def test_what_can_be_told_apart_is_told_apart_on_unseen_users():
    cells = judged(np.random.default_rng(1))
    found = rates(cells, left_out(cells))
    assert found.refused is not None and found.allowed is not None
    assert found.refused[0] >= 0.9
    assert found.allowed[0] >= 0.8
    assert found.allowed[1] <= found.allowed[0] <= found.allowed[2]


def test_a_limit_is_not_fitted_on_the_user_it_judges():
    """One odd user, whose every outcome harms whatever it looks like, must not move his own."""
    cells = judged(np.random.default_rng(2))
    odd = [
        dataclasses.replace(cell, user="a/odd", learnt=0.5, lost=0.0, change=-0.3)
        for cell in cells[:30]
    ]
    refused = left_out([*cells, *odd])
    assert not refused[len(cells) :].any()


def test_uniform_streams_are_refused_and_take_no_part_in_the_fit():
    cells = judged(np.random.default_rng(3))
    uniform = [dataclasses.replace(cell, distinctness=0.05, change=-0.5) for cell in cells[:40]]
    assert refit([*cells, *uniform]) == refit(cells)
    assert left_out([*cells, *uniform])[len(cells) :].all()


def written(path: Path, cells: list[Cell]) -> Path:
    lines = [json.dumps({"edgeprune_study": 1}), *(cell.to_json() for cell in cells)]
    path.write_text("\n".join(lines) + "\n")
    return path


def cell(user: str, arm: str, right: int, **more: Any) -> Cell:
    key = CellKey(user, arm, 0.5 if arm == "A4" else None, 20)
    return Cell(key, right=right, total=100, unguarded=right / 100, more=more)


def test_studies_are_read_from_their_files(tmp_path):
    ruined = {"learnt": 0.0, "lost": 0.6, "distinctness": 0.9}
    helped = {"learnt": 0.5, "lost": 0.1, "distinctness": 0.9}
    cells = [cell("one", "A0", 80), cell("two", "A0", 80)]
    cells += [cell("one", "A4", 20, guard=ruined), cell("two", "A4", 90, guard=helped)]
    path = written(tmp_path / "dev.jsonl", cells)
    assert len(read_results(path)) == 4
    study = study_guard([path])
    assert (study.shipped.harmful, study.shipped.harmless) == (1, 1)
    assert study.shipped.refused == study.shipped.allowed == (1.0, 1.0, 1.0)
    assert list(study.by_study) == ["dev"] and list(study.by_arm) == ["A4"]
    json.dumps(study.to_dict())


@pytest.mark.parametrize("text", ["", "{}\n", "nonsense\n"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match="holds no results"):
        study_guard([path])


def test_what_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "binary.jsonl"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"it is no text. Give what .* wrote"):
        study_guard([path])
    with pytest.raises(InputError, match=r"Is a directory\. Check the path"):
        study_guard([tmp_path])


def test_a_study_without_judgements_is_refused(tmp_path):
    with pytest.raises(InputError, match="nothing that the guard judged"):
        study_guard([written(tmp_path / "dense.jsonl", [cell("one", "A0", 80)])])


# ---- streams


def user(name: str, per_class: int = 10) -> UserFiles:
    files = [(Path(f"{name}/{c}/{n}.png"), c) for n in range(per_class) for c in "abc"]
    test = tuple((Path(f"{name}/test/{c}.png"), c) for c in "abc")
    return UserFiles(name, 0, ("b", "a", "c"), tuple(files), test)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_bent_stream_changes_what_adapts_and_nothing_else(kind):
    users = [user("one"), user("two")]
    for before, after in zip(users, bent(users, kind), strict=True):
        assert dataclasses.replace(after, adapt=before.adapt, stay=before.stay) == before
        assert len(set(after.adapt)) == len(after.adapt)


def test_the_shares_of_the_streams():
    users = [user("one"), user("two")]
    assert {label for _, label in bent(users, "one-class")[0].adapt} == {"b"}
    skewed = [label for _, label in bent(users, "skewed")[0].adapt]
    assert skewed[:10].count("b") == 7
    assert sorted(skewed) == sorted(label for _, label in users[0].adapt)
    owners = [path.parts[0] for path, _ in bent(users, "mixed")[0].adapt]
    assert owners[:20].count("two") == 10


def test_stays_show_the_same_samples_each_class_for_a_while():
    plain = user("one", per_class=100)
    (staying,) = bent([plain], "stays")
    orders = [one.stream(300) for one in (plain, staying)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(300))
    assert orders[1] == staying.stream(300)
    labels = [[plain.adapt[place][1] for place in order] for order in orders]
    changes = [sum(a != b for a, b in pairwise(each)) for each in labels]
    assert changes[0] > 150  # two of three, of three classes
    assert changes[1] < 90


def test_nobody_to_mix_in():
    with pytest.raises(InputError, match="two users"):
        bent([user("one")], "mixed")
