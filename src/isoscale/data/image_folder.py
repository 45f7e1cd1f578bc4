"""Folders of PNG or JPEG images, a sub-folder for each class."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Integer, UInt8, UInt16

from isoscale import checks
from isoscale.data import class_folders, deep_png, files
from isoscale.data.dataset import Dataset
from isoscale.data.decoded import Source, decoded
from isoscale.data.standardise import constant_channel
from isoscale.errors import DataError
from isoscale.extras import needed

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG")
# Images too, of which Pillow reads some with fewer levels than they have, and some not at all.
_NOT_READ = (
    *(".tif", ".tiff", ".bmp", ".gif", ".webp", ".avif", ".heic", ".jp2", ".jxl", ".pgm", ".ppm"),
    *(".exr", ".hdr", ".pfm", ".dcm", ".dng", ".npy"),
)
_NAME = "image-folder"

# What Pillow makes of PNGs and JPEGs of up to 8 bits a channel.
_MODES_OF_8_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")

_LUMINANCE = np.array([19595, 38470, 7471])  # of 2^16

_Levels = Integer[np.ndarray, "channels height width"]


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

    Levels are of 8 bits or, in PNGs that have them, of 16, all in one folder alike; alpha is dropped.

    Raises:
        InvalidValueError, InvalidTypeError: A `size` that makes no sense.
        DataError: A class is missing or empty, or has images of other kinds (TIFF, WebP, ...); an image is damaged or
            has another shape, or other bits a channel, than the first; or the cache folder has no room.
    """
    if size is not None:
        size = checks.whole("size", size)
    found = class_folders.find(folder, SUFFIXES, "images", _NOT_READ)
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
    with needed("sweep", by="the data set image-folder"):
        import PIL
        from PIL import features

    return PIL.__version__, features.version("jpg")


def _reader(first: Path, size: int | None, grey: bool) -> Callable[[Path], _Levels]:
    """Reads images that have the shape, and the bits a channel, of the first."""
    expected = _read(first, size, grey)

    def read(path: Path) -> _Levels:
        levels = _read(path, size, grey)
        if levels.dtype != expected.dtype:
            ours = 8 * levels.dtype.itemsize
            theirs = 8 * expected.dtype.itemsize
            raise DataError(f"{path} has {ours} bits a channel, {first.name} has {theirs}. Save all with as many")
        if levels.shape != expected.shape:
            ours = _words(levels.shape)
            theirs = _words(expected.shape)
            raise DataError(f"{path} is {ours}, {first.name} is {theirs}. Give them one `size`")
        return levels

    return read


def _words(shape: tuple[int, ...]) -> str:
    _, height, width = shape
    return f"{width}x{height}"


def _read(path: Path, size: int | None, grey: bool) -> _Levels:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pillow warns of some damage, and of images too large to be one
            with Image.open(path, formats=_FORMATS) as image:
                mode = image.mode
                if deep_png.layout(image):
                    levels = _of_16_bits(deep_png.levels(path, image), size, grey)
                elif mode in _MODES_OF_8_BITS:
                    levels = _of_8_bits(image, size, grey)
                else:
                    levels = None
    except Exception as error:  # what a damaged file makes of a parser is not documented
        fact = "no PNG or JPEG" if isinstance(error, UnidentifiedImageError) else str(error)
        raise files.damaged(path, fact, ", or take it away") from error
    if levels is None:
        # Pillow would cut its levels off at 255.
        raise DataError(f"{path} has levels of Pillow's mode {mode}. Save it with 8 or 16 bits a channel")
    return levels


def _of_8_bits(image: Image.Image, size: int | None, grey: bool) -> UInt8[np.ndarray, "channels height width"]:
    converted = image.convert("L" if grey else "RGB")
    levels = np.asarray(_sized(converted, size))
    if grey:
        return levels[None]
    return levels.transpose(2, 0, 1)


def _of_16_bits(
    levels: UInt16[np.ndarray, "height width some"], size: int | None, grey: bool
) -> UInt16[np.ndarray, "channels height width"]:
    """What `_of_8_bits` does, for levels of which Pillow's own conversions would drop half the bits."""
    from PIL import Image

    colours = levels.shape[2]
    if grey and colours == 3:
        # Luminance 0.299 R + 0.587 G + 0.114 B, in Pillow's own integers, of which half a level rounds up.
        weighted = levels.astype(np.int64) @ _LUMINANCE
        levels = (weighted[..., None] + 2**15) >> 16
    planes = []
    for channel in range(levels.shape[2]):
        # float32 has every one of these levels exactly.
        numbers = levels[..., channel].astype(np.float32)
        plane = Image.fromarray(numbers)
        resized = np.rint(np.asarray(_sized(plane, size)))
        planes.append(resized.astype(np.uint16))
    if not grey and colours == 1:
        planes *= 3
    return np.stack(planes)


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
