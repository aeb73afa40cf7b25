"""The keyword spotter's shape, and that its recipe learns: on real speech where there is some."""

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the recipes need edgeprune[export]")
soundfile = pytest.importorskip("soundfile", reason="the recipes need edgeprune[audio]")

from edgeprune.exporters.recipes import corpora, keyword, train_keyword  # noqa: E402

QUICK = replace(train_keyword.RECIPES["plain"], views=2, epochs=5, batch=32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def fsdd() -> corpora.Corpus:
    """Every eighth take of the spoken digits, theo left out: 300 to train, 70 of theo."""
    folder = os.environ.get("EDGEPRUNE_DATA")
    if not folder:
        pytest.skip("EDGEPRUNE_DATA is not set: no real speech to train on")
    whole = corpora.load_fsdd(Path(folder) / "fsdd", hold_out="theo")
    per_take: dict[tuple[str, int], int] = {}
    kept = []
    for clip in whole.clips:
        count = per_take[clip.speaker, clip.label] = per_take.get((clip.speaker, clip.label), 0) + 1
        if count % 7 == 0:
            kept.append(clip)
    return replace(whole, clips=tuple(kept))


@pytest.mark.parametrize("classes", [2, 10, 20])
def test_output_has_one_logit_per_class(classes: int) -> None:
    features = torch.zeros(3, 1, *keyword.log_mel(8000).output_shape[1:])
    assert keyword.keyword_net(classes).eval()(features).shape == (3, classes)


@pytest.mark.parametrize("frames", [20, 63, 200])
def test_any_number_of_frames_is_accepted(frames: int) -> None:
    assert keyword.keyword_net().eval()(torch.zeros(1, 1, 40, frames)).shape == (1, 10)


def test_parameters_fit_the_bundle() -> None:
    model = keyword.keyword_net()
    assert sum(p.numel() for p in model.parameters()) == 39_050
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    assert buffer.tell() <= 300_000


def test_every_convolution_is_followed_by_batchnorm_and_relu() -> None:
    flat = [m for m in keyword.keyword_net().modules() if not list(m.children())]
    kinds = [type(m) for m in flat]
    found = [i for i, m in enumerate(flat) if isinstance(m, torch.nn.Conv2d)]
    assert len(found) == 9
    assert all(kinds[i + 1 : i + 3] == [torch.nn.BatchNorm2d, torch.nn.ReLU] for i in found)
    assert all(flat[i].bias is None for i in found)


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_features_have_one_shape_at_every_rate(rate_hz: int) -> None:
    assert keyword.log_mel(rate_hz).output_shape == (1, 40, 63)


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_no_band_is_empty(rate_hz: int) -> None:
    click = np.zeros(rate_hz, dtype=np.float32)
    click[rate_hz // 2] = 1.0  # a click has the same power at every frequency
    features = keyword.log_mel(rate_hz)(click)[0]
    assert features.max(axis=1).min() > features.min() + 1.0


def test_a_mask_hides_at_most_its_stripes() -> None:
    dice = torch.Generator().manual_seed(1)
    recipe = train_keyword.RECIPES["full"]
    hidden = train_keyword._spec_augment(torch.ones(64, 1, 40, 63), recipe, dice) == 0
    assert hidden.any()
    assert hidden.all(dim=3).sum(dim=2).max() <= recipe.masked_bands
    assert hidden.all(dim=2).sum(dim=2).max() <= recipe.masked_frames


def test_reestimation_leaves_the_model_alone_and_normalises_the_copy() -> None:
    model = keyword.keyword_net().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = torch.randn(16, 1, 40, 63, generator=torch.Generator().manual_seed(2)) * 5 + 3
    copied = train_keyword.reestimated(model, batch)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    first = next(m for m in copied.modules() if isinstance(m, torch.nn.Conv2d))
    norm = next(m for m in copied.modules() if isinstance(m, torch.nn.BatchNorm2d))
    torch.testing.assert_close(norm.running_mean, first(batch).mean(dim=(0, 2, 3)))
    trained = {name for name, _ in model.named_parameters()}
    assert all(torch.equal(before[n], t) for n, t in copied.named_parameters() if n in trained)


def test_too_few_clips_are_refused() -> None:
    clip = corpora.Clip(np.ones(800, dtype=np.float32), 0, "a", adapts=True)
    corpus = corpora.Corpus((clip,), 8000, ("zero",), frozenset())
    with pytest.raises(ValueError, match="fewer than one batch"):
        train_keyword.train(corpus, QUICK)


def test_unknown_speaker_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "3_theo_1.wav", np.zeros(800), 8000)
    with pytest.raises(ValueError, match="there are: theo"):
        corpora.load_fsdd(tmp_path, hold_out="thea")


def test_wrong_rate_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "3_theo_1.wav", np.zeros(800), 16000)
    with pytest.raises(ValueError, match=r"3_theo_1\.wav: expected mono at 8000 Hz"):
        corpora.load_fsdd(tmp_path)


def test_takes_are_split_by_parity_and_the_held_out_speaker_is_not_heard(
    fsdd: corpora.Corpus,
) -> None:
    heard = {id(clip) for clip in fsdd.training()}
    adapt, score = fsdd.user("theo", adapts=True), fsdd.user("theo", adapts=False)
    assert adapt
    assert score
    assert not heard & {id(clip) for clip in adapt + score}
    assert {id(c) for c in adapt}.isdisjoint(id(c) for c in score)


def test_training_learns_and_repeats_itself(fsdd: corpora.Corpus) -> None:
    small = replace(QUICK, epochs=2, views=1)
    first, second = (train_keyword.train(fsdd, small, seed=5).state_dict() for _ in range(2))
    other = train_keyword.train(fsdd, small, seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)

    model = train_keyword.train(fsdd, replace(QUICK, epochs=8))
    clips = fsdd.training()
    batch = train_keyword.features([c.samples for c in clips], keyword.log_mel(8000))
    # Chance is 0.1. Statistics of the batch: so few steps leave the running ones behind.
    model = train_keyword.reestimated(model, batch)
    assert train_keyword.accuracy(model, batch, [c.label for c in clips]) > 0.4


def test_training_leaves_the_global_random_state_alone(fsdd: corpora.Corpus) -> None:
    before = torch.get_rng_state()
    train_keyword.train(fsdd, replace(QUICK, epochs=1, views=1))
    assert torch.equal(before, torch.get_rng_state())


def test_saved_weights_load_without_pickle(tmp_path: Path) -> None:
    model = keyword.keyword_net()
    train_keyword.save(model, tmp_path / "weights.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    keyword.keyword_net().load_state_dict(state)
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())
