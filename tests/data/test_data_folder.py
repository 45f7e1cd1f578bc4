"""The published files themselves, where this machine has them: in `$ISOSCALE_DATA` or beside the repository.

Elsewhere these tests are not defined, so that no run counts them as skipped. The numbers are those of the
publishers: the labels of each batch, and the mean and std of all images.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from isoscale.data import Dataset, load

REPOSITORY = Path(__file__).parents[2]
FOLDERS = [Path(os.environ.get("ISOSCALE_DATA") or "/nowhere"), REPOSITORY.parent / "shared" / "data"]
FOLDER = next((folder for folder in FOLDERS if (folder / "fashion-mnist-part").is_dir()), None)

CIFAR_LABELS = {
    1: [1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981],
    2: [984, 1007, 1010, 995, 1010, 988, 1008, 1026, 987, 985],
}
MNIST_TEST_LABELS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def nearest_neighbour_accuracy(data: Dataset) -> float:
    nearest = torch.cdist(data.test_x, data.train_x).argmin(1)
    return (data.train_y[nearest] == data.test_y).double().mean().item()


if FOLDER:

    def test_cifar10() -> None:
        data = load("cifar10", FOLDER, batches=(1, 2))
        assert data.note == "20,000 CIFAR-10 training images, 1,017 test images"
        assert data.train_x.shape == (20_000, 3, 32, 32)
        assert data.test_x.shape == (1_017, 3, 32, 32)
        assert data.train_y[:10_000].bincount().tolist() == CIFAR_LABELS[1]
        assert data.train_y[10_000:].bincount().tolist() == CIFAR_LABELS[2]
        labels = (FOLDER / "cifar10" / "test_labels.bin").read_bytes()
        assert data.test_y.tolist() == list(labels[:1_017])
        assert data.train_x.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-4)
        assert data.train_x.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-4)
        # Black and white bound each channel: the mean and std of all 50,000 images hold here within 2 %.
        low, high = data.train_x.amin((0, 2, 3)), data.train_x.amax((0, 2, 3))
        assert (1 / (high - low)).tolist() == pytest.approx([0.24703, 0.24349, 0.26159], rel=0.02)
        assert (-low / (high - low)).tolist() == pytest.approx([0.49140, 0.48216, 0.44653], rel=0.02)

    def test_mnist() -> None:
        data = load("mnist", FOLDER)
        assert data.note == "MNIST's 10,000 test images, split 8,000/2,000: every fifth held out"
        assert (data.train_y.bincount() + data.test_y.bincount()).tolist() == MNIST_TEST_LABELS
        assert data.test_x.shape == (2_000, 1, 28, 28)

    def test_fashion_mnist() -> None:
        data = load("fashion-mnist", FOLDER)
        assert data.note == "8,226 Fashion-MNIST training images, 1,770 test images"
        assert data.train_x.shape == (8_226, 1, 28, 28)
        # The published labels begin so; labels that slip against their images would give an accuracy of 0.1.
        assert data.train_y[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
        assert nearest_neighbour_accuracy(data.flatten()) == pytest.approx(0.806, abs=0.001)
