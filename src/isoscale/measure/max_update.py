"""The learning rate of maximal update, without a sweep (AM-muP, arXiv 2510.04327; docs/theory.md, section 6).

One step at learning rate eta changes the pre-activations of layer l by a mean square S_l(eta) = eta^2 S_l(1), to first
order. Their mean over layers is 1 at eta = mean(S(1))^(-1/2). S_l(1) costs one gradient, which gives the step, and one
Jacobian-vector product along it, which gives every layer's change at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from isoscale.errors import InvalidTypeError, InvalidValueError, NothingMovesError, unknown
from isoscale.measure.steps import optimizer_step
from isoscale.measure.tools.building import pair
from isoscale.measure.tools.experiment import Experiment
from isoscale.measure.tools.jvp import Jvp, Method, forward_jvp
from isoscale.measure.tools.notes import notes_on
from isoscale.measure.tools.observe import linear_layers, module_of, observe
from isoscale.measure.tools.passes import Batch, LossFn, check_finite, loss_gradient, widest
from isoscale.measure.tools.selection import Select, traced, which
from isoscale.scaling.optimizers import OptimizerFamily

Counted = Literal["all", "stream", "branch"]
Mean = Literal["arithmetic", "geometric"]


@dataclass(frozen=True, kw_only=True)
class MaxUpdate:
    """A learning rate, and what each layer would say about it.

    Attributes:
        lr: mean(moments)^(-1/2).
        lr_se: Its standard error over seeds and batches; NaN from a single draw.
        moments: S_l(1) of each pre-activation: mean square of its change, to first order, by one step at learning
            rate 1; averaged over seeds and batches. In the order of the forward pass, without the readout.
        moments_se: Their standard errors.
        readout: The last linear layer called, which does not count.
        silent: Names of pre-activations with zero update.
        method: How the changes were computed; worst of all draws.
        notes: What a reader should know: batch statistics, dropout, layers that were not hooked, fallbacks.
    """

    lr: float
    lr_se: float
    moments: dict[str, float]
    moments_se: dict[str, float]
    readout: str
    silent: tuple[str, ...]
    method: Method
    notes: tuple[str, ...]

    @property
    def layer_lrs(self) -> dict[str, float]:
        """Layer-wise muP: the learning rate at which each layer by itself moves by 1; infinite at zero update."""
        lrs: dict[str, float] = {}
        # eta^2 S_l(1) = 1.
        for name, moment in self.moments.items():
            lrs[name] = moment**-0.5 if moment > 0 else math.inf
        return lrs

    @property
    def lowest(self) -> tuple[str, float]:
        """The layer that moves most, and its own learning rate."""
        return min(self.layer_lrs.items(), key=lambda layer: layer[1])

    @property
    def highest(self) -> tuple[str, float]:
        """The layer that moves least, but moves, and its own learning rate: far above `lr`, it starves."""
        moving = [layer for layer in self.layer_lrs.items() if layer[1] < math.inf]
        return max(moving, key=lambda layer: layer[1])


def max_update_lr(
    model: nn.Module | Callable[..., nn.Module],
    loss_fn: LossFn,
    batch: Batch | list[Batch],
    *,
    optimizer: OptimizerFamily = "sgd",
    count: Counted = "all",
    blocks: Select | None = None,
    mean: Mean = "arithmetic",
    lrs: Mapping[str, float] | None = None,
    eps: float = 1e-8,
    seeds: int | Sequence[int] = 1,
    method: Method | None = None,
) -> MaxUpdate:
    """The learning rate at which one step changes pre-activations by 1 in mean square (AM-muP).

    Source: docs/theory.md, section 6.

    Args:
        model: A network, left as it was; or a function of `seed` that makes one, for an average over initialisations.
        loss_fn: loss_fn(model(x), y) is the loss, one number.
        batch: (x, y), or a list of them to average over.
        optimizer: The family whose first step it is, as in `optimizer_step`. Under "muon" the first and the last
            linear layer called and everything that is no linear layer's weight get Adam's step.
        count: Which pre-activations count: the outputs of "all" linear and convolution modules; those inside residual
            branches ("branch"); those outside together with the residual stream after each addition ("stream"). Never
            the last layer called, the readout. Branches and stream are read off the computation graph.
        blocks: Instead of the graph's word on "stream" and "branch": the modules whose output is the residual stream,
            as globs ("blocks.*") or as a predicate (name, module) -> bool; all linear layers inside are branches.
        mean: Over layers; "geometric" leaves layers with zero update out.
        lrs: Learning rates of tensors relative to the one returned, by parameter name; 1 where missing.
        eps: Adam's.
        seeds: How many seeds (0, 1, ...) or which: of the initialisation if `model` is a function, and of dropout.
        method: Of the Jacobian-vector product, as in `forward_jvp`.

    Returns:
        `MaxUpdate`. In training mode batch norm uses the batch's statistics and dropout is active, with the same masks
        in the gradient and in the change; `notes` says so. Errors combine the scatter of the seeds' and of the
        batches' means, which counts their interaction twice.

    Raises:
        InvalidValueError: A loss or gradient that is not finite, nothing that counts, or (`NothingMovesError`) nothing
            that moves.
        InvalidTypeError: A loss that is not one number.

    >>> net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False))
    >>> _ = nn.init.ones_(net[0].weight), nn.init.constant_(net[1].weight, 2.0)
    >>> result = max_update_lr(net, lambda f, y: (f - y).mean(), (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]])))
    >>> result.moments, result.lr                 # the gradient is 2 (3, 4), the change 2 (3 * 3 + 4 * 4) = 50
    ({'0': 2500.0}, 0.02)
    """
    if mean not in get_args(Mean):
        raise unknown("`mean`", mean, get_args(Mean))
    if count not in get_args(Counted):
        raise unknown("`count`", count, get_args(Counted))
    wanted = "`batch` must be a pair (x, y) or a list of such pairs"
    batches = batch if isinstance(batch, list) else [batch]
    if not batches:
        raise InvalidTypeError(wanted)
    experiment = Experiment.of(
        _factory(model),
        [pair(one, wanted) for one in batches],
        loss_fn,
        seeds=seeds,
        optimizer=optimizer,
    )
    if not isinstance(model, nn.Module):
        experiment.check_seeds({})

    def draws_of(_: None, seed: int) -> list[_Draw]:
        network = experiment.build(seed)
        draws: list[_Draw] = []
        for one in experiment.batches:
            hooked = _hooked(network, one, count, blocks)
            draw = _draw(
                experiment,
                network,
                one,
                seed,
                hooked,
                lrs=lrs or {},
                eps=eps,
                method=method,
            )
            if not draw.jvp.outputs:
                raise InvalidValueError(
                    f"no pre-activation counts: `count`={count!r} leaves none of {draw.called} but the readout "
                    f"{draw.readout!r}"
                )
            draws.append(draw)
        return draws

    # One cell, since there is one size: a row for each seed, in it a draw for each batch.
    (draws,) = experiment.over([None], draws_of)
    first = experiment.build(experiment.seeds[0])
    called = draws[0][0].called
    not_hooked = [name for name in linear_layers(first) if name not in called]
    return _combined(draws, mean, notes_on(first), not_hooked)


def _factory(model: nn.Module | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    if isinstance(model, nn.Module):
        return lambda: model
    if not callable(model):
        raise InvalidTypeError(
            f"`model` must be a torch.nn.Module or a function of `seed` that makes one, got {model!r}"
        )
    return model


# --- one network and batch ---
class _Draw(NamedTuple):
    """S_l(1) of each counted pre-activation, and the names of all that were called, the readout's last."""

    jvp: Jvp[Tensor]
    readout: str
    called: list[str]


