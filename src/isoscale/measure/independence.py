"""Does the gradient-independence assumption hold on a real network? Train both ways, side by side, and see.

Each network is trained twice from the same weights on the same batches: by backpropagation ("reused"), and with
backward weights that are an independent copy of the initial ones and receive the same updates ("independent",
docs/theory.md, section 2). `isoscale.limit.independence_gap` is the same comparison at infinite width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from isoscale.errors import InvalidValueError
from isoscale.measure.backward_weights import independent_backward
from isoscale.measure.tools.building import Factory, another_seed, checked_batches
from isoscale.measure.tools.experiment import Experiment, Size
from isoscale.measure.tools.observe import linear_layers, observe
from isoscale.measure.tools.passes import Batch, LossFn, called_layers, loss_gradient, seeded
from isoscale.measure.tools.selection import Select, chosen

if TYPE_CHECKING:
    import xarray as xr

TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where along the network's layers features and gradients are recorded: 0 is the first one, 1 the last."""

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
        seeds: How many seeds or which; the backward copy is the same layers of a network of a seed of its own.
        steps: Updates. Step 0 is initialisation: step axes have steps + 1 entries.
        optimizer: "sgd", "adam", "adamw", "sign" or "muon" (between the first and the last linear layer) over all
            parameters at `lr`, or a function that makes the optimizer of a network (a rule's groups, a schedule of
            your own).
        lr: Learning rate of a named optimizer.
        select: The layers whose backward weights are replaced, as globs or as a predicate (name, module) -> bool;
            None: every linear and convolution module called but the first and the last.

    Returns:
        Dataset over the sizes given, `step`, and `time` (place among the replaced layers), means over seeds with
        standard errors `<name>_se`:

        loss, feature_change, gradient_norm (backward_weights, ...): of each way of training. A layer's feature change
        is |z(step) - z(0)| / |z(0)| of its output z; its gradient norm that of its weight's gradient.
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
    experiment = Experiment.of(
        make_model,
        checked_batches(batches),
        loss_fn,
        axes={"depth": depths, "width": widths, "horizon": horizons},
        seeds=seeds,
        optimizer=optimizer,
        lr=lr,
        steps=steps,
    )
    sizes = experiment.grid()
    experiment.check_seeds(sizes[0])
    runs = experiment.over(sizes, lambda size, seed: _run(experiment, seed, size, select))
    return _dataset(experiment, runs)


# --- one network ---
_Run = dict[str, np.ndarray]
"""Every recorded variable of one network, step first."""


class _Look(NamedTuple):
    """A network on the first batch: its loss; of each replaced layer the feature change and the weight's gradient."""

    loss: float
    change: np.ndarray
    grads: list[Tensor]


