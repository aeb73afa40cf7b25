"""What docs/artifact.md says of a compacted network is what is written, no more and no less."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeprune.exporters import export_onnx
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.compact import compact
from edgeprune.runtime.errors import ArtifactError
from edgeprune.runtime.profile import Profile

from .net import Net

PAGE = Path(__file__).parents[3] / "docs" / "artifact.md"


def section() -> str:
    found = re.search(r"^## Compacted networks\n(.*?)^## ", PAGE.read_text("utf-8"), re.M | re.S)
    assert found is not None
    return found.group(1)


def documented_carried() -> set[str]:
    """The keys that the page says are carried over."""
    first = section().split("There are no others")[0]
    return set(re.findall(r"`(edgeprune\.\w+)`", first)) - {"edgeprune.compacted"}


def documented_fields() -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", section(), re.M)


def artifact_of(folder: Path, **about: Any) -> Artifact:
    n = Net()
    x = n.relu(n.conv(n.input(3, 8, 8), 3, 12))
    x = n.relu(n.conv(x, 12, 10))
    export_onnx(n.model(n.head(x, 10)), folder / "net.onnx", **about)
    return Artifact.open(folder / "net.onnx")


@pytest.fixture
def told(tmp_path: Path) -> Artifact:
    """An artifact that has all the metadata that there are."""
    labels = [f"class {number}" for number in range(4)]
    return artifact_of(tmp_path, labels=labels, preprocess={"kind": "array"})


def props(path: Path) -> dict[str, str]:
    return {item.key: item.value for item in onnx.load(path).metadata_props}


def test_the_page_lists_what_is_written(told: Artifact, tmp_path: Path) -> None:
    masks = {g.name: np.arange(g.units) < 5 for g in told.info.prunable}
    created = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    profile = Profile(told.info.model_id, masks=masks, created=created)
    compact(told, profile, tmp_path / "small.onnx")
    written = props(tmp_path / "small.onnx")
    assert written.keys() == {"edgeprune.compacted"} | documented_carried()
    source = props(told.path)
    assert all(written[key] == source[key] for key in documented_carried())
    about = json.loads(written["edgeprune.compacted"])
    always = [name for name in documented_fields() if name != "int8"]
    assert list(about) == always
    assert about == {
        "model_id": told.info.model_id,
        "created": "2026-03-04T05:06:07+00:00",
        "strength": "light",
        "units": {group.name: 5 for group in told.info.prunable},
    }
    assert list(about["units"]) == sorted(about["units"])


def test_without_a_profile(told: Artifact, tmp_path: Path) -> None:
    compact(told, None, tmp_path / "small.onnx")
    about = json.loads(props(tmp_path / "small.onnx")["edgeprune.compacted"])
    assert (about["created"], about["strength"]) == (None, None)
    assert about["units"] == {group.name: group.units for group in told.info.prunable}


def test_units_are_those_that_the_masks_keep(told: Artifact, tmp_path: Path) -> None:
    """Rounding up leaves more in the tensors, and a branch that is gone leaves none."""
    first, second = (group.name for group in told.info.prunable)
    masks = {first: np.arange(12) < 5, second: np.zeros(10, np.bool_)}
    report = compact(told, None, tmp_path / "small.onnx", masks=masks, channel_multiple=8)
    about = json.loads(props(report.path)["edgeprune.compacted"])
    assert about["units"] == {first: 5, second: 0}
    assert {group.name: group.left for group in report.groups} == {first: 0, second: 0}


def test_what_the_model_does_not_tell_is_null(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path)
    compact(artifact, None, tmp_path / "small.onnx")
    written = props(tmp_path / "small.onnx")
    assert written["edgeprune.labels"] == written["edgeprune.preprocess"] == "null"


def test_it_is_no_artifact_whatever_else_it_holds(told: Artifact, tmp_path: Path) -> None:
    compact(told, None, tmp_path / "small.onnx")
    model = onnx.load(tmp_path / "small.onnx")
    model.metadata_props.add(key="edgeprune.format", value="2")
    onnx.save(model, tmp_path / "small.onnx")
    with pytest.raises(ArtifactError, match="compacted"):
        Artifact.open(tmp_path / "small.onnx")
