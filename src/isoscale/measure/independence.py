"""Does the gradient-independence assumption hold on a real network? Train both ways, side by side, and see.

Each network is trained twice from the same weights on the same batches: by backpropagation ("reused"), and with
backward weights that are an independent copy of the initial ones and receive the same updates ("independent",
THEORY.md section 2). `isoscale.limit.independence_gap` is the same comparison at infinite width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from isoscale.errors import InvalidValueError
from isoscale.measure.backward_weights import independent_backward
from isoscale.measure.tools.building import (
    Factory,
    another_seed,
    build,
    check_run,
    check_seeds,
    grid,
    make_optimizer,
    seed_list,
)
from isoscale.measure.tools.observe import maps, observe
from isoscale.measure.tools.passes import Batch, LossFn, called_maps, loss_gradient, training_step
from isoscale.measure.tools.selection import Select, chosen
from isoscale.stats.summary import mean_and_se

if TYPE_CHECKING:
    import xarray as xr

TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where along the network's maps features and gradients are recorded: 0 is the first map, 1 the last."""

MODES = ("reused", "independent")


def gradient_independence(
    make_model: Factory,
    batches: Sequence[Batch],
    loss_fn: LossFn,
    depths: Sequence[int] | None = None,
    widths: Sequence[int] | None = None,
    horizons: Sequence[float] | None = None,
    *,
    seeds: int | Sequence[int] = 3,
    steps: int = 10,
    optimizer: str | Callable[[nn.Module], torch.optim.Optimizer] = "sgd",
    lr: float = 0.1,
    select: Select | None = None,
) -> xr.Dataset:
    """How much it matters, on a real network, that the backward pass reuses the forward pass's weights.

    Args:
        make_model: make_model(depth=, width=, horizon=, seed=) makes a network; it gets the sizes that are asked for
            here, and `seed` if it has such a parameter (else it draws from the global generator, seeded for it).
        batches: (x, y) pairs; step k trains on batches[k % len(batches)], everything is recorded on the first.
        loss_fn: loss_fn(model(x), y) is the loss, one number.
        depths, widths, horizons: Sizes to compare; None: the factory's own, without that dimension.
        seeds: How many seeds or which; the backward copy is the same maps of a network of a seed of its own.
        steps: Updates. Step 0 is initialisation: step axes have steps + 1 entries.
        optimizer: "sgd", "adam" or "adamw" over all parameters at `lr`, or a function that makes the optimizer of a
            network (a rule's groups, a schedule of your own).
        lr: Learning rate of a named optimizer.
        select: The maps whose backward weights are replaced, as globs or as a predicate (name, module) -> bool;
            None: every linear and convolution module called but the first and the last.

    Returns:
        Dataset over the sizes given, `step`, and `time` (place among the replaced maps), means over seeds with
        standard errors `<name>_se`:

        loss, feature_change, gradient_norm (backward_weights, ...): of each way of training. A map's feature change is
        |z(step) - z(0)| / |z(0)| of its output z; its gradient norm that of its weight's gradient.
        loss_gap, feature_gap: independent minus reused. gradient_gap: log of the ratio of the gradients' norms.
        gradient_cosine: of the angle between the two gradients.

        NaN where a run diverged; attrs["diverged"] counts such runs.

    Raises:
        InvalidValueError: Nothing to replace, or seeds that change nothing.

    >>> from isoscale.models import ResidualMLP
    >>> make = lambda depth, seed: ResidualMLP(3, 1, width=8, depth=depth, block_depth=1, phi="tanh", seed=seed)
    >>> batch = (torch.eye(3), torch.tensor([[1.0], [0.0], [-1.0]]))
    >>> result = gradient_independence(make, [batch], nn.functional.mse_loss, depths=[2, 4], steps=2)
    >>> result.loss_gap.dims, float(result.loss_gap.sel(depth=4, step=0))
    (('depth', 'step'), 0.0)
    """
    axes, cells = grid(depth=depths, width=widths, horizon=horizons)
    drawn = seed_list(seeds)
    check_seeds(make_model, drawn, **cells[0])
    setting = _Setting(list(batches), loss_fn, steps, optimizer, lr, select)
    runs = [[_compare(make_model, seed, cell, setting) for seed in drawn] for cell in cells]
    return _dataset(runs, axes, drawn)


class _Setting:
    """What all runs share."""

    def __init__(
        self,
        batches: list[Batch],
        loss_fn: LossFn,
        steps: int,
        optimizer: str | Callable[[nn.Module], torch.optim.Optimizer],
        lr: float,
        select: Select | None,
    ) -> None:
        check_run(batches, steps)
        self.batches, self.loss_fn, self.steps = batches, loss_fn, steps
        self.optimizer, self.lr, self.select = optimizer, lr, select


