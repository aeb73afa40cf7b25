from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeprune.runtime._wire import read_model


def model(*initializers: TensorProto, **metadata: str) -> onnx.ModelProto:
    node = helper.make_node("Identity", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in "xy")
    made = helper.make_model(helper.make_graph([node], "g", [x], [y], list(initializers)))
    helper.set_model_props(made, metadata)
    return made


def external(name: str, **entries: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2, 300])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_it_reads_what_the_onnx_package_reads():
    inside = numpy_helper.from_array(np.array([3, -1, 1 << 40]), "inside")
    listed = helper.make_tensor("listed", TensorProto.INT64, [2], [-5, 700])
    outside = external("outside", location="m.weights", offset="4096", length="2400")
    written = model(inside, listed, outside, key="value", word="Größe ✓")
    read = read_model(written.SerializeToString())
    assert read.has_nodes
    assert read.metadata == {"key": "value", "word": "Größe ✓"}
    for want, have in zip(written.graph.initializer, read.initializers, strict=True):
        assert (want.name, tuple(want.dims)) == (have.name, have.dims)
        assert want.data_type == have.data_type
        assert want.raw_data == bytes(have.raw)
        assert tuple(want.int64_data) == have.integers
        assert {e.key: e.value for e in want.external_data} == have.external
    assert np.frombuffer(read.initializers[0].raw, "<i8").tolist() == [3, -1, 1 << 40]
    assert read.initializers[1].integers == (-5, 700)


def test_a_model_without_nodes_is_told_apart():
    assert not read_model(onnx.ModelProto(ir_version=8).SerializeToString()).has_nodes
    assert not read_model(b"").has_nodes


@pytest.mark.parametrize(
    "damaged",
    [
        b"\xff" * 11,  # a number without an end
        b"\x3a\x7fabc",  # a graph longer than the file
        b"\x0b",  # a group, which nobody writes any more
        b"\x38\x05",  # a number where the graph belongs
        b"\x72\x03\x0a\x01\xff",  # metadata that are no text
        b"\x72",  # cut short
        b"\x02\x00",  # field number 0
    ],
)
def test_damage_is_a_value_error(damaged):
    with pytest.raises(ValueError):
        read_model(damaged)


@given(st.data())
def test_any_bytes_are_read_or_refused(data):
    sound = bytearray(model(external("w", location="m.weights"), a="b").SerializeToString())
    for _ in range(data.draw(st.integers(0, 4))):
        sound[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(sound[: data.draw(st.integers(0, len(sound)))])
    try:
        read = read_model(cut)
    except ValueError:
        return
    assert isinstance(read.has_nodes, bool)
