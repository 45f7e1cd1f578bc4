"""Folders of PNG or JPEG images, a sub-folder for each class."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from isoscale.data import class_folders, files
from isoscale.data.dataset import Dataset
from isoscale.data.standardise import Split, standardised
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG")


def image_folder(folder: Path, *, size: int | None = None, grey: bool = False) -> Dataset:
    """The images of a folder as (samples, channels, height, width), standardised.

    Args:
        folder: Has `train/<class>/` and `test/<class>/` (or `val/`), or `<class>/` alone: then every fifth image
            of each class is held out. Images may lie at any depth below their class.
        size: Bring each image to `size` x `size`: its shorter side is scaled, the middle is cut out. By default
            all images must have one shape.
        grey: One channel, luminance, where otherwise there are three.

    Raises:
        InvalidValueError, InvalidTypeError: A `size` that makes no sense.
        DataError: A class is missing or empty, an image is damaged or has another shape than the first.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int)):
        raise InvalidTypeError(f"`size` must be a whole number, got {size!r}")
    if size is not None and size < 1:
        raise InvalidValueError(f"`size` must be >= 1, got {size}")
    found = class_folders.find(folder, SUFFIXES, "images")
    train, test = (_read_all(split, size, grey) for split in (found.train, found.test))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(f"training images of {folder} have another shape than test images. Give them one with `size`")
    note = f"{len(train.labels):,} training images of {len(found.classes)} classes from {folder.name}, "
    note += f"{len(test.labels):,} test images{found.note}"
    return standardised(name="image-folder", train=train, test=test, classes=len(found.classes), note=note)


def _read_all(split: class_folders.Files, size: int | None, grey: bool) -> Split:
    first = _read(split.paths[0], size, grey)
    # One array, filled as they come: a list of images and their stack would take the memory twice.
    images = np.empty((len(split.paths), *first.shape), np.uint8)
    for image, path in zip(images, split.paths, strict=True):
        pixels = _read(path, size, grey)
        if pixels.shape != first.shape:
            shapes = [f"{shape[2]}x{shape[1]}" for shape in (pixels.shape, first.shape)]
            raise DataError(f"{path} is {shapes[0]}, {split.paths[0].name} is {shapes[1]}. Give them one `size`")
        image[:] = pixels
    return Split(images, np.array(split.labels, dtype=np.int64))


def _read(path: Path, size: int | None, grey: bool) -> UInt8[np.ndarray, "channels height width"]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pillow warns of some damage, and of images too large to be one
            with Image.open(path, formats=_FORMATS) as image:
                pixels = np.asarray(_sized(image.convert("L" if grey else "RGB"), size))
    except Exception as error:  # what a damaged file makes of a parser is not documented
        fact = "no PNG or JPEG" if isinstance(error, UnidentifiedImageError) else str(error)
        raise files.damaged(path, fact, ", or take it away") from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _sized(image: Image.Image, size: int | None) -> Image.Image:
    if size is None or image.size == (size, size):
        return image
    from PIL import Image

    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    square = (left, top, left + shorter, top + shorter)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=square)
