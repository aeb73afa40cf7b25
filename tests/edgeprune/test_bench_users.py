"""Users made of folders and recordings, and their samples in memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgeprune
from edgeprune._demo import demo_model
from edgeprune.bench._measure import measured
from edgeprune.bench._packed import Packed, Stream
from edgeprune.bench._users import parse_takes, recording_users
from edgeprune.devices import ImagePreprocess, open_folder
from edgeprune.runtime.errors import InputError

from .studies import (
    SEED,
    user,
)


def test_streams_are_balanced_nested_and_shuffled(trees: tuple[Path, Path]) -> None:
    someone = user(trees)
    known = [str(digit) for digit in range(10)]
    drawn = np.random.default_rng(SEED).choice(known, 5, replace=False)
    assert someone.classes == tuple(drawn)
    for count in (5, 10, 25):
        labels = [label for _, label in someone.adapt[:count]]
        assert {labels.count(label) for label in drawn} == {count // 5}
    assert len({path for path, _ in someone.adapt}) == 25
    stream = someone.stream(25)
    assert sorted(stream) == list(range(25)) != stream
    assert someone == user(trees)
    assert someone.adapt != user(trees, SEED + 1).adapt


@pytest.mark.parametrize(
    ("text", "takes"),
    [("even", [0, 2, 4]), ("odd", [1, 3, 5]), ("0-1,4", [0, 1, 4]), ("3", [3])],
)
def test_takes(text: str, takes: list[int]) -> None:
    wanted = parse_takes(text)
    assert [take for take in range(6) if wanted(take)] == takes


@pytest.mark.parametrize("text", ["", "some", "1-", "-1", "1;2"])
def test_takes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="takes"):
        parse_takes(text)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "no regular expression"),
        ("(?P<user>.*)", r"\?P<label>"),
        ("(?P<label>x)", "fits no sample"),
        (r"(?P<label>\d)/(?P<take>\d+)", "would both adapt and score"),
    ],
)
def test_patterns_that_do_not_fit(trees: tuple[Path, Path], pattern: str, message: str) -> None:
    preprocess = edgeprune.load(demo_model()).preprocess
    everything = parse_takes("0-99")
    with pytest.raises(InputError, match=message):
        recording_users(
            trees[0], preprocess, pattern=pattern, adapt_takes=everything, test_takes=everything
        )


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("std", [128.0, 58.395])
def test_pictures_are_packed_without_loss(tmp_path: Path, layout: str, std: float) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        picture = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
        picture.save(tmp_path / f"{number}.png")
    preprocess = ImagePreprocess(
        height=32, width=32, mean=(123.675, 116.28, 103.53), std=(std,), layout=layout
    )
    folder = open_folder(tmp_path, preprocess)
    packed = Packed(folder.paths, preprocess)
    assert {sample.dtype for sample in packed._samples} == {np.dtype(np.uint8)}
    for index in range(3):
        assert packed[index].tobytes() == folder[index].array.tobytes()
    batches = list(Stream(packed, [2, 0, 1]).batches(2))
    assert [len(batch) for batch in batches] == [2, 1]
    assert batches[0][0].tobytes() == packed[2].tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_is_what_was_added() -> None:
    with measured() as first:
        np.ones(20_000_000).sum()
    with measured() as again:
        np.ones(20_000_000).sum()
    with measured() as nothing:
        pass
    for cost in (first, again):
        assert 150e6 < (cost.added_bytes or 0) < 250e6
        assert cost.seconds > 0
        assert cost.cpu_seconds > 0
    assert (nothing.added_bytes or 0) < 10e6
