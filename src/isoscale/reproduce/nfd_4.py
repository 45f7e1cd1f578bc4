"""On CIFAR-10, depth-muP makes deep ResNets trainable at one learning rate, their losses settle as depth grows, and
training with independent backward weights comes to agree with backpropagation; without depth scaling none of this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from isoscale import data as data_sets
from isoscale import measure as measuring
from isoscale.measure.tools.building import another_seed
from isoscale.measure.tools.observe import linear_layers
from isoscale.reproduce import conditions, inputs
from isoscale.reproduce.claim import Claim, Preset, Ruling, ruling
from isoscale.reproduce.measured import Measured
from isoscale.stats.summary import mean_and_se

if TYPE_CHECKING:
    import xarray as xr

    from isoscale.reproduce.work import Work

_CIFAR = {"dataset": "cifar10", "dataset_args": {"batches": (1,), "pool": 2}}
_SHARED = {
    "networks": {"depth-muP": {}, "ResNet, no depth scaling": {}, "plain": {}},
    "phi": "relu",
    # One rate for all networks and depths.
    "lr": 0.0625,
    "base_depth": 2,
}
PRESETS = {
    "quick": Preset(
        minutes=0.2,
        settings=_SHARED
        | {"dataset": "digits", "width": 64, "depths": (2, 4, 8, 16), "batch_size": 64, "steps": 40, "seeds": 3},
    ),
    "cpu": Preset(
        minutes=5,
        gibibytes=2,
        settings=_SHARED
        | _CIFAR
        | {"width": 128, "depths": (2, 4, 8, 16, 32, 64), "batch_size": 64, "steps": 300, "seeds": 3},
    ),
    "paper": Preset(
        minutes=120,
        gibibytes=8,
        needs_gpu=True,
        settings=_SHARED
        | {
            "dataset": "cifar10",
            "width": 128,
            "depths": (2, 4, 8, 16, 32, 64),
            "batch_size": 128,
            "steps": 4000,
            "seeds": 5,
        },
    ),
}
WAYS = ("standard", "independent")
LOSSES = ("training loss", "test loss")


class _Plain(nn.Module):
    """Input layer, `depth` layers with activations, readout: the network without its residual connections."""

    def __init__(self, in_features: int, out_features: int, width: int, depth: int, seed: int) -> None:
        super().__init__()
        self.input = nn.Linear(in_features, width, bias=False)
        self.blocks = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.readout = nn.Linear(width, out_features, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for layer in (self.input, *self.blocks, self.readout):
            assert isinstance(layer, nn.Linear)
            # He: the activations keep their size.
            nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.input(x)
        for layer in self.blocks:
            h = layer(torch.relu(h))
        return self.readout(torch.relu(h))


def measure(settings: Mapping[str, Any], work: Work) -> Measured:
    """Training and test loss at the end, of both ways of going backward, by depth."""
    found = Measured()
    depths = settings["depths"]
    for name in settings["networks"]:
        # (depth, seed, way, training or test)
        losses = np.array(
            work.part(
                name,
                {**settings, "networks": name},
                lambda name=name: [
                    [_trained(settings, name, depth, seed, work.data) for seed in range(settings["seeds"])]
                    for depth in depths
                ],
            ),
            float,
        )
        for index, which in enumerate(LOSSES):
            panel = f"{name}: {which}"
            found.panel(panel, x="depth L", y=which, log=False)
            for way, words in enumerate(WAYS):
                values = losses[:, :, way, index]
                middle, error = mean_and_se(values.T)
                found.line(panel, words, depths, middle, error)
        gap = np.abs(losses[:, :, 1, 0] - losses[:, :, 0, 0])
        middle, error = mean_and_se(gap.T)
        found.panel("gap of the two ways", x="depth L", y="|independent - standard|")
        found.line("gap of the two ways", name, depths, middle, error)
        found.law(f"exponent of the gap, {name}", depths, middle)
        change = losses[-1, :, 0, 0] - losses[-2, :, 0, 0]
        found.mean(f"training loss from depth {depths[-2]} to {depths[-1]}, {name}", change.tolist())
        found.mean(f"training loss at depth {depths[-1]}, {name}", losses[-1, :, 0, 0].tolist())
    return found


def _trained(settings: Mapping[str, Any], name: str, depth: int, seed: int, folder: str | None) -> list[list[float]]:
    """(way, [training, test]) losses; NaN where it diverges. Both ways see the same batches from the same weights."""
    dataset = data_sets.load(settings["dataset"], folder, **settings.get("dataset_args", {})).flatten()
    ends = []
    for way in WAYS:
        model, optimizer = _made(settings, name, dataset, depth, seed)
        other, _ = _made(settings, name, dataset, depth, another_seed(seed))
        inner = [layer for layer in linear_layers(model) if layer.startswith("blocks.")]
        copies = linear_layers(other)
        replaced = {layer: copies[layer].weight for layer in inner} if way == "independent" else {}
        order = torch.Generator().manual_seed(seed)
        curve = []
        with measuring.independent_backward(model, replaced):  # pyrefly: ignore[bad-argument-type]
            for _ in range(settings["steps"]):
                rows = torch.randint(len(dataset.train_x), (settings["batch_size"],), generator=order)
                loss = inputs.loss_of(model(dataset.train_x[rows]), dataset.train_y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                curve.append(loss.item())
                if not np.isfinite(curve[-1]):
                    break
        last = max(1, settings["steps"] // 10)
        trained = float(np.mean(curve[-last:])) if np.isfinite(curve[-1]) else np.nan
        with torch.no_grad():
            tested = float(inputs.loss_of(model(dataset.test_x), dataset.test_y))
        ends.append([trained, tested if np.isfinite(trained) else np.nan])
    return ends


def _made(
    settings: Mapping[str, Any], name: str, dataset: data_sets.Dataset, depth: int, seed: int
) -> tuple[nn.Module, torch.optim.Optimizer]:
    if name == "plain":
        plain = _Plain(dataset.in_features, dataset.classes, settings["width"], depth, seed)
        return plain, torch.optim.SGD(plain.parameters(), lr=settings["lr"])
    network = {"model": "residual-mlp", "width": settings["width"], "block_depth": 1, "phi": settings["phi"]}
    scaled = inputs.Scaled(
        network,
        dataset,
        rule="depth-mup" if name == "depth-muP" else "sp",
        optimizer="sgd",
        lr=settings["lr"],
        base_depth=settings["base_depth"],
    )
    model = scaled.make(depth, seed)
    return model, scaled.optimizer(model)


def decide(data: xr.Dataset) -> Ruling:
    """The two ways must come together under depth-muP, and the loss must settle there."""
    parts = [conditions.within(data, "exponent of the gap, depth-muP", high=-0.25)]
    for name in conditions.named(data, "training loss from depth"):
        if name.endswith("depth-muP"):
            parts.append(conditions.within(data, name, -0.1, 0.1))
    return ruling(parts)


CLAIM = Claim(
    id="nfd-4",
    alias="cifar-figure",
    sentence="On CIFAR-10, depth-muP ResNets settle to one loss as depth grows, and training with independent backward "
    "weights comes to agree with backpropagation; without depth scaling, and in plain nets, it does not.",
    source="NFD, arXiv 2512.21075, figure on CIFAR-10; docs/theory.md, section 2",
    rule="under depth-muP the gap in training loss between independent and standard backward weights falls at least "
    "like L^-0.25, and the training loss changes by at most 0.1 with the last doubling of depth.",
    reading="Read off the text, since the figure's protocol is not fully stated: fully connected ResNets of one-layer "
    "blocks, SGD at one learning rate for all. A depth at which a seed diverges has no point.",
    reason="as in nfd-3, the two ways of going backward have limits of their own in depth, so that their gap tends to "
    "a number and not to 0 (see the panel of the gaps). Until the limit is near, the gap may even grow with "
    "depth, as the networks learn faster.",
    presets=PRESETS,
    measure=measure,
    decide=decide,
)
