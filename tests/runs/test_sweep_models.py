"""Sweeps of every kind of model: each gets the data in the form that it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isoscale import data
from isoscale.errors import InvalidValueError
from isoscale.runs import Sweep, driver, sweep
from isoscale.training import train

Tiny = Callable[..., Sweep]

MODELS = [
    ("conv-net", {"kernel": 3}, "synthetic", {"size": 4, "train": 64, "test": 20}),
    ("conv-resnet", {"norm": "batch", "dropout": 0.1}, "synthetic", {"size": 4, "train": 64, "test": 20}),
    ("vit", {"patch": 2, "head_size": 4}, "synthetic", {"size": 4, "train": 64, "test": 20}),
    ("gpt", {"head_size": 4}, "text", {"context": 8}),
    ("residual-mlp", {}, "synthetic", {"size": 4, "train": 64, "test": 20}),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "input.txt").write_text("to be or not to be, that is the question. " * 40)
    return tmp_path


@pytest.mark.parametrize(("model", "model_args", "dataset", "dataset_args"), MODELS, ids=[row[0] for row in MODELS])
def test_a_sweep_trains_what_train_trains(
    tiny: Tiny, inline: type, folder: Path, model: str, model_args: dict, dataset: str, dataset_args: dict
) -> None:
    spec = tiny(
        model=model, model_args=model_args, dataset=dataset, dataset_args=dataset_args, depths=[2, 3], batch_size=16
    )
    result = sweep(spec, store=folder / "s.db", data=str(folder))
    assert result.count("done") == spec.trials
    loaded = data.load(dataset, folder, **dataset_args)
    for shard in driver.prepare(spec, str(folder)):
        outcome = train(shard.config, shard.members, loaded)
        at = {"rule": shard.config.rule, "width": shard.config.width, "depth": shard.config.depth}
        for member, loss in zip(shard.members, outcome.test_loss, strict=True):
            stored = result.data["test_loss"].sel(**at, lr=member.lr, seed=member.seed)
            np.testing.assert_array_equal(stored, loss)


def test_images_and_their_vectors_are_different_data(tiny: Tiny) -> None:
    conv, mlp = (driver.prepare(tiny(model=model, depths=[2]))[0].source for model in ("conv-net", "residual-mlp"))
    digits = data.load("digits")
    assert conv.fingerprint == digits.fingerprint
    assert mlp.fingerprint == digits.flatten().fingerprint != digits.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vit", "widths": [16, 24]}, "`width` must be a multiple of `head_size` 16, got 24"),
        ({"model": "gpt"}, "model gpt takes tokens, data set digits has images"),
        ({"model": "conv-net", "model_args": {"stride": 2}}, "no option of conv-net named 'stride'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(tiny: Tiny, changes: dict, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        driver.prepare(tiny(**changes))
