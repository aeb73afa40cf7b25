"""Pictures of every mode, orientation and degree of damage."""

from __future__ import annotations

import io
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeprune.devices import BadSample, ImagePreprocess, read_image

# Four flat quarters: red, green / blue, yellow. JPEG leaves them alone.
QUARTERS = np.zeros((64, 48, 3), np.uint8)
QUARTERS[:32, :24] = (250, 10, 10)
QUARTERS[:32, 24:] = (10, 250, 10)
QUARTERS[32:, :24] = (10, 10, 250)
QUARTERS[32:, 24:] = (250, 250, 10)
AS_IS = ImagePreprocess(height=64, width=48, layout="NHWC")

# How an upright picture is stored so that the EXIF value turns it upright again.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
}


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def reason_of(path: Path) -> str:
    with pytest.raises(BadSample) as caught:
        AS_IS(read_image(path))
    assert caught.value.path == path
    return caught.value.reason


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_orientation(orientation: int, suffix: str, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](QUARTERS)))
    options = {"quality": 95, "exif": exif} if suffix != ".png" else {"exif": exif}
    path = saved(stored, tmp_path / f"a{suffix}", **options)
    out = AS_IS(read_image(path))
    inner = np.s_[[8, 8, 56, 56], [6, 42, 6, 42]]
    np.testing.assert_allclose(out[inner], QUARTERS[inner], atol=12)
    np.testing.assert_array_equal(AS_IS(Image.open(path)), out)