class _Network:
    """A network in training, and what it looks like on the first batch."""

    def __init__(self, experiment: Experiment, model: nn.Module, names: list[str]) -> None:
        self.experiment = experiment
        self.model = model
        self.steppers = experiment.optimizers(model)
        self.initial: dict[str, Tensor] = {}
        # The parameter that is each layer's weight; one that two layers share has one name.
        tensors = {id(param): name for name, param in model.named_parameters()}
        layers = linear_layers(model)
        self.weights: dict[str, str] = {}
        for name in names:
            weight = layers[name].weight
            self.weights[name] = tensors[id(weight)]

    def look(self, seed: int) -> _Look:
        outputs: dict[str, Tensor] = {}

        def see(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
            outputs[name] = output.detach().clone()

        batch = self.experiment.batches[0]
        with observe(self.model, self.weights, see):
            loss, grads = loss_gradient(self.model, self.experiment.loss_fn, batch, seed)
        # The first look is before any update.
        self.initial = self.initial or outputs
        changes: list[float] = []
        for name in self.weights:
            initial = self.initial[name]
            moved = outputs[name] - initial
            changes.append(float(moved.norm() / initial.norm()))
        return _Look(
            loss=float(loss),
            change=np.array(changes),
            grads=[grads[weight] for weight in self.weights.values()],
        )

    def step(self, number: int, seed: int) -> None:
        with seeded(seed):
            self.experiment.step(self.model, self.steppers, number)


def _run(experiment: Experiment, seed: int, size: Size, select: Select | None) -> _Run:
    """Both ways of training one network."""
    model = experiment.build(seed, **size)
    names = _replaced(model, experiment, select)
    # W~: the weights of the same layers in a network that is independent of this one.
    copies = linear_layers(experiment.build(another_seed(seed), **size))
    backward = {name: copies[name].weight for name in names}
    reused = _Network(experiment, model, names)
    independent = _Network(experiment, copy.deepcopy(model), names)
    rows: list[_Run] = []
    with independent_backward(independent.model, backward):  # pyrefly: ignore[bad-argument-type]
        for number in range(experiment.steps + 1):
            # Dropout masks differ from step to step, and not between the two ways.
            masks = another_seed(seed) + number
            row = _row(reused.look(masks), independent.look(masks))
            rows.append(row)
            if number < experiment.steps:
                reused.step(number, masks)
                independent.step(number, masks)
    run: _Run = {}
    for name in rows[0]:
        run[name] = np.stack([row[name] for row in rows])
    return run


def _replaced(model: nn.Module, experiment: Experiment, select: Select | None) -> list[str]:
    """The names of the layers with a backward weight of their own, in order of their calls."""
    order = called_layers(model, experiment.batches[0][0])
    if select is None:
        order = order[1:-1]
    else:
        wanted = set(chosen(model, select, "select"))
        order = [name for name in order if name in wanted]
    if not order:
        raise InvalidValueError(
            "no layer to replace: `select` must match linear or convolution modules that are called"
        )
    return order


def _row(reused: _Look, independent: _Look) -> _Run:
    """What is recorded at one step."""
    norms: list[float] = []
    other_norms: list[float] = []
    products: list[float] = []
    for grad, other in zip(reused.grads, independent.grads, strict=True):
        product = (grad * other).sum()
        norms.append(float(grad.norm()))
        other_norms.append(float(other.norm()))
        products.append(float(product))
    norm = np.array(norms)
    other_norm = np.array(other_norms)
    # The layers that are nearest to the recorded times.
    last = len(products) - 1
    at = np.rint(np.array(TIMES) * last).astype(int)
    # Zero gradients and diverged runs leave the numbers here, and become NaN below.
    with np.errstate(all="ignore"):
        cosine = np.array(products) / (norm * other_norm)
        row = {
            "loss": np.array([reused.loss, independent.loss]),
            "feature_change": np.stack([reused.change[at], independent.change[at]]),
            "gradient_norm": np.stack([norm[at], other_norm[at]]),
            "loss_gap": np.array(independent.loss - reused.loss),
            "feature_gap": (independent.change - reused.change)[at],
            "gradient_gap": np.log(other_norm / norm)[at],
            "gradient_cosine": cosine[at],
        }
    for name, value in row.items():
        row[name] = np.where(np.isfinite(value), value, np.nan)
    return row


# --- all networks ---
_TEXTS = {
    "loss": "loss on the first batch",
    "feature_change": "|z(step) - z(0)| / |z(0)| of a layer's output",
    "gradient_norm": "norm of the gradient of a layer's weight",
    "loss_gap": "loss with independent minus loss with reused backward weights",
    "feature_gap": "feature change with independent minus with reused backward weights",
    "gradient_gap": "log ratio of gradient norms, independent to reused",
    "gradient_cosine": "cosine between the gradients of the two ways",
}


def _dataset(experiment: Experiment, runs: list[list[_Run]]) -> xr.Dataset:
    import xarray as xr

    variables: dict[str, Any] = {}
    for name, text in _TEXTS.items():
        dims = ["step"]
        if name in ("loss", "feature_change", "gradient_norm"):
            dims.append("backward_weights")
        if name not in ("loss", "loss_gap"):
            dims.append("time")
        table = [[run[name] for run in of_seeds] for of_seeds in runs]
        variables |= experiment.summary(name, text, dims, table)
    diverged = 0
    for of_seeds in runs:
        for run in of_seeds:
            if not np.isfinite(run["loss"]).all():
                diverged += 1
    coords = {
        **experiment.axes,
        "step": np.arange(experiment.steps + 1),
        "backward_weights": list(MODES),
        "time": list(TIMES),
    }
    return xr.Dataset(variables, coords, {"seeds": len(experiment.seeds), "diverged": diverged})
