"""Keys of trials: written down, canonical, and the same in every version that gives the same numbers."""

import dataclasses

import pytest

from isoscale import Sweep
from isoscale.errors import InvalidValueError
from isoscale.runs import keys, shards
from isoscale.runs.keys import Source

DIGITS = Source("digits", None, {}, "fingerprint", "note", (64,), 10)
IMAGES = Source("digits", None, {}, "fingerprint", "note", (1, 8, 8), 10)


def keys_of(source=DIGITS, **changes):
    settings = {"widths": [8], "depths": [2], "lrs": [0.25], "seeds": [3], "steps": 5, "batch_size": 16}
    spec = Sweep(**(settings | changes))
    return [key for shard in shards.make(spec, source) for key in shard.keys]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({}, "e870360fd6a10731a070a602e82d5e77"),
        ({"optimizer": "adamw", "weight_decay": 0.1, "rule": "depth-mup"}, "af6950d2a5dc47c4f55e189b658b5df3"),
        ({"optimizer": "muon", "model_args": {"block_depth": 1}}, "61acd6156d042babc4caf9dd698bf032"),
    ],
)
def test_known_keys(changes, key):
    """A store of this version is read by the next: whoever changes these keys must raise `NUMERICS`, and know it."""
    assert keys.NUMERICS == 2
    assert keys_of(**changes) == [key]


@pytest.mark.parametrize(
    ("spelled", "changes"),
    [
        ({"model_args": {"block_depth": 2, "phi": "relu"}}, {}),
        ({"model_args": {"norm": None}}, {}),
        ({"momentum": 0.0}, {}),
        ({"betas": (0.8, 0.9), "eps": 1e-6}, {}),  # SGD takes neither
        ({"base_width": 8, "base_depth": 2}, {}),
        ({"momentum": 0.95}, {"optimizer": "muon"}),
        ({"momentum": 0.9, "eps": 1e-3}, {"optimizer": "sign"}),
        ({"schedule": "constant", "warmup": 0.0, "clip": None, "accumulate": 1}, {}),
    ],
)
def test_a_default_spelled_out_is_the_same_trial(spelled, changes):
    assert keys_of(**changes) == keys_of(**(changes | spelled))


def test_dims_of_a_conv_net_follow_the_samples():
    options = {"model": "conv-net", "depths": [3], "source": IMAGES}
    assert keys_of(**options) == keys_of(**options, model_args={"dims": 2})
    assert keys_of(**options) != keys_of(**options, model_args={"dims": 1})


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "mup"},
        {"widths": [16], "base_width": 8},
        {"base_depth": 1},
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"optimizer": "adam"},
        {"optimizer": "adam", "betas": (0.9, 0.95)},
        {"optimizer": "adam", "eps": 1e-6},
        {"model_args": {"phi": "tanh"}},
        {"steps": 6},
        {"batch_size": 8},
        {"schedule": "cosine"},
        {"warmup": 0.2},
        {"clip": 1.0},
        {"accumulate": 2},
        {"autocast": "bfloat16"},
        {"lrs": [0.125]},
        {"seeds": [4]},
        {"source": dataclasses.replace(DIGITS, fingerprint="other")},
    ],
)
def test_whatever_changes_the_numbers_changes_the_key(changes):
    assert keys_of(**changes) != keys_of()


def test_adams_options_count_for_adam():
    base = keys_of(optimizer="adam")
    assert keys_of(optimizer="adam", betas=(0.9, 0.95)) != base
    assert keys_of(optimizer="adam", eps=1e-6) != base


def test_what_is_hashed_is_what_is_written_down():
    (shard,) = shards.make(Sweep(widths=[8], depths=[2], lrs=[0.25], seeds=[3]), DIGITS)
    settings = shard.settings(shard.members[0])
    assert set(settings) == {
        *("numerics", "model", "model_args", "width", "depth", "base_width", "base_depth", "rule", "optimizer"),
        *("steps", "batch_size", "dataset", "data", "lr", "seed"),
    }
    assert keys.digest(settings) == shard.keys[0]


def test_an_option_that_the_model_does_not_take_is_named():
    with pytest.raises(InvalidValueError, match="block_dept"):
        keys_of(model_args={"block_dept": 2})