@pytest.mark.parametrize("exif", [b"Exif\x00\x00broken", b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"])
def test_broken_exif_loses_no_picture(exif: bytes, tmp_path: Path):
    path = saved(Image.fromarray(QUARTERS), tmp_path / "a.jpg", quality=95, exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's, about the EXIF block
        out = AS_IS(read_image(path))
    np.testing.assert_allclose(out[8, 6], QUARTERS[8, 6], atol=12)


def lossless(image: Image.Image, tmp_path: Path, suffix: str = ".png") -> NDArray[np.float32]:
    return AS_IS(read_image(saved(image, tmp_path / f"a{suffix}")))


def test_palette_greyscale_bilevel_and_bmp(tmp_path: Path):
    rgb = Image.fromarray(QUARTERS)
    palette = rgb.quantize(8)
    np.testing.assert_array_equal(lossless(palette, tmp_path), np.asarray(palette.convert("RGB")))
    grey = np.asarray(rgb.convert("L"))
    out = lossless(rgb.convert("L"), tmp_path)
    np.testing.assert_array_equal(out, np.repeat(grey[:, :, None], 3, axis=2))
    assert set(np.unique(lossless(rgb.convert("1"), tmp_path))) == {0.0, 255.0}
    np.testing.assert_array_equal(lossless(rgb, tmp_path, ".bmp"), QUARTERS)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_transparency_is_laid_on_white(suffix: str, tmp_path: Path):
    alpha = np.full((64, 48, 1), 255, np.uint8)
    alpha[:32], alpha[32:, :24] = 0, 128
    rgba = Image.fromarray(np.concatenate([QUARTERS, alpha], axis=2))
    path = saved(rgba, tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    out = AS_IS(read_image(path))
    assert (out[:32] == 255).all()
    half = QUARTERS[40, 6] * (128 / 255) + 255 * (127 / 255)
    np.testing.assert_allclose(out[40, 6], half, atol=1)
    np.testing.assert_array_equal(out[32:, 24:], QUARTERS[32:, 24:])


def test_other_kinds_of_transparency(tmp_path: Path):
    grey_alpha = Image.fromarray(QUARTERS).convert("LA")
    grey_alpha.putalpha(0)
    assert (lossless(grey_alpha, tmp_path) == 255).all()
    palette = Image.fromarray(QUARTERS).quantize(4)
    path = saved(palette, tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    out = AS_IS(read_image(path))
    assert (out[:32, :24] == 255).all()
    np.testing.assert_allclose(out[40, 6], QUARTERS[40, 6], atol=2)
    path = saved(Image.fromarray(QUARTERS), tmp_path / "t.png", transparency=(250, 10, 10))
    assert (AS_IS(read_image(path))[:32, :24] == 255).all()


def test_cmyk_jpeg(tmp_path: Path):
    path = saved(Image.fromarray(QUARTERS).convert("CMYK"), tmp_path / "a.jpg", quality=95)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
    out = AS_IS(read_image(path))
    inner = np.s_[[8, 8, 56, 56], [6, 42, 6, 42]]
    np.testing.assert_allclose(out[inner], QUARTERS[inner], atol=16)


def test_sixteen_bit_greyscale_is_scaled_not_clipped(tmp_path: Path):
    ramp = np.linspace(0, 65_535, 64 * 48).reshape(64, 48).astype(np.uint16)
    out = lossless(Image.fromarray(ramp), tmp_path)
    np.testing.assert_allclose(out[:, :, 0], ramp / 257, atol=0.51)
    with pytest.raises(BadSample, match="16 bits"):
        AS_IS(Image.fromarray(np.full((4, 4), -1, np.int32)))


def test_multi_picture_jpeg_gives_its_first(tmp_path: Path):
    first, second = Image.fromarray(QUARTERS), Image.new("RGB", (48, 64))
    path = saved(first, tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    np.testing.assert_allclose(AS_IS(read_image(path))[8, 6], QUARTERS[8, 6], atol=12)


def test_arrays_from_a_camera():
    np.testing.assert_array_equal(AS_IS(QUARTERS), QUARTERS)
    np.testing.assert_array_equal(AS_IS(QUARTERS[:, ::-1]), QUARTERS[:, ::-1])
    grey = QUARTERS[:, :, 0]
    wanted = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(AS_IS(grey), wanted)
    np.testing.assert_array_equal(AS_IS(grey[:, :, None]), wanted)
    clear = np.concatenate([QUARTERS, np.zeros((64, 48, 1), np.uint8)], axis=2)
    assert (AS_IS(clear) == 255).all()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (QUARTERS.astype(np.float32), "uint8"),
        (np.zeros((3, 64, 48), np.uint8), "must be"),
        (np.zeros((5,), np.uint8), "must be"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        ("cat.jpg", "not str"),
    ],
)
def test_unusable_arrays_are_refused(array: Any, reason: str):
    with pytest.raises(BadSample, match=reason):
        AS_IS(array)


def test_missing_empty_and_foreign_files(tmp_path: Path):
    assert "no such file" in reason_of(tmp_path / "none.jpg")
    (tmp_path / "empty.jpg").touch()
    assert "empty" in reason_of(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("not a picture at all")
    assert "not a whole" in reason_of(tmp_path / "text.jpg")
    gif = saved(Image.fromarray(QUARTERS), tmp_path / "gif.jpg", format="GIF")
    assert "not a whole" in reason_of(gif)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_files(suffix: str, share: float, pictures: list[Path], tmp_path: Path):
    with Image.open(pictures[0]) as image:
        path = saved(image, tmp_path / f"a{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "not a whole" in reason_of(path)


def test_a_lazily_opened_truncated_picture(pictures: list[Path]):
    cut = io.BytesIO(pictures[0].read_bytes()[:4000])
    with Image.open(cut) as image, pytest.raises(BadSample, match="cannot be decoded"):
        AS_IS(image)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = saved(Image.new("1", (20_000, 20_000)), tmp_path / "bomb.png")
    assert path.stat().st_size < 100_000
    assert "too many pixels" in reason_of(path)
    # Whatever another part of the program did to Pillow's own limit.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert "more than" in reason_of(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_damaged_bytes_never_escape_the_promised_error(suffix: str, tmp_path: Path):
    chance = random.Random(suffix)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(Image.fromarray(QUARTERS), tmp_path / f"a{suffix}", exif=exif)
    whole = path.read_bytes()
    outcomes = []
    for _ in range(150):
        raw = bytearray(whole)
        for _ in range(chance.randint(1, 5)):
            raw[chance.randrange(min(len(raw), 400))] = chance.randrange(256)
        path.write_bytes(raw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Pillow's, about EXIF blocks
            try:
                outcomes.append(AS_IS(read_image(path)).shape == (64, 48, 3))
            except BadSample:
                outcomes.append(True)
    assert outcomes == [True] * 150
