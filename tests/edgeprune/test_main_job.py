"""The main job on real pictures and sounds, by command and from Python."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

import edgeprune
from edgeprune import GuardRefused, Settings

# A net of a few seconds' training: what is tested is the machinery, not the guard's judgement.
EASY = Settings(min_agreement=0.0)
AT_ANY_PRICE = ("--min-agreement", "0")


@pytest.fixture
def model(pictures, home):
    return edgeprune.load(pictures.model)


@pytest.fixture
def batch(model, pictures):
    files = sorted(pictures.test.rglob("*.JPEG"))[::17]
    from edgeprune.devices import read_image

    return np.stack([model.preprocess(read_image(file)) for file in files])


def test_inspect(run, pictures):
    done = run("inspect", pictures.model, "--json")
    found = json.loads(done.stdout)
    assert found["parameters"]["prunable"] >= 0.9 * found["parameters"]["total"]
    assert found["masks_neutral"]
    assert found["weights_intact"]
    assert [g["name"] for g in found["groups"] if g["frozen"]]
    assert found["can_go"]["hidden"]["macs"] > 0.2
    text = run("inspect", pictures.model, "--groups").stdout
    assert "network output" in text
    assert "half of the hidden units" in text


def test_the_whole_job_by_command(run, pictures, home):
    model = pictures.model
    made = run("personalize", model, pictures.adapt, *AT_ANY_PRICE)
    assert made.exit_code == 0, made.stderr
    for part in ("120 seen", " of the hidden units", "generation 1", "held out"):
        assert part in made.stdout
    assert f"Undo: edgeprune profiles rollback {model} default" in made.stderr

    told = run("predict", model, pictures.test, "--top", "2")
    lines = told.stdout.splitlines()
    assert len(lines) == 120
    assert all(len(line.split("\t")) == 5 for line in lines)

    scored = json.loads(run("evaluate", model, pictures.test, "--json").stdout)
    assert scored["samples"] == 120
    assert scored["generation"] == 1
    low, high = scored["difference_interval"]
    assert low <= scored["difference"] <= high
    right = sum(line.split("\t")[0].split("/")[-2] == line.split("\t")[1] for line in lines)
    assert right / 120 == pytest.approx(scored["personalized"]["top1"])
    dense = json.loads(run("evaluate", model, pictures.test, "--dense", "--json").stdout)
    assert dense["dense"] == scored["dense"]
    assert dense["personalized"] is None
    assert "time ratio" in run("evaluate", model, pictures.test).stdout


def test_profiles_by_command(run, pictures, home, contents):
    model = pictures.model
    for _ in range(2):
        assert run("personalize", model, pictures.adapt, *AT_ANY_PRICE, "-q").exit_code == 0
    listed = run("profiles", "list", model)
    assert "* default" in listed.stdout
    shown = json.loads(run("profiles", "show", model, "default", "--json").stdout)
    assert (shown["generation"], shown["parent"], shown["generations"]) == (2, 1, [1, 2])
    assert "in force: 2" in run("profiles", "show", model, "default").stdout
    assert "Did you mean 'default'?" in run("profiles", "show", model, "defualt").stderr

    assert "generation 1 is in force" in run("profiles", "rollback", model, "default").stdout
    assert "as trained" in run("profiles", "rollback", model, "default", "--to", "0").stdout
    gone = run("profiles", "rollback", model, "default", "--to", "9")
    assert gone.exit_code == 1
    assert "1, 2" in gone.stderr
    assert run("profiles", "activate", model, "--none").exit_code == 0
    assert "*" not in run("profiles", "list", model).stdout
    assert run("profiles", "activate", model, "default").exit_code == 0

    before = contents(home)
    assert run("profiles", "forget", model, "default").exit_code == 2  # nobody to ask
    assert contents(home) == before
    assert run("profiles", "forget", model, "default", "--yes").exit_code == 0
    assert contents(home) == {}
    assert run("profiles", "list", model).stdout == "no profiles\n"


def test_the_store_is_where_the_option_says(run, pictures, home, tmp_path):
    run("personalize", pictures.model, pictures.adapt, *AT_ANY_PRICE, "--store", tmp_path / "x")
    assert not home.exists()
    assert list((tmp_path / "x" / "profiles").rglob("*.safetensors"))


def test_rollback_is_bit_exact(model, pictures, batch):
    assert model.profile is None
    dense = model.probabilities(batch).tobytes()
    first = model.personalize(pictures.adapt, settings=EASY)
    after = model.probabilities(batch).tobytes()
    assert after != dense
    second = model.personalize(pictures.test, settings=EASY)
    assert (first.generation, second.generation) == (1, 2)
    assert model.rollback("default") == 1
    assert model.probabilities(batch).tobytes() == after
    assert model.rollback("default") == 0
    assert model.probabilities(batch).tobytes() == dense
    assert model.rollback("default", to=1) == 1
    assert edgeprune.load(pictures.model).probabilities(batch).tobytes() == after
    model.use(None)
    assert model.probabilities(batch).tobytes() == dense
    assert model.profiles()[0].active


@pytest.mark.parametrize("strength", ["light", "deep"])
def test_an_exported_copy_needs_no_edgeprune(run, pictures, batch, tmp_path, strength):
    expected = edgeprune.load(pictures.model, threads=1)
    settings = Settings(min_agreement=0.0, strength=strength)
    expected.personalize(pictures.adapt, settings=settings)
    done = run("profiles", "export", pictures.model, "default", "-o", tmp_path / "copy")
    assert done.exit_code == 0, done.stderr
    copy = tmp_path / "copy" / "pictures.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    bare = onnxruntime.InferenceSession(copy, options, providers=["CPUExecutionProvider"])
    outputs = bare.run(None, {bare.get_inputs()[0].name: batch})[0]
    assert outputs.tobytes() == expected._running().run(batch).tobytes()
    # It is no base model, and says so; and an existing folder is left alone.
    assert "copy with a profile written into it" in run("inspect", copy).stderr
    again = run("profiles", "export", pictures.model, "default", "-o", tmp_path / "copy")
    assert again.exit_code == 1
    assert "no empty folder" in again.stderr


def test_arrays_and_folders_personalise_alike(model, pictures, batch):
    from edgeprune.devices import open_folder

    folder = open_folder(pictures.adapt, model.preprocess)
    arrays = [folder[index].array for index in range(len(folder))]
    by_folder = model.personalize(pictures.adapt, profile="a", settings=EASY)
    from_folder = model.probabilities(batch)
    by_arrays = model.personalize(arrays, profile="b", settings=EASY)
    assert by_folder.guard == by_arrays.guard
    assert model.profile == "b"
    assert model.probabilities(batch).tobytes() == from_folder.tobytes()


def test_predict_takes_files_folders_arrays_and_batches(model, pictures, batch):
    file = sorted(pictures.test.rglob("*.JPEG"))[0]
    (one,) = model.predict(file, top=4)
    assert one.path == file
    assert sum(share for _, share in one.top) == pytest.approx(1, abs=1e-5)
    assert one.label == model.info.labels[one.index]
    assert len(model.predict(pictures.test)) == 120
    assert [p.label for p in model.predict(batch)] == [model.predict(x)[0].label for x in batch]


def test_the_guard_refuses_and_changes_nothing(run, model, pictures, home, contents):
    model.personalize(pictures.adapt, settings=EASY)
    before = contents(home)
    strict = ("--sparsity", "0.9", "--channel-multiple", "1", "--min-agreement", "1")
    strict = (*strict, "--criterion", "random", "--strength", "light", "--prior", "off")
    done = run("personalize", pictures.model, pictures.adapt, *strict)
    assert done.exit_code == 3
    assert "Nothing was changed" in done.stderr
    assert done.stdout == ""
    assert contents(home) == before
    with pytest.raises(GuardRefused):
        model.personalize(
            pictures.adapt,
            settings=Settings(
                sparsity=0.9,
                channel_multiple=1,
                min_agreement=1.0,
                criterion="random",
                strength="light",
                prior="off",
            ),
        )
    assert contents(home) == before
    assert model.generation == 1


def test_a_profile_need_not_be_activated(run, pictures):
    run("personalize", pictures.model, pictures.adapt, *AT_ANY_PRICE, "--no-activate")
    assert "*" not in run("profiles", "list", pictures.model).stdout
    found = json.loads(
        run("predict", pictures.model, pictures.test, "--profile", "default", "--json", "-q").stdout
    )
    assert found["generation"] == 1
    assert len(found["predictions"]) == 120


def test_torch_stays_out_of_the_device(home, pictures):
    script = (
        "import sys\n"
        "from edgeprune._cli import _run\n"
        "model, adapt, test = sys.argv[1:]\n"
        "for words in (['personalize', model, adapt, '--min-agreement', '0'],\n"
        "              ['predict', model, test], ['evaluate', model, test], ['inspect', model]):\n"
        "    sys.argv = ['edgeprune', *words]\n"
        "    assert _run() == 0\n"
        "assert not {'torch', 'onnxscript', 'soundfile'} & set(sys.modules)\n"
    )
    words = map(str, (pictures.model, pictures.adapt, pictures.test))
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_speech_by_name_prefix(run, speech):
    done = run("evaluate", speech.model, speech.adapt, "--label-from", "name-prefix", "--json")
    assert json.loads(done.stdout)["samples"] == 40
    done = run("personalize", speech.model, speech.adapt, *AT_ANY_PRICE, "--json")
    assert json.loads(done.stdout)["samples_adapted"] == 32
