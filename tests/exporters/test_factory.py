"""Factories, weights and shapes that the command line names."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune.exporters import load_factory, parse_input_shape
from edgeprune.runtime.errors import ExportError

SOURCE = """
import torch

def make():
    return torch.nn.Linear(2, 3)

def fails():
    raise ValueError("no luck")

def wrong():
    return 5

number = 7
"""


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of factories in the current folder."""
    (tmp_path / "nets_for_factory_test.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spec(name: str) -> str:
    return f"nets_for_factory_test:{name}"


def test_a_factory_in_the_current_folder() -> None:
    assert isinstance(load_factory(spec("make")), torch.nn.Linear)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (spec("fails"), "the factory nets_for_factory_test:fails failed: ValueError: no luck"),
        (spec("wrong"), "returned a int"),
        (spec("number"), "cannot be called"),
        (spec("absent"), "has no 'absent'"),
        ("no_such_module:make", "cannot import 'no_such_module'"),
        ("make", "package.module:function"),
        (":make", "package.module:function"),
    ],
)
def test_bad_factories(name: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        load_factory(name)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
    ],
)
def test_weights_in_the_usual_wrappings(nets: Path, wrap: Any) -> None:
    source = torch.nn.Linear(2, 3)
    torch.save(wrap(source.state_dict()), nets / "w.pt")
    loaded = load_factory(spec("make"), nets / "w.pt")
    assert torch.equal(loaded.weight, source.weight)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.zeros(3, 2)}, r"1 missing \(bias\)"),
        (
            {"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "x": torch.zeros(1)},
            r"1 unexpected \(x\)",
        ),
        (
            {"weight": torch.zeros(3, 9), "bias": torch.zeros(3)},
            r"weight \(3, 9\) instead of \(3, 2\)",
        ),
        ({str(n): torch.zeros(1) for n in range(9)}, "and 4 more"),
        ([1, 2], "holds no state dict"),
    ],
)
def test_weights_that_do_not_fit(nets: Path, state: Any, message: str) -> None:
    torch.save(state, nets / "w.pt")
    with pytest.raises(ExportError, match=message):
        load_factory(spec("make"), nets / "w.pt")


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was_run"),))


def test_weights_that_would_run_code_are_refused(nets: Path) -> None:
    (nets / "w.pt").write_bytes(pickle.dumps({"weight": Evil()}))
    with pytest.raises(ExportError, match="no file of plain tensors"):
        load_factory(spec("make"), nets / "w.pt")
    assert not (nets / "was_run").exists()


def test_weights_that_are_absent_or_damaged(nets: Path) -> None:
    with pytest.raises(ExportError, match="cannot read the weights"):
        load_factory(spec("make"), nets / "absent.pt")
    (nets / "w.pt").write_bytes(b"PK\3\4 not really")
    with pytest.raises(ExportError, match="damaged"):
        load_factory(spec("make"), nets / "w.pt")


def test_input_shapes() -> None:
    assert parse_input_shape("1x3x224x224") == (1, 3, 224, 224)
    for text in ("", "5", "1x", "0x3", "1x-3", "1,3", "1x3.5", "axb", "1x" + "9" * 30):
        with pytest.raises(ExportError, match="no input shape"):
            parse_input_shape(text)
