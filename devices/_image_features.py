"""What is done to a picture before a model sees it: crop, resize, colours, normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._errors import BadSample, PreprocessError
from ._image_colors import as_color
from ._spec import as_floats, as_json, build, check_choice, check_integer

__all__ = ["ImagePreprocess"]

_MAX_SIDE: Final = 8192
_INTERPOLATIONS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class ImagePreprocess:
    """A picture as float32, ``(value − mean) / std`` with values of 0–255.

    ``resize`` says how a picture of another shape becomes ``height`` × ``width``:

    - "stretch": the whole picture, its aspect ratio given up;
    - "short_side": the shorter side becomes ``short_side`` pixels, then a centre crop
      (torchvision's Resize and CenterCrop);
    - "crop_fraction": the centre square of ``size / (size + crop_padding)`` times the
      shorter side, resized to ``size`` = height = width (EfficientNet's rule).

    ``interpolation`` widens its filter when it shrinks, as Pillow does and as
    torch does with ``antialias=True``; "nearest" does not.

    ``mean`` and ``std`` hold one value, or one a channel **in the order of** ``color``
    ("RGB", "BGR" or "L"). ``layout`` "NCHW" gives (channels, height, width) and "NHWC"
    (height, width, channels); the batch axis is the caller's.

    Three lines to see it::

        lite0 = ImagePreprocess(height=224, width=224, resize="crop_fraction",
                                interpolation="bicubic", mean=(127.0,), std=(128.0,))
        lite0(Image.open("cat.jpg")).shape  # (3, 224, 224)

    Raises:
        PreprocessError: a field is out of its range; the error names it.
    """

    kind: ClassVar[str] = "image"

    height: int
    width: int
    resize: str = "stretch"
    short_side: int | None = None
    crop_padding: int = 32
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    color: str = "RGB"
    layout: str = "NCHW"

    def __post_init__(self) -> None:
        check_integer("height", self.height, 1, _MAX_SIDE)
        check_integer("width", self.width, 1, _MAX_SIDE)
        check_choice("resize", self.resize, ("stretch", "short_side", "crop_fraction"))
        check_choice("interpolation", self.interpolation, tuple(_INTERPOLATIONS))
        check_choice("color", self.color, ("RGB", "BGR", "L"))
        check_choice("layout", self.layout, ("NCHW", "NHWC"))
        check_integer("crop_padding", self.crop_padding, 0, _MAX_SIDE)
        self._check_rule()
        lengths = (1, self.channels)
        object.__setattr__(self, "mean", as_floats("mean", self.mean, lengths))
        object.__setattr__(self, "std", as_floats("std", self.std, lengths, positive=True))

    def _check_rule(self) -> None:
        if self.resize == "short_side":
            short_side = check_integer("short_side", self.short_side, 1, _MAX_SIDE)
            if short_side < max(self.height, self.width):
                raise PreprocessError(
                    "short_side", f"{short_side} is smaller than the crop taken from it"
                )
        elif self.short_side is not None:
            raise PreprocessError("short_side", f"must be null when resize is {self.resize!r}")
        if self.resize == "crop_fraction" and self.height != self.width:
            raise PreprocessError("width", "must equal height when resize is 'crop_fraction'")

    @property
    def channels(self) -> int:
        """Number of channels of the output: 1 for "L", else 3."""
        return 1 if self.color == "L" else 3

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what a call returns."""
        if self.layout == "NCHW":
            return (self.channels, self.height, self.width)
        return (self.height, self.width, self.channels)

    def __call__(self, picture: Image.Image | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 of :attr:`output_shape`.

        ``picture`` is a Pillow image of any mode (its EXIF orientation is honoured,
        transparency is laid on white) or a uint8 array in RGB order, of shape
        (height, width), (height, width, 1), (…, 3) or (…, 4) with alpha.

        Raises:
            BadSample: the picture is damaged, too large or of a form not named here.
        """
        image = as_color(picture, "L" if self.color == "L" else "RGB")
        if self.resize == "crop_fraction":
            image = _center_square(image, self.height / (self.height + self.crop_padding))
        sized = image.resize(
            (self.width, self.height), _INTERPOLATIONS[self.interpolation], box=self._box(image)
        )
        values = np.asarray(sized, dtype=np.float32).reshape(self.height, self.width, -1)
        if self.color == "BGR":
            values = values[:, :, ::-1]
        mean, std = (np.array(v, dtype=np.float32) for v in (self.mean, self.std))
        values = (values - mean) / std
        if self.layout == "NCHW":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values, dtype=np.float32)

    def _box(self, image: Image.Image) -> Box:
        """Return the part of the source (left, top, right, bottom) that the output shows."""
        width, height = image.size
        if self.resize == "short_side" and self.short_side is not None:
            return self._short_side_box(width, height, self.short_side)
        return (0.0, 0.0, float(width), float(height))

    def _short_side_box(self, width: int, height: int, short_side: int) -> Box:
        # Resizing only what the crop keeps is the same function as resizing everything first
        # (Pillow's filters read beyond the box; "nearest" may break ties the other way), and a
        # strip of 1 × 8192 pixels cannot fill the memory.
        shorter = min(width, height)
        wide, high = (int(short_side * side / shorter) for side in (width, height))
        left, top = _centered(wide, self.width), _centered(high, self.height)
        across, down = width / wide, height / high
        return (
            left * across,
            top * down,
            min((left + self.width) * across, width),
            min((top + self.height) * down, height),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as plain JSON types."""
        return as_json(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ImagePreprocess:
        """Build from :meth:`to_dict`'s form; raises PreprocessError naming a wrong key."""
        return build(cls, data)


def _centered(whole: int, part: int) -> int:
    # torchvision's rounding, half to even, so that crops agree with it to the pixel.
    return round((whole - part) / 2.0)


def _center_square(image: Image.Image, fraction: float) -> Image.Image:
    width, height = image.size
    side = int(fraction * min(width, height))
    if side < 1:
        raise BadSample(None, f"{width} x {height} pixels leave nothing after the centre crop")
    # TensorFlow's rounding: an odd remainder goes to the left and to the top.
    left, top = (width - side + 1) // 2, (height - side + 1) // 2
    # Cut before it is resized, as TensorFlow does: the filter sees an edge, not what lies beyond.
    return image.crop((left, top, left + side, top + side))
