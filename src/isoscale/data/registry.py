"""The data sets by name: a row says who reads it, which options it takes and whether it needs a folder."""

from __future__ import annotations

import importlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from isoscale.errors import DataError, InvalidTypeError, unknown

if TYPE_CHECKING:
    from isoscale.data.dataset import Dataset

FOLDER_VARIABLE = "ISOSCALE_DATA"


class _Reader(NamedTuple):
    """Where the function is that reads a data set, by name: importing it would import torch."""

    module: str
    function: str
    options: tuple[str, ...] = ()
    needs_folder: bool = True


# A new data set is a module with one function, and a row here.
_READERS = {
    "arrays": _Reader("isoscale.data.arrays", "arrays"),
    "audio-folder": _Reader("isoscale.data.audio_folder", "audio_folder", options=("length",)),
    "cifar10": _Reader("isoscale.data.cifar", "cifar10", options=("batches", "pool")),
    "digits": _Reader("isoscale.data.digits", "digits", needs_folder=False),
    "fashion-mnist": _Reader("isoscale.data.idx", "fashion_mnist"),
    "image-folder": _Reader("isoscale.data.image_folder", "image_folder", options=("size", "grey")),
    "mnist": _Reader("isoscale.data.idx", "mnist"),
    "synthetic": _Reader(
        "isoscale.data.synthetic",
        "synthetic",
        options=("accuracy", "label_noise", "classes", "channels", "size", "train", "test", "seed"),
        needs_folder=False,
    ),
    "text": _Reader("isoscale.data.text", "text", options=("file", "level", "context")),
}


def names() -> list[str]:
    """Every name that `load` takes, sorted.

    >>> names()
    ['arrays', 'audio-folder', 'cifar10', 'digits', 'fashion-mnist', 'image-folder', 'mnist', 'synthetic', 'text']
    """
    return sorted(_READERS)


def needs_folder(name: str) -> bool:
    """Whether a data set is read from a folder.

    >>> needs_folder("cifar10"), needs_folder("digits")
    (True, False)
    """
    return _READERS[name].needs_folder


def load(name: str, folder: str | os.PathLike[str] | None = None, **options: Any) -> Dataset:
    """Read a data set, standardised with its own training split.

    Large folders of images or sounds are decoded into the cache folder and mapped: they need not fit into memory.

    Args:
        name: One of `names()`.
        folder: Where the files lie, in their published layout; by default `$ISOSCALE_DATA`. `digits` and
            `synthetic` need none.
        options: The data set's own. `cifar10`: `batches=(1, 2)`, which training batches to read, by default all
            there are; `pool=4`, smaller images. `image-folder`: `size`, `grey`. `audio-folder`: `length`. `text`:
            `file`, `level`, `context`. `synthetic`: `accuracy`, `label_noise`, `classes`, `channels`, `size`,
            `train`, `test`, `seed`.

    Returns:
        Two splits of images (samples, channels, height, width) or sequences (samples, channels, length) as float32
        and labels (samples,) as int64; of `text`, tokens and next tokens (windows, context) as int64. Call
        `.flatten()` on it for a network that takes vectors.

    Raises:
        InvalidValueError: There is no such data set, or an option has an illegal value.
        InvalidTypeError: The data set takes no such option, or the option has the wrong type.
        DataError: No folder is known, or a file is missing, unreadable or damaged, or the cache folder has
            no room.

    >>> load("digits")
    Dataset('digits', train=(1438, 1, 8, 8), test=(359, 1, 8, 8), classes=10)
    """
    if name not in _READERS:
        raise unknown("data set", name, _READERS)
    reader = _READERS[name]
    _check_options(name, reader, options)
    module = importlib.import_module(reader.module)
    read = getattr(module, reader.function)
    if not reader.needs_folder:
        return read(**options)
    home = _existing_folder(name, folder)
    return read(home, **options)


def _check_options(name: str, reader: _Reader, options: dict[str, Any]) -> None:
    for option in options:
        if option not in reader.options:
            legal = ", ".join(f"`{known}`" for known in reader.options) or "none"
            raise InvalidTypeError(f"`{option}` is not an option of data set {name!r}. Its options: {legal}")


def _existing_folder(name: str, folder: str | os.PathLike[str] | None) -> Path:
    given = folder or os.environ.get(FOLDER_VARIABLE)
    if not given:
        raise DataError(f"data set {name!r} needs `folder` (--data), or ${FOLDER_VARIABLE} set to one")
    path = Path(os.path.expanduser(given))  # Path.expanduser raises where there is no such user
    fault = _fault(path)
    if fault:
        source = "`folder`" if folder else f"${FOLDER_VARIABLE}"
        raise DataError(f"{source} is {path}: {fault}. Give the folder of data set {name!r} (--data)")
    return path


def _fault(path: Path) -> str | None:
    """Why this is not a folder that can be looked into, or None."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(mode):
        return "Not a directory"
    return None
