"""Three tiny networks on synthetic images, trained in a moment."""

from __future__ import annotations

from typing import Any

from isoscale.runs import Sweep, log2_grid

SETTING: dict[str, Any] = {
    "dataset": "synthetic",
    "dataset_args": {"classes": 4, "channels": 1, "size": 5, "train": 200, "test": 40},
    "rule": "sp",
    "widths": [4],
    "depths": [1, 2, 4],
    "steps": 12,
    "batch_size": 16,
    "seeds": 2,
    "lrs": log2_grid(-6, 1),
}
NETWORKS = {
    "plain": Sweep(model="conv-net", model_args={"init": "he"}, **SETTING),
    "residual": Sweep(model="conv-resnet", model_args={"branch_init": "he/sqrt(K)"}, **SETTING),
    "adam": Sweep(model="conv-net", model_args={"init": "he"}, optimizer="adam", **SETTING),
}
