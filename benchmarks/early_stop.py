"""What stopping hopeless trials saves a search, and whether its answer stays: built-in networks, with and without.

Every network is searched at a base and at a deeper size, as `isoscale transfer` does it, twice: every trial to its end,
and hopeless ones stopped. Trials are counted by the steps that they took. Both searches share a store of their own
kind, so that a benchmark that was interrupted goes on.

    python benchmarks/early_stop.py --folder early-stop
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from isoscale import Sweep, log2_grid, transfer
from isoscale.stats import Limits

_MLP = {"model": "residual-mlp", "widths": [64], "depths": [4, 16], "rule": "completep"}
_SYNTHETIC = {"dataset": "synthetic", "dataset_args": {"accuracy": 0.7, "train": 6400}}

NETWORKS = {
    "mlp, layer norm, AdamW, synthetic": Sweep(
        **_MLP,
        **_SYNTHETIC,
        model_args={"block_depth": 2, "phi": "relu", "norm": "layer"},
        optimizer="adamw",
        lrs=log2_grid(-12, 0),
    ),
    "mlp, no norm, SGD, digits": Sweep(
        **_MLP, dataset="digits", model_args={"block_depth": 2, "phi": "relu"}, optimizer="sgd", lrs=log2_grid(-10, 0)
    ),
    "mlp, no norm, AdamW, digits": Sweep(
        **_MLP, dataset="digits", model_args={"block_depth": 2, "phi": "relu"}, optimizer="adamw", lrs=log2_grid(-12, 0)
    ),
    "mlp, tanh, SGD, digits": Sweep(
        **_MLP, dataset="digits", model_args={"phi": "tanh"}, optimizer="sgd", lrs=log2_grid(-8, 2)
    ),
    "vit, AdamW, synthetic": Sweep(
        model="vit",
        model_args={"patch": 2},
        widths=[32],
        depths=[2, 6],
        rule="completep",
        dataset="synthetic",
        dataset_args={"size": 8, "channels": 3, "train": 6400, "accuracy": 0.7},
        optimizer="adamw",
        lrs=log2_grid(-12, 0),
    ),
}


@dataclass(frozen=True)
class Benchmark:
    """Where to keep the trials."""

    folder: Path = Path("early-stop")


def main(settings: Benchmark) -> None:
    settings.folder.mkdir(exist_ok=True)
    table = Table(
        "network",
        "hopeless",
        "trials",
        "stopped",
        "full-trial equivalents an optimum",
        "log2 of the optima",
        "drift",
        "verdict",
    )
    for name, spec in NETWORKS.items():
        for is_stopped in (False, True):
            asked = Sweep(**{**vars(spec), "early_stop": is_stopped})
            store = settings.folder / f"{'stopped' if is_stopped else 'whole'}.db"
            found = transfer(asked, limits=Limits(), store=store)
            assert found.result is not None
            searched = found.result.searched
            assert searched is not None
            of_rule = found.data.isel(rule=0)
            optima = []
            for size in found.data[found.axis].values.tolist():
                at = of_rule.sel({found.axis: size})
                ends = [math.log2(float(at[end])) for end in ("optimal_lr_low", "optimal_lr", "optimal_lr_high")]
                optima.append("{1:.2f} [{0:.2f}, {2:.2f}]".format(*ends))
            last = of_rule.sel({found.axis: found.target})
            table.add_row(
                name,
                "stopped" if is_stopped else "whole",
                str(searched.trials),
                str(searched.stopped),
                f"{searched.full_trials / searched.optima:.1f}",
                "; ".join(optima),
                f"{float(last['drift']):+.2f} [{float(last['drift_low']):+.2f}, {float(last['drift_high']):+.2f}]",
                str(of_rule["verdict"].item()),
            )
    Console(width=200).print(table)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
