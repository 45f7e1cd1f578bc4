"""A data set: two splits of samples and labels, what they are, and a fingerprint of it all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from isoscale.errors import InvalidTypeError, InvalidValueError

# Samples of more bytes are checked for NaN when their fingerprint is taken, which reads them all anyway: they may be
# mapped from a file, of which a check would bring every page into memory.
_CHECKED_AT_ONCE = 2**26
_PART = 2**22

# What `Dataset.save` writes and `load("arrays", ...)` reads, in the order in which a fingerprint takes them.
ARRAYS = ("train_x", "train_y", "test_x", "test_y")
META = "dataset.json"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Dataset:
    """Samples and labels to train and to test on.

    What `isoscale.data.load` returns is standardised: each channel has mean 0 and standard deviation 1 over
    all pixels of the *training* images, and the test images are shifted and scaled by the same two numbers.

    Attributes:
        name: The name in the registry.
        note: Exactly which images these are, for a report to quote.
        train_x: Images (samples, channels, height, width), sequences (samples, channels, length) or vectors
            (samples, features), float32; or tokens (samples, time), int64.
        train_y: Class of each sample (samples,), or next token at each position of tokens (samples, time); int64,
            from 0 to `classes` - 1.
        test_x: As `train_x`, another number of samples.
        test_y: As `train_y`.
        classes: How many classes, or different tokens, there are.

    Raises:
        InvalidTypeError: Samples are neither float32 nor int64, or labels are not int64.
        InvalidValueError: A split is empty, shapes disagree, a label is out of range, or a sample is not finite (of
            samples larger than 64 MiB `fingerprint` says so).

    >>> from isoscale.data import load
    >>> digits = load("digits")
    >>> digits.train_x.shape, digits.train_y.shape, digits.in_features
    (torch.Size([1438, 1, 8, 8]), torch.Size([1438]), 64)
    """

    name: str
    train_x: Shaped[Tensor, " train *shape"]
    train_y: Int64[Tensor, " train *positions"]
    test_x: Shaped[Tensor, " test *shape"]
    test_y: Int64[Tensor, " test *positions"]
    classes: int
    note: str = ""

    def __post_init__(self) -> None:
        _check_split("train", self.train_x, self.train_y, self.classes)
        _check_split("test", self.test_x, self.test_y, self.classes)
        train = tuple(self.train_x.shape[1:])
        test = tuple(self.test_x.shape[1:])
        if train != test:
            raise InvalidValueError(f"`train_x` has samples of shape {train}, `test_x` of shape {test}")
        for name in ARRAYS:
            tensor: Tensor = getattr(self, name)
            if tensor.nbytes <= _CHECKED_AT_ONCE:
                check_finite(name, tensor)

    @staticmethod
    def from_arrays(
        x: Any, y: Any, *, test: Any = 0.1, classes: int | None = None, name: str = "arrays", note: str = ""
    ) -> Dataset:
        """A data set of arrays or tensors that are in memory.

        Args:
            x: Samples, of floating-point numbers (samples, ...) or tokens (samples, time). They are used as they are:
                standardise them before.
            y: Class of each sample, or next token at each position; whole numbers from 0.
            test: A pair (x, y) to test on; or the share of the samples that is drawn for it and not trained on.
            classes: How many classes there are; by default as many as the largest label says.
            name, note: What it is called, and what it is, for a report to quote.

        Raises:
            InvalidTypeError, InvalidValueError: Arrays that do not fit together, or numbers that are not finite.

        >>> import numpy as np
        >>> Dataset.from_arrays(np.eye(20, 4), np.arange(20) % 3)
        Dataset('arrays', train=(18, 4), test=(2, 4), classes=3)
        """
        from isoscale.data import samples

        return samples.from_arrays(x, y, test=test, classes=classes, name=name, note=note)

    @staticmethod
    def from_torch(
        dataset: Any, *, test: Any = 0.1, classes: int | None = None, name: str = "samples", note: str = ""
    ) -> Dataset:
        """A data set of torch's, or any iterable of samples (x, y), read into memory.

        Args:
            dataset: Its samples are pairs of a tensor, an array or an image of floating-point numbers, and a class.
            test: Another one to test on; or the share of the samples that is drawn for it and not trained on.
            classes, name, note: As for `from_arrays`.

        Raises:
            InvalidTypeError, InvalidValueError: A sample that cannot be read or used, or is unlike the first; it is
                named by its number.

        >>> x, y = torch.randn(20, 3, 8, 8), torch.arange(20) % 10
        >>> Dataset.from_torch(torch.utils.data.TensorDataset(x, y), test=0.25)
        Dataset('samples', train=(15, 3, 8, 8), test=(5, 3, 8, 8), classes=10)
        """
        from isoscale.data import samples

        return samples.from_torch(dataset, test=test, classes=classes, name=name, note=note)

    @property
    def kind(self) -> Literal["features", "images", "tokens"]:
        """What a sample is: a vector, channels over positions, or whole numbers.

        >>> from isoscale.data import load
        >>> load("digits").kind
        'images'
        """
        if self.train_x.dtype == torch.int64:
            return "tokens"
        return "features" if self.train_x.ndim == 2 else "images"

    @property
    def in_shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch."""
        return tuple(self.train_x.shape[1:])

    @property
    def in_features(self) -> int:
        """How many numbers a sample has: channels x height x width."""
        return math.prod(self.train_x.shape[1:])

    def flatten(self) -> Dataset:
        """The same data with each sample as one vector: images of shape (samples, features), memory shared.

        >>> from isoscale.data import load
        >>> load("digits").flatten()
        Dataset('digits', train=(1438, 64), test=(359, 64), classes=10)
        """
        return dataclasses.replace(
            self,
            train_x=self.train_x.flatten(1),
            test_x=self.test_x.flatten(1),
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the data set as files that `load("arrays", folder)` maps into memory, made if need be.

        Raises:
            OSError: The folder cannot be written.
        """
        home = Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            tensor: Tensor = getattr(self, name)
            numbers = tensor.detach().cpu().numpy()
            np.save(home / f"{name}.npy", numbers, allow_pickle=False)
        meta = {
            "classes": self.classes,
            "note": self.note or self.name,
        }
        path = home / META
        path.write_text(json.dumps(meta), encoding="utf-8")

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that hash pixels, labels, shapes and `classes`, not name, note or device.

        The same files give the same fingerprint on every machine. It is computed once: do not write into the
        tensors after asking for it.

        Raises:
            InvalidValueError: A sample is not finite.
        """
        digest = Digest(self.classes)
        for name in ARRAYS:
            tensor: Tensor = getattr(self, name)
            digest.begin(tensor.dtype, tensor.shape)
            for part in _finite_parts(name, tensor):
                numbers = part.detach().cpu().contiguous().numpy()
                digest.update(numbers)
        return digest.fingerprint

    def __repr__(self) -> str:
        train = tuple(self.train_x.shape)
        test = tuple(self.test_x.shape)
        return f"Dataset({self.name!r}, train={train}, test={test}, classes={self.classes})"


class Digest:
    """A fingerprint in the making: the four tensors one after the other, each whole or in consecutive parts."""

    def __init__(self, classes: int) -> None:
        text = str(classes)
        self._sha = hashlib.sha256(text.encode())

    def begin(self, dtype: torch.dtype, shape: Sequence[int]) -> None:
        """The next tensor's type and shape: equal bytes in another shape train another network."""
        text = f"{dtype}{tuple(shape)}"
        self._sha.update(text.encode())

    def update(self, numbers: np.ndarray) -> None:
        """Its numbers, contiguous, or the next of them."""
        self._sha.update(numbers.data)

    @property
    def fingerprint(self) -> str:
        return self._sha.hexdigest()[:16]


def _check_split(split: str, x: Tensor, y: Tensor, classes: int) -> None:
    _check_tensor(f"{split}_x", x)
    _check_tensor(f"{split}_y", y)
    tokens = x.dtype == torch.int64
    if not tokens:
        _check_dtype(f"{split}_x", x, torch.float32)
    _check_dtype(f"{split}_y", y, torch.int64)
    if tokens:
        # A next token at each position.
        labelled = y.shape == x.shape and y.ndim == 2
        expected = "(samples, time) twice"
    else:
        labelled = y.ndim == 1
        expected = "(samples, ...) and (samples,)"
    matched = labelled and len(x) == len(y)
    if not matched or x.ndim < 2 or x.numel() == 0:
        of_x = tuple(x.shape)
        of_y = tuple(y.shape)
        shapes = f"`{split}_x` is {of_x} and `{split}_y` is {of_y}"
        raise InvalidValueError(f"{shapes}; expected {expected}, with at least one sample")
    if tokens:
        _check_range(f"{split}_x", "tokens", x, classes)
    _check_range(f"{split}_y", "labels", y, classes)


def _check_range(field: str, what: str, y: Tensor, classes: int) -> None:
    low = int(y.min())
    high = int(y.max())
    if low < 0 or high >= classes:
        largest = classes - 1
        raise InvalidValueError(f"`{field}` has {what} {low} to {high}, expected 0 to {largest}")


def check_finite(field: str, x: Tensor) -> None:
    """Raise InvalidValueError, naming the first bad sample, if a number is NaN or infinite."""
    for _ in _finite_parts(field, x):
        pass


def _finite_parts(field: str, x: Tensor) -> Iterator[Tensor]:
    """The samples or labels, some at a time; after the last, `InvalidValueError` if a number was NaN or infinite."""
    of_one = max(1, math.prod(x.shape[1:]))
    samples = max(1, _PART // of_one)
    wrong = 0
    first = None
    for start in range(0, len(x), samples):
        part = x[start : start + samples]
        if x.is_floating_point():
            bad = ~part.isfinite().reshape(len(part), -1).all(1)
            if bad.any():
                wrong += int(bad.sum())
                if first is None:
                    first = start + int(bad.nonzero()[0])
        yield part
    if wrong:
        fact = f"`{field}` is NaN or infinite in {wrong:,} of {len(x):,} samples, first in sample {first}"
        raise InvalidValueError(f"{fact}. Replace those numbers, or leave the samples out")


def _check_tensor(field: str, value: object) -> None:
    if isinstance(value, Tensor):
        return
    kind = type(value).__name__
    if np.ma.isMaskedArray(value):
        remedy = "Fill what is masked, or leave those samples out; then `torch.from_numpy` makes one"
    else:
        remedy = "`torch.as_tensor` makes one of an array"
    raise InvalidTypeError(f"`{field}` is a {kind}, expected a torch.Tensor. {remedy}")


def _check_dtype(field: str, tensor: Tensor, expected: torch.dtype) -> None:
    if tensor.dtype != expected:
        raise InvalidTypeError(f"`{field}` is {tensor.dtype}, expected {expected}")
