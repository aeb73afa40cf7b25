"""Inputs of whole numbers are fed what the graph allows: rows of tables, lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from edgeprune.runtime.network._graph import from_model
from edgeprune.runtime.network._ranges import integer_ranges, note_ranges
from edgeprune.runtime.network._session import random_feeds

from .net import Net

INT64 = TensorProto.INT64


def words(n: Net, rows: int = 9) -> str:
    return n.op("Gather", n.random(rows, 4), "ids", axis=0)


def one_table(n: Net) -> str:
    return words(n)


def cast_and_reshaped(n: Net) -> str:
    ids = n.op("Cast", n.reshape("ids", -1, 1, 6), to=TensorProto.INT32)
    return n.op("Gather", n.random(9, 4), ids, axis=0)


def two_tables(n: Net) -> str:
    """The smaller table decides."""
    return n.op("Add", words(n, 30), words(n, 9))


def counted_from_two(n: Net) -> str:
    """Positions of which the first two rows are kept for something else: 0 to 6 remain."""
    places = n.op("Add", "ids", n.const(np.int64(2)))
    return n.op("Gather", n.random(9, 4), places, axis=0)


def counted_from_one(n: Net) -> str:
    """Word number 0 would be row -1."""
    places = n.op("Sub", "ids", n.const(np.int64(1)))
    return n.op("Gather", n.random(8, 4), places, axis=0)


def with_padding_masked(n: Net) -> str:
    there = n.op("Cast", n.op("Greater", "ids", n.const(np.int64(0))), to=TensorProto.FLOAT)
    return n.op("Mul", words(n), n.op("Unsqueeze", there, n.ints(2)))


def multiplied(n: Net) -> str:
    """Nobody knows how far it may go."""
    twice = n.op("Mul", "ids", n.const(np.int64(2)))
    return n.op("Gather", n.random(9, 4), twice, axis=0)


def a_mask(n: Net) -> str:
    return n.op("Cast", "ids", to=TensorProto.FLOAT)


def one_hot(n: Net) -> str:
    return n.op("OneHot", "ids", n.const(np.int64(5)), n.const(np.array([0, 1], np.float32)))


CASES: dict[str, tuple[Callable[[Net], str], tuple[int, int]]] = {
    build.__name__: (build, wanted)
    for build, wanted in [
        (one_table, (0, 9)),
        (cast_and_reshaped, (0, 9)),
        (two_tables, (0, 9)),
        (counted_from_two, (0, 7)),
        (counted_from_one, (1, 9)),
        (with_padding_masked, (0, 9)),
        (multiplied, (0, 2)),
        (a_mask, (0, 2)),
        (one_hot, (0, 5)),
    ]
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_picked(name: str) -> None:
    build, wanted = CASES[name]
    n = Net()
    n.input(6, name="ids", kind=INT64)
    model = n.model(build(n))
    assert integer_ranges(model) == {"ids": wanted}
    graph = from_model(model)
    note_ranges(graph)
    drawn = np.unique([random_feeds(graph.inputs, 50, seed)["ids"] for seed in range(20)])
    assert drawn.tolist() == list(range(*wanted))


def test_lengths_are_of_one_step_up_to_all() -> None:
    n = Net(batch=3)
    x, _ = n.input(6, 4), n.input(name="lengths", kind=TensorProto.INT32)
    names = n.transpose(x, 1, 0, 2), n.random(1, 20, 4), n.random(1, 20, 5), "", "lengths"
    y = n.op("LSTM", *names, hidden_size=5)
    assert integer_ranges(n.model(y)) == {"lengths": (1, 7)}


def test_lengths_that_are_compared_with_the_numbers_of_the_steps() -> None:
    n = Net()
    x, _ = n.input(6), n.input(1, name="lengths", kind=INT64)
    there = n.op("Cast", n.op("Less", n.ints(*range(6)), "lengths"), to=TensorProto.FLOAT)
    assert integer_ranges(n.model(n.op("Mul", x, there))) == {"lengths": (1, 7)}


def test_a_network_of_floats_needs_none() -> None:
    n = Net()
    x: Any = n.input(6)
    assert integer_ranges(n.model(n.gemm(x, 6, 2))) == {}
