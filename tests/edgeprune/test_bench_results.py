"""A study that was measured in pieces is told as one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeprune._cli import cli
from edgeprune.bench._cells import Cell, CellKey, gather_results
from edgeprune.runtime.errors import InputError


def written(path: Path, cells: list[Cell], **header: Any) -> Path:
    lines = [json.dumps({"edgeprune_study": 1, **header}), *(cell.to_json() for cell in cells)]
    path.write_text("\n".join(lines) + "\n")
    return path


def cell(user: str, arm: str, right: int, **more: Any) -> Cell:
    key = CellKey(user, arm, 0.5 if arm == "A4" else None, 20 if arm == "A4" else None)
    return Cell(key, model_id="m", data="d", right=right, total=100, **more)


def in_pieces(folder: Path) -> list[Path]:
    dense = [cell("one", "A0", 50), cell("two", "A0", 40)]
    ours = [cell("one", "A4", 70), cell("two", "A4", 60)]
    return [written(folder / "dense.jsonl", dense), written(folder / "ours.jsonl", ours)]


def test_pieces_are_compared_by_user(tmp_path):
    files = [str(path) for path in in_pieces(tmp_path)]
    done = CliRunner().invoke(cli, ["bench", "results", *files, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["results"] == files and found["versions"] == 1
    contrast = next(c for c in found["contrasts"] if (c["arm"], c["minus"]) == ("A4", "A0"))
    assert contrast["difference"]["mean"] == pytest.approx(0.2)
    table = CliRunner().invoke(cli, ["bench", "results", *files, "--markdown"])
    assert "| A4 | personalised | 0.5 | 2 | 0.650" in table.output


def test_of_what_several_hold_the_last_counts(tmp_path):
    first, second = in_pieces(tmp_path)
    again = written(tmp_path / "again.jsonl", [cell("one", "A4", 90)])
    cells = {c.key: c.right for c in gather_results([first, second, again])}
    assert cells[CellKey("one", "A4", 0.5, 20)] == 90
    assert cells[CellKey("two", "A4", 0.5, 20)] == 60


def test_a_failed_cell_does_not_take_the_place_of_a_finished_one(tmp_path):
    first, second = in_pieces(tmp_path)
    failed = dataclasses.replace(cell("one", "A4", 0), status="failed", data="", reason="no memory")
    third = written(tmp_path / "third.jsonl", [failed])
    cells = {c.key: c.right for c in gather_results([first, second, third])}
    assert cells[CellKey("one", "A4", 0.5, 20)] == 70


def test_other_samples_or_settings_are_not_mixed(tmp_path):
    first, _ = in_pieces(tmp_path)
    samples = dataclasses.replace(cell("one", "A4", 70), data="other")
    with pytest.raises(InputError, match="other samples"):
        gather_results([first, written(tmp_path / "samples.jsonl", [samples])])
    settings = written(tmp_path / "settings.jsonl", [cell("one", "A4", 70)], settings={"seed": 1})
    with pytest.raises(InputError, match="another study: its settings"):
        gather_results([first, settings])


def test_an_absent_or_foreign_file_is_told(tmp_path):
    absent = CliRunner().invoke(cli, ["bench", "results", str(tmp_path / "absent.jsonl")])
    assert absent.exit_code == 2 and "absent.jsonl" in absent.output
    (tmp_path / "notes.txt").write_text("notes\n")
    foreign = CliRunner().invoke(cli, ["bench", "results", str(tmp_path / "notes.txt")])
    assert foreign.exit_code != 0 and "holds no results" in foreign.output
    assert "Traceback" not in foreign.output
