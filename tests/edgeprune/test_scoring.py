"""Labels and intervals, without data."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune import InputError, SourceError
from edgeprune._cli_format import size, table
from edgeprune._evaluate import Scores, difference_interval, wilson
from edgeprune._labels import Classes, class_name, read_label_map
from edgeprune._presets import PRESETS
from edgeprune.devices import preprocess_from_dict


def info(labels=None, classes=None):
    return SimpleNamespace(labels=labels, classes=classes or (labels and len(labels)))


def test_a_label_is_found_in_the_documented_order():
    classes = Classes(info(("1", "tench, Tinca tinca", "great white", "great grey")), {"fish": "1"})
    assert classes.find("1") == 0  # a label before a number
    assert classes.find("tench") == 1  # the first word of one label
    assert classes.find("great") is None  # of two labels
    assert classes.find("great grey") == 3
    assert classes.find("2") == 2
    assert classes.find("4") is None
    assert classes.find("fish") == 0  # the map before all


def test_numbers_serve_a_model_without_labels():
    classes = Classes(info(classes=3))
    assert [classes.find(text) for text in ("0", "2", "3", "-1", "²", "x")] == [0, 2, *[None] * 4]
    assert class_name(info(classes=3), 2) == "2"
    with pytest.raises(InputError, match="no classes"):
        Classes(info())


def test_unknown_labels_are_refused_or_counted():
    classes = Classes(info(("cat", "dog")))
    with pytest.raises(InputError, match=r"1 of 3 .*'dgo' \(did you mean 'dog'\?\)"):
        classes.find_all(["cat", "dgo", None], skip_unknown=False)
    found, unknown = classes.find_all(["cat", "dgo", None], skip_unknown=True)
    assert found == [0, None, None]
    assert unknown == {"dgo": 1}
    with pytest.raises(InputError):
        classes.find_all(["x", None], skip_unknown=True)


def test_a_label_map_has_commas_or_tabs(tmp_path):
    path = tmp_path / "map"
    path.write_text("wnid\tindex\twords\nn1\t5\tgoldfish, gold\n")
    assert read_label_map(path)["n1"] == "5"
    path.write_text("n1, goldfish\n\nn2,cat,more\n")
    assert read_label_map(path) == {"n1": "goldfish", "n2": "cat"}
    path.write_text("lonely\n")
    with pytest.raises(SourceError, match="no rows"):
        read_label_map(path)
    with pytest.raises(SourceError, match="cannot read"):
        read_label_map(tmp_path / "missing")


def test_wilson_by_a_known_value():
    # Newcombe 1998, table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 10)[0] == pytest.approx(0)
    assert wilson(10, 10)[1] == pytest.approx(1)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_the_interval_holds_the_difference_and_mirrors(gained, lost, rest):
    total = gained + lost + rest
    if not total:
        return
    low, high = difference_interval(gained, lost, total)
    assert -1 <= low < high <= 1
    assert low - 0.05 <= (gained - lost) / total <= high + 0.05  # shrunk towards 0
    mirrored = difference_interval(lost, gained, total)
    assert (-mirrored[1], -mirrored[0]) == pytest.approx((low, high))


def test_scores():
    scores = Scores()
    scores.add(np.eye(12, dtype=np.float32)[[3, 4]], [3, 0])
    accuracy = scores.accuracy(12)
    assert accuracy.top1 == 0.5
    assert accuracy.top5 == 1.0
    assert scores.accuracy(10).top5 is None


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name):
    assert preprocess_from_dict(PRESETS[name]).output_shape == (3, 224, 224)


def test_text_figures():
    assert [size(n) for n in (0, 999, 75504, 5.5e6, 2e9)] == [
        *("0 bytes", "999 bytes", "75.5 kB", "5.5 MB", "2000.0 MB")
    ]
    assert table(["name", "n"], [["a", "5"], ["long", "17"]]) == "name   n\na      5\nlong  17"
