"""What can be wrong with what a user gives: one clear line, an exit code, and nothing changed."""

from __future__ import annotations

import shutil
import wave
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import edgeprune

HERE = Path(__file__).parent
EASY = edgeprune.Settings(min_agreement=0.0)


@pytest.fixture
def assert_refused(run, home, contents):
    """Run a command that must fail; return its message."""

    def call(*words: object, exit_code: int = 1) -> str:
        before = contents(home)
        done = run(*words)
        assert done.exit_code == exit_code, (done.output, done.exception)
        assert done.stdout == ""
        assert contents(home) == before
        message = done.stderr.strip().splitlines()[-1]
        assert message.startswith("edgeprune: error: ")
        assert "please report" not in message
        assert "Traceback" not in done.stderr
        return message

    return call


@pytest.fixture
def generation(pictures, home) -> Path:
    """The file of the one generation of the profile `default`, in force."""
    return edgeprune.load(pictures.model).personalize(pictures.adapt, settings=EASY).path


def write_sounds(folder: Path, seconds: float, level: float) -> Path:
    folder.mkdir()
    for number in range(12):
        values = np.random.default_rng(number).standard_normal(round(8000 * seconds)) * level
        with wave.open(str(folder / f"{number}.wav"), "wb") as stream:
            stream.setnchannels(1)
            stream.setsampwidth(2)
            stream.setframerate(8000)
            stream.writeframes((values * 32767).astype("<i2").tobytes())
    return folder


@pytest.mark.parametrize("command", ["inspect", "personalize", "predict", "evaluate"])
@pytest.mark.parametrize("content", [None, b"", b"not a model at all", b"\x08\x07" * 500])
def test_not_an_onnx_file(assert_refused, tmp_path, command, content):
    file = tmp_path / "model.onnx"
    if content is not None:
        file.write_bytes(content)
    message = assert_refused(command, file, *([] if command == "inspect" else [tmp_path]))
    assert str(file) in message
    assert "not an ONNX model" in message or "cannot read the model" in message


def test_an_onnx_file_that_is_no_artifact(assert_refused, tmp_path):
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    shape = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", shape[:1], shape[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "plain.onnx")
    message = assert_refused("personalize", tmp_path / "plain.onnx", tmp_path)
    assert "not an edgeprune artifact" in message
    assert "edgeprune export" in message


@pytest.mark.parametrize("suffix", [".weights", ".masks"])
def test_a_companion_that_is_missing_or_short(assert_refused, copied, suffix):
    companion = copied.model.with_suffix(suffix)
    companion.write_bytes(companion.read_bytes()[:100])
    assert companion.name in assert_refused("personalize", copied.model, copied.adapt)
    companion.unlink()
    assert companion.name in assert_refused("predict", copied.model, copied.adapt)


def test_a_profile_of_another_model(assert_refused, speech, pictures, generation, home):
    other = edgeprune.load(speech.model).personalize(speech.adapt, settings=EASY)
    shutil.copy(other.path, generation)
    assert "another model" in assert_refused("predict", pictures.model, pictures.test)


def test_a_truncated_profile(assert_refused, pictures, generation):
    data = generation.read_bytes()
    for length in (0, 7, 100, len(data) - 1):
        generation.write_bytes(data[:length])
        message = assert_refused("predict", pictures.model, pictures.test)
        assert str(generation) in message
        assert "edgeprune profiles rollback MODEL default" in message


