"""Residual noise at initialisation times the first internal layer's own update is L^-1/2, whatever the rule of the
residual family: no rule has both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from isoscale import measure as measuring
from isoscale import rules
from isoscale.measure.tools.observe import observe
from isoscale.reproduce import conditions, inputs
from isoscale.reproduce.claim import Claim, Preset, Ruling, ruling
from isoscale.reproduce.measured import Measured
from isoscale.stats.summary import mean_and_se

if TYPE_CHECKING:
    import xarray as xr

    from isoscale.reproduce.work import Work

_SHARED = {"betas": (0.5, 0.75, 1.0), "optimizers": ("sgd", "adam"), "phi": "relu", "lr": 0.01}
PRESETS = {
    "quick": Preset(
        minutes=0.6,
        settings=_SHARED | {"dataset": "digits", "width": 128, "depths": (8, 16, 32, 64), "batch_size": 32, "seeds": 3},
    ),
    "cpu": Preset(
        minutes=7,
        settings=_SHARED
        | {
            "dataset": "cifar10",
            "dataset_args": {"batches": (1,), "pool": 2},
            "width": 512,
            "depths": (8, 16, 32, 64, 128),
            "batch_size": 64,
            "seeds": 5,
        },
    ),
    "paper": Preset(
        minutes=30,
        gibibytes=16,
        needs_gpu=True,
        settings=_SHARED
        | {
            "dataset": "cifar10",
            "width": 1024,
            "depths": (8, 16, 32, 64, 128, 256),
            "batch_size": 128,
            "seeds": 10,
        },
    ),
}


def measure(settings: Mapping[str, Any], work: Work) -> Measured:
    """Residual noise, own update and their product, for every rule of the family with alpha = 1/2."""
    found = Measured()
    depths = settings["depths"]
    for optimizer in settings["optimizers"]:
        for beta in settings["betas"]:
            # (depth, seed, noise or update)
            both = np.array(
                work.part(
                    f"beta = {beta:g}, {optimizer}",
                    {**settings, "betas": beta, "optimizers": optimizer},
                    lambda beta=beta, optimizer=optimizer: _both(settings, beta, optimizer, work.data),
                )
            )
            noise, update = both[..., 0], both[..., 1]
            shown = {"residual noise": noise, "own update": update, "noise x update": noise * update}
            for name, values in shown.items():
                middle, error = mean_and_se(values.T)
                panel = f"{name}, {optimizer}"
                found.panel(panel, x="depth L", y=name)
                found.line(panel, f"beta = {beta:g}", depths, middle, error)
                found.law(f"{name}, {optimizer}, beta = {beta:g}", depths, middle)
    return found


def _both(settings: Mapping[str, Any], beta: float, optimizer: str, folder: str | None) -> list[Any]:
    dataset, ((x, y),) = inputs.batches(settings, folder, flat=True)
    network = {"model": "residual-mlp", "width": settings["width"], "block_depth": 2, "phi": settings["phi"]}
    scaled = inputs.Scaled(
        network,
        dataset,
        rule=rules.residual_family(alpha=0.5, beta=beta),
        optimizer=optimizer,
        lr=settings["lr"],
        base_depth=1,
    )

    def of(depth: int, seed: int) -> list[Any]:
        speed = measuring.feature_speed(
            scaled.make, [(x, y)], inputs.loss_of, depths=[depth], seeds=[seed], steps=1, optimizer=scaled.optimizer
        )
        update = float(speed["group_own"].sel(group="blocks.*.maps.0", step=1).squeeze())
        return [_noise(scaled.make(depth, seed), x), update]

    return inputs.by_depth_and_seed(settings, of)


@torch.no_grad()
def _noise(model: nn.Module, x: torch.Tensor) -> float:
    """|h_L - h_0| / |h_0| at initialisation: what random branches add to the stream."""
    stream: list[torch.Tensor] = []
    blocks = model.get_submodule("blocks")
    assert isinstance(blocks, nn.ModuleList)
    last = f"blocks.{len(blocks) - 1}"

    def see(name: str, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
        stream.append(output)

    with observe(model, ["input", last], see):
        model(x)
    first, end = stream
    return float((end - first).norm() / first.norm())


def decide(data: xr.Dataset) -> Ruling:
    """The product is L^-1/2 for every beta."""
    return ruling([conditions.exponent(data, name, -0.5) for name in conditions.named(data, "noise x update")])


CLAIM = Claim(
    id="own-1",
    alias="trade-off",
    sentence="Residual noise at initialisation times the first internal layer's own update is L^-1/2 for every rule of "
    "the residual family: no depth rule keeps both.",
    source="docs/theory.md, section 4 (derived here)",
    rule="the product of |h_L - h_0| / |h_0| and of the first step's own update ~ L^-1/2 for beta = 1/2, 3/4 and 1 "
    "(alpha = 1/2), SGD and Adam.",
    reading="At the learning rates that the family gives, which are claimed to be the largest stable ones in depth; "
    "stability itself is the matter of nfd-8.",
    presets=PRESETS,
    measure=measure,
    decide=decide,
)
