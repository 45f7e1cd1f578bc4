"""At the base's own size every rule gives the same numbers: those trials run once, and stand under each rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from isoscale import rules
from isoscale.runs import Sweep, sweep
from isoscale.testing import InlineEngine


def test_every_rule_is_the_identity_at_the_base(tiny: Callable[..., Sweep], inline: type[InlineEngine], tmp_path: Path):
    """Each rule by itself, in a store of its own: the same curves to the last bit, with every kind of optimizer."""
    for optimizer in ("sgd", "adamw", "muon"):
        curves = []
        for rule in rules.names():
            spec = tiny(rule=rule, optimizer=optimizer, depths=[2], model_args={"block_depth": 2, "norm": "layer"})
            curves.append(sweep(spec, store=tmp_path / f"{rule}-{optimizer}.db", device="cpu").data["curve"].values)
        for curve in curves[1:]:
            np.testing.assert_array_equal(curve, curves[0])


def test_the_base_trains_once(tiny: Callable[..., Sweep], inline: type[InlineEngine], tmp_path: Path):
    both = tiny(rule=["sp", "depth-mup"])
    found = sweep(both, store=tmp_path / "both.db", device="cpu")
    # Depth 1 is the base; depth 2 is trained by each rule.
    assert sorted((shard.config.depth, len(shard.members)) for shard in inline.ran) == [(1, 4), (2, 4), (2, 4)]
    assert found.count("done") == 16
    for rule in ("sp", "depth-mup"):
        alone = sweep(tiny(rule=rule), store=tmp_path / f"{rule}.db", device="cpu")
        np.testing.assert_array_equal(alone.data["curve"].sel(rule=rule), found.data["curve"].sel(rule=rule))
    inline.ran.clear()
    sweep(both, store=tmp_path / "both.db", device="cpu")
    # A rule that comes later finds the base's trials, and more of them are trained once.
    sweep(tiny(rule=["sp", "depth-mup", "completep"]), store=tmp_path / "both.db", device="cpu")
    assert [(shard.config.rule, shard.config.depth) for shard in inline.ran] == [("completep", 2)]
    inline.ran.clear()
    sweep(tiny(rule=["sp", "completep"], seeds=3, depths=[1]), store=tmp_path / "both.db", device="cpu")
    assert [[member.seed for member in shard.members] for shard in inline.ran] == [[2, 2]]


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))


def test_a_model_of_the_users_trains_its_base_once(inline: type[InlineEngine], tmp_path: Path):
    batches = [(torch.ones(4, 3), torch.ones(4, 1))]
    spec = Sweep(
        model=network, batches=batches, loss_fn=nn.functional.mse_loss, rule=["sp", "mup"], widths=[4, 8], lrs=[0.1],
        seeds=1, steps=3, version="1",
    )  # fmt: skip
    found = sweep(spec, store=tmp_path / "s.db", device="cpu")
    assert sorted(shard.shared["sizes"]["width"] for shard in inline.ran) == [4, 8, 8]
    assert found.count("done") == 4
