"""PNGs of 16 bits a channel, at their full range and precision.

Pillow reads grey ones whole. Of colours, and of grey with alpha, it keeps the upper byte of each channel; the file is
then read once more, as if it said something else of its bytes, and the lower ones come out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import UInt16

from isoscale.extras import needed

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_GREY = "I;16B"
_GREY_ALPHA = "LA;16B"

# What the bytes are (big-endian) -> what they have to be called, so that Pillow keeps the lower byte of each channel.
# Both names of a pair have equally many bits a pixel, on which a PNG's row filters depend.
_LOWER = {
    "RGB;16B": "RGB;16L",
    "RGBA;16B": "RGBA;16L",
    _GREY_ALPHA: "RGBA",  # upper and lower byte of grey, upper and lower byte of alpha
}


def layout(image: ImageFile) -> str:
    """Pillow's name for the bytes of an opened image of 16 bits a channel that it has not read yet; else ""."""
    tiles = image.tile
    if image.format != "PNG" or not tiles:
        return ""
    _, _, _, raw = tiles[0]
    if raw != _GREY and raw not in _LOWER:
        return ""
    return str(raw)


def levels(path: Path, image: ImageFile) -> UInt16[np.ndarray, "height width channels"]:
    """The levels, 0 to 65,535, of grey or of red, green and blue; alpha is dropped, as with 8 bits.

    Args:
        path: The file, which is opened again where one reading does not give all bits.
        image: The same, opened and not read, with a `layout`.
    """
    raw = layout(image)
    if raw == _GREY:
        whole = np.asarray(image)  # int32 before Pillow 10.3
        return whole.astype(np.uint16)[..., None]

    with needed("sweep", by="reading images"):
        from PIL import Image

    upper = np.asarray(image)
    with Image.open(path, formats=("PNG",)) as again:
        codec, extents, offset, _ = again.tile[0]
        # A plain tuple: what Pillow itself puts there has another type in each version.
        again.tile = cast("Any", [(codec, extents, offset, _LOWER[raw])])
        lower = np.asarray(again)
    if raw == _GREY_ALPHA:
        upper = lower[..., :1]
        lower = lower[..., 1:2]
    upper = upper[..., :3].astype(np.uint16)
    return (upper << 8) | lower[..., :3]
