"""Results: from the arrays of a run to a labelled xarray.Dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.limit import activations, losses
from isoscale.limit.blocks import CORRECTED_INDEPENDENT
from isoscale.limit.network import KERNELS, History, Problem

if TYPE_CHECKING:
    import xarray as xr

Arrays = dict[str, np.ndarray]

DESCRIPTIONS = {
    "loss": "mean loss over the training samples",
    "prediction": "network output of the training samples",
    "test_prediction": "network output of samples that are never trained on",
    "feature_kernel": "<u, u>: inner products over the width of the features that a block's last matrix is applied to",
    "stream_kernel": "<h, h>: inner products of the residual stream over the width",
    "gradient_kernel": "<g, g>: inner products of the backward vectors g = n dL/dh / chi over the width",
    "cross_kernel": "<h, g>: inner products of the residual stream with the backward vectors",
    "displacement": "<h - h(step 0), h - h(step 0)>: mean square distance travelled by the residual stream",
    "target": "what the network is trained to output",
}
PAIR = ("step", "time", "sample", "sample2")
OUTPUTS = ("prediction", "test_prediction", "target")
"""Variables with a last dimension over outputs."""


def arrays(history: History, problem: Problem) -> Arrays:
    """Every recorded variable as numpy in float64 (averages are to be finer than what they average), replicas first."""
    trained = problem.trained
    out = {
        "loss": history.loss,
        "prediction": history.prediction[:, :, :trained],
    }
    if problem.samples > trained:
        out["test_prediction"] = history.prediction[:, :, trained:]
    # Kernels are recorded at some layers or at none.
    recorded_times = history.displacement.shape[2]
    if recorded_times:
        for name in KERNELS:
            out[name] = history.kernels[name]
        out["displacement"] = history.displacement[..., :trained]
    return {name: value.double().cpu().numpy() for name, value in out.items()}


def concatenate(parts: Sequence[Arrays]) -> Arrays:
    """The replicas of several runs, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def settings(
    problem: Problem,
    *,
    lr: float,
    phi: activations.Phi,
    backward_weights: str,
    loss: losses.Loss,
) -> dict[str, Any]:
    """Arguments of a run as attributes that every file format can hold."""
    found: dict[str, Any] = {
        "steps": problem.steps,
        "lr": float(lr),
        "phi": activations.name(phi),
        "horizon": problem.horizon,
        "backward_weights": backward_weights,
        "train_ends": int(problem.train_ends),
        "loss": losses.name(loss),
    }
    found |= problem.architecture.settings()
    found |= problem.optimizer.settings()
    # The learning rate of each step, where they are not all the same.
    if (problem.optimizer.rates != float(lr)).any():
        found["rates"] = problem.optimizer.rates.tolist()
    if problem.architecture.rule.corrected and backward_weights == "independent":
        found["warning"] = CORRECTED_INDEPENDENT
    return found


def diverged_step(step: int | None) -> int:
    """Step of a divergence as such an attribute: -1 for a run that stayed finite."""
    return -1 if step is None else step


def dataset(values: Mapping[str, np.ndarray], problem: Problem, times: np.ndarray, attrs: dict[str, Any]) -> xr.Dataset:
    """Label arrays without replicas: `values` are named as in `DESCRIPTIONS`, standard errors `<name>_se`."""
    import xarray as xr

    # A network of one output has no dimension of outputs.
    single = problem.outputs == 1
    variables = {}
    target = problem.y.cpu().numpy()
    for name, value in {**values, "target": target}.items():
        base = name.removesuffix("_se")
        text = DESCRIPTIONS[base] if base == name else f"standard error of {base}"
        if single and base in OUTPUTS:
            value = value[..., 0]
        labels = {"units": "1", "long_name": text}
        variables[name] = (_dims(base, single), value, labels)
    samples = np.arange(problem.trained)
    coords: dict[str, Any] = {
        "step": np.arange(problem.steps + 1),
        "sample": samples,
    }
    if "feature_kernel" in values:
        coords["time"] = times
        coords["sample2"] = samples
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
