"""Networks of several inputs and outputs, of integers too, by both of torch's exporters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.exporters import export, parse_example
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.errors import ExportError, InputError
from edgeprune.runtime.session import Session

from .rows import pruned_rows_replaced

each_exporter = pytest.mark.parametrize("dynamo", [False, True])


class Tagger(nn.Module):
    """Words and a picture; a score for each word and one for the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.mix = nn.Linear(6, 8)
        self.picture = nn.Conv2d(3, 8, 3)
        self.each, self.whole = nn.Linear(8, 5), nn.Linear(8, 2)

    def forward(self, words: torch.Tensor, picture: torch.Tensor) -> Any:
        seen = self.picture(picture).relu().mean((2, 3))
        said = self.mix(self.words(words)).relu() * seen[:, None].sigmoid()
        return {"each": self.each(said), "whole": self.whole(said.mean(1))}


EXAMPLES = (torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 3, 8, 8))


def feeds(info: Any, batch: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    words, picture = (item.name for item in info.inputs)
    return {
        words: rng.integers(0, 20, (batch, 7)),
        picture: rng.standard_normal((batch, 3, 8, 8), np.float32),
    }


@each_exporter
def test_several_inputs_and_outputs(tmp_path: Path, dynamo: bool) -> None:
    net = Tagger().eval()
    info = export(net, EXAMPLES, tmp_path / "net.onnx", dynamo=dynamo).info
    assert [(item.shape, item.dtype) for item in info.inputs] == [
        ((None, 7), "int64"),
        ((None, 3, 8, 8), "float32"),
    ]
    assert len(info.outputs) == 2
    assert not info.single
    assert (info.head, info.classes) == (None, None)
    artifact = Artifact.open(tmp_path / "net.onnx")
    assert artifact.info.inputs == info.inputs
    assert artifact.info.outputs == info.outputs
    session, given = Session(artifact), feeds(info)
    with torch.inference_mode():
        expected = net(*map(torch.from_numpy, given.values()))
    got = session.run_all(given)
    assert list(got) == list(info.outputs)
    for mine, theirs in zip(got.values(), expected.values(), strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-5)
    assert np.array_equal(session.run(given), got[info.output_name])


@each_exporter
def test_an_embedding_loses_columns(tmp_path: Path, dynamo: bool) -> None:
    info = export(Tagger(), EXAMPLES, tmp_path / "net.onnx", dynamo=dynamo).info
    groups = {group.units: group for group in info.prunable}
    words, tied = groups[6], groups[8]
    assert [(m.role, m.op) for m in words.members] == [
        ("producer", "Gather"),
        ("consumer", "MatMul"),
    ]
    assert words.parameters == 20 * 6 + 6 * 8
    assert sorted(m.op for m in tied.members if m.role == "producer") == ["Conv", "MatMul"]
    assert info.parameters == sum(p.numel() for p in Tagger().parameters())
    artifact, rng = Artifact.open(tmp_path / "net.onnx"), np.random.default_rng(0)
    masks = {words.name: np.array([1, 0, 1, 1, 0, 1]), tied.name: np.arange(8) % 3 > 0}
    tensors = {f"{name}.mask": mask.astype(np.float32) for name, mask in masks.items()}
    plain = run_with(artifact, tensors)
    assert np.array_equal(
        plain, run_with(artifact, tensors | pruned_rows_replaced(artifact, masks, rng))
    )
    assert not np.allclose(plain, run_with(artifact, {}))


def run_with(artifact: Artifact, tensors: dict[str, Any]) -> Any:
    from edgeprune.runtime._ort import make_session

    values = {name: np.asarray(value, np.float32) for name, value in tensors.items()}
    return make_session(artifact.path, values).run(None, feeds(artifact.info))[1]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    path = tmp_path_factory.mktemp("tagger") / "net.onnx"
    export(Tagger(), EXAMPLES, path, dynamo=True)
    return Session(Artifact.open(path))


def without_picture(given: dict[str, Any]) -> Any:
    return {"words": given["words"]}


def with_another(given: dict[str, Any]) -> Any:
    return {**given, "sound": given["words"]}


def floats(given: dict[str, Any]) -> Any:
    return {**given, "words": given["words"].astype(np.float32)}


def short(given: dict[str, Any]) -> Any:
    return {**given, "words": given["words"][:, :6]}


def unequal(given: dict[str, Any]) -> Any:
    return {**given, "words": given["words"][:1]}


def not_finite(given: dict[str, Any]) -> Any:
    return {**given, "picture": given["picture"] * np.float32(np.nan)}


def alone(given: dict[str, Any]) -> Any:
    return given["picture"]


def beyond_the_table(given: dict[str, Any]) -> Any:
    return {**given, "words": given["words"] + 20}


REFUSED = {
    without_picture: "the inputs given are words; this model takes words, picture",
    with_another: "words, picture, sound; this model takes words, picture",
    floats: "'words' is float32; this model takes int64",
    short: r"'words' has shape \(2, 6\); this model takes \(None, 7\)",
    unequal: r"batches of different sizes: \[1, 2\]",
    not_finite: "'picture' holds NaN",
    alone: "several inputs; give all by name: words, picture",
    beyond_the_table: "the model refused an input",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_inputs_are_checked_one_by_one(session: Session, change: Any) -> None:
    with pytest.raises(InputError, match=REFUSED[change]):
        session.run(change(feeds(session.artifact.info)))


class OneOfTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


@each_exporter
def test_an_input_without_a_say(tmp_path: Path, dynamo: bool) -> None:
    """The exporters differ in what they do with it; either way nothing is silently lost."""
    examples = (torch.zeros(1, 4), torch.zeros(1, 5))
    try:
        info = export(OneOfTwo(), examples, tmp_path / "net.onnx", dynamo=dynamo).info
    except ExportError as error:
        assert "2 inputs, of which 1 have a say" in str(error)
        assert list(tmp_path.iterdir()) == []
    else:
        assert [item.shape for item in info.inputs] == [(None, 4), (None, 5)]


def test_one_number_a_sample_is_an_input(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self.fc(x) * scale[:, None]

    info = export(Scaled(), (torch.zeros(1, 4), torch.zeros(1)), tmp_path / "net.onnx").info
    assert [item.shape for item in info.inputs] == [(None, 4), (None,)]


def test_samples_are_for_networks_of_one_input(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="samples are for networks of one input; this one has"):
        export(Tagger(), EXAMPLES, tmp_path / "net.onnx", dynamo=False, samples=[np.zeros(7)])
    assert list(tmp_path.iterdir()) == []


def test_samples_of_integers(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3))
    samples = [np.random.default_rng(n).integers(0, 9, 5) for n in range(3)]
    example = torch.zeros(1, 5, dtype=torch.int64)
    report = export(net, example, tmp_path / "net.onnx", dynamo=False, samples=samples)
    assert report.samples_checked == 3


@pytest.mark.parametrize(
    ("text", "shape", "dtype"),
    [
        ("1x3x8x8", (1, 3, 8, 8), torch.float32),
        ("1x16:int64", (1, 16), torch.int64),
        ("2:bool", (2,), torch.bool),
    ],
)
def test_examples_in_text(text: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    example = parse_example(text)
    assert (example.shape, example.dtype) == (shape, dtype)


@pytest.mark.parametrize("text", ["", "x", "1x3:", "1x3:float16", "1x3:int64:x", "-1x3", "1x0"])
def test_examples_that_are_none(text: str) -> None:
    with pytest.raises(ExportError, match=r"no input shape|no type of input"):
        parse_example(text)
