"""Depth laws of learning rates: the protocol that claims AM-1 to AM-9, AM-11 and AM-12 share.

Every network is trained by `isoscale.depth_law`. A depth whose optimum is a bound, or at whose optimum the network
ends at chance (its final loss is above 0.98 of the loss of one that knows nothing), is left out of the law: the same
for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale import data
from isoscale.reproduce.claim import Preset
from isoscale.reproduce.measured import Measured
from isoscale.runs import Sweep, log2_grid
from isoscale.studies.depth_law import depth_law

if TYPE_CHECKING:
    import pandas as pd

    from isoscale.reproduce.work import Work

CHANCE = 0.98
CLAIMED = -1.5

RULE = (
    "a depth counts unless its optimum is a bound or the network ends there above 0.98 of chance; an exponent is -3/2 "
    "if its 95 % interval comes within 0.1 of it and excludes 0, -1/2, -1 and -2."
)

REASON = (
    "size. Seeds scatter by about 0.4 octaves, and four depths from 2 to 6, where the first and the last layer count "
    "as much as the others, tell no power from its neighbours (quick); plain nets learn little within so few batches, "
    "so that depths drop out at chance. Eight depths from 3 to 30 with 3 seeds (cpu) give an exponent to about 0.2: "
    "enough for -3/2 against -1, not against -1.37."
)

# What each preset trains. Nothing was chosen by the slope that it gives: sizes were chosen by their cost.
SIZES: dict[str, dict[str, Any]] = {
    "quick": {
        "widths": (16,),
        "depths": (2, 3, 4, 6),
        "steps": 60,
        "batch_size": 32,
        "seeds": 2,
        "dataset": "digits",
        "lrs": log2_grid(-12, 0),
    },
    "cpu": {
        "widths": (32,),
        "depths": (3, 4, 6, 8, 12, 16, 24, 30),
        "steps": 100,
        "batch_size": 64,
        "seeds": 3,
        "dataset": "cifar10",
        "dataset_args": {"batches": (1,), "pool": 2},
        "lrs": log2_grid(-14, 0),
    },
    "paper": {
        "widths": (64,),
        "depths": (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
        "steps": 100,
        "batch_size": 128,
        "seeds": 3,
        "dataset": "cifar10",
        "lrs": log2_grid(-16, 0),
    },
}

# Memory, where a claim does not say otherwise.
GIBIBYTES = {"quick": 1.0, "cpu": 2.0, "paper": 16.0}


def plain(**options: Any) -> dict[str, Any]:
    """A plain conv net as published: He init, circular padding."""
    return _network("conv-net", {"init": "he"}, options)


def residual(**options: Any) -> dict[str, Any]:
    """A residual conv net of one convolution a block; the branches' variance is 2/(K fan_in)."""
    return _network("conv-resnet", {"branch_init": "he/sqrt(K)"}, options)


def _network(model: str, shared: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the model, apart from those of the sweep."""
    of_sweep = {name: options[name] for name in options if name in Sweep.__dataclass_fields__}
    of_model = {name: options[name] for name in options if name not in of_sweep}
    return {"model": model, "model_args": {**shared, **of_model}} | of_sweep


def preset(
    name: str,
    networks: Mapping[str, Mapping[str, Any]],
    *,
    minutes: float,
    gibibytes: float | None = None,
    **changes: Any,
) -> Preset:
    """A preset of the shared protocol: its sizes and the networks, each with what it has of its own."""
    own = {key: dict(network) for key, network in networks.items()}
    return Preset(
        minutes=minutes,
        gibibytes=GIBIBYTES[name] if gibibytes is None else gibibytes,
        needs_gpu=name == "paper",
        settings={**SIZES[name], **changes, "networks": own},
    )


def measure(settings: Mapping[str, Any], work: Work) -> Measured:
    """The optimum at every depth of every network, and the law of those that count."""
    found = Measured()
    for name in settings["networks"]:
        law = law_of(settings, name, work)
        report(found, name, law)
    return found


def law_of(settings: Mapping[str, Any], name: str, work: Work) -> dict[str, Any]:
    """One network's optima, predictions and runs, as `isoscale.depth_law` finds them."""
    sizes = {key: value for key, value in settings.items() if key != "networks"}
    network = settings["networks"][name]
    if "dataset" in network:
        # The protocol's options are those of its own data set.
        sizes.pop("dataset_args", None)
    values: dict[str, Any] = {"optimizer": "sgd", **sizes, **network}

    def swept() -> dict[str, Any]:
        spec = Sweep(rule="sp", **values)
        law = depth_law({name: spec}, runner=work.runner)
        of = law.data.sel(network=name)
        columns = ("lr", "lr_low", "lr_high", "lr_se", "at_edge", "final_loss", "estimate", "blocks", "effective")
        rows = {column: of[column].values.tolist() for column in (*columns, "path_sum", "seeds_diverged")}
        return {
            "depth": of["depth"].values.tolist(),
            "classes": _classes(spec, work),
            **rows,
            "predictions": _rows(law.predictions),
            "segments": _rows(law.segments),
            "zero_shot": _rows(law.zero_shot),
            "runs": _rows(law.runs),
        }

    return work.part(name, values, swept)


def counted(law: Mapping[str, Any]) -> np.ndarray:
    """Which depths count: their optimum is a value, and the network learns there."""
    is_value = np.array([edge == "" for edge in law["at_edge"]])
    rates = np.array(law["lr"], float)
    learns = np.array(law["final_loss"], float) <= CHANCE * math.log(law["classes"])
    return is_value & np.isfinite(rates) & learns


def report(found: Measured, name: str, law: Mapping[str, Any], panel: str = "best learning rate") -> None:
    """The line of a network, its exponent, and how many of its depths count."""
    import pandas as pd

    depths = np.array(law["depth"], float)
    counts = counted(law)
    columns = {key: np.where(counts, np.array(law[key], float), np.nan) for key in ("lr", "lr_low", "lr_high")}
    found.panel(panel, x="depth L", y="best learning rate")
    found.line(panel, name, depths, columns["lr"], low=columns["lr_low"], high=columns["lr_high"])
    found.law(f"exponent, {name}", depths[counts], columns["lr"][counts])
    found.quantity(f"depths that count of {len(depths)}, {name}", int(counts.sum()))
    found.add_runs(pd.DataFrame(law["runs"]))


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[Any] = table.to_dict("records")
    return rows


def _classes(spec: Sweep, work: Work) -> int:
    return data.load(spec.dataset, work.data, **spec.dataset_args).classes
