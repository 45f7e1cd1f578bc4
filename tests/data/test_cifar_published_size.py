"""A batch of CIFAR-10 in its published size that broke off while it was fetched: the commonest damage."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
import torch
from published import cifar as batch
from published import write

from isoscale.data import load
from isoscale.errors import DataError

FOUND = 18_400_221


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Batch 1 whole, batch 2 cut; a block repeats, so that packing is quick."""
    folder = tmp_path_factory.mktemp("published")
    whole = batch(50) * 200
    write(folder, "data_batch_1.bin", whole)
    (folder / "data_batch_2.bin.xz").write_bytes(lzma.compress(whole[:FOUND], preset=0))
    write(folder, "test_batch_first1017.bin", batch(1017), ".xz")
    return folder


def test_error_says_what_was_found_and_what_to_do(folder: Path) -> None:
    with pytest.raises(DataError) as info:
        load("cifar10", folder)
    assert str(info.value) == (
        f"{folder}/data_batch_2.bin.xz is damaged: 18,400,221 bytes after unpacking, expected 30,730,000. "
        "Get it again, or leave it out with --batches 1"
    )


def test_what_the_error_advises_works(folder: Path) -> None:
    data = load("cifar10", folder, batches=(1,))
    assert data.note == "10,000 CIFAR-10 training images, 1,017 test images"
    assert torch.equal(data.train_x[:50], data.train_x[-50:])
    assert data.train_x.std((0, 2, 3), correction=0).tolist() == pytest.approx([1, 1, 1], abs=1e-3)
