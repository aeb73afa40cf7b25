"""Weights that a session reads from their own file: the same bits, and never another file's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.runtime import _graph
from edgeprune.runtime._external import left_in_files
from edgeprune.runtime._fold import outside
from edgeprune.runtime._graph import Graph
from edgeprune.runtime._ort import run
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.session import Session


@pytest.fixture
def copied(digits: Artifact, tmp_path: Path) -> Artifact:
    for suffix in (".onnx", ".weights", ".masks"):
        shutil.copy(digits.path.with_suffix(suffix), tmp_path)
    return Artifact.open(tmp_path / digits.path.name)


def large(artifact: Artifact) -> dict[str, Any]:
    names = [operator.weight for operator in artifact.info.operators]
    return {n: artifact.tensors[n] for n in names if artifact.tensors[n].nbytes >= 4096}


def test_mapped_weights_are_left_where_they_are(copied):
    weights = large(copied)
    initializers = [outside(name, value) for name, value in weights.items()]
    assert left_in_files(initializers, weights, copied.path.parent.resolve()) == {}
    data = copied.path.with_suffix(".weights").read_bytes()
    for tensor in initializers:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries["location"] == copied.path.with_suffix(".weights").name
        start, length = int(entries["offset"]), int(entries["length"])
        value = np.frombuffer(data[start : start + length], "<f4").reshape(tuple(tensor.dims))
        np.testing.assert_array_equal(value, weights[tensor.name])


@pytest.mark.parametrize(
    "other",
    [
        lambda value: value.copy(),
        lambda value: value[::-1],
        lambda value: value.astype(np.float64),
        lambda value: value.ravel()[:8],
    ],
)
def test_what_is_no_whole_mapped_array_is_handed_over(copied, other):
    values = {name: other(value) for name, value in large(copied).items()}
    initializers = [outside(name, value) for name, value in values.items()]
    left = left_in_files(initializers, values, copied.path.parent.resolve())
    assert left.keys() == values.keys()


def test_files_of_another_folder_are_handed_over(copied, tmp_path):
    weights = large(copied)
    initializers = [outside(name, value) for name, value in weights.items()]
    left = left_in_files(initializers, weights, tmp_path / "elsewhere")
    assert left.keys() == weights.keys()


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_weights_whose_file_is_another_by_now_are_still_those_that_were_mapped(copied, demo, how):
    """A model that is exported again over a running one does not mix with it."""
    batch, file = demo.test[:4], copied.path.with_suffix(".weights")
    wanted = Session(copied, None, threads=1).run(batch)
    if how == "replaced":
        new = file.with_name("new")
        new.write_bytes(bytes(file.stat().st_size))
        new.replace(file)
    else:
        file.unlink()
    graph = Graph(copied)
    tensors = dict(copied.tensors) | dict(copied.neutral_masks)
    session = graph.session([graph.input], [graph.output], tensors, 1)
    found = run(session, [graph.output], {graph.input: batch})[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_session_reads_weights_from_their_file(copied, demo, monkeypatch):
    """And its answers are the same bits as with all of them handed over."""
    graph = Graph(copied)
    tensors = dict(copied.tensors) | dict(copied.neutral_masks)
    handed: list[int] = []
    real = _graph.make_session

    def counted(model: Any, given: Any, **more: Any) -> Any:
        handed.append(sum(value.nbytes for value in given.values()))
        return real(model, given, **more)

    monkeypatch.setattr(_graph, "make_session", counted)
    answers = []
    for values in (tensors, {name: value.copy() for name, value in tensors.items()}):
        session = graph.session([graph.input], [graph.output], values, 1)
        answers.append(run(session, [graph.output], {graph.input: demo.test[:4]})[0])
    np.testing.assert_array_equal(*answers)
    assert handed[0] < handed[1] / 2
