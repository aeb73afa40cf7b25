"""Pictures of every mode, from a file, a camera or memory, as plain RGB or greyscale."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._errors import BadSample

__all__ = ["IMAGE_SUFFIXES", "as_color", "read_image"]

IMAGE_SUFFIXES: Final = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
# A closed list: Pillow has decoders for fifty formats, each of them an attack surface.
_FORMATS: Final = ("BMP", "JPEG", "PNG", "WEBP")
# As Pillow's own default, but in force whatever a program did to Image.MAX_IMAGE_PIXELS:
# 89 megapixels are 270 MB of RGB.
_MAX_PIXELS: Final = 89_478_485
# What Pillow's decoders are known to raise on damaged bytes.
_DECODE_ERRORS: Final = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, OverflowError),
    *(struct.error, zlib.error),
)
_ORIENTATION_TAG: Final = 0x0112
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BOMBS: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def read_image(path: Path) -> Image.Image:
    """Decode the first frame of a JPEG, PNG, WebP or BMP file, in the mode it has.

    Raises:
        BadSample: no such file, empty, damaged, truncated, of another format, or
            larger than 89 megapixels.
    """
    try:
        if path.stat().st_size == 0:
            raise BadSample(path, "the file is empty")
        with Image.open(path, formats=_FORMATS) as image:
            _check_pixels(image, path)
            image.load()
            return image
    except _BOMBS as error:
        raise BadSample(path, f"too many pixels: {error}") from error
    except FileNotFoundError as error:
        raise BadSample(path, "no such file") from error
    except _DECODE_ERRORS as error:
        raise BadSample(path, f"not a whole {'/'.join(_FORMATS)} picture: {error}") from error


def as_color(picture: Image.Image | NDArray[np.uint8], mode: str) -> Image.Image:
    """Return an upright picture of mode "RGB" or "L".

    EXIF orientation is applied; transparency is laid on white; 16-bit greyscale is
    scaled to 0–255. Colour profiles are not applied.

    Raises:
        BadSample: the picture cannot be decoded or has a form that is not understood.
    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture).convert(mode)
    if not isinstance(picture, Image.Image):
        raise BadSample(None, f"a picture is a PIL image or an array, not {type(picture).__name__}")
    _check_pixels(picture, None)
    try:
        picture.load()  # a lazily opened file is decoded here, so its damage shows here
        return _opaque(_upright(picture)).convert(mode)
    except _DECODE_ERRORS as error:
        raise BadSample(None, f"the picture cannot be decoded: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    # Pillow's exif_transpose also writes the EXIF block anew and fails on odd ones; a
    # broken block is no reason to lose a good picture.
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODE_ERRORS:
        return image
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _check_pixels(image: Image.Image, path: Path | None) -> None:
    width, height = image.size
    if width * height > _MAX_PIXELS:
        raise BadSample(path, f"{width} x {height} is more than {_MAX_PIXELS} pixels")
    if width * height == 0:
        raise BadSample(path, "the picture has no pixels")


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    """Wrap a uint8 array of (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""
    if array.dtype != np.uint8:
        raise BadSample(None, f"an array must be uint8 with values of 0..255, not {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise BadSample(None, f"an array must be (height, width, 1, 3 or 4), not {array.shape}")
    if array.size == 0:
        raise BadSample(None, "the picture has no pixels")
    return _opaque(Image.fromarray(np.ascontiguousarray(array)))


def _opaque(image: Image.Image) -> Image.Image:
    """Return a picture that converts to RGB without surprises."""
    if image.mode.startswith("I"):
        return _from_sixteen_bits(image)
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        # What lies under a transparent pixel is arbitrary; white is what viewers show.
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba)
    return image


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255, which turns a 16-bit photograph white.
    values = np.asarray(image).astype(np.float64)
    if values.min() < 0 or values.max() > 65_535:
        raise BadSample(None, "greyscale values are outside 16 bits")
    return Image.fromarray(np.round(values / 257.0).astype(np.uint8))
