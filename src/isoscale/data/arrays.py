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

from isoscale.data.dataset import ARRAYS, META, Dataset
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError


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
        found[name] = _mapped(folder / f"{name}.npy")
    meta = _meta(folder / META)
    if meta is None:
        largest = max(int(found["train_y"].max()), int(found["test_y"].max()))
        meta = _Meta(
            classes=1 + largest,
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
        raise DataError(f"the arrays of {folder} do not fit together: {error}") from error


def _mapped(path: Path) -> torch.Tensor:
    try:
        return _copy_on_write(path)
    except FileNotFoundError as error:
        wanted = ", ".join(f"{name}.npy" for name in ARRAYS)
        raise DataError(f"no {path.name} in {path.parent}. Expected {wanted}") from error
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}. Write it again") from error


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
