"""The zoo is what it says: sizes as published, any batch, the same weights every time."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.runtime._ort import make_session

from . import ZOO, MissingPackage, ZooModel
from .encoders import Wav2Vec2, Wav2Vec2Shape
from .layers import count_parameters
from .transformers import Llama, Swin

LONGEST_FILE = 400


def entries(*, files: bool) -> list[object]:
    """The names of the networks, or of the finished ONNX files."""
    return [
        pytest.param(name, marks=[pytest.mark.slow] if model.slow else [])
        for name, model in ZOO.items()
        if (model.path is not None) == files
    ]


NETWORKS = pytest.mark.parametrize("name", entries(files=False))
FILES = pytest.mark.parametrize("name", entries(files=True))


def built(model: ZooModel) -> tuple[nn.Module, tuple[Tensor, ...]]:
    assert model.build is not None
    try:
        return model.build()
    except MissingPackage as error:
        pytest.skip(str(error))


def located(model: ZooModel) -> Path:
    assert model.path is not None
    try:
        return model.path()
    except MissingPackage as error:
        pytest.skip(str(error))


def outputs(net: nn.Module, *inputs: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        output = net(*inputs)
    return [output] if torch.is_tensor(output) else list(output)


@NETWORKS
def test_the_size_is_the_published_one(name: str) -> None:
    model = ZOO[name]
    net, _ = built(model)
    count = count_parameters(net)
    assert count > 1000
    if model.published_parameters is not None:
        assert count == pytest.approx(model.published_parameters, rel=model.tolerance, abs=0)


@NETWORKS
def test_every_sample_is_answered_alone_in_any_batch(name: str) -> None:
    model = ZOO[name]
    net, example = built(model)
    assert not any(module.training for module in net.modules())
    assert [tensor.shape[0] for tensor in example] == [2] * len(model.inputs)
    three = model.example(3, seed=1)
    together = outputs(net, *three)
    for index in range(3):
        alone = outputs(net, *(tensor[index : index + 1] for tensor in three))
        for one, many in zip(alone, together, strict=True):
            scale = many.abs().max().item()
            torch.testing.assert_close(one[0], many[index], rtol=0, atol=1e-4 * scale)


@NETWORKS
def test_the_answer_depends_on_the_input_and_is_of_ordinary_size(name: str) -> None:
    net, example = built(ZOO[name])
    for output in outputs(net, *example):
        assert output.isfinite().all()
        assert 1e-3 < output.abs().max() < 1e3
        assert (output[0] - output[1]).abs().max() > 1e-3 * output.abs().max()


@NETWORKS
def test_it_is_the_same_network_every_time(name: str) -> None:
    before = torch.random.get_rng_state()
    first, example = built(ZOO[name])
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    second, again = built(ZOO[name])
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    assert all(map(torch.equal, example, again))


@NETWORKS
def test_no_normalisation_is_neutral(name: str) -> None:
    net, _ = built(ZOO[name])
    for path, module in net.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            assert module.running_mean.abs().max() > 1e-3, path
            assert (module.running_var - 1).abs().max() > 1e-3, path
            # EfficientNet-Lite0 as trained has channels of no variance at all.
            assert (module.running_var >= 0).all(), path
        weight = getattr(module, "weight", None)
        if torch.is_tensor(weight) and weight.ndim == 1:
            assert (weight - 1).abs().max() > 1e-3, path


@FILES
@pytest.mark.parametrize("batch", [1, 3])
def test_a_finished_file_runs(name: str, batch: int) -> None:
    model = ZOO[name]
    session = make_session(located(model))
    assert {item.name for item in session.get_inputs()} == set(model.input_names)
    first, *_ = session.run(None, model.arrays(batch))
    assert len(first) == batch
    assert np.isfinite(first).all()


@pytest.mark.parametrize(
    ("make", "published"),
    [
        (Swin, 28_288_354),  # torchvision's swin_t
        # Transformers' Wav2Vec2Model of the base size, without its mask for training.
        (lambda: Wav2Vec2(Wav2Vec2Shape()), 94_371_712 - 768),
        # One layer of Llama 3 8B, and the norm that comes after the last.
        (Llama, 218_112_000 + 4096),
    ],
    ids=["swin_t", "wav2vec2_base", "llama3_8b"],
)
def test_what_stands_small_in_the_zoo_is_true_at_full_size(
    make: Callable[[], nn.Module], published: int
) -> None:
    with torch.device("meta"):
        assert count_parameters(make()) == published


@pytest.mark.parametrize(
    "name", ["voice_encoder", "crepe_tiny", "pnet", "silero_vad", "efficientnet_lite0"]
)
def test_a_missing_package_is_named_with_its_pip_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    model = ZOO[name]
    load = model.build or model.path
    assert load is not None
    with pytest.raises(MissingPackage, match=r"pip install .*=="):
        load()


def test_every_entry_is_complete() -> None:
    for name, model in ZOO.items():
        assert model.name == name
        assert (model.build is None) != (model.path is None)
        assert model.source
        assert 0 <= model.tolerance < 0.2
    assert {model.family for model in ZOO.values()} == {"cnn", "transformer", "recurrent"}


def test_no_file_is_long() -> None:
    for file in Path(__file__).parent.glob("*.py"):
        assert len(file.read_text("utf-8").splitlines()) < LONGEST_FILE, file.name
