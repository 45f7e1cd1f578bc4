"""The mean square S_l of the change of layer l's pre-activations in one step grows like l^3 in a plain ReLU net."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale import measure as measuring
from isoscale import models
from isoscale.reproduce import conditions, inputs
from isoscale.reproduce.claim import Claim, Preset, Ruling, ruling
from isoscale.reproduce.measured import Measured
from isoscale.stats.summary import mean_and_se

if TYPE_CHECKING:
    import xarray as xr
    from torch import nn

    from isoscale.reproduce.work import Work

# The derivation's case is dense layers, ReLU and one sample; what the law is claimed for is conv nets. Images of one
# colour show what the places of other images do: with circular padding all places are then alike from the start.
_NETWORKS = {
    "dense, relu": {"phi": "relu", "kernel": 1, "images": "vectors", "widths": 4},
    "conv, relu": {"phi": "relu", "kernel": 3, "images": "images", "widths": 1},
    "conv, gelu": {"phi": "gelu", "kernel": 3, "images": "images", "widths": 1},
    "conv, relu, one colour": {"phi": "relu", "kernel": 3, "images": "one colour", "widths": 1},
}
_SHARED = {"networks": _NETWORKS, "batch_sizes": (1, 32), "first": 4, "init": "he", "padding": "circular"}
PRESETS = {
    "quick": Preset(
        minutes=0.3,
        settings=_SHARED | {"dataset": "digits", "width": 64, "depth": 16, "seeds": 6, "batches": 2},
    ),
    "cpu": Preset(
        minutes=20,
        gibibytes=2,
        settings=_SHARED
        | {
            "dataset": "cifar10",
            "dataset_args": {"batches": (1,), "pool": 4},
            "width": 256,
            "depth": 32,
            "seeds": 8,
            "batches": 2,
        },
    ),
    "paper": Preset(
        minutes=60,
        gibibytes=16,
        needs_gpu=True,
        settings=_SHARED | {"dataset": "cifar10", "width": 512, "depth": 64, "seeds": 16, "batches": 4},
    ),
}
_RIVALS = (0.0, 1.0, 2.0, 2.5, 3.5, 4.0)


def measure(settings: Mapping[str, Any], work: Work) -> Measured:
    """S_l(1) against l, averaged over seeds and batches."""
    found = Measured()
    first = settings["first"]
    for kind, network in settings["networks"].items():
        found.panel(kind, x="layer l", y=f"S_l / S_{first}")
        for size in settings["batch_sizes"]:
            name = f"{kind}, batch of {size}"
            # (seed, layer)
            moments = np.array(
                work.part(
                    name,
                    {**settings, "networks": network, "batch_sizes": size},
                    lambda network=network, size=size: _moments(settings, network, size, work.data),
                )
            )
            middle, error = mean_and_se(moments / moments[:, first - 1 : first])
            layers = np.arange(1, moments.shape[1] + 1)
            found.line(kind, f"batch of {size}", layers, middle, error)
            is_judged = network["images"] != "one colour"
            judged = f"exponent in l, {name}"
            found.mean(judged if is_judged else f"not judged: {judged}", _exponents(layers, moments, first))
            half = settings["depth"] // 2
            found.mean(f"not judged: exponent in l from layer {half} on, {name}", _exponents(layers, moments, half))
    return found


def _exponents(layers: np.ndarray, moments: np.ndarray, first: int) -> list[float]:
    """Of S_l from one layer on; one a seed, as the layers of one network are not independent of one another."""
    late = layers >= first
    logs = np.log(layers[late])
    return [float(np.polyfit(logs, np.log(row[late]), 1)[0]) for row in moments]


def _moments(settings: Mapping[str, Any], network: Mapping[str, Any], size: int, folder: str | None) -> list[Any]:
    dataset, batches = inputs.batches({**settings, "batch_size": size}, folder)
    options = {name: settings[name] for name in ("init", "padding")}
    options |= {"phi": network["phi"], "kernel": network["kernel"]}
    in_shape = dataset.in_shape
    if network["images"] == "vectors":
        # Every number a channel, in one place.
        in_shape = (dataset.in_features, 1, 1)
        batches = [(x.reshape(len(x), *in_shape), y) for x, y in batches]
    elif network["images"] == "one colour":
        batches = [(x.mean((2, 3), keepdim=True).expand(x.shape).contiguous(), y) for x, y in batches]

    def make(seed: int) -> nn.Module:
        return models.build(
            "conv-net",
            options,
            in_shape=in_shape,
            out_features=dataset.classes,
            width=settings["width"] * network["widths"],
            depth=settings["depth"],
            seed=seed,
        )

    rows = []
    for seed in range(settings["seeds"]):
        found = measuring.max_update_lr(make(seed), inputs.loss_of, batches)
        rows.append(list(found.moments.values()))
    return rows


def decide(data: xr.Dataset) -> Ruling:
    """Cubic, from the fourth layer on."""
    names = conditions.named(data, "exponent in l")
    return ruling([conditions.exponent(data, name, 3.0, _RIVALS) for name in names])


CLAIM = Claim(
    id="am-10",
    alias="cubic",
    sentence="One step changes the pre-activations of layer l by a mean square S_l that grows like l^3, which gives "
    "the law L^-3/2.",
    source="AM-muP, arXiv 2510.04327; docs/theory.md, section 6",
    rule="exponent of S_l against l from layer 4 on is 3 and none of 0, 1, 2, 2.5, 3.5, 4; one exponent a seed.",
    reading="First order in the learning rate, by a forward-mode derivative: no training. The derivation is for dense "
    "layers, ReLU and one sample; conv nets, GELU and batches are measured beside it. Images of one colour are "
    "measured, not judged.",
    reason="in a dense ReLU net with one sample the first layers, where S_l is steeper: from half the depth on the "
    "exponent is nearer to 3 (not judged, but shown). The places of a conv net, and the samples of a batch, become "
    "alike with depth, so that ever more of them push together: steeper than cubic. On images of one colour all places "
    "are alike from the start; if that is the reason, conv nets come nearer to 3 there (not judged, but shown). Under "
    "GELU signals of He's init die out with depth, which was not tested apart.",
    presets=PRESETS,
    measure=measure,
    decide=decide,
)
