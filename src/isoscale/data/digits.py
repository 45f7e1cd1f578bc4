"""scikit-learn's digits: 1,797 grey images of 8 x 8, installed with the package, so they need no folder.

They are the test half of the UCI set "Optical Recognition of Handwritten Digits" and come without a split of
their own. Ours is fixed: of each class, the fifth (rounded) of its samples with the smallest random keys is
for testing.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from isoscale.data.dataset import Dataset
from isoscale.data.standardise import Split, standardised

_CLASSES = 10
_SPLIT_SEED = 0


def digits() -> Dataset:
    """The digits, split 1,438 / 359 with every class in both in the same proportion.

    >>> digits().note
    "1,438 training images, 359 test images: a fixed split of scikit-learn's 1,797 digits"
    """
    # Here, because scikit-learn takes a second to import and no other data set needs it.
    from sklearn.datasets import load_digits

    pixels, target = cast("tuple[np.ndarray, np.ndarray]", load_digits(return_X_y=True))
    images = pixels.astype(np.uint8).reshape(-1, 1, 8, 8)  # levels are the integers 0 to 16
    labels = target.astype(np.uint8)
    held_out = _held_out(labels)
    train, test = (Split(images[rows], labels[rows]) for rows in (~held_out, held_out))
    note = f"{len(train.labels):,} training images, {len(test.labels):,} test images: "
    note += f"a fixed split of scikit-learn's {len(labels):,} digits"
    return standardised(name="digits", train=train, test=test, classes=_CLASSES, note=note)


def _held_out(labels: UInt8[np.ndarray, " samples"]) -> Bool[np.ndarray, " samples"]:
    # Raw bits and a sort, no shuffle: numpy promises PCG64's bits for ever, not a Generator's use of them.
    keys = np.random.PCG64(_SPLIT_SEED).random_raw(len(labels))
    mask = np.zeros(len(labels), dtype=bool)
    for label in range(_CLASSES):
        mask[_smallest_fifth(np.flatnonzero(labels == label), keys)] = True
    return mask


def _smallest_fifth(
    members: Integer[np.ndarray, " members"], keys: Integer[np.ndarray, " samples"]
) -> Integer[np.ndarray, " chosen"]:
    return members[np.argsort(keys[members])][: round(len(members) / 5)]
