"""How fast the features of each layer move in training, and whether by the layer's own doing.

A linear layer's output z = W x changes because its weight moves and because its input does:

    z_k - z_0  =  (W_k - W_0) x_k  +  W_0 (x_k - x_0)
                  direct update       propagated update

exactly, at every step k. A layer that stops learning can still be carried along by the layers before it: its total
change looks healthy while its direct update collapses (docs/theory.md, section 4).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from isoscale import stats as laws
from isoscale.errors import InvalidValueError
from isoscale.measure.tools.building import Factory, another_seed, checked_batches
from isoscale.measure.tools.experiment import Experiment, Size
from isoscale.measure.tools.observe import linear_layers, module_of, observe
from isoscale.measure.tools.passes import Batch, LossFn, call, called_layers, parameters, seeded

if TYPE_CHECKING:
    import xarray as xr

PARTS = ("own", "inherited", "total")


def feature_speed(
    make_model: Factory,
    batches: Sequence[Batch],
    loss_fn: LossFn,
    depths: Sequence[int] | None = None,
    widths: Sequence[int] | None = None,
    *,
    seeds: int | Sequence[int] = 3,
    steps: int = 10,
    optimizer: str | Callable[[nn.Module], torch.optim.Optimizer] = "sgd",
    lr: float = 0.1,
) -> xr.Dataset:
    """How far each layer's output has moved since initialisation, and which part of it is the layer's direct update.

    Args:
        make_model: make_model(depth=, width=, seed=) makes a network; it gets the sizes that are asked for here, and
            `seed` if it has such a parameter (else it draws from the global generator, seeded for it).
        batches: (x, y) pairs; step k trains on batches[k % len(batches)], features are recorded on the first.
        loss_fn: loss_fn(model(x), y) is the loss, one number.
        depths, widths: Sizes to compare; None: the factory's own, without that dimension.
        seeds: How many seeds or which.
        steps: Updates. Step 0 is initialisation: step axes have steps + 1 entries.
        optimizer: "sgd", "adam", "adamw", "sign" or "muon" (between the first and the last linear layer) over all
            parameters at `lr`, or a function that makes a network's optimizer.
        lr: Learning rate of a named optimizer.

    Returns:
        Dataset over the sizes given, `layer` (each linear and convolution module called but the last) and `step`, means
        over seeds with standard errors `<name>_se`, all relative to the output's norm |z_0| at initialisation:

        own: |(W_k - W_0) x_k|, bias included: the direct update, at the input of the moment.
        inherited: |W_0 (x_k - x_0)|: the propagated update, which comes with the input.  total: |z_k - z_0|.
        alignment: centred alignment of the layer's kernel over samples with the labels' kernel, in [-1, 1] (Cortes,
            Mohri and Rostamizadeh 2012); classes as one-hot rows. NaN where outputs are not one row a sample.
        group_own, group_inherited, group_total (..., group, step): root mean squares over like layers; `group` is the
            layer's name with its first number as "*", the same layer in every block.
        own_exponent, inherited_exponent (..., group) and _low, _high: power of the depth at the last step, with a 95 %
            interval; with two depths or more. For a branch's inner projection -1/2 is the collapse of
            docs/theory.md, section 4.
            The output projection is read against the stream that it adds to: its updates add up over the blocks where
            its initial outputs average out, so under depth-muP -1/2 is healthy there.

        NaN for layers that a smaller network does not have, and where a run diverged.

    Raises:
        InvalidValueError: No linear layer but the last, or seeds that change nothing.

    >>> from isoscale.models import ResidualMLP
    >>> make = lambda depth, seed: ResidualMLP(3, 1, width=8, depth=depth, seed=seed)
    >>> batch = (torch.eye(3), torch.tensor([[1.0], [0.0], [-1.0]]))
    >>> result = feature_speed(make, [batch], nn.functional.mse_loss, depths=[2, 4], steps=2)
    >>> result.own.dims, result.group.values.tolist()
    (('depth', 'layer', 'step'), ['input', 'blocks.*.maps.0', 'blocks.*.maps.1'])
    """
    experiment = Experiment.of(
        make_model,
        checked_batches(batches),
        loss_fn,
        axes={"depth": depths, "width": widths},
        seeds=seeds,
        optimizer=optimizer,
        lr=lr,
        steps=steps,
    )
    sizes = experiment.grid()
    experiment.check_seeds(sizes[0])
    runs = experiment.over(sizes, lambda size, seed: _run(experiment, seed, size))
    return _dataset(experiment, runs)


# --- one network ---
# own, inherited, total, alignment of each layer at each step; and from these the parts of each group.
_Row = dict[str, np.ndarray]
_Run = dict[str, _Row]
_Seen = dict[str, tuple[Tensor, Tensor]]


def _run(experiment: Experiment, seed: int, size: Size) -> _Run:
    """Train one network: by layer, the recorded numbers at each step."""
    model = experiment.build(seed, **size)
    masks = another_seed(seed)
    x, y = experiment.batches[0]
    names = called_layers(model, x)[:-1]
    if not names:
        raise InvalidValueError("the network must call two linear or convolution modules or more")
    # W_0 of every layer: the copy is not trained.
    start = linear_layers(copy.deepcopy(model))
    labels = _labels(y)
    steppers = experiment.optimizers(model)
    initial = _look(model, names, x, masks)
    history: dict[str, dict[str, list[float]]] = {}
    for number in range(experiment.steps + 1):
        # Always with the same dropout masks; those of the updates differ from step to step.
        seen = _look(model, names, x, masks)
        for name, now in seen.items():
            parts = _parts(start[module_of(name)], initial[name], now, labels)
            of_layer = history.setdefault(name, {})
            for key, value in parts.items():
                of_layer.setdefault(key, []).append(value)
        if number < experiment.steps:
            with seeded(masks + number):
                experiment.step(model, steppers, number)
    run: _Run = {}
    for name, of_layer in history.items():
        run[name] = {}
        for key, values in of_layer.items():
            run[name][key] = np.array(values)
    return run


@torch.no_grad()
def _look(model: nn.Module, names: list[str], x: Any, seed: int) -> _Seen:
    """Input and output of each layer."""
    seen: _Seen = {}

    def see(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen[name] = (inputs[0].clone(), output.clone())

    with observe(model, names, see):
        call(model, parameters(model), (x,), seed)
    return seen


@torch.no_grad()
def _parts(
    start: nn.Module,
    initial: tuple[Tensor, Tensor],
    now: tuple[Tensor, Tensor],
    labels: Tensor | None,
) -> dict[str, float]:
    _, z0 = initial
    x, z = now
    # z = W_k x_k less W_0 x_k is the direct update, W_0 x_k less z_0 = W_0 x_0 the propagated one.
    propagated = start(x)
    changes = {
        "own": z - propagated,
        "inherited": propagated - z0,
        "total": z - z0,
    }
    row = {"alignment": _alignment(z, labels)}
    for name, change in changes.items():
        row[name] = float(change.norm() / z0.norm())
    for name, value in row.items():
        if not math.isfinite(value):
            row[name] = math.nan
    return row


def _alignment(z: Tensor, labels: Tensor | None) -> float:
    """<K, Y> / (|K| |Y|) of centred kernels, from the centred features and labels themselves."""
    if labels is None or z.dim() < 2:
        return math.nan
    if len(z) != len(labels):
        return math.nan
    # Centring the features centres their kernel in rows and columns.
    features = z.flatten(1).double()
    features = features - features.mean(0)
    # <F F^T, Y Y^T> = |F^T Y|^2.
    product = (features.T @ labels).square().sum()
    of_features = (features @ features.T).norm()
    of_labels = (labels @ labels.T).norm()
    return float(product / (of_features * of_labels))


def _labels(y: Any) -> Tensor | None:
    """One centred row a sample; None if labels are not of that form."""
    if not isinstance(y, Tensor) or y.dim() not in (1, 2):
        return None
    if y.is_floating_point():
        rows = y
    elif y.dim() == 1:
        classes = y.long()
        rows = nn.functional.one_hot(classes - classes.min())
    else:
        return None
    rows = rows.double().view(len(y), -1)
    return rows - rows.mean(0)


def group_of(layer: str) -> str:
    """The same layer in every block: only the first index is the block's.

    >>> group_of("blocks.3.maps.1"), group_of("stem")
    ('blocks.*.maps.1', 'stem')
    """
    parts = layer.split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            parts[index] = "*"
            break
    return ".".join(parts)


# --- all networks ---
_TEXTS = {
    "own": "|(W_k - W_0) x_k| / |z_0|: change by the layer's direct update",
    "inherited": "|W_0 (x_k - x_0)| / |z_0|: propagated change, which comes with the input",
    "total": "|z_k - z_0| / |z_0|: change of the layer's output",
    "alignment": "centred alignment of the layer's kernel with the labels' kernel",
}


def _dataset(experiment: Experiment, runs: list[list[_Run]]) -> xr.Dataset:
    import xarray as xr

    # The largest network comes last and has every layer of the others, in order.
    layers: dict[str, None] = {}
    for of_seeds in reversed(runs):
        layers |= dict.fromkeys(of_seeds[0])
    groups = dict.fromkeys(group_of(layer) for layer in layers)
    # What a smaller network has in place of the layers that only larger ones have.
    missing = np.full(experiment.steps + 1, np.nan)

    def of_layers(run: _Run, name: str) -> np.ndarray:
        """(layers, steps)."""
        rows = [run[layer][name] if layer in run else missing for layer in layers]
        return np.stack(rows)

    def of_groups(run: _Run, name: str) -> np.ndarray:
        """Root mean squares over like layers, (groups, steps)."""
        rows: list[np.ndarray] = []
        for group in groups:
            alike = [row[name] for layer, row in run.items() if group_of(layer) == group]
            if not alike:
                rows.append(missing)
                continue
            # A run about to diverge is too large to square.
            with np.errstate(over="ignore"):
                square = np.mean(np.square(alike), 0)
            rows.append(np.sqrt(square))
        return np.stack(rows)

    variables: dict[str, Any] = {}
    for name, text in _TEXTS.items():
        table = [[of_layers(run, name) for run in of_seeds] for of_seeds in runs]
        variables |= experiment.summary(name, text, ("layer", "step"), table)
    for name in PARTS:
        table = [[of_groups(run, name) for run in of_seeds] for of_seeds in runs]
        text = f"root mean square over like layers of {_TEXTS[name]}"
        variables |= experiment.summary(f"group_{name}", text, ("group", "step"), table)
    coords = {
        **experiment.axes,
        "layer": list(layers),
        "group": list(groups),
        "step": np.arange(experiment.steps + 1),
    }
    data = xr.Dataset(variables, coords, {"seeds": len(experiment.seeds)})
    if "depth" in experiment.fitted_axes:
        data = data.assign(_exponents(data))
    return data


def _exponents(data: xr.Dataset) -> dict[str, xr.DataArray]:
    """Powers of the depth at the last step, with intervals; NaN where there is no power law to fit."""
    import xarray as xr

    depths = data["depth"].values
    found: dict[str, xr.DataArray] = {}
    for part in ("own", "inherited"):
        values = data[f"group_{part}"].isel(step=-1).transpose(..., "depth")
        fitted = np.apply_along_axis(lambda y: _power(depths, y), -1, values.values)
        for index, end in enumerate(("", "_low", "_high")):
            bound = end.replace("_", ", ")
            text = f"power of the depth in group_{part}{bound}"
            found[f"{part}_exponent{end}"] = xr.DataArray(
                fitted[..., index],
                dims=values.dims[:-1],
                attrs={"units": "1", "long_name": text},
            )
    return found


def _power(depths: np.ndarray, values: np.ndarray) -> np.ndarray:
    usable = np.isfinite(values) & (values > 0)
    # A part that is 0 (the first layer's propagated update) follows no power of the depth.
    if len(set(depths[usable])) < 2:
        return np.full(3, np.nan)
    law = laws.fit_power_law(depths[usable], values[usable])
    return np.array([law.exponent, law.exponent_low, law.exponent_high])
