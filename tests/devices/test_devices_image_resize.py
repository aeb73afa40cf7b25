"""Resize rules, colours and layout against implementations that are not ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgeprune.devices import BadSample, ImagePreprocess, read_image


def rgb(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def by_torch(
    source: NDArray[np.uint8], size: tuple[int, int], mode: str, *, rows_first: bool
) -> NDArray[np.float32]:
    """Resize along one axis, then the other; what overshoots 0..255 is cut off in between.

    Pillow holds whole levels between its two passes, so bicubic overshoot is lost there; the
    order of the passes differs between its versions.
    """
    import torch

    out = torch.from_numpy(source.astype(np.float32)).permute(2, 0, 1)[None]
    first = (size[0], out.shape[3]) if rows_first else (out.shape[2], size[1])
    for step in (first, size):
        out = torch.nn.functional.interpolate(
            out, size=step, mode=mode, antialias=True, align_corners=False
        ).clamp(0, 255)
    result: NDArray[np.float32] = out[0].permute(1, 2, 0).numpy()
    return result


def assert_equals_torch(
    ours: NDArray[np.float32], source: NDArray[np.uint8], size: tuple[int, int], mode: str
) -> None:
    worst = []
    for rows_first in (False, True):
        difference = np.abs(ours - by_torch(source, size, mode, rows_first=rows_first))
        assert difference.mean() < 0.5
        worst.append(float(difference.max()))
    assert min(worst) <= 1.6  # levels of 255: two roundings


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(224, 224), (96, 130), (500, 300)])
def test_stretch_equals_torch(mode: str, size: tuple[int, int], pictures: list[Path]):
    spec = ImagePreprocess(height=size[0], width=size[1], interpolation=mode, layout="NHWC")
    for path in pictures[:4]:
        assert_equals_torch(spec(read_image(path)), rgb(path), size, mode)


def test_tiny_pictures_enlarged_equal_torch(data: Path):
    paths = sorted((data / "tiny-imagenet" / "adapt").glob("*/*.JPEG"))[::900]
    spec = ImagePreprocess(
        height=224, width=224, resize="stretch", interpolation="bicubic", layout="NHWC"
    )
    for path in paths:
        assert_equals_torch(spec(read_image(path)), rgb(path), (224, 224), "bicubic")


def test_efficientnet_center_crop(pictures: list[Path]):
    spec = ImagePreprocess(
        height=224,
        width=224,
        resize="crop_fraction",
        interpolation="bicubic",
        mean=(127.0,),
        std=(128.0,),
    )
    for path in pictures[:6]:
        source = rgb(path)
        high, wide = source.shape[:2]
        side = int(224 / (224 + 32) * min(high, wide))
        top, left = (high - side + 1) // 2, (wide - side + 1) // 2
        part = source[top : top + side, left : left + side]
        out = spec(read_image(path))
        assert (out.shape, out.dtype) == ((3, 224, 224), np.float32)
        assert_equals_torch(out.transpose(1, 2, 0) * 128 + 127, part, (224, 224), "bicubic")


sizes = st.integers(1, 300)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    high=sizes,
    wide=sizes,
    crop=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    extra=st.integers(0, 40),
    mode=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
)
def test_short_side_equals_resize_everything_then_crop(
    high: int, wide: int, crop: tuple[int, int], extra: int, mode: str
):
    short_side = max(crop) + extra
    # Soft noise: bicubic overshoot beyond 0..255 would be cut off in one pass or in another.
    noise = np.random.default_rng(high * 1000 + wide).integers(90, 165, (high, wide, 3), np.uint8)
    spec = ImagePreprocess(
        height=crop[0],
        width=crop[1],
        resize="short_side",
        short_side=short_side,
        interpolation=mode,
        layout="NHWC",
    )
    whole = (int(short_side * wide / min(high, wide)), int(short_side * high / min(high, wide)))
    resized = Image.fromarray(noise).resize(whole, getattr(Image.Resampling, mode.upper()))
    left, top = round((whole[0] - crop[1]) / 2), round((whole[1] - crop[0]) / 2)
    reference = np.asarray(resized.crop((left, top, left + crop[1], top + crop[0])), np.float32)
    assert np.abs(spec(noise) - reference).max() <= 2.0


def test_an_extreme_strip_takes_no_memory():
    strip = np.full((1, 8192, 3), 77, np.uint8)
    spec = ImagePreprocess(height=2048, width=32, resize="short_side", short_side=2048)
    assert (spec(strip) == 77).all()


def test_nearest_takes_values_and_mixes_none():
    source = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    out = ImagePreprocess(height=100, width=80, interpolation="nearest", layout="NHWC")(source)
    np.testing.assert_array_equal(out, source.repeat(2, axis=0).repeat(2, axis=1))


def test_lanczos_equals_pillow(pictures: list[Path]):
    with Image.open(pictures[0]) as image:
        wanted = np.asarray(image.convert("RGB").resize((100, 80), Image.Resampling.LANCZOS))
    spec = ImagePreprocess(height=80, width=100, interpolation="lanczos", layout="NHWC")
    np.testing.assert_array_equal(spec(read_image(pictures[0])), wanted)


def spec_of(**changes: Any) -> ImagePreprocess:
    return ImagePreprocess(**({"height": 20, "width": 30} | changes))


def test_normalization_follows_the_order_of_the_channels():
    source = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    mean, std = (10.0, 20.0, 30.0), (1.0, 2.0, 4.0)
    as_rgb = spec_of(mean=mean, std=std, layout="NHWC")(source)
    np.testing.assert_allclose(as_rgb, (source - np.array(mean)) / np.array(std), rtol=1e-6)
    as_bgr = spec_of(mean=mean, std=std, layout="NHWC", color="BGR")(source)
    np.testing.assert_allclose(
        as_bgr, (source[:, :, ::-1] - np.array(mean)) / np.array(std), rtol=1e-6
    )


@pytest.mark.parametrize("color", ["RGB", "BGR", "L"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_shape_type_and_memory_order(color: str, layout: str):
    source = np.random.default_rng(0).integers(0, 256, (25, 35, 3), np.uint8)
    spec = spec_of(color=color, layout=layout)
    out = spec(source)
    channels = 1 if color == "L" else 3
    assert out.shape == spec.output_shape
    assert out.shape == ((channels, 20, 30) if layout == "NCHW" else (20, 30, channels))
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    out += 1  # neither read-only nor a view of Pillow's memory


def test_layouts_hold_the_same_values():
    source = np.random.default_rng(0).integers(0, 256, (25, 35, 3), np.uint8)
    planes, pixels = spec_of(layout="NCHW")(source), spec_of(layout="NHWC")(source)
    np.testing.assert_array_equal(planes.transpose(1, 2, 0), pixels)
    assert planes.std() > 1


def test_greyscale_weights_are_those_of_itu_601():
    source = np.zeros((20, 30, 3), np.uint8)
    source[:, :, 1] = 200
    assert (spec_of(color="L")(source) == round(0.587 * 200)).all()


def test_a_single_pixel_has_no_center_crop():
    spec = spec_of(height=32, width=32, resize="crop_fraction")
    with pytest.raises(BadSample, match="nothing after the centre crop"):
        spec(np.zeros((1, 1, 3), np.uint8))
