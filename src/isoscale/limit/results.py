"""From the arrays of a run to a labelled xarray.Dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.limit.network import KERNELS, History, Problem

if TYPE_CHECKING:
    import xarray as xr

Arrays = dict[str, np.ndarray]

DESCRIPTIONS = {
    "loss": "mean loss over the training samples",
    "prediction": "network output of the training samples",
    "test_prediction": "network output of samples that are never trained on",
    "feature_kernel": "<phi(h), phi(h)>: inner products of the features over the width",
    "stream_kernel": "<h, h>: inner products of the residual stream over the width",
    "gradient_kernel": "<g, g>: inner products of the backward vectors g = n dL/dh / chi over the width",
    "cross_kernel": "<h, g>: inner products of the residual stream with the backward vectors",
    "displacement": "<h - h(step 0), h - h(step 0)>: mean square distance travelled by the residual stream",
    "target": "what the network is trained to output",
}
PAIR = ("step", "time", "sample", "sample2")


def arrays(history: History, problem: Problem) -> Arrays:
    """Every recorded variable as numpy in float64 (averages are to be finer than what they average), replicas first."""
    p = problem.trained
    out = {"loss": history.loss, "prediction": history.prediction[:, :, :p]}
    if problem.samples > p:
        out["test_prediction"] = history.prediction[:, :, p:]
    if history.displacement.shape[2]:
        out |= {name: history.kernels[name] for name in KERNELS} | {"displacement": history.displacement[..., :p]}
    return {name: value.double().cpu().numpy() for name, value in out.items()}


def dataset(values: Mapping[str, np.ndarray], problem: Problem, times: np.ndarray, attrs: dict[str, Any]) -> xr.Dataset:
    """Label arrays without replicas: `values` are named as in `DESCRIPTIONS`, standard errors `<name>_se`."""
    import xarray as xr

    single = problem.outputs == 1
    variables = {}
    for name, value in {**values, "target": problem.y.cpu().numpy()}.items():
        base = name.removesuffix("_se")
        dims = _dims(base, single)
        text = DESCRIPTIONS[base] if base == name else f"standard error of {base}"
        squeeze = single and base in ("prediction", "test_prediction", "target")
        variables[name] = (dims, value[..., 0] if squeeze else value, {"units": "1", "long_name": text})
    coords: dict[str, Any] = {"step": np.arange(problem.steps + 1), "sample": np.arange(problem.trained)}
    if "feature_kernel" in values:
        coords |= {"time": times, "sample2": np.arange(problem.trained)}
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _dims(name: str, single: bool) -> tuple[str, ...]:
    outputs = () if single else ("output",)
    known = {
        "loss": ("step",),
        "prediction": ("step", "sample", *outputs),
        "test_prediction": ("step", "test_sample", *outputs),
        "target": ("sample", *outputs),
        "displacement": ("step", "time", "sample"),
    }
    return known.get(name, PAIR)
