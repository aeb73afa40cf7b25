"""Compaction from the front door: the same answers from a smaller file, and honest claims."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeprune
from edgeprune import _compaction
from edgeprune._demo import demo_model
from edgeprune._machine import Conditions
from edgeprune._timing import Arm, Ratio, Spread, Timing
from edgeprune.devices import open_folder

MODEL = demo_model()
ADAPT, TEST = MODEL.parent / "demo" / "adapt", MODEL.parent / "demo" / "test"
QUICK = ("--no-timing", "-q")


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A store in which the bundled model has a profile that keeps odd numbers of units."""
    store = tmp_path_factory.mktemp("store")
    settings = edgeprune.Settings(channel_multiple=1, sparsity=0.55, min_agreement=0.0)
    edgeprune.load(MODEL, store=store).personalize(ADAPT, settings=settings)
    return store


@pytest.fixture
def personalized(made, home) -> Path:
    """The same as the user's own store, which a test may change."""
    shutil.copytree(made, home)
    return home


@pytest.fixture
def small(personalized, run, tmp_path) -> Path:
    path = tmp_path / "small.onnx"
    assert run("compact", MODEL, "-o", path, *QUICK).exit_code == 0
    return path


@pytest.fixture
def assert_refused(run, contents, tmp_path):
    """Run a command that must fail; nothing may appear beside what is there."""

    def call(*words: object, exit_code: int = 1) -> str:
        before = contents(tmp_path)
        done = run(*words)
        assert done.exit_code == exit_code, (done.output, done.exception)
        assert done.stdout == ""
        assert "please report" not in done.stderr
        assert contents(tmp_path) == before
        return done.stderr

    return call


