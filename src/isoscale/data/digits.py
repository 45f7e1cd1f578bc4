"""scikit-learn's digits: 1,797 grey images of 8 x 8, installed with the package, so they need no folder.

They are the test half of the UCI set "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998,
doi 10.24432/C50P49, CC BY 4.0) and come without a split of their own. Ours is fixed: of each class, the fifth
(rounded) of its samples with the smallest random keys is for testing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from isoscale.data.dataset import Dataset
from isoscale.data.standardise import Split, standardised

# One row per image: 64 levels from 0 to 16, then the digit. The file lies here because scikit-learn, which has the
# same table, takes each worker two seconds to import.
_TABLE = Path(__file__).with_name("digits.csv.gz")
_CLASSES = 10
_SPLIT_SEED = 0


def digits() -> Dataset:
    """The digits, split 1,438 / 359 with every class in both in the same proportion.

    >>> digits().note
    "1,438 training images, 359 test images: a fixed split of scikit-learn's 1,797 digits"
    """
    table = np.loadtxt(_TABLE, dtype=np.uint8, delimiter=",")
    images = table[:, :-1].reshape(-1, 1, 8, 8)
    labels = table[:, -1]
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
