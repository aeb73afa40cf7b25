"""Opening artifacts: what is read, and every way in which the files can be wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import edgeprune
from edgeprune.exporters import export
from edgeprune.runtime.artifact import (
    FORMAT_VERSION,
    Artifact,
    ModelInfo,
    decode_floats,
    encode_floats,
)
from edgeprune.runtime.errors import ArtifactError, EdgepruneError, InputError
from edgeprune.runtime.personalize import personalize
from edgeprune.runtime.session import Session

SUFFIXES = (".onnx", ".weights", ".masks")
FAST = settings(max_examples=60, deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@pytest.fixture
def copy(tiny: Artifact, tmp_path: Path) -> Path:
    """The tiny artifact in a folder of its own, to be damaged."""
    for suffix in SUFFIXES:
        shutil.copy(tiny.path.with_suffix(suffix), tmp_path)
    return tmp_path / tiny.path.name


def edit(path: Path, change: Callable[[Any], None]) -> Path:
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def put(path: Path, **metadata: str) -> Path:
    def change(model: Any) -> None:
        values = {prop.key: prop.value for prop in model.metadata_props}
        values |= {f"edgeprune.{key}": value for key, value in metadata.items()}
        helper.set_model_props(model, values)

    return edit(path, change)


def externally(path: Path, **entries: str) -> Path:
    """Change where the first external tensor is said to stand."""

    def change(model: Any) -> None:
        tensor = next(t for t in model.graph.initializer if t.external_data)
        for entry in tensor.external_data:
            entry.value = entries.get(entry.key, entry.value)

    return edit(path, change)


def assert_refused(path: Path | str) -> str:
    with pytest.raises(ArtifactError) as caught:
        Artifact.open(path)
    assert caught.value.exit_code == 1
    assert isinstance(caught.value, EdgepruneError)
    return str(caught.value)


def test_opening_reads_what_the_page_says(copy):
    artifact = Artifact.open(str(copy))
    assert artifact.info.input_shape == (None, 3, 4, 4)
    assert [group.name for group in artifact.info.prunable] == ["conv1", "conv2"]
    assert artifact.tensors["conv1.mask"].tolist() == [1.0] * 9
    assert set(artifact.neutral_masks) < set(artifact.tensors)
    for name, value in artifact.neutral_masks.items():
        np.testing.assert_array_equal(artifact.tensors[name], value)
    with pytest.raises(ValueError, match="read-only"):
        artifact.tensors["conv1.mask"][0] = 0.0


def test_the_neutral_masks_are_neutral_whatever_the_file_holds(copy):
    copy.with_suffix(".masks").write_bytes(b"\xff" * copy.with_suffix(".masks").stat().st_size)
    artifact = Artifact.open(copy)
    assert np.isnan(artifact.tensors["conv1.mask"]).all()
    assert artifact.neutral_masks["conv1.mask"].tolist() == [1.0] * 9
    assert artifact.neutral_masks["head.shift"].tolist() == [0.0] * 5


def test_mask_indices_are_read_from_the_graph(tiny):
    head = tiny.info.operator_by_name["head"]
    assert tiny.mask_index(head)[:9].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert tiny.mask_index(head)[-3:].tolist() == [10, 10, 10]
    conv = tiny.info.operator_by_name["conv2"]
    assert tiny.mask_index(conv).tolist() == list(range(9))


@pytest.mark.parametrize("name", ["tiny", "residual", "digits"])
def test_metadata_survive_a_round_trip(name, request):
    info = request.getfixturevalue(name).info
    again = ModelInfo.from_metadata(info.to_metadata())
    assert again.to_metadata() == info.to_metadata()
    assert again.groups == info.groups
    assert [o.name for o in again.operators] == [o.name for o in info.operators]


@pytest.mark.parametrize("name", ["residual", "digits"])
def test_exported_files_are_what_the_page_says(name, request):
    artifact = request.getfixturevalue(name)
    for kind in ("weights", "masks"):
        content = artifact.path.with_suffix(f".{kind}").read_bytes()
        wanted = getattr(artifact.info, f"{kind}_sha256")
        assert hashlib.sha256(content).hexdigest() == wanted
    for tensor in artifact.model.graph.initializer:
        if not tensor.external_data:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        masks = tensor.name.endswith((".mask", ".gain", ".shift"))
        assert (
            place["location"] == artifact.path.with_suffix(".masks" if masks else ".weights").name
        )
        assert int(place["offset"]) % 64 == 0
        assert tensor.data_type == TensorProto.FLOAT


def test_a_missing_file(tmp_path):
    assert "No such file" in assert_refused(tmp_path / "none.onnx")


def test_a_folder(tmp_path):
    assert "cannot read" in assert_refused(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"hello, world\n" * 40, b"\x00" * 64, b"\x89PNG\r\n\x1a\n"]
)
def test_a_file_that_is_no_model(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert "not an ONNX model" in assert_refused(path)


@FAST
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("random") / "model.onnx"
    path.write_bytes(content)
    assert_refused(path)


def test_a_model_without_our_metadata(tmp_path, copy):
    edit(copy, lambda model: helper.set_model_props(model, {"author": "somebody"}))
    message = assert_refused(copy)
    assert "not an edgeprune artifact" in message
    assert "edgeprune export" in message


@pytest.mark.parametrize("version", [str(FORMAT_VERSION + 1), "999", "one", "", "-1", "1.5", "٣"])
def test_a_format_that_is_not_ours(copy, version):
    assert "artifact format" in assert_refused(put(copy, format=version))


def test_a_copy_with_a_profile_in_it_is_no_base(copy):
    assert "no base for profiles" in assert_refused(put(copy, personalized="{}"))


@pytest.mark.parametrize("suffix", [".weights", ".masks"])
def test_a_missing_companion(copy, suffix):
    copy.with_suffix(suffix).unlink()
    message = assert_refused(copy)
    assert f"tiny{suffix}" in message
    assert "together" in message


@pytest.mark.parametrize("suffix", [".weights", ".masks"])
@pytest.mark.parametrize("size", [0, 3, 4, 100])
def test_a_short_companion(copy, suffix, size):
    companion = copy.with_suffix(suffix)
    companion.write_bytes(companion.read_bytes()[:size])
    assert f"tiny{suffix}" in assert_refused(copy)


@pytest.mark.parametrize("suffix", [".weights", ".masks"])
def test_a_companion_short_of_its_last_value(copy, suffix):
    companion = copy.with_suffix(suffix)
    companion.write_bytes(companion.read_bytes()[:-4])
    assert "too short or damaged" in assert_refused(copy)


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "/etc/passwd",
        "other.weights",
        "sub/tiny.weights",
        "./tiny.weights",
        "tiny.onnx",
        "..",
        "",
        "tiny.weights\x00",
    ],
)
def test_external_data_elsewhere_are_not_read(copy, location):
    copy.with_name("other.weights").write_bytes(copy.with_suffix(".weights").read_bytes())
    assert "external data" in assert_refused(externally(copy, location=location))


@pytest.mark.parametrize("offset", ["1", "2", "1000000000", str(2**70), "-64"])
def test_an_offset_outside_the_file(copy, offset):
    assert "too short or damaged" in assert_refused(externally(copy, offset=offset))


@pytest.mark.parametrize("offset", ["x", "", "1.5"])
def test_an_offset_that_is_no_number(copy, offset):
    assert_refused(externally(copy, offset=offset))


def test_an_external_tensor_without_a_place(copy):
    def change(model: Any) -> None:
        tensor = next(t for t in model.graph.initializer if t.external_data)
        del tensor.external_data[0]

    assert_refused(edit(copy, change))


@pytest.mark.parametrize("dims", [[-9], [9, 2**62, 4]])
def test_an_external_tensor_of_an_impossible_shape(copy, dims):
    def change(model: Any) -> None:
        tensor = next(t for t in model.graph.initializer if t.external_data)
        tensor.dims[:] = dims

    assert_refused(edit(copy, change))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("parameters", "Infinity"),
        ("macs", "1e999"),
        ("groups", "[" * 100_000),
        ("format", "²"),
        ("format", "9" * 5000),
    ],
)
def test_metadata_that_trip_the_parser(tiny, key, text):
    metadata = dict(tiny.info.to_metadata()) | {f"edgeprune.{key}": text}
    with pytest.raises(ArtifactError):
        ModelInfo.from_metadata(metadata)


def test_a_renamed_model_says_why_it_is_refused(copy):
    renamed = copy.rename(copy.with_name("renamed.onnx"))
    assert "renamed" in assert_refused(renamed)


# Every key in turn is replaced by text that is no JSON, and by JSON of another kind.
KEYS = ("input", "output", "groups", "operators", "parameters", "macs", "labels", "versions")
KEYS += ("inputs", "outputs", "prunable")


@FAST
@given(key=st.sampled_from(KEYS), text=st.text(max_size=30))
@example(key="groups", text="[")
@example(key="operators", text="")
def test_metadata_that_are_no_json(tiny, key, text):
    metadata = dict(tiny.info.to_metadata()) | {f"edgeprune.{key}": text}
    assert_only_artifact_errors(metadata)


@settings(max_examples=200, deadline=None)
@given(key=st.sampled_from(KEYS), value=JSON)
def test_metadata_of_another_kind(tiny, key, value):
    metadata = dict(tiny.info.to_metadata()) | {f"edgeprune.{key}": json.dumps(value)}
    assert_only_artifact_errors(metadata)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_one_damaged_field_of_an_operator_or_group(tiny, data):
    metadata = dict(tiny.info.to_metadata())
    key = data.draw(st.sampled_from(["edgeprune.operators", "edgeprune.groups"]))
    entries = json.loads(metadata[key])
    entry = data.draw(st.sampled_from(entries))
    field = data.draw(st.sampled_from(sorted(entry)))
    if data.draw(st.booleans()):
        del entry[field]
    else:
        entry[field] = data.draw(JSON)
    assert_only_artifact_errors(metadata | {key: json.dumps(entries)})


def assert_only_artifact_errors(metadata: dict[str, str]) -> None:
    with contextlib.suppress(ArtifactError):
        assert isinstance(ModelInfo.from_metadata(metadata), ModelInfo)


@pytest.mark.parametrize("key", [*KEYS, "model_id", "weights_sha256", "preprocess"])
def test_missing_metadata(tiny, key):
    metadata = dict(tiny.info.to_metadata())
    del metadata[f"edgeprune.{key}"]
    with pytest.raises(ArtifactError, match=r"damaged edgeprune metadata.*Export"):
        ModelInfo.from_metadata(metadata, where="m.onnx")


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("operators", {"reads": ["nobody"]}),
        ("operators", {"writes": ["frozen"]}),
        ("operators", {"writes": "conv1"}),
        ("operators", {"writes": ["conv1", "conv2"]}),
        ("operators", {"write_index": [0] * 8}),
        ("operators", {"write_index": [0] * 8 + [9]}),
        ("operators", {"write_index": [0] * 8 + [-1]}),
        ("operators", {"write_index": ["x"] * 9}),
        ("operators", {"surprise": 1}),
        ("operators", {"reference": {"source": "samples", "mean": "AAAA", "std": "AAAA"}}),
        ("operators", {"reference": {"source": "samples", "mean": "%%", "std": "%%"}}),
    ],
)
def test_names_and_lengths_must_resolve(tiny, key, change):
    metadata = dict(tiny.info.to_metadata())
    entries = json.loads(metadata[f"edgeprune.{key}"])
    entries[0] |= change
    with pytest.raises(ArtifactError, match="damaged"):
        ModelInfo.from_metadata(metadata | {f"edgeprune.{key}": json.dumps(entries)})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("inputs", []),
        ("inputs", [{"name": "z", "shape": [None, 3, 4, 4], "dtype": "float32"}]),
        ("inputs", [{"name": "x", "shape": [None, 3, 4], "dtype": "float32"}]),
        ("inputs", [{"name": "x", "shape": [None, 3, 4, 4], "dtype": "float33"}]),
        ("outputs", []),
        ("outputs", ["z"]),
        ("prunable", {"parameters": 1}),
    ],
)
def test_inputs_and_outputs_must_agree(tiny, key, value):
    metadata = dict(tiny.info.to_metadata()) | {f"edgeprune.{key}": json.dumps(value)}
    with pytest.raises(ArtifactError, match="damaged"):
        ModelInfo.from_metadata(metadata)


# --- versions -----------------------------------------------------------------------------------


def raw_metadata(artifact: Artifact) -> dict[str, str]:
    return {prop.key: prop.value for prop in artifact.model.metadata_props}


def test_format_1_is_read():
    """The bundled network was exported before there was a second format."""
    artifact = Artifact.open(Path(edgeprune.__file__).parent / "assets" / "digits.onnx")
    raw = raw_metadata(artifact)
    assert raw["edgeprune.format"] == "1"
    assert "edgeprune.inputs" not in raw
    info = artifact.info
    written = [operator["writes"] for operator in json.loads(raw["edgeprune.operators"])]
    assert [op.writes for op in info.operators] == [(w,) if w else () for w in written]
    assert all(op.write_index is None for op in info.operators)
    assert [(i.name, i.shape, i.dtype) for i in info.inputs] == [
        (info.input_name, info.input_shape, "float32")
    ]
    assert info.outputs == (info.output_name,)
    assert info.single
    assert 0 < info.prunable_parameters <= info.parameters
    batch = np.zeros((2, *info.input_shape[1:]), np.float32)
    assert Session(artifact).probabilities(batch).shape == (2, info.classes)


def test_format_1_rewritten_is_format_2():
    old = Artifact.open(Path(edgeprune.__file__).parent / "assets" / "digits.onnx").info
    new = ModelInfo.from_metadata(old.to_metadata())
    assert old.to_metadata()["edgeprune.format"] == "2"
    assert (new.groups, new.inputs, new.outputs) == (old.groups, old.inputs, old.outputs)
    assert [op.writes for op in new.operators] == [op.writes for op in old.operators]


def test_format_2_holds_what_format_1_cannot(tmp_path):
    """Heads, hidden units, a table of embeddings, several inputs and outputs."""
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell = torch.nn.Embedding(9, 6), torch.nn.LSTM(6, 4, batch_first=True)
            self.scale, self.fc = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

        def forward(self, words, x):
            y = self.cell(self.table(words))[0] * self.scale(x)[:, None].sigmoid()
            return self.fc(y), y.mean(1)

    examples = (torch.zeros(1, 5, dtype=torch.int64), torch.zeros(1, 3))
    written = export(Net(), examples, tmp_path / "net.onnx", dynamo=False).info
    artifact = Artifact.open(tmp_path / "net.onnx")
    assert raw_metadata(artifact)["edgeprune.format"] == "2"
    assert artifact.info.to_metadata() == written.to_metadata()
    assert artifact.info.groups == written.groups
    cell = artifact.info.operator_by_name["cell"]
    assert cell.write_index == written.operator_by_name["cell"].write_index
    assert artifact.tensors[cell.recurrence].shape == (1, 16, 4)
    assert [i.dtype for i in artifact.info.inputs] == ["int64", "float32"]
    assert len(artifact.info.outputs) == 2
    assert not artifact.info.single
    with pytest.raises(InputError, match="personalising is for networks of one float32 input"):
        artifact.info.require_classifier("personalising")


@pytest.mark.parametrize(("width", "told"), [(None, "something else than"), (1, "holds one score")])
def test_a_network_without_several_classes(tmp_path, width, told):
    """A map of scores, or one number a sample: nothing there can be compared class by class."""
    torch = pytest.importorskip("torch")
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, width or 2, 1)]
    if width:
        layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    path = tmp_path / "net.onnx"
    info = export(torch.nn.Sequential(*layers), torch.zeros(1, 3, 6, 6), path, dynamo=False).info
    assert info.single
    assert not info.classifier
    model, sample = edgeprune.load(path, store=tmp_path / "store"), np.zeros((3, 6, 6), np.float32)
    for refused in (
        lambda: model.personalize([sample] * 30),
        lambda: model.predict(sample),
        lambda: personalize(Artifact.open(path), [sample] * 30),
    ):
        with pytest.raises(InputError, match=told):
            refused()


@pytest.mark.parametrize("key", ["operators", "groups", "input", "output"])
def test_damaged_metadata_of_format_1(key):
    artifact = Artifact.open(Path(edgeprune.__file__).parent / "assets" / "digits.onnx")
    for text in ("null", "[1]", "{}", '[{"reads": 3}]'):
        with pytest.raises(ArtifactError, match="damaged"):
            ModelInfo.from_metadata(raw_metadata(artifact) | {f"edgeprune.{key}": text})


def test_a_head_that_is_no_operator(tiny):
    metadata = dict(tiny.info.to_metadata())
    output = json.loads(metadata["edgeprune.output"]) | {"head": "nobody"}
    with pytest.raises(ArtifactError, match="nobody"):
        ModelInfo.from_metadata(metadata | {"edgeprune.output": json.dumps(output)})


def test_verify_weights_tells_a_changed_file(copy):
    artifact = Artifact.open(copy)
    artifact.verify_weights()
    content = bytearray(copy.with_suffix(".weights").read_bytes())
    content[40] ^= 1
    copy.with_suffix(".weights").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"tiny\.weights.*changed"):
        artifact.verify_weights()


def test_verify_weights_takes_a_changed_masks_file(copy):
    content = bytearray(copy.with_suffix(".masks").read_bytes())
    content[0] ^= 1
    copy.with_suffix(".masks").write_bytes(content)
    Artifact.open(copy).verify_weights()


@given(st.lists(st.floats(width=32), max_size=20))
def test_floats_survive_base64_bit_for_bit(values):
    array = np.array(values, "<f4")
    assert decode_floats(encode_floats(array)).tobytes() == array.tobytes()


@pytest.mark.parametrize("text", ["*", "AAA", "AAAAA", "äöü", "AAAA"])
def test_damaged_base64_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        decode_floats(text)
