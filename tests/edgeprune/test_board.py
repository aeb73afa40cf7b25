"""What this board likes: measured once, remembered, used where a multiple is asked for."""

from __future__ import annotations

import json
from dataclasses import astuple, replace

import numpy as np
import pytest

from edgeprune import _board
from edgeprune._board import MULTIPLES, Board, best_multiple, calibrate, load_board, save_board
from edgeprune._board_rates import CHAINS, Chain, fit_rates
from edgeprune._demo import demo_model
from edgeprune._machine import describe_machine
from edgeprune._timing import Limits, Ratio
from edgeprune.runtime._ort import make_session
from edgeprune.runtime._ort import run as run_session
from edgeprune.runtime.costs import DEFAULT_RATES, Rates
from edgeprune.runtime.errors import ProfileError

MODEL = demo_model()
ADAPT = MODEL.parent / "demo" / "adapt"
BRIEF = Limits(budget_s=0.5, fewest=6, most=6, warm_up=1, block_s=0.001)


@pytest.fixture
def board(home) -> Board:
    """A board like this one, whose processor wants multiples of four."""
    assert not home.exists()
    machine = describe_machine()
    return Board(
        machine.cpu,
        machine.architecture,
        machine.versions["onnxruntime"],
        1,
        4,
        dict.fromkeys(MULTIPLES, 1.0),
        Rates(0.25, 0.5, 0.125, 500.0),
        "2026-01-01T00:00:00+00:00",
    )


def test_every_multiple_is_measured():
    found = calibrate(limits=BRIEF)
    assert set(found.ratios) == set(MULTIPLES)
    assert found.channel_multiple in MULTIPLES
    assert all(ratio > 0 for ratio in found.ratios.values())
    assert found.rates.usable
    assert found.fits(describe_machine())


def test_the_widths_grow_with_the_multiple():
    sizes = [len(_board._network(-(-149 // multiple) * multiple, 7)) for multiple in (1, 8, 32)]
    assert sizes == sorted(set(sizes))


def ratio(median: float) -> Ratio:
    return Ratio(median, median, median, median * 0.99, median * 1.01, 0.96, 20)


@pytest.mark.parametrize(
    ("medians", "best"),
    [
        ({1: 1.3, 8: 1.1, 16: 1.0, 32: 1.1}, 16),
        ({1: 1.3, 8: 1.001, 16: 1.0, 32: 1.1}, 8),
        ({1: 0.9, 8: 0.95, 16: 1.0, 32: 1.1}, 1),
    ],
)
def test_the_smallest_of_the_fastest_is_best(medians, best):
    assert best_multiple({multiple: ratio(median) for multiple, median in medians.items()}) == best


def test_a_board_is_remembered(board):
    assert load_board() is None
    assert _board.channel_multiple() == 16
    path = save_board(board)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_board() == board
    assert _board.channel_multiple() == 4
    assert _board.rates() == Rates(0.25, 0.5, 0.125, 500.0)


def test_what_was_measured_elsewhere_does_not_count(board):
    save_board(board)
    machine = describe_machine()
    newer = replace(machine, versions={**machine.versions, "onnxruntime": "99.0"})
    assert load_board(newer) is None
    assert load_board(replace(machine, cpu="another one")) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:40],
        lambda text: text.replace('"edgeprune_board": 2', '"edgeprune_board": 1'),
        lambda text: text.replace('"channel_multiple": 4', '"channel_multiple": 5'),
        lambda text: json.dumps([text]),
        lambda text: text.replace('"ratios"', '"other"'),
        lambda text: text.replace('"per_mac": 0.25', '"per_mac": -0.25'),
        lambda text: text.replace('"per_mac": 0.25', '"per_mac": NaN'),
    ],
)
def test_a_damaged_file_does_not_count(board, damage):
    path = save_board(board)
    path.write_text(damage(path.read_text()))
    assert load_board() is None
    assert _board.channel_multiple(8) == 8
    assert _board.rates() == DEFAULT_RATES


def test_a_folder_that_cannot_be_written_is_told(board, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEPRUNE_HOME", str(tmp_path / "file"))
    with pytest.raises(ProfileError, match="cannot"):
        save_board(board)


def test_commands_use_what_was_measured(board, run, tmp_path):
    out = tmp_path / "small.onnx"
    words = ("compact", MODEL, "--dense", "-o", out, "--no-timing", "--json", "-q")
    assert json.loads(run(*words).stdout)["channel_multiple"] == 16
    done = run("devices", "calibrate", "--seconds", "0.1", "--json", "-q")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert json.loads(run(*words).stdout)["channel_multiple"] == told["channel_multiple"]

    save_board(board)
    assert json.loads(run(*words).stdout)["channel_multiple"] == 4
    assert json.loads(run(*words, "--channel-multiple", "8").stdout)["channel_multiple"] == 8
    assert run(*words, "--channel-multiple", "0").exit_code == 2
    done = run("personalize", MODEL, ADAPT, "--sparsity", "0.45", "--min-agreement", "0", "-q")
    assert done.exit_code == 0, done.output
    for group in json.loads(run(*words[:2], *words[3:]).stdout)["groups"]:
        assert group["kept"] % 4 == 0


def test_rates_are_found_again():
    works = [chain.work() for chain in CHAINS]
    true = np.array([0.02, 0.05, 0.3, 4000.0])
    found = fit_rates(works, [float(work @ true) for work in works])
    assert list(astuple(found)) == pytest.approx(true)


def test_no_rate_is_negative():
    works = [chain.work() for chain in CHAINS]
    times = [float(work[0]) * (1.5 if place % 2 else 0.7) for place, work in enumerate(works)]
    found = fit_rates(works, times)
    assert found.usable


def test_a_chain_does_the_work_that_it_says():
    chain = Chain((4, 8, 2), 5)
    assert chain.work().tolist() == [25 * (32 + 16), 4 * 25 * (4 + 8 + 8 + 2), 4 * (32 + 16), 2]
    assert Chain((6, 6), 2, kernel=3, depthwise=True).work()[0] == 4 * 6 * 9
    session = make_session(chain.model())
    assert run_session(session, None, {"x": np.ones((1, 4, 5, 5), np.float32)})[0].shape == (
        1,
        2,
        5,
        5,
    )
