"""What ``edgeprune inspect`` tells of every channel group, to people and to programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import edgeprune
from edgeprune._group_tree import draw_groups

torch = pytest.importorskip("torch")


class Net(torch.nn.Module):  # type: ignore[name-defined, misc]
    """A residual stream, a bottleneck within it, and attention of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (torch.nn.Conv1d(*c, 1) for c in ((3, 8), (8, 6), (6, 8)))
        self.qkv, self.out = torch.nn.Linear(8, 24), torch.nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = self.stem(x).relu()
        x = x + self.b(self.a(x).relu())
        q, k, v = self.qkv(x.transpose(1, 2)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(2, 3)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2).mean(1))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    edgeprune.export(Net(), torch.zeros(1, 3, 7), path, dynamo=False)
    return path


def test_json_is_complete(run: Any, model: Path) -> None:
    found = json.loads(run("inspect", model, "--json").stdout)
    info = edgeprune.load(model).info
    assert found["inputs"] == [{"name": "input", "shape": [None, 3, 7], "dtype": "float32"}]
    assert found["outputs"] == ["output"]
    assert found["parameters"] == {"total": info.parameters, "prunable": info.prunable_parameters}
    assert found["macs"] == {"total": info.macs, "prunable": info.prunable_macs}
    groups = {group["name"]: group for group in found["groups"]}
    assert {name: (g["units"], g["kind"], g["frozen"]) for name, g in groups.items()} == {
        "stem": (8, "residual", None),
        "a": (6, "hidden", None),
        "qkv": (2, "heads", None),
        "out": (5, "linear", "network output"),
    }
    # Rows and biases of the stem, columns of a, rows and biases of b, rows of the layer after.
    assert groups["stem"]["parameters"] == 8 * 4 + 6 * 8 + 8 * 7 + 8 * 24
    assert groups["a"]["parameters"] == 6 * 9 + 8 * 6
    assert groups["qkv"]["parameters"] == 24 * 9 + 8 * 5
    # Both products of attention go with the heads: 7 × 7 × 4 multiply-adds for each, twice.
    assert groups["qkv"]["macs"] == 7 * 24 * 8 + 8 * 5 + 2 * 2 * 7 * 7 * 4
    members = {(m["node"], m["role"]): m for m in groups["qkv"]["members"]}
    assert members["qkv", "producer"]["channels_per_unit"] == 12
    assert members["out", "consumer"]["channels_per_unit"] == 4
    assert members["out", "consumer"]["axis"] == 1
    assert [m["axis"] for m in members.values() if m["op"] == "Softmax"] == [1]


def test_the_tree_is_plain_text(run: Any, model: Path) -> None:
    text = run("inspect", model, "--groups").stdout
    assert "\x1b" not in text
    lines = [line.strip("│├└─ ") for line in text.splitlines()]
    for wanted in (
        "qkv  2 attention heads",
        "written by MatMul qkv, weight axis 1, 12 channels a unit",
        "read by Gemm out, weight axis 1, 4 channels a unit",
        "a  6 hidden units",
        "stem  8 units of a residual stream",
        "Conv stem, weight axis 0",
        "out  cannot be pruned",
        "frozen: network output",
    ):
        assert wanted in lines
    assert "carries 256 parameters" in text


def test_long_lists_are_counted_and_told_whole_for_one_group(run: Any, model: Path) -> None:
    brief = run("inspect", model, "--groups").stdout
    found = json.loads(run("inspect", model, "--group", "qkv", "--json").stdout)
    passes = [m for m in found["members"] if m["role"] == "channelwise"]
    assert len(passes) > 6
    assert f"passes {len(passes)} nodes: " in brief
    whole = run("inspect", model, "--group", "qkv").stdout
    assert all(f"{m['op']} {m['node']}" in whole for m in passes)


class Listener(torch.nn.Module):  # type: ignore[name-defined, misc]
    """A layer, a recurrent layer, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell = torch.nn.Linear(5, 32), torch.nn.GRU(32, 16, batch_first=True)
        self.head = torch.nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.cell(self.first(x).relu())[1][0])


def test_what_personalize_leaves_alone_is_told(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    edgeprune.export(Listener(), torch.zeros(1, 7, 5), path, dynamo=False)
    assert json.loads(run("inspect", path, "--json").stdout)["left_alone"] == ["first", "cell"]
    text = run("inspect", path).stdout
    assert "left alone     2 groups (first, cell): read or written by recurrent layers" in text
    assert "0 of 3 operators know their outputs in training (no BatchNorm" in text


def test_a_network_that_cannot_be_personalised_says_so(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 2, 1)
    edgeprune.export(torch.nn.Sequential(*layers), torch.zeros(1, 3, 8, 8), path, dynamo=False)
    assert json.loads(run("inspect", path, "--json").stdout)["classifier"] is False
    text = run("inspect", path).stdout
    assert "personalize    not this network" in text
    assert "can go" not in text


def test_one_group(run: Any, model: Path) -> None:
    text = run("inspect", model, "--group", "a").stdout
    assert text.splitlines()[:2] == ["channel groups", "└── a  6 hidden units"]
    found = json.loads(run("inspect", model, "--group", "a", "--json").stdout)
    assert (found["name"], found["units"]) == ("a", 6)


def test_a_group_that_there_is_none(run: Any, model: Path) -> None:
    done = run("inspect", model, "--group", "qvk")
    assert done.exit_code == 1
    assert "no channel group 'qvk'. Did you mean 'qkv'?" in done.stderr
    assert f"edgeprune inspect {model} --groups" in done.stderr


@pytest.mark.parametrize("color", [True, False])
def test_colour_on_a_terminal_only_if_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, color: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not color:
        monkeypatch.setenv("NO_COLOR", "1")
    group = {
        "name": "[bold]", "units": 3, "kind": "hidden", "frozen": None, "parameters": 1, "macs": 0,
        "members": [],
    }  # fmt: skip
    text = draw_groups("net", [group], {"parameters": 2, "macs": 0})
    assert "[bold]" in text  # a name is no markup
    assert "carries 1 parameters (50.0 %), 0 multiply-adds (0.0 %)" in text
    assert ("\x1b[1" in text) or not color


def test_a_model_of_format_1_is_explained(run: Any) -> None:
    digits = Path(edgeprune.__file__).parent / "assets" / "digits.onnx"
    found = json.loads(run("inspect", digits, "--json").stdout)
    assert found["parameters"]["prunable"] > 0
    assert all(member["axis"] is None for g in found["groups"] for member in g["members"])
    assert run("inspect", digits, "--groups").exit_code == 0
