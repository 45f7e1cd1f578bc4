"""Data sets from what is in memory already: arrays, or anything that hands out a sample after the other.

A sample that cannot be used is named by its number: in a data set of a million, "somewhere" is no help.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from isoscale.checks import number
from isoscale.data.dataset import Dataset, check_finite
from isoscale.errors import InvalidTypeError, InvalidValueError

Pair = tuple[Tensor, Tensor]

# Of the split into samples to train and to test on: the same in every process.
_SPLIT_SEED = 0


def from_arrays(x: Any, y: Any, *, test: Any, classes: int | None, name: str, note: str) -> Dataset:
    """As `Dataset.from_arrays`."""
    return _data_set(pair_of_arrays(x, y), test, _test_arrays, classes, name, note)


def from_torch(dataset: Any, *, test: Any, classes: int | None, name: str, note: str) -> Dataset:
    """As `Dataset.from_torch`."""
    return _data_set(stacked(dataset, "dataset"), test, _test_samples, classes, name, note)


def _test_arrays(test: Any) -> Pair:
    if not isinstance(test, (tuple, list)) or len(test) != 2:
        raise InvalidTypeError(f"`test` must be a pair of arrays (x, y) or a share of the samples, got {_kind(test)}")
    return pair_of_arrays(*test)


def _test_samples(test: Any) -> Pair:
    return stacked(test, "test")


def _data_set(train: Pair, test: Any, read_test: Any, classes: int | None, name: str, note: str) -> Dataset:
    if isinstance(test, (int, float)):
        share = number("test", test, above=0)
        train, held_out = _split(train, share)
        note = note or f"{name}, of which {len(held_out[0])} samples drawn with seed {_SPLIT_SEED} to test on"
    else:
        held_out = read_test(test)
    if classes is None:
        classes = 1 + max(int(labels.max()) for labels in (train[1], held_out[1]) if labels.numel())
    return Dataset(
        name=name,
        note=note or name,
        train_x=train[0],
        train_y=train[1],
        test_x=held_out[0],
        test_y=held_out[1],
        classes=classes,
    )


def _split(pair: Pair, share: float) -> tuple[Pair, Pair]:
    x, y = pair
    count = round(share * len(x))
    if not 0 < count < len(x):
        raise InvalidValueError(f"`test` must leave samples on both sides, got {share:g} of {len(x)} samples")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    held_out, rest = order[:count], order[count:]
    return (x[rest], y[rest]), (x[held_out], y[held_out])


# --- arrays ---
def is_pair_of_arrays(value: Any) -> bool:
    """Whether a value is samples and their targets as two whole arrays, rather than batches."""
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(hasattr(part, "shape") for part in value)


def pair_of_arrays(x: Any, y: Any) -> Pair:
    """Samples and labels as tensors of the types that a data set has.

    Raises:
        InvalidTypeError, InvalidValueError: Numbers of another kind, or not as many labels as samples.
    """
    pair = _samples("`x`", as_array("x", x)), _labels("`y`", as_array("y", y))
    check_lengths(*pair)
    return pair


def check_lengths(x: Tensor, y: Tensor) -> None:
    """Raise InvalidValueError unless there is a target for each sample, and there are samples."""
    lengths = [len(tensor) if tensor.ndim else 0 for tensor in (x, y)]
    if lengths[0] != lengths[1] or not lengths[0]:
        raise InvalidValueError(f"`x` has {lengths[0]} samples and `y` has {lengths[1]}: there must be one for each")


def as_array(name: str, value: Any) -> Tensor:
    """A whole array as a tensor, on the CPU and without a gradient.

    Raises:
        InvalidTypeError: It holds no numbers.
        InvalidValueError: One of them is not finite.
    """
    tensor = _tensor(f"`{name}`", value)
    if tensor.ndim:
        check_finite(name, tensor)
    return tensor


def _tensor(what: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    try:
        return torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(f"{what} must be an array of numbers, got {_kind(value)}: {error}") from error


def _samples(what: str, x: Tensor) -> Tensor:
    if x.is_floating_point():
        return x.float()
    if x.dtype in (torch.int32, torch.int64):
        return x.long()
    raise InvalidTypeError(
        f"{what} has samples of {x.dtype}: expected floating-point numbers, or tokens as int64. Images of bytes are "
        "to be scaled first, as torchvision's ToTensor does"
    )


def _labels(what: str, y: Tensor) -> Tensor:
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InvalidTypeError(f"{what} has labels of {y.dtype}: expected whole numbers, the classes from 0")
    return y.long()


# --- samples ---
def stacked(source: Any, name: str) -> Pair:
    """All samples of a data set of torch's, or of any iterable of pairs (x, y).

    Raises:
        InvalidTypeError, InvalidValueError: A sample that is no such pair, or unlike the first; it is named.
    """
    found: list[Pair] = []
    for place, sample in samples(source, name):
        if not isinstance(sample, (tuple, list)) or len(sample) != 2:
            raise InvalidTypeError(f"{place} must be a pair (x, y), got {_kind(sample)}")
        x, y = (_one(place, part) for part in sample)
        pair = _samples(place, x), _labels(place, y)
        if found and (pair[0].shape != found[0][0].shape or pair[1].shape != found[0][1].shape):
            shapes = [f"{tuple(a.shape)} and {tuple(b.shape)}" for a, b in (pair, found[0])]
            raise InvalidValueError(f"{place} has shapes {shapes[0]}, sample 0 has {shapes[1]}")
        found.append(pair)
    if not found:
        raise InvalidValueError(f"`{name}` has no sample")
    xs, ys = zip(*found, strict=True)
    return torch.stack(xs), torch.stack(ys)


def samples(source: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each sample with its name, "sample 17 of `dataset`": by number of what has a length, else as they come.

    Raises:
        InvalidValueError: One that cannot be read.
    """
    has_numbers = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    # Of torch's, one that is gone through has the other's methods too, and they raise.
    if has_numbers and not isinstance(source, IterableDataset):
        items = (source[at] for at in range(len(source)))
    elif isinstance(source, Iterable):
        items = iter(source)
    else:
        raise InvalidTypeError(f"`{name}` must be a data set of torch's or an iterable of samples, got {_kind(source)}")
    count = 0
    while True:
        place = f"sample {count} of `{name}`"
        try:
            sample = next(items)
        except StopIteration:
            return
        except Exception as error:
            raise InvalidValueError(f"{place} cannot be read: {type(error).__name__}: {error}") from error
        yield place, sample
        count += 1


def _one(place: str, part: Any) -> Tensor:
    tensor = _tensor(place, part)
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise InvalidValueError(f"{place} is NaN or infinite: replace those numbers, or leave the sample out")
    return tensor


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__
