"""depth-muP keeps the forward and the backward pass stable in depth, with blocks of one and of two layers, at
initialisation and in training; without depth scaling they grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from isoscale.reproduce import conditions, inputs
from isoscale.reproduce.claim import Claim, Preset, Ruling, ruling
from isoscale.reproduce.measured import Measured
from isoscale.stats.summary import mean_and_se

if TYPE_CHECKING:
    import xarray as xr

    from isoscale.reproduce.work import Work

_CLAIMED = "depth-mup"
# mup: scaled in width, not in depth.
_SHARED = {
    "rules": (_CLAIMED, "mup", "sp"),
    "block_depths": (1, 2),
    "phi": "relu",
    "optimizer": "sgd",
    "lr": 0.02,
    "batches": 4,
}
PRESETS = {
    "quick": Preset(
        minutes=0.2,
        settings=_SHARED
        | {"dataset": "digits", "width": 64, "depths": (4, 8, 16, 32), "batch_size": 64, "steps": 8, "seeds": 3},
    ),
    "cpu": Preset(
        minutes=3,
        settings=_SHARED
        | {
            "dataset": "cifar10",
            "dataset_args": {"batches": (1,), "pool": 2},
            "width": 256,
            "depths": (4, 8, 16, 32, 64),
            "batch_size": 64,
            "steps": 30,
            "seeds": 5,
        },
    ),
    "paper": Preset(
        minutes=60,
        gibibytes=8,
        needs_gpu=True,
        settings=_SHARED
        | {
            "dataset": "cifar10",
            "width": 512,
            "depths": (4, 8, 16, 32, 64, 128, 256),
            "batch_size": 128,
            "steps": 200,
            "seeds": 5,
        },
    ),
}


def measure(settings: Mapping[str, Any], work: Work) -> Measured:
    """How much the stream and the gradient grow from one end of the network to the other."""
    found = Measured()
    depths = settings["depths"]
    for block_depth in settings["block_depths"]:
        for rule in settings["rules"]:
            # (depth, seed, before or after training, forward or backward)
            growth = np.array(
                work.part(
                    f"blocks of {block_depth}, {rule}",
                    {**settings, "block_depths": block_depth, "rules": rule},
                    lambda block_depth=block_depth, rule=rule: _growth(settings, block_depth, rule, work.data),
                )
            )
            for way, pass_ in enumerate(("forward", "backward")):
                for when, time in enumerate(("start", "trained")):
                    values = growth[:, :, when, way]
                    middle, error = mean_and_se(values.T)
                    panel = f"{pass_} pass, blocks of {block_depth}, {time}"
                    found.panel(panel, x="depth L", y="growth over all blocks")
                    found.line(panel, rule, depths, middle, error)
                    if rule == _CLAIMED:
                        found.law(f"exponent, {panel}", depths, middle)
                        continue
                    # Exponential in depth: no power law, but growth with every doubling, seed by seed.
                    octaves = np.log2(values[-1] / values[0]) / np.log2(depths[-1] / depths[0])
                    found.mean(f"octaves a doubling, {rule}, {panel}", octaves.tolist())
    return found


def _growth(settings: Mapping[str, Any], block_depth: int, rule: str, folder: str | None) -> list[Any]:
    dataset, batches = inputs.batches(settings, folder, flat=True)
    network = {
        "model": "residual-mlp",
        "width": settings["width"],
        "block_depth": block_depth,
        "phi": settings["phi"],
    }
    scaled = inputs.Scaled(
        network, dataset, rule=rule, optimizer=settings["optimizer"], lr=settings["lr"], base_depth=1
    )

    def of(depth: int, seed: int) -> list[Any]:
        model = scaled.make(depth, seed)
        optimizer = scaled.optimizer(model)
        start = _ends(model, *batches[0])
        for step in range(settings["steps"]):
            x, y = batches[step % len(batches)]
            loss = inputs.loss_of(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return [start, _ends(model, *batches[0])]

    return inputs.by_depth_and_seed(settings, of)


def _ends(model: nn.Module, x: Tensor, y: Tensor) -> list[float]:
    """|h_L| / |h_0| and |dloss/dh_0| / |dloss/dh_L|; NaN where training has diverged."""
    stream: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            stream[name] = output
            output.retain_grad()

        return hook

    blocks = model.get_submodule("blocks")
    assert isinstance(blocks, nn.ModuleList)
    handles = [
        model.get_submodule("input").register_forward_hook(keep("first")),
        blocks[-1].register_forward_hook(keep("last")),
    ]
    try:
        inputs.loss_of(model(x), y).backward()
    finally:
        for handle in handles:
            handle.remove()
    model.zero_grad()
    first, last = stream["first"], stream["last"]
    assert first.grad is not None
    assert last.grad is not None
    ratios = [float(last.detach().norm() / first.detach().norm()), float(first.grad.norm() / last.grad.norm())]
    return [ratio if np.isfinite(ratio) else np.nan for ratio in ratios]


def decide(data: xr.Dataset) -> Ruling:
    """Flat in depth under depth-muP; growing without depth scaling."""
    parts = []
    for name in conditions.named(data, ""):
        if name.startswith("exponent"):
            parts.append(conditions.exponent(data, name, 0.0))
        elif name.endswith("start"):
            parts.append(conditions.within(data, name, low=0.5))
    return ruling(parts)


CLAIM = Claim(
    id="nfd-9",
    alias="stability",
    sentence="depth-muP keeps the forward and the backward pass stable as depth grows, at initialisation and in "
    "training, with blocks of one and of two layers; without depth scaling both grow.",
    source="NFD, arXiv 2512.21075; TP6, arXiv 2310.02244; docs/theory.md, sections 1 and 4",
    rule="growth |h_L| / |h_0| and |dh_0| / |dh_L| flat in depth (exponent 0) under depth-mup, before and after "
    "training; under mup and sp, which have no depth scaling, at the start at least half an octave more with each "
    "doubling of depth, from the shallowest to the deepest (exponential growth is no power law, so it is not fitted as "
    "one). Networks that diverge in training have no point.",
    presets=PRESETS,
    measure=measure,
    decide=decide,
)
