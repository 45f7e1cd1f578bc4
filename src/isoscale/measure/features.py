"""How fast the features of each layer move in training, and whether by the layer's own doing.

A map's output z = W x changes because its weight moves and because its input does:

    z_k - z_0  =  (W_k - W_0) x_k  +  W_0 (x_k - x_0)
                  own part            inherited part

exactly, at every step k. A layer that stops learning can still be carried along by the layers before it: its total
change looks healthy while its own part collapses (THEORY.md section 4).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from isoscale import stats as laws
from isoscale.errors import InvalidValueError
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
from isoscale.measure.tools.passes import Batch, LossFn, call, called_maps, parameters, training_step
from isoscale.stats.summary import mean_and_se

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
    """How far each map's output has moved since initialisation, and which part of it is the map's own update.

    Args:
        make_model: make_model(depth=, width=, seed=) makes a network; it gets the sizes that are asked for here, and
            `seed` if it has such a parameter (else it draws from the global generator, seeded for it).
        batches: (x, y) pairs; step k trains on batches[k % len(batches)], features are recorded on the first.
        loss_fn: loss_fn(model(x), y) is the loss, one number.
        depths, widths: Sizes to compare; None: the factory's own, without that dimension.
        seeds: How many seeds or which.
        steps: Updates. Step 0 is initialisation: step axes have steps + 1 entries.
        optimizer: "sgd", "adam" or "adamw" over all parameters at `lr`, or a function that makes a network's optimizer.
        lr: Learning rate of a named optimizer.

    Returns:
        Dataset over the sizes given, `layer` (each linear and convolution module called but the last) and `step`, means
        over seeds with standard errors `<name>_se`, all relative to the output's norm |z_0| at initialisation:

        own: |(W_k - W_0) x_k|, bias included: the own update at the input of the moment.
        inherited: |W_0 (x_k - x_0)|: the change that comes with the input.  total: |z_k - z_0|.
        alignment: centred alignment of the layer's kernel over samples with the labels' kernel, in [-1, 1] (Cortes,
            Mohri and Rostamizadeh 2012); classes as one-hot rows. NaN where outputs are not one row a sample.
        group_own, group_inherited, group_total (..., group, step): root mean squares over like layers; `group` is the
            layer's name with its first number as "*", the same map in every block.
        own_exponent, inherited_exponent (..., group) and _low, _high: power of the depth at the last step, with a 95 %
            interval; with two depths or more. For a map inside a branch -1/2 is the collapse of THEORY section 4. A map
            that ends a branch is read against the stream that it adds to: its updates add up over the blocks where its
            initial outputs average out, so under depth-muP -1/2 is healthy there.

        NaN for layers that a smaller network does not have, and where a run diverged.

    Raises:
        InvalidValueError: No map but the last, or seeds that change nothing.

    >>> from isoscale.models import ResidualMLP
    >>> make = lambda depth, seed: ResidualMLP(3, 1, width=8, depth=depth, seed=seed)
    >>> batch = (torch.eye(3), torch.tensor([[1.0], [0.0], [-1.0]]))
    >>> result = feature_speed(make, [batch], nn.functional.mse_loss, depths=[2, 4], steps=2)
    >>> result.own.dims, result.group.values.tolist()
    (('depth', 'layer', 'step'), ['input', 'blocks.*.maps.0', 'blocks.*.maps.1'])
    """
    axes, cells = grid(depth=depths, width=widths)
    drawn = seed_list(seeds)
    check_run(batches, steps)
    check_seeds(make_model, drawn, **cells[0])
    setting = _Setting(list(batches), loss_fn, steps, optimizer, lr)
    runs = [[_record(build(make_model, seed, **cell), another_seed(seed), setting) for seed in drawn] for cell in cells]
    return _dataset(runs, axes, steps, len(drawn))


class _Setting(NamedTuple):
    batches: list[Batch]
    loss_fn: LossFn
    steps: int
    optimizer: str | Callable[[nn.Module], torch.optim.Optimizer]
    lr: float


# own, inherited, total, alignment of each layer; and from these the parts of each group.
_Row = dict[str, np.ndarray]
_Seen = dict[str, tuple[Tensor, Tensor]]


def _record(model: nn.Module, seed: int, setting: _Setting) -> dict[str, _Row]:
    """Train one network: by layer, the recorded numbers at each step."""
    x, y = setting.batches[0]
    names = called_maps(model, x)[:-1]
    if not names:
        raise InvalidValueError("the network must call two linear or convolution modules or more")
    start, labels = maps(copy.deepcopy(model)), _labels(y)
    optimizer = make_optimizer(setting.optimizer, model, setting.lr)
    initial = _look(model, names, x, seed)
    rows = []
    for step in range(setting.steps + 1):
        seen = _look(model, names, x, seed)
        rows.append({name: _parts(start[_base(name)], initial[name], now, labels) for name, now in seen.items()})
        if step < setting.steps:
            batch = setting.batches[step % len(setting.batches)]
            training_step(model, optimizer, setting.loss_fn, batch, seed + step)
    return {name: {key: np.array([row[name][key] for row in rows]) for key in rows[0][name]} for name in rows[0]}


def _base(name: str) -> str:
    """The module's name without the number of the call."""
    return name.partition("@")[0]