class _Run:
    """One network in training, and what it looks like on the first batch."""

    def __init__(self, model: nn.Module, setting: _Setting, names: list[str]) -> None:
        self.model, self.setting, self.names = model, setting, names
        self.optimizer = make_optimizer(setting.optimizer, model, setting.lr)
        self.initial: dict[str, Tensor] = {}
        parameters = {id(param): name for name, param in model.named_parameters()}
        self.weights = {name: parameters[id(module.weight)] for name, module in maps(model).items() if name in names}

    def look(self, seed: int) -> tuple[float, np.ndarray, dict[str, Tensor]]:
        """Loss, feature change of each map, and the gradient of each map's weight."""
        outputs: dict[str, Tensor] = {}
        see = lambda name, _, out: outputs.update({name: out.detach().clone()})  # noqa: E731
        with observe(self.model, self.names, see):
            loss, grads = loss_gradient(self.model, self.setting.loss_fn, self.setting.batches[0], seed)
        self.initial = self.initial or outputs
        change = [float((outputs[name] - self.initial[name]).norm() / self.initial[name].norm()) for name in self.names]
        return float(loss), np.array(change), {name: grads[self.weights[name]] for name in self.names}

    def step(self, number: int, seed: int) -> None:
        batch = self.setting.batches[number % len(self.setting.batches)]
        training_step(self.model, self.optimizer, self.setting.loss_fn, batch, seed)


def _compare(make_model: Factory, seed: int, cell: dict[str, Any], setting: _Setting) -> dict[str, np.ndarray]:
    """Both ways of training one network: every recorded variable, step first."""
    model = build(make_model, seed, **cell)
    names = _replaced(model, setting)
    other = maps(build(make_model, another_seed(seed), **cell))
    copies = {name: other[name].weight for name in names}
    reused, independent = (_Run(network, setting, names) for network in (model, copy.deepcopy(model)))
    rows = []
    with independent_backward(independent.model, copies):  # pyrefly: ignore[bad-argument-type]
        for step in range(setting.steps + 1):
            # Dropout masks differ from step to step, and not between the two ways.
            masks = another_seed(seed) + step
            rows.append(_row(reused.look(masks), independent.look(masks)))
            if step < setting.steps:
                reused.step(step, masks), independent.step(step, masks)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _replaced(model: nn.Module, setting: _Setting) -> list[str]:
    """The names of the maps with a backward weight of their own, in order of their calls."""
    order = called_maps(model, setting.batches[0][0])
    if setting.select is not None:
        wanted = set(chosen(model, setting.select, "select"))
        order = [name for name in order if name in wanted]
    else:
        order = order[1:-1]
    if not order:
        raise InvalidValueError("no map to replace: `select` must match linear or convolution modules that are called")
    return order


def _row(
    reused: tuple[float, np.ndarray, dict[str, Tensor]], independent: tuple[float, np.ndarray, dict[str, Tensor]]
) -> dict[str, np.ndarray]:
    (loss, change, grads), (other_loss, other_change, other_grads) = reused, independent
    norms = [np.array([float(g.norm()) for g in each.values()]) for each in (grads, other_grads)]
    products = np.array([float((grads[name] * other_grads[name]).sum()) for name in grads])
    at = np.rint(np.array(TIMES) * (len(grads) - 1)).astype(int)
    with np.errstate(all="ignore"):
        row = {
            "loss": np.array([loss, other_loss]),
            "feature_change": np.stack([change[at], other_change[at]]),
            "gradient_norm": np.stack([norm[at] for norm in norms]),
            "loss_gap": np.array(other_loss - loss),
            "feature_gap": (other_change - change)[at],
            "gradient_gap": np.log(norms[1] / norms[0])[at],
            "gradient_cosine": (products / (norms[0] * norms[1]))[at],
        }
    return {name: np.where(np.isfinite(value), value, np.nan) for name, value in row.items()}


_TEXTS = {
    "loss": "loss on the first batch",
    "feature_change": "|z(step) - z(0)| / |z(0)| of a map's output",
    "gradient_norm": "norm of the gradient of a map's weight",
    "loss_gap": "loss with independent minus loss with reused backward weights",
    "feature_gap": "feature change with independent minus with reused backward weights",
    "gradient_gap": "log ratio of gradient norms, independent to reused",
    "gradient_cosine": "cosine between the gradients of the two ways",
}


def _dataset(runs: list[list[dict[str, np.ndarray]]], axes: dict[str, list[Any]], seeds: list[int]) -> xr.Dataset:
    import xarray as xr

    variables = {}
    for name, text in _TEXTS.items():
        values = np.array([[run[name] for run in row] for row in runs])
        inner = ["step"] + ["backward_weights"] * (name in ("loss", "feature_change", "gradient_norm"))
        inner += ["time"] * (name not in ("loss", "loss_gap"))
        for key, value in zip((name, f"{name}_se"), mean_and_se(values, 1), strict=True):
            shaped = value.reshape(*map(len, axes.values()), *value.shape[1:])
            long_name = text if key == name else f"standard error of {name}"
            variables[key] = ((*axes, *inner), shaped, {"units": "1", "long_name": long_name})
    diverged = sum(not np.isfinite(run["loss"]).all() for row in runs for run in row)
    steps = np.arange(len(runs[0][0]["loss_gap"]))
    coords = {**axes, "step": steps, "backward_weights": list(MODES), "time": list(TIMES)}
    return xr.Dataset(variables, coords, {"seeds": len(seeds), "diverged": diverged})