def test_a_profile_full_of_nan(run, assert_refused, pictures, generation):
    data = bytearray(generation.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    floats = len(data[start:]) // 4 * 4
    data[len(data) - floats :] = np.full(floats // 4, np.nan, "<f4").tobytes()
    generation.write_bytes(data)
    message = assert_refused("evaluate", pictures.model, pictures.test)
    assert "cannot use" in message
    # The way back that the message names works.
    assert run("profiles", "rollback", pictures.model, "default").exit_code == 0
    assert run("predict", pictures.model, pictures.test).exit_code == 0


@pytest.mark.parametrize("command", ["personalize", "evaluate"])
def test_an_empty_folder(assert_refused, pictures, tmp_path, command):
    (tmp_path / "empty").mkdir()
    assert "No sample was found" in assert_refused(command, pictures.model, tmp_path / "empty")
    assert "does not exist" in assert_refused(command, pictures.model, tmp_path / "nowhere")


def test_nothing_to_predict(assert_refused, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "none of 1 " in assert_refused("predict", pictures.model, tmp_path / "empty")


def test_a_folder_of_corrupt_pictures(assert_refused, run, pictures, tmp_path):
    folder = tmp_path / "corrupt" / "n01443537"
    folder.mkdir(parents=True)
    for number in range(12):
        (folder / f"{number}.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture" * number)
    for command in ("personalize", "evaluate"):
        message = assert_refused(command, pictures.model, tmp_path / "corrupt")
        assert "0.jpg" in message
        assert "Unusable" in message
    assert "none of 12 " in assert_refused("predict", pictures.model, folder)


def test_some_corrupt_pictures_are_left_out(run, pictures, tmp_path):
    folder = tmp_path / "some"
    shutil.copytree(pictures.adapt, folder)
    for number in range(5):
        (folder / f"a{number}.jpg").write_bytes(b"broken")
    made = run("personalize", pictures.model, folder, "--min-agreement", "0")
    assert made.exit_code == 0, made.stderr
    assert "5 unusable" in made.stdout
    assert made.stderr.count("cannot use") == 3
    assert "and 2 more files" in made.stderr
    told = run("predict", pictures.model, folder)
    assert told.exit_code == 0
    assert told.stdout.count("\n") == 120
    assert told.stderr.count("cannot use") == 5


@pytest.mark.parametrize(("seconds", "why"), [(1.0, "silent"), (0.0, "zero length")])
def test_silence_and_sound_of_zero_length(assert_refused, speech, tmp_path, seconds, why):
    folder = write_sounds(tmp_path / "sounds", seconds, level=0.0)
    assert why in assert_refused("personalize", speech.model, folder)
    assert "none of 12 " in assert_refused("predict", speech.model, folder)


def test_too_few_samples(assert_refused, pictures, tmp_path):
    (tmp_path / "few").mkdir()
    for file in sorted(pictures.adapt.iterdir())[:9]:
        shutil.copy(file, tmp_path / "few")
    assert "at least 10" in assert_refused("personalize", pictures.model, tmp_path / "few")


def test_wrong_shapes_and_values_from_python(pictures, home):
    model = edgeprune.load(pictures.model)
    with pytest.raises(edgeprune.InputError, match="shape"):
        model.predict(np.zeros((2, 3, 33, 32), np.float32))
    with pytest.raises(edgeprune.InputError, match="shape"):
        model.personalize([np.zeros((1, 32, 32), np.float32)] * 20)
    with pytest.raises(edgeprune.InputError, match="NaN"):
        model.personalize(np.full((20, 3, 32, 32), np.nan, np.float32))
    with pytest.raises(edgeprune.InputError, match="batch"):
        model.predict([np.zeros(3, np.float32), np.zeros(4, np.float32)])
    with pytest.raises(edgeprune.NotEnoughSamples):
        model.personalize([])
    with pytest.raises(edgeprune.SourceError):
        model.predict("no/such/file.jpg")
    assert not home.exists()


@pytest.mark.parametrize("name", ["../x", "", "active", "a" * 65])
def test_a_name_that_cannot_name_a_profile(assert_refused, pictures, name):
    message = assert_refused("personalize", pictures.model, pictures.adapt, "--profile", name)
    assert "cannot name a profile" in message


def test_a_store_that_cannot_be_written_is_found_at_once(run, pictures, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("EDGEPRUNE_HOME", str(tmp_path / "file"))
    done = run("personalize", pictures.model, pictures.adapt)
    assert done.exit_code == 1
    assert "no folder that you may write to" in done.stderr
    assert "watching" not in done.stderr


def test_a_profile_that_is_not_there(assert_refused, pictures):
    message = assert_refused("predict", pictures.model, pictures.test, "--profile", "nobody")
    assert "edgeprune profiles list MODEL" in message


def test_unknown_labels(assert_refused, run, pictures, tmp_path):
    folder = tmp_path / "labelled"
    shutil.copytree(pictures.test, folder)
    (folder / "n01443537").rename(folder / "n01443573")
    message = assert_refused("evaluate", pictures.model, folder)
    assert "30 of 120" in message
    assert "did you mean 'n01443537'" in message
    done = run("evaluate", pictures.model, folder, "--skip-unknown")
    assert "30 of unknown label left out" in done.stdout
    (tmp_path / "map.csv").write_text("n01443573,0\n")
    done = run("evaluate", pictures.model, folder, "--label-map", tmp_path / "map.csv")
    assert done.stdout.startswith("samples     120\n")
    assert "--label-from name-prefix" in assert_refused("evaluate", pictures.model, pictures.adapt)


def test_a_table_of_labels(run, assert_refused, pictures, tmp_path):
    files = sorted(pictures.adapt.iterdir())[:20]
    table = tmp_path / "labels.csv"
    table.write_text("".join(f"{file},{file.name.split('_')[0]}\n" for file in files))
    first = run("evaluate", pictures.model, pictures.adapt, "--labels", table, "--json")
    assert '"unlabelled": 100' in first.stdout
    second = run("evaluate", pictures.model, table, "--json")
    assert '"unlabelled": 0' in second.stdout
    table.write_text("nothing.jpg,n01443537\n")
    assert "does not exist beside the table" in assert_refused("evaluate", pictures.model, table)


class TestExport:
    @pytest.fixture(autouse=True)
    def here(self, monkeypatch, tmp_path):
        """`nets` can be imported from here; nothing may be left in the target folder."""
        monkeypatch.chdir(HERE)
        self.target = tmp_path / "out"
        self.target.mkdir()
        yield
        assert list(self.target.iterdir()) == []

    def words(self, *more: object, factory="nets:pictures", shape="1x3x32x32"):
        return ("export", factory, "--input", shape, "-o", self.target / "m.onnx", *more)

    def test_a_factory_that_raises(self, assert_refused):
        message = assert_refused(*self.words(factory="nets:failing"))
        assert "ValueError: no such checkpoint" in message

    @pytest.mark.parametrize(
        ("factory", "why"),
        [
            ("nets:number", "no torch.nn.Module"),
            ("nets:missing", "has no 'missing'"),
            ("no_such_module:x", "cannot import"),
            ("nets", "package.module:function"),
        ],
    )
    def test_what_is_no_factory(self, assert_refused, factory, why):
        assert why in assert_refused(*self.words(factory=factory))

    def test_weights_that_do_not_fit(self, assert_refused, tmp_path):
        torch.save({"0.0.weight": torch.zeros(1), "more": torch.zeros(1)}, tmp_path / "w.pt")
        message = assert_refused(*self.words("--weights", tmp_path / "w.pt"))
        assert "do not fit" in message
        assert "1 unexpected (more)" in message
        (tmp_path / "w.pt").write_bytes(b"nonsense")
        assert "plain tensors" in assert_refused(*self.words("--weights", tmp_path / "w.pt"))

    @pytest.mark.parametrize("shape", ["1x1x32x32", "1x3x32"])
    def test_a_wrong_input_shape(self, assert_refused, shape):
        assert "Nothing was written" in assert_refused(*self.words(shape=shape))

    def test_a_text_that_is_no_shape(self, assert_refused):
        assert "1x3x224x224" in assert_refused(*self.words(shape="3,32,32"))

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (["--preprocess", "imagenett"], "Did you mean 'imagenet'?"),
            (["--preprocess", "imagenet"], "(3, 224, 224)"),
            (["--preprocess", '{"kind": "image"}'], "height"),
            (["--preprocess", "{"], "not JSON"),
            (["--labels", "only"], "no file of labels"),
            (["--labels", "a,b"], "2 labels"),
            (["--samples", "."], "--preprocess"),
        ],
    )
    def test_wrong_options(self, assert_refused, words, why):
        assert why in assert_refused(*self.words(*words))

    def test_samples_that_are_all_corrupt(self, assert_refused, tmp_path):
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
        spec = '{"kind": "image", "height": 32, "width": 32}'
        message = assert_refused(*self.words("--preprocess", spec, "--samples", tmp_path / "bad"))
        assert "a.png" in message

    def test_without_torch_the_pip_line_is_told(self, process):
        script = "import sys; sys.modules['torch'] = None\nfrom edgeprune._cli import main\nmain()"
        import subprocess
        import sys

        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, self.words())],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("edgeprune: error: ")
        assert "edgeprune[export]" in done.stderr