@torch.no_grad()
def _look(model: nn.Module, names: list[str], x: Any, seed: int) -> _Seen:
    """Input and output of each map, always with the same dropout masks."""
    seen: _Seen = {}
    see = lambda name, inputs, out: seen.update({name: (inputs[0].clone(), out.clone())})  # noqa: E731
    with observe(model, names, see):
        call(model, parameters(model), (x,), seed)
    return seen


@torch.no_grad()
def _parts(
    start: nn.Module, initial: tuple[Tensor, Tensor], seen: tuple[Tensor, Tensor], labels: Tensor | None
) -> _Row:
    (_, z0), (x, z) = initial, seen
    carried = start(x)
    changes = {"own": z - carried, "inherited": carried - z0, "total": z - z0}
    row = {name: float(change.norm() / z0.norm()) for name, change in changes.items()}
    row["alignment"] = _alignment(z, labels)
    return {name: np.array(value if math.isfinite(value) else math.nan) for name, value in row.items()}


def _alignment(z: Tensor, labels: Tensor | None) -> float:
    """<K, Y> / (|K| |Y|) of centred kernels, from the centred features and labels themselves."""
    if labels is None or z.dim() < 2 or len(z) != len(labels):
        return math.nan
    features = z.flatten(1).double()
    features = features - features.mean(0)
    sizes = [(a @ a.T).norm() for a in (features, labels)]
    return float((features.T @ labels).square().sum() / (sizes[0] * sizes[1]))


def _labels(y: Any) -> Tensor | None:
    """One centred row a sample; None if labels are not of that form."""
    if not isinstance(y, Tensor) or y.dim() not in (1, 2) or (y.dim() == 2 and not y.is_floating_point()):
        return None
    rows = y if y.is_floating_point() else nn.functional.one_hot(y.long() - y.long().min())
    rows = rows.double().view(len(y), -1)
    return rows - rows.mean(0)


def group_of(layer: str) -> str:
    """The same map in every block.

    >>> group_of("blocks.3.maps.1"), group_of("stem")
    ('blocks.*.maps.1', 'stem')
    """
    parts = layer.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return ".".join("*" if i == first else part for i, part in enumerate(parts))


_TEXTS = {
    "own": "|(W_k - W_0) x_k| / |z_0|: change by the map's own update",
    "inherited": "|W_0 (x_k - x_0)| / |z_0|: change that comes with the input",
    "total": "|z_k - z_0| / |z_0|: change of the map's output",
    "alignment": "centred alignment of the layer's kernel with the labels' kernel",
}


def _dataset(runs: list[list[dict[str, _Row]]], axes: dict[str, list[Any]], steps: int, seeds: int) -> xr.Dataset:
    import xarray as xr

    # The largest network comes last and has every layer of the others, in order.
    layers = list(dict.fromkeys(name for row in reversed(runs) for name in row[0]))
    groups = list(dict.fromkeys(map(group_of, layers)))
    missing = np.full(steps + 1, np.nan)
    shape = tuple(map(len, axes.values()))
    variables: dict[str, Any] = {}

    def add(name: str, text: str, values: list[list[list[np.ndarray]]], of: str) -> None:
        for key, value in zip((name, f"{name}_se"), mean_and_se(np.array(values), 1), strict=True):
            label = text if key == name else f"standard error of {name}"
            attrs = {"units": "1", "long_name": label}
            variables[key] = ((*axes, of, "step"), value.reshape(*shape, *value.shape[1:]), attrs)

    for name, text in _TEXTS.items():
        nothing = {name: missing}
        of_layer = [[[run.get(layer, nothing)[name] for layer in layers] for run in row] for row in runs]
        add(name, text, of_layer, "layer")
    for name in PARTS:
        of_group = [[[_rms(run, group, name, missing) for group in groups] for run in row] for row in runs]
        add(f"group_{name}", f"root mean square over like layers of {_TEXTS[name]}", of_group, "group")
    coords = {**axes, "layer": layers, "group": groups, "step": np.arange(steps + 1)}
    data = xr.Dataset(variables, coords, {"seeds": seeds})
    return data.assign(_exponents(data)) if len(axes.get("depth", [])) > 1 else data


def _rms(run: dict[str, _Row], group: str, name: str, missing: np.ndarray) -> np.ndarray:
    members = [row[name] for layer, row in run.items() if group_of(layer) == group]
    with np.errstate(over="ignore"):
        return np.sqrt(np.mean(np.square(members), 0)) if members else missing


def _exponents(data: xr.Dataset) -> dict[str, xr.DataArray]:
    """Powers of the depth at the last step, with intervals; NaN where there is no power law to fit."""
    import xarray as xr

    found: dict[str, xr.DataArray] = {}
    for part in ("own", "inherited"):
        values = data[f"group_{part}"].isel(step=-1).transpose(..., "depth")
        fitted = np.apply_along_axis(lambda y: _power(data["depth"].values, y), -1, values.values)
        for index, end in enumerate(("", "_low", "_high")):
            name = f"{part}_exponent{end}"
            attrs = {"units": "1", "long_name": f"power of the depth in group_{part}{end.replace('_', ', ')}"}
            found[name] = xr.DataArray(fitted[..., index], dims=values.dims[:-1], attrs=attrs)
    return found


def _power(depths: np.ndarray, values: np.ndarray) -> np.ndarray:
    usable = np.isfinite(values) & (values > 0)
    if len(set(depths[usable])) < 2:
        return np.full(3, np.nan)
    law = laws.fit_power_law(depths[usable], values[usable])
    return np.array([law.exponent, law.exponent_low, law.exponent_high])