def _hooked(
    model: nn.Module,
    batch: Batch,
    count: Counted,
    blocks: Select | None,
) -> list[str]:
    """The modules whose outputs may count."""
    if count == "all":
        return list(linear_layers(model))
    x, _ = batch
    kinds = traced(model, (x,)) if blocks is None else which(model, blocks)
    return [name for name, kind in kinds.items() if kind == count]


def _draw(
    experiment: Experiment,
    model: nn.Module,
    batch: Batch,
    seed: int,
    hooked: list[str],
    *,
    lrs: Mapping[str, float],
    eps: float,
    method: Method | None,
) -> _Draw:
    linear = linear_layers(model)
    called: list[str] = []

    def see(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        called.append(name)

    with observe(model, dict.fromkeys([*linear, *hooked]), see):
        loss, grads = loss_gradient(model, experiment.loss_fn, batch, seed)
    check_finite(loss, grads)
    first, last = _input_and_output_layer(called, linear)

    # The step at learning rate 1; under Muon its own tensors are the weights between those two layers.
    outer = {module_of(first), module_of(last)}
    inner: set[int] = set()
    for name, module in linear.items():
        if name not in outer:
            inner.add(id(module.weight))
    hidden = [name for name, param in model.named_parameters() if id(param) in inner]
    steps = optimizer_step(grads, experiment.optimizer, eps=eps, hidden=hidden)
    for name, lr in lrs.items():
        if name not in steps:
            raise unknown("trained parameter in `lrs`", name, steps)
        steps[name] = steps[name] * lr

    # S_l(1) of every hooked output at once: the mean square of its change along the step.
    jvp = forward_jvp(
        model,
        (batch[0],),
        steps,
        modules=hooked,
        keep=_mean_square,
        method=method,
        seed=seed,
    )
    jvp.outputs.pop(last, None)
    return _Draw(jvp, last, called)


def _input_and_output_layer(called: list[str], linear: Mapping[str, nn.Module]) -> tuple[str, str]:
    """The first and the last linear layer called; the last is the readout."""
    order = [name for name in called if module_of(name) in linear]
    if len(order) < 2:
        raise InvalidValueError(
            f"the model must call two linear or convolution modules or more (the last is the readout), it calls {order}"
        )
    return order[0], order[-1]


def _mean_square(_: Tensor, change: Tensor) -> Tensor:
    # The norm does not underflow in the model's own precision, as squares of tiny changes would.
    norm = widest(torch.linalg.vector_norm(change))
    return norm.square() / change.numel()


# --- all draws ---
def _combined(
    draws: list[list[_Draw]],
    mean: Mean,
    notes: list[str],
    not_hooked: list[str],
) -> MaxUpdate:
    first = draws[0][0]
    names = list(first.jvp.outputs)
    worst = first.jvp
    rows: list[list[list[float]]] = []
    for of_seed in draws:
        row: list[list[float]] = []
        for draw in of_seed:
            outputs = draw.jvp.outputs
            if list(outputs) != names:
                raise InvalidValueError(
                    "the network calls different modules for different seeds or batches: no average exists"
                )
            row.append([float(moment) for moment in outputs.values()])
            if _rank(draw.jvp.method) > _rank(worst.method):
                worst = draw.jvp
        rows.append(row)
    table = np.array(rows)  # (seeds, batches, layers)
    moments = table.mean((0, 1))
    silent: list[str] = []
    for name, moment in zip(names, moments, strict=True):
        if moment == 0:
            silent.append(name)
    if len(silent) == len(names):
        raise NothingMovesError(
            "no pre-activation moves: every gradient before the readout is zero. Is the readout initialised to zero? "
            "Then take a step first, or give it its mean-field size"
        )
    # lr = level^(-1/2), so d lr = lr / 2 d level / level.
    level = _level(moments, mean)
    lr = float(level**-0.5)
    level_se = _standard_error(_level(table, mean))
    return MaxUpdate(
        lr=lr,
        lr_se=float(lr / 2 * level_se / level),
        moments=dict(zip(names, moments.tolist(), strict=True)),
        moments_se=dict(zip(names, _standard_error(table).tolist(), strict=True)),
        readout=first.readout,
        silent=tuple(silent),
        method=worst.method,
        notes=(*notes, *_remarks(not_hooked, silent, worst)),
    )


def _rank(method: Method) -> int:
    """The methods from best to worst."""
    return get_args(Method).index(method)


def _remarks(
    not_hooked: list[str],
    silent: list[str],
    worst: Jvp[Tensor],
) -> Iterator[str]:
    if not_hooked:
        yield f"linear layers that were not called as modules, and so not seen: {', '.join(not_hooked)}"
    if silent:
        yield f"pre-activations that do not move at all: {', '.join(silent)}"
    if worst.why:
        yield f"changes by {worst.method}, because {worst.why}"


def _level(moments: np.ndarray, mean: Mean) -> np.ndarray:
    """The mean over layers (the last axis)."""
    if mean == "arithmetic":
        return moments.mean(-1)
    # exp of the mean log over the layers that move; log 0 is never taken.
    moving = moments > 0
    logs = np.full_like(moments, np.nan)
    np.log(moments, where=moving, out=logs)
    return np.exp(logs.mean(-1, where=moving))


def _standard_error(table: np.ndarray) -> np.ndarray:
    """Of the mean over (seeds, batches, ...), from the scatter of the rows' and of the columns' means."""
    # Of a table s_i + b_j, the mean over i has the scatter of b, that over j the scatter of s.
    variances: list[np.ndarray] = []
    for means in (table.mean(1), table.mean(0)):
        if len(means) > 1:
            variances.append(means.var(0, ddof=1) / len(means))
    if not variances:
        return np.full(table.shape[2:], np.nan)
    return np.sqrt(sum(variances))
