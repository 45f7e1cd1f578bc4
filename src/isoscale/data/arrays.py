"""A data set as four `.npy` files, mapped into memory and never read as a whole: for what does not fit.

Training touches the pages of the samples of one batch; the operating system keeps those that fit. `Dataset.save`
writes this format, so that what was decoded once need not be decoded again.
"""

from __future__ import annotations

import errno
import json
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from isoscale.data import files
from isoscale.data.dataset import ARRAYS, META, Dataset
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError

# What a file may hold -> what it is then.
_SAMPLES = {np.dtype(np.float32): "samples", np.dtype(np.int64): "tokens"}
_LABELS = {np.dtype(np.int64): "labels"}

_NO_NUMBERS = {
    "c": "complex numbers",
    "M": "dates",
    "m": "time spans",
    "O": "Python objects",
    "S": "text",
    "U": "text",
    "V": "records",
}


class _Meta(NamedTuple):
    """What the arrays do not say themselves."""

    classes: int
    note: str


def arrays(folder: Path) -> Dataset:
    """The data set in `train_x.npy`, `train_y.npy`, `test_x.npy`, `test_y.npy` of a folder.

    Images, sequences and vectors are float32 and used as they are: standardise them before. Tokens and labels are
    int64. `classes` and `note` are read from `dataset.json` where there is one; otherwise there are as many classes
    as the largest label says. Do not write into the tensors: what is larger than the memory cannot be written to, and
    trying ends the process.

    Raises:
        DataError: A file is missing, unreadable or damaged, or the four do not fit together.
    """
    found = {}
    for name in ARRAYS:
        legal = _LABELS if name.endswith("_y") else _SAMPLES
        found[name] = _mapped(folder / f"{name}.npy", legal)
    meta = _meta(folder / META)
    if meta is None:
        classes = 0
        for labels in (found["train_y"], found["test_y"]):
            if labels.numel():
                classes = max(classes, 1 + int(labels.max()))
        meta = _Meta(
            classes=classes,
            note=f"the arrays of {folder.name}",
        )
    try:
        return Dataset(
            name="arrays",
            note=meta.note,
            classes=meta.classes,
            **found,
        )
    except (InvalidValueError, InvalidTypeError) as error:
        raise DataError(f"the arrays of {folder} make no data set: {error}") from error


def _mapped(path: Path, legal: dict[np.dtype, str]) -> torch.Tensor:
    try:
        dtype = _header(path)
        if dtype in legal:
            return _copy_on_write(path)
    except FileNotFoundError as error:
        wanted = ", ".join(f"{name}.npy" for name in ARRAYS)
        raise DataError(f"no {path.name} in {path.parent}. Expected {wanted}") from error
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}. Write it again") from error
    # Not converted here: of a file that is mapped a copy may be more than the memory holds.
    expected = " or ".join(f"{kind} ({use})" for kind, use in legal.items())
    raise DataError(f"{path} has {_words(dtype)}, expected {expected}. {_remedy(path, dtype, legal)}")


def _header(path: Path) -> np.dtype:
    """The type of a file's numbers, known before numpy refuses some of them in other words."""
    files.check_no_pipe(path)
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        # Later versions differ from the second only in the encoding of the names of a record's fields.
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read(file)
    return dtype


def _words(dtype: np.dtype) -> str:
    kind = _NO_NUMBERS.get(dtype.kind)
    if kind:
        return f"{kind} ({dtype})"
    if not dtype.isnative:
        return f"{dtype.name} in the byte order of other machines ({dtype.str})"
    return dtype.name


def _remedy(path: Path, dtype: np.dtype, legal: dict[np.dtype, str]) -> str:
    if dtype.kind in _NO_NUMBERS:
        return "Choose the numbers that stand for them, and save those"
    file = repr(path.name)
    target = next(iter(legal))
    return f"Convert it: np.save({file}, np.load({file}).astype({str(target)!r}))"


def _copy_on_write(path: Path) -> torch.Tensor:
    """What is written into the tensor does not reach the file."""
    try:
        numbers = np.load(path, mmap_mode="c", allow_pickle=False)
        return torch.from_numpy(numbers)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
    # The system does not promise copies of more pages than there is memory: these can be read only.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        numbers = np.load(path, mmap_mode="r", allow_pickle=False)
        return torch.from_numpy(numbers)


def _meta(path: Path) -> _Meta | None:
    """None where there is no such file: the arrays may be anybody's."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        return _Meta(
            classes=int(meta["classes"]),
            note=str(meta["note"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}. Write it again, or take it away") from error
