"""scikit-learn's digits: 1,797 grey images of 8 x 8, installed with the package, so they need no folder.

They are the test half of the UCI set "Optical Recognition of Handwritten Digits" and come without a split of
their own. Ours is fixed: of each class, the fifth (rounded) of its samples with the smallest random keys is
for testing.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from jaxtyping import Bool, UInt8

from isoscale.data.dataset import Dataset
from isoscale.data.standardise import Split, standardised
from isoscale.extras import needed

_CLASSES = 10
_SPLIT_SEED = 0


def digits() -> Dataset:
    """The digits, split 1,438 / 359 with every class in both in the same proportion.

    >>> digits().note
    "1,438 training images, 359 test images: a fixed split of scikit-learn's 1,797 digits"
    """
    # Here, because scikit-learn takes a second to import and no other data set needs it.
    with needed("sweep", by="the data set digits"):
        from sklearn.datasets import load_digits

    loaded = load_digits(return_X_y=True)
    pixels, target = cast("tuple[np.ndarray, np.ndarray]", loaded)
    images = pixels.astype(np.uint8).reshape(-1, 1, 8, 8)  # levels are the integers 0 to 16
    labels = target.astype(np.uint8)
    held_out = _held_out(labels)
    train = Split(
        levels=images[~held_out],
        labels=labels[~held_out],
    )
    test = Split(
        levels=images[held_out],
        labels=labels[held_out],
    )
    train_count = len(train.labels)
    test_count = len(test.labels)
    whole = len(labels)
    note = f"{train_count:,} training images, {test_count:,} test images: "
    note += f"a fixed split of scikit-learn's {whole:,} digits"
    return standardised(
        name="digits",
        train=train,
        test=test,
        classes=_CLASSES,
        note=note,
    )


def _held_out(labels: UInt8[np.ndarray, " samples"]) -> Bool[np.ndarray, " samples"]:
    # Raw bits and a sort, no shuffle: numpy promises PCG64's bits for ever, not a Generator's use of them.
    samples = len(labels)
    bits = np.random.PCG64(_SPLIT_SEED)
    keys = bits.random_raw(samples)
    mask = np.zeros(samples, dtype=bool)
    for label in range(_CLASSES):
        members = np.flatnonzero(labels == label)
        order = np.argsort(keys[members])
        by_key = members[order]
        fifth = round(len(members) / 5)
        mask[by_key[:fifth]] = True
    return mask
