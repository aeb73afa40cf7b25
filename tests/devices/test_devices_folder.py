"""Folders, files and lists of samples, and label tables."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.devices import (
    BadSample,
    ImagePreprocess,
    LogMelPreprocess,
    MissingExtra,
    SourceError,
    WaveformPreprocess,
    open_folder,
    read_audio,
    read_image,
    read_label_csv,
)

PICTURE = ImagePreprocess(height=8, width=8)
SOUND = WaveformPreprocess(sample_rate_hz=8000, duration_s=0.5)
SPEECH = 0.3 * np.sin(np.arange(4000) / 5)


def picture(path: Path, shade: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 10), (shade, shade, shade)).save(path)
    return path


def test_real_pictures(data: Path):
    root = data / "tiny-imagenet" / "adapt"
    folder = open_folder(root, PICTURE)
    assert len(folder) == len(folder.paths) == 200 * 40
    assert set(folder.labels) == {path.name for path in root.iterdir() if path.is_dir()}
    sample = folder[0]
    assert sample.label == sample.path.parent.name
    np.testing.assert_array_equal(sample.array, PICTURE(read_image(sample.path)))
    assert folder[-1].path == folder.paths[-1]


def test_real_sounds(data: Path, words: list[Path]):
    features = LogMelPreprocess(
        sample_rate_hz=16_000,
        duration_s=1,
        window_samples=400,
        fft_samples=512,
        hop_samples=160,
        bands=40,
    )
    folder = open_folder(words, features)
    assert folder.preprocess is features
    assert folder.paths == tuple(words)
    for index, path in enumerate(words):
        sample = folder[index]
        assert (sample.array.shape, sample.label) == (features.output_shape, None)
        np.testing.assert_array_equal(sample.array, features(read_audio(path)))
    digits = open_folder(data / "fsdd", SOUND)
    assert len(digits) == 3000
    assert set(digits.labels) == {None}


def test_order_labels_and_what_is_passed_over(tmp_path: Path, write_wav: Callable[..., Path]):
    for name in ("b/2.PNG", "b/1.jpg", "a/deep/x.JpEg", "top.webp", "b-c/3.bmp"):
        picture(tmp_path / name)
    picture(tmp_path / ".hidden" / "h.png")
    picture(tmp_path / "b" / ".h.png")
    (tmp_path / "b" / "notes.txt").write_text("no sample")
    (tmp_path / "b" / "dangling.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "b" / "pipe.png")
    write_wav(SPEECH, name="b/1.wav")
    folder = open_folder(tmp_path, PICTURE)
    found = [str(path.relative_to(tmp_path)) for path in folder.paths]
    assert found == ["a/deep/x.JpEg", "b/1.jpg", "b/2.PNG", "b-c/3.bmp", "top.webp"]
    assert folder.labels == ("deep", "b", "b", "b-c", None)
    assert [folder[i].label for i in range(5)] == list(folder.labels)
    assert [path.name for path in open_folder(str(tmp_path), SOUND).paths] == ["1.wav"]


def test_the_current_folder_by_its_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "2.png")
    monkeypatch.chdir(tmp_path)
    assert open_folder(".", PICTURE).labels == (None, "a")


def test_links_to_files_count_and_links_to_folders_are_reported(tmp_path: Path):
    real = picture(tmp_path / "real" / "1.png")
    (tmp_path / "linked.png").symlink_to(real)
    (tmp_path / "real" / "loop").symlink_to(tmp_path, target_is_directory=True)
    folder = open_folder(tmp_path, PICTURE)
    assert [path.name for path in folder.paths] == ["linked.png", "1.png"]
    assert [path.name for path, _ in folder.rejected] == ["loop"]
    assert "not followed" in folder.rejected[0][1]
    # A root that is itself a link is what the user named, so it is opened.
    (tmp_path / "alias").symlink_to(tmp_path / "real", target_is_directory=True)
    assert len(open_folder(tmp_path / "alias", PICTURE)) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_an_unreadable_subfolder_is_reported(tmp_path: Path):
    picture(tmp_path / "1.png")
    locked = tmp_path / "lost+found"
    locked.mkdir(mode=0o000)
    folder = open_folder(tmp_path, PICTURE)
    assert len(folder) == 1
    assert folder.rejected == ((locked, "the folder cannot be read (Permission denied)"),)


def test_nothing_usable_says_what_was_looked_for(tmp_path: Path):
    with pytest.raises(SourceError, match=r"\.flac, \.ogg, \.wav"):
        open_folder(tmp_path, SOUND)
    with pytest.raises(SourceError, match=r"\.bmp, \.jpeg, \.jpg, \.png, \.webp"):
        open_folder(tmp_path, PICTURE)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(SourceError, match="loop: a link to a folder"):
        open_folder(tmp_path, PICTURE)


def test_one_file_and_lists(tmp_path: Path):
    first, second = picture(tmp_path / "x" / "2.png"), picture(tmp_path / "1.PNG")
    assert open_folder(first, PICTURE).paths == (first,)
    assert open_folder(str(first), PICTURE)[0].label is None
    assert open_folder([first, str(second)], PICTURE).paths == (first, second)
    with pytest.raises(SourceError, match="empty list"):
        open_folder([], PICTURE)
    with pytest.raises(SourceError, match="does not exist"):
        open_folder([first, tmp_path / "no.png"], PICTURE)
    with pytest.raises(SourceError, match="does not exist"):
        open_folder(tmp_path / "nowhere", PICTURE)
    with pytest.raises(SourceError, match="not a file"):
        open_folder([tmp_path], PICTURE)
    with pytest.raises(SourceError, match="not of a kind"):
        open_folder(first, SOUND)


def test_bad_samples_are_raised_by_index_and_recorded_once_by_load(tmp_path: Path):
    picture(tmp_path / "a.png", shade=7)
    bad = tmp_path / "b.png"
    bad.write_bytes(b"nothing of a picture")
    folder = open_folder(tmp_path, PICTURE)
    good = folder.load(0)
    assert good is not None
    assert (good.array == 7).all()
    with pytest.raises(BadSample) as caught:
        folder[1]
    assert caught.value.path == bad
    assert folder.rejected == ()
    assert folder.load(1) is folder.load(1) is None
    assert folder.rejected == ((bad, caught.value.reason),)
    with pytest.raises(IndexError):
        folder.load(2)


def test_a_reason_from_the_preprocess_gets_its_path(tmp_path: Path):
    dot = tmp_path / "dot.png"
    Image.new("RGB", (1, 1)).save(dot)
    crop = ImagePreprocess(height=32, width=32, resize="crop_fraction")
    with pytest.raises(BadSample, match="centre crop") as caught:
        open_folder(dot, crop)[0]
    assert caught.value.path == dot


def test_a_missing_extra_is_not_blamed_on_the_sample(
    tmp_path: Path, words: list[Path], monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(words[0], tmp_path / "a.flac")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    folder = open_folder(tmp_path, SOUND)
    with pytest.raises(MissingExtra):
        folder.load(0)
    assert folder.rejected == ()


def test_digits_run_on_base_dependencies_only(digits: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    monkeypatch.setitem(sys.modules, "soxr", None)
    folder = open_folder(digits, SOUND)
    assert [folder.load(i) is not None for i in range(len(folder))] == [True] * len(digits)
    assert folder.rejected == ()


def test_nothing_is_written(tmp_path: Path):
    picture(tmp_path / "a" / "1.png")
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    open_folder(tmp_path, PICTURE).load(0)
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("header", ["", "file,label\n", "\ufeffFile, Label\r\n"])
def test_label_tables(header: str, tmp_path: Path):
    first, second = picture(tmp_path / "x" / "1.png"), picture(tmp_path / "Größe, 2.png")
    third = picture(tmp_path / "3.png")
    table = tmp_path / "labels.csv"
    table.write_text(f'{header}x/1.png, cat\n\n"Größe, 2.png","a dog, barking"\n', encoding="utf-8")
    labels = read_label_csv(table)
    assert labels == {first.resolve(): "cat", second.resolve(): "a dog, barking"}
    folder = open_folder(tmp_path, PICTURE, labels=labels)
    by_name = dict(zip(folder.paths, folder.labels, strict=True))
    assert by_name == {third: None, second: "a dog, barking", first: "cat"}
    assert open_folder([first], PICTURE, labels=labels)[0].label == "cat"


def test_tables_that_mention_none_of_the_samples(tmp_path: Path):
    picture(tmp_path / "1.png")
    with pytest.raises(SourceError, match="mentions none"):
        open_folder(tmp_path, PICTURE, labels={Path("elsewhere.png"): "cat"})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (b"", "no rows"),
        (b"file,label\n", "no rows"),
        (b"file,label\n1.png\n", "line 2: expected file,label"),
        (b"1.png,cat,3\n", "line 1: expected"),
        (b"1.png,\n", "line 1: expected"),
        (b"1.png,cat\n./1.png,dog\n", "line 2: ./1.png was named before"),
        (b"1.png,cat\n\nno.png,dog\n", "line 3: no.png does not exist"),
        (b"1.png,\xff\xfe\n", "not a UTF-8 table"),
        (b"1.png," + b"x" * 200_000 + b"\n", "not a UTF-8 table"),
    ],
)
def test_wrong_tables_say_where(rows: bytes, message: str, tmp_path: Path):
    picture(tmp_path / "1.png")
    table = tmp_path / "labels.csv"
    table.write_bytes(rows)
    with pytest.raises(SourceError, match=message):
        read_label_csv(table)


def test_a_missing_table(tmp_path: Path):
    with pytest.raises(SourceError, match=r"labels\.csv cannot be opened"):
        read_label_csv(tmp_path / "labels.csv")
