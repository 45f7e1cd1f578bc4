"""The networks of the depth law's papers in two sizes: "cpu", minutes on two cores, and "paper", for a GPU.

Nothing here was chosen by the slope that it gives: the rows are the papers' networks and the variants that their
claims extend to; the small sizes were chosen by their cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isoscale.errors import unknown
from isoscale.runs import Sweep, log2_grid

# Model, options and optimizer of each row of the report.
_NETWORKS: dict[str, tuple[str, dict[str, Any], str]] = {
    "cnn relu circular": ("conv-net", {"init": "he"}, "sgd"),
    "cnn gelu circular": ("conv-net", {"init": "he", "phi": "gelu"}, "sgd"),
    "cnn relu zero": ("conv-net", {"init": "he", "padding": "zero"}, "sgd"),
    "cnn gelu zero": ("conv-net", {"init": "he", "phi": "gelu", "padding": "zero"}, "sgd"),
    "cnn 1-D relu circular": ("conv-net", {"init": "he", "dims": 1}, "sgd"),
    "cnn relu circular adam": ("conv-net", {"init": "he"}, "adam"),
    "resnet post he/sqrt(K)": ("conv-resnet", {"branch_init": "he/sqrt(K)"}, "sgd"),
    "resnet post he/sqrt(K) centred": ("conv-resnet", {"branch_init": "he/sqrt(K)", "centre": True}, "sgd"),
    "resnet post he": ("conv-resnet", {"branch_init": "he"}, "sgd"),
    "resnet post he batchnorm": ("conv-resnet", {"branch_init": "he", "norm": "batch"}, "sgd"),
    "resnet pre he/sqrt(K)": ("conv-resnet", {"branch_init": "he/sqrt(K)", "block": "pre"}, "sgd"),
    "resnet pre he/sqrt(K) adam": ("conv-resnet", {"branch_init": "he/sqrt(K)", "block": "pre"}, "adam"),
}

# 80 learning rates, a sixth of an octave apart, as in the papers' logspace(-5, -1, 80).
PAPER_LRS = tuple(10 ** (-5 + 4 * k / 79) for k in range(80))

SIZES: dict[str, dict[str, Any]] = {
    "cpu": {
        "widths": (8,),
        "depths": (3, 4, 5, 6, 8, 10, 12),
        "steps": 50,
        "batch_size": 32,
        "seeds": 3,
        "dataset": "cifar10",
        "dataset_args": {"batches": (1,), "pool": 4},
        "lrs": log2_grid(-14, 0, 6),
    },
    "paper": {
        "widths": (64,),
        "depths": (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
        "steps": 100,
        "batch_size": 128,
        "seeds": 3,
        "dataset": "cifar10",
        "dataset_args": {},
        "lrs": PAPER_LRS,
    },
}


def preset(name: str, **changes: Any) -> Mapping[str, Sweep]:
    """The papers' networks at a preset's size, by name, for `isoscale.depth_law`.

    Args:
        name: "cpu" (8 channels, CIFAR-10 pooled to 8x8, depths 3 to 12, 50 batches of 32) or "paper" (64 channels,
            32x32, depths 3 to 30, 100 batches of 128). Three seeds; every network in both, twelve in all.
        **changes: Settings of `isoscale.Sweep` to have otherwise.

    Raises:
        InvalidValueError: No such preset, or a setting that makes no sense.

    >>> networks = preset("cpu", seeds=2)
    >>> len(networks), networks["cnn relu zero"].model_args
    (12, {'init': 'he', 'padding': 'zero'})
    """
    if name not in SIZES:
        raise unknown("preset", name, SIZES)
    shared = sized(name) | changes
    networks = {}
    for network, (model, args, optimizer) in _NETWORKS.items():
        values: dict[str, Any] = {"model": model, "model_args": args, "optimizer": optimizer} | shared
        networks[network] = Sweep(**values)
    return networks


def sized(name: str) -> dict[str, Any]:
    """A preset's sizes, data and learning rates, as settings of `isoscale.Sweep`; the rule is sp."""
    return {"rule": "sp", **SIZES[name]}
