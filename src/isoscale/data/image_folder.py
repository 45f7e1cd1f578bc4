"""Folders of PNG or JPEG images, a sub-folder for each class."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from isoscale import checks
from isoscale.data import class_folders, files
from isoscale.data.dataset import Dataset
from isoscale.data.decoded import Source, decoded
from isoscale.data.standardise import constant_channel
from isoscale.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG")
_NAME = "image-folder"


def image_folder(folder: Path, *, size: int | None = None, grey: bool = False) -> Dataset:
    """The images of a folder as (samples, channels, height, width), standardised.

    A folder of more than 256 MiB, decoded, is decoded once, image by image, into the cache folder (`isoscale` in
    `$XDG_CACHE_HOME` or `~/.cache`; by platform), and mapped from there, so that it need not fit into memory: four
    bytes a number, and a fifth during decoding. Change a file and it is decoded again; delete the cache when you like.

    Args:
        folder: Has `train/<class>/` and `test/<class>/` (or `val/`), or `<class>/` alone: then every fifth image
            of each class is held out. Images may lie at any depth below their class.
        size: Bring each image to `size` x `size`: its shorter side is scaled, the middle is cut out. By default
            all images must have one shape.
        grey: One channel, luminance, where otherwise there are three.

    Raises:
        InvalidValueError, InvalidTypeError: A `size` that makes no sense.
        DataError: A class is missing or empty, an image is damaged or has another shape than the first, or the
            cache folder has no room.
    """
    if size is not None:
        size = checks.whole("size", size)
    found = class_folders.find(folder, SUFFIXES, "images")
    train = len(found.train.paths)
    test = len(found.test.paths)
    note = f"{train:,} training images of {len(found.classes)} classes from {folder.name}, "
    note += f"{test:,} test images{found.note}"
    return decoded(
        Source(
            name=_NAME,
            folder=folder,
            found=found,
            note=note,
            options={"size": size, "grey": bool(grey)},
            decoders=_decoders(),
            read=_reader(found.train.paths[0], size, grey),
            refusal=partial(constant_channel, _NAME),
        )
    )


def _decoders() -> tuple[str | None, ...]:
    """Another version may decode or resize the same file to other levels."""
    import PIL
    from PIL import features

    return PIL.__version__, features.version("jpg")


def _reader(first: Path, size: int | None, grey: bool) -> Callable[[Path], UInt8[np.ndarray, "channels height width"]]:
    """Reads images that have the shape of the first."""
    shape = _read(first, size, grey).shape

    def read(path: Path) -> UInt8[np.ndarray, "channels height width"]:
        pixels = _read(path, size, grey)
        if pixels.shape != shape:
            raise DataError(f"{path} is {_words(pixels.shape)}, {first.name} is {_words(shape)}. Give them one `size`")
        return pixels

    return read


def _words(shape: tuple[int, ...]) -> str:
    _, height, width = shape
    return f"{width}x{height}"


def _read(path: Path, size: int | None, grey: bool) -> UInt8[np.ndarray, "channels height width"]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pillow warns of some damage, and of images too large to be one
            with Image.open(path, formats=_FORMATS) as image:
                converted = image.convert("L" if grey else "RGB")
                pixels = np.asarray(_sized(converted, size))
    except Exception as error:  # what a damaged file makes of a parser is not documented
        fact = "no PNG or JPEG" if isinstance(error, UnidentifiedImageError) else str(error)
        raise files.damaged(path, fact, ", or take it away") from error
    if grey:
        return pixels[None]
    return pixels.transpose(2, 0, 1)


def _sized(image: Image.Image, size: int | None) -> Image.Image:
    if size is None or image.size == (size, size):
        return image
    from PIL import Image

    shorter = min(image.size)
    left = (image.width - shorter) // 2
    top = (image.height - shorter) // 2
    middle = (left, top, left + shorter, top + shorter)
    return image.resize(
        (size, size),
        Image.Resampling.BILINEAR,
        box=middle,
    )