def samples(count: int = 20) -> np.ndarray:
    folder = open_folder(TEST, edgeprune.load(MODEL).preprocess)
    return np.stack([folder[i].array for i in range(0, len(folder), len(folder) // count)])


def timed(ratio: float) -> Timing:
    """As if the compacted network took so much of the masked one's time."""
    spread = Spread(1.0, 1.0, 1.0)
    one = Ratio(ratio, ratio, ratio, ratio * 0.99, ratio * 1.01, 0.96, 50)
    control = Ratio(1.0, 0.99, 1.01, 0.99, 1.01, 0.96, 50)
    arm = Arm("compacted", spread, one, one.verdict(0.01), 1)
    return Timing("masked", (arm,), control, 0.01, Conditions(1.0), ())


def test_the_compacted_network_answers_as_the_masked_one(small, personalized):
    model, compact = edgeprune.load(MODEL), edgeprune.load_compact(small)
    batch = samples()
    expected = model.probabilities(batch)
    assert np.abs(compact.probabilities(batch) - expected).max() < 1e-5
    model.use(None)
    assert np.abs(model.probabilities(batch) - expected).max() > 1e-2
    assert compact.base_model_id == model.info.model_id
    assert compact.title == "small.onnx"
    kept = {name: int(mask.sum()) for name, mask in profile_masks(personalized).items()}
    assert compact.units == kept
    assert sum(compact.units.values()) < sum(group.units for group in model.info.prunable)


def profile_masks(store: Path) -> dict[str, np.ndarray]:
    from edgeprune.runtime.artifact import Artifact

    model = edgeprune.load(MODEL, store=store)
    return dict(model.store.load("default", Artifact.open(MODEL)).masks)


def test_any_program_runs_it(small):
    from edgeprune.runtime._ort import InferenceSession

    model = onnx.load(small)
    onnx.checker.check_model(model, full_check=True)
    assert all(not tensor.external_data for tensor in model.graph.initializer)
    session = InferenceSession(str(small), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: samples(3)})
    assert outputs.shape[1] == 10


def test_the_report(personalized, run, tmp_path):
    path = tmp_path / "small.onnx"
    done = run("compact", MODEL, "-o", path, "--samples", TEST, "--json", "-q", "--threads", 1)
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["path"] == str(path)
    assert data["bytes_after"] == path.stat().st_size < data["bytes_before"]
    assert data["parameters_after"] < data["parameters_before"]
    assert data["macs_after"] < data["macs_before"]
    assert data["worst_error_random"] <= 1e-4
    assert data["worst_error_samples"] <= 1e-4
    assert data["samples_checked"] == 32
    assert (data["profile"], data["generation"]) == ("default", 1)
    assert data["channel_multiple"] == 16
    assert data["padded_units"] > 0
    assert data["timing"]["reference"] == "masked"
    assert data["speed"] in ("faster", "slower", "no difference")
    assert data["threads"] == 1
    assert all(group["left"] % 16 == 0 for group in data["groups"])
    assert all(group["left"] >= group["kept"] for group in data["groups"])


def test_the_report_as_text(personalized, run, tmp_path, monkeypatch):
    monkeypatch.setattr(_compaction, "measure", lambda *_args, **_options: timed(0.4))
    done = run("compact", MODEL, "-o", tmp_path / "small.onnx")
    assert done.exit_code == 0
    for word in ("parameters", "multiply-adds", "worst error", "fill multiples"):
        assert word in done.stdout
    assert "2.50 times faster (time ratio 0.400" in done.stdout
    assert "does not pay" not in done.output
    assert "edgeprune evaluate" in done.stderr


@pytest.mark.usefixtures("personalized")
@pytest.mark.parametrize(("ratio", "told"), [(1.0, "no measurable difference"), (1.5, "slower")])
def test_no_speed_up_is_claimed_where_there_is_none(run, tmp_path, monkeypatch, ratio, told):
    monkeypatch.setattr(_compaction, "measure", lambda *_args, **_options: timed(ratio))
    done = run("compact", MODEL, "-o", tmp_path / "small.onnx")
    assert done.exit_code == 0
    assert told in done.stdout
    assert "times faster" not in done.stdout
    assert "does not pay on this machine" in done.stderr
    assert "Keep the model with its profile" in done.stderr


def test_rounding_down_changes_no_profile_unless_asked(personalized, run, tmp_path, contents):
    before = contents(personalized)
    path = tmp_path / "small.onnx"
    done = run("compact", MODEL, "-o", path, "--round", "down", "--json", *QUICK)
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert contents(personalized) == before
    assert data["changed_units"] > 0
    assert data["updated_generation"] is None
    assert all(group["left"] % 16 == 0 for group in data["groups"])
    assert all(group["left"] == group["kept"] for group in data["groups"])
    told = run("compact", MODEL, "-o", path, "--round", "down", *QUICK).stdout
    assert "units fewer, which no profile says" in told


def test_rounding_down_with_update_saves_what_is_computed(personalized, run, tmp_path):
    path = tmp_path / "small.onnx"
    words = ("--round", "down", "--update-profile", *QUICK)
    done = run("compact", MODEL, "-o", path, *words, "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert (data["generation"], data["updated_generation"]) == (1, 2)
    batch = samples()
    model = edgeprune.load(MODEL)
    assert model.generation == 2
    expected = model.probabilities(batch)
    assert np.abs(edgeprune.load_compact(path).probabilities(batch) - expected).max() < 1e-5
    assert model.rollback("default") == 1
    # Nothing is left to round: no new generation.
    model.rollback("default", to=2)
    data = json.loads(run("compact", MODEL, "-o", path, *words, "--json").stdout)
    assert (data["changed_units"], data["updated_generation"]) == (0, None)


def test_the_network_as_trained(home, run, tmp_path):
    done = run("compact", MODEL, "-o", tmp_path / "d.onnx", "--dense", "--json", *QUICK)
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["profile"] is None
    assert data["parameters_after"] == data["parameters_before"]
    batch = samples()
    model = edgeprune.load(MODEL)
    dense = edgeprune.load_compact(tmp_path / "d.onnx").probabilities(batch)
    assert np.array_equal(dense, model.probabilities(batch))


def test_predict_and_evaluate_run_it(small, process):
    done = process("predict", small, TEST, "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["profile"] is None
    ours = [one["label"] for one in data["predictions"]]
    masked = json.loads(process("predict", MODEL, TEST, "--json").stdout)["predictions"]
    assert ours == [one["label"] for one in masked]
    done = process("evaluate", small, TEST)
    assert done.returncode == 0, done.stderr
    assert "small.onnx" in done.stdout
    assert "top-1" in done.stdout


def test_predict_side_by_side(small, run):
    done = run("predict", small, TEST, "--against", MODEL)
    assert done.exit_code == 0
    cells = done.stdout.splitlines()[0].split("\t")
    assert len(cells) == 5
    assert cells[1] == cells[3]
    assert "small.onnx and digits.onnx (profile default) agree on 100.0 % of the files" in (
        done.stderr
    )
    data = json.loads(run("predict", small, TEST, "--against", MODEL, "--json").stdout)
    assert data["against"]["agreement"] == 1.0
    assert data["against"]["profile"] == "default"
    assert len(data["against"]["predictions"]) == len(data["predictions"])


def test_evaluate_side_by_side(small, run):
    done = run("evaluate", small, TEST, "--against", MODEL, "--json", "-q")
    assert done.exit_code == 0, done.output
    first, second = json.loads(done.stdout)["networks"]
    assert (first["name"], second["name"]) == ("small.onnx", "digits.onnx (profile default)")
    assert first["difference"] is None
    assert second["difference"] == 0
    assert second["agreement"] == 1.0
    assert second["time_ratio"]["median"] > 0
    assert second["speed"] in ("faster", "slower", "no difference")
    done = run("evaluate", MODEL, TEST, "--against", small)
    assert "digits.onnx (profile default)  top-1" in done.stdout
    assert "digits.onnx (as trained)" in done.stdout
    assert "small.onnx" in done.stdout
    assert "same answer on 100.0 %" in done.stdout


def test_networks_that_answer_otherwise_are_not_compared(small, pictures, run):
    done = run("evaluate", small, TEST, "--against", pictures.model)
    assert done.exit_code == 1
    assert "do not have the same classes" in done.stderr
    assert "scoring" not in done.stderr


def test_a_compacted_network_has_no_profiles(small, assert_refused, tmp_path):
    for words in (
        ["personalize", small, ADAPT],
        ["inspect", small],
        ["profiles", "list", small],
        ["compact", small, "-o", tmp_path / "smaller.onnx", "--dense"],
        ["verify", small],
    ):
        message = assert_refused(*words)
        assert "is a compacted network" in message
        assert "Open the model that it was made from" in message
    for words in (["predict", small, TEST, "--dense"], ["evaluate", small, TEST, "--profile", "x"]):
        assert "which has no profiles" in assert_refused(*words, exit_code=2)
    with pytest.raises(edgeprune.ArtifactError, match="compacted"):
        edgeprune.load(small)
    with pytest.raises(edgeprune.ArtifactError, match="is no compacted network"):
        edgeprune.load_compact(MODEL)


def test_damaged_metadata(small, run):
    model = onnx.load(small)
    for entry in model.metadata_props:
        if entry.key == "edgeprune.compacted":
            entry.value = "{"
    onnx.save(model, small)
    done = run("predict", small, TEST)
    assert done.exit_code == 1
    assert "damaged edgeprune metadata" in done.stderr


def test_bad_input(personalized, assert_refused, tmp_path):
    target = tmp_path / "small.onnx"
    assert "profile 'nobody'" in assert_refused(
        "compact", MODEL, "-o", target, "--profile", "nobody", *QUICK
    )
    (tmp_path / "text.onnx").write_text("no model")
    assert "not an ONNX model" in assert_refused("compact", tmp_path / "text.onnx", "-o", target)
    assert "cannot read the model" in assert_refused(
        "compact", tmp_path / "nowhere.onnx", "-o", target
    )
    assert "does not exist" in assert_refused(
        "compact", MODEL, "-o", target, "--samples", "nowhere"
    )
    for path in (tmp_path / "no" / "small.onnx", tmp_path, tmp_path / "small.txt", MODEL):
        assert "Nothing was written" in assert_refused("compact", MODEL, "-o", path, *QUICK)


def test_wrong_usage(home, assert_refused, tmp_path):
    target = tmp_path / "small.onnx"
    assert "No profile is active" in assert_refused("compact", MODEL, "-o", target, exit_code=2)
    words = ["compact", MODEL, "-o", target, "--dense"]
    assert "--update-profile belongs to --round down" in assert_refused(
        *words, "--update-profile", exit_code=2
    )
    message = assert_refused(*words, "--round", "down", "--update-profile")
    assert "no profile is in use" in message
    assert "-o" in assert_refused("compact", MODEL, exit_code=2)


def test_an_old_file_stays_when_compaction_fails(personalized, run, tmp_path, monkeypatch):
    target = tmp_path / "small.onnx"
    target.write_text("what was there")

    def fail(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgeprune.runtime._atomic.os.fsync", fail)
    done = run("compact", MODEL, "-o", target, *QUICK)
    assert done.exit_code == 1
    assert "disk is full" in done.stderr
    assert target.read_text() == "what was there"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["small.onnx"]


@pytest.fixture
def mapper(tmp_path) -> Path:
    """A network that gives a map of scores: there is nothing to personalise it by."""
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 48, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(48, 2, 1)
    )
    path = tmp_path / "mapper" / "net.onnx"
    path.parent.mkdir()
    edgeprune.export(net, torch.zeros(1, 3, 8, 8), path, dynamo=False)
    return path


def test_units_of_ones_own_choice(mapper, run, tmp_path):
    np.savez(tmp_path / "masks.npz", **{"0": np.arange(48) % 3 == 0})
    target = tmp_path / "small.onnx"
    words = ("compact", mapper, "-o", target, "--masks", tmp_path / "masks.npz", "--no-timing")
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(g["kept"], g["left"]) for g in report["groups"]] == [(16, 16)]
    assert report["masks_given"] == 1
    assert report["worst_error_random"] <= 1e-6
    assert "run" in done.stderr
    assert "evaluate" not in done.stderr
    shapes = {tuple(t.dims) for t in onnx.load(target).graph.initializer}
    assert (16, 3, 3, 3) in shapes
    assert "none: the network as trained, masks for 1 groups" in run(*words).stdout


def test_all_units_of_a_group_may_go(mapper, run, tmp_path):
    np.savez(tmp_path / "masks.npz", **{"0": np.zeros(48, np.int64)})
    words = ("compact", mapper, "-o", tmp_path / "small.onnx", "--masks", tmp_path / "masks.npz")
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["vanished_groups"] == ["0"]
    assert report["speed"] in ("faster", "slower", "no difference")


@pytest.mark.parametrize(
    ("masks", "told"),
    [
        ({"0": np.full(48, 2)}, "something else than 0 and 1"),
        ({"0": np.full(48, "a")}, "something else than 0 and 1"),
        ({"0": np.ones(47)}, "must be a bool vector of 48"),
        ({"nobody": np.ones(48)}, "belongs to no group"),
        (None, "cannot read masks from"),
    ],
)
def test_masks_that_are_none(mapper, assert_refused, tmp_path, masks, told):
    path = tmp_path / "masks.npz"
    if masks is None:
        path.write_text("no archive")
    else:
        np.savez(path, **masks)
    target = tmp_path / "small.onnx"
    assert told in assert_refused("compact", mapper, "-o", target, "--masks", path, *QUICK)


def test_masks_exclude_a_profile(home, assert_refused, tmp_path):
    words = ["compact", MODEL, "-o", tmp_path / "small.onnx", "--masks", tmp_path / "masks.npz"]
    for more in (["--dense"], ["--profile", "a"], ["--round", "down", "--update-profile"]):
        assert "--masks excludes" in assert_refused(*words, *more, exit_code=2)


def test_rounding_down_is_refused_where_it_harms(personalized, assert_refused, contents, tmp_path):
    """The network has adapted to the units it kept: a few fewer, and it takes words for others."""
    before, path = contents(personalized), tmp_path / "s.onnx"
    words = ("compact", MODEL, "-o", path, "--round", "down", "--channel-multiple", 12)
    more = ("--samples", ADAPT, "--update-profile", *QUICK)
    message = assert_refused(*words, *more, exit_code=3)
    assert "same class on" in message
    assert "Nothing was written" in message
    assert contents(personalized) == before


def test_rounding_down_without_samples_says_that_nothing_was_judged(personalized, run, tmp_path):
    words = ("compact", MODEL, "-o", tmp_path / "s.onnx", "--round", "down", "--no-timing")
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert "nothing makes up for them" in done.stderr


def test_rounding_down_that_does_no_harm_is_told(home, run, tmp_path):
    """One unit more than asked for, of a network that was not pruned before."""
    info = edgeprune.load(MODEL).info
    group = max(info.prunable, key=lambda group: group.units)
    keep = np.arange(group.units) > 0
    np.savez(tmp_path / "m.npz", **{group.name: keep})
    words = ("--masks", tmp_path / "m.npz", "--round", "down", "--channel-multiple", 2)
    path = tmp_path / "s.onnx"
    done = run("compact", MODEL, "-o", path, *words, "--samples", ADAPT, "--json", *QUICK)
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["changed_units"] == 1
    assert data["rounding"]["samples"] == 32
    assert data["rounding"]["agreement"] >= 0.9
    assert data["rounding"]["expected_loss"] <= 0.01
    told = run("compact", MODEL, "-o", path, *words, "--samples", ADAPT, *QUICK).stdout
    assert "1 unit fewer: same class on" in told
