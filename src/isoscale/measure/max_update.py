"""The learning rate of maximal update, without a sweep (AM-muP, arXiv 2510.04327; THEORY.md section 6).

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

from isoscale.errors import InvalidTypeError, InvalidValueError, unknown
from isoscale.measure.steps import optimizer_step
from isoscale.measure.tools.building import build, check_seeds, seed_list
from isoscale.measure.tools.jvp import Jvp, Method, forward_jvp
from isoscale.measure.tools.notes import notes_on
from isoscale.measure.tools.observe import maps, observe
from isoscale.measure.tools.passes import Batch, LossFn, loss_gradient, widest
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
        readout: The last map called, which does not count.
        silent: Names of pre-activations that do not move at all.
        method: How the changes were computed; worst of all draws.
        notes: What a reader should know: batch statistics, dropout, layers that were not seen, fallbacks.
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
        """Layer-wise muP: the learning rate at which each layer by itself moves by 1; infinite for a silent one."""
        return {name: moment**-0.5 if moment > 0 else math.inf for name, moment in self.moments.items()}

    @property
    def lowest(self) -> tuple[str, float]:
        """The layer that moves most, and its own learning rate."""
        return min(self.layer_lrs.items(), key=lambda layer: layer[1])

    @property
    def highest(self) -> tuple[str, float]:
        """The layer that moves least without being silent, and its own learning rate: far above `lr`, it starves."""
        moving = {name: lr for name, lr in self.layer_lrs.items() if lr < math.inf}
        return max(moving.items(), key=lambda layer: layer[1])


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
    """The learning rate at which one step changes pre-activations by 1 in mean square (AM-muP, THEORY section 6).

    Args:
        model: A network, left as it was; or a function of `seed` that makes one, for an average over initialisations.
        loss_fn: loss_fn(model(x), y) is the loss, one number.
        batch: (x, y), or a list of them to average over.
        optimizer: The family whose first step it is, as in `optimizer_step`. Under "muon" the first and the last map
            called and everything that is no map's weight get Adam's step.
        count: Which pre-activations count: the outputs of "all" linear and convolution modules; those inside residual
            branches ("branch"); those outside together with the residual stream after each addition ("stream"). Never
            the last map called, the readout. Branches and stream are read off the computation graph.
        blocks: Instead of the graph's word on "stream" and "branch": the modules whose output is the residual stream,
            as globs ("blocks.*") or as a predicate (name, module) -> bool; all maps inside them are branches.
        mean: Over layers; "geometric" leaves silent layers out.
        lrs: Learning rates of tensors relative to the one returned, by parameter name; 1 where missing.
        eps: Adam's.
        seeds: How many seeds (0, 1, ...) or which: of the initialisation if `model` is a function, and of dropout.
        method: Of the Jacobian-vector product, as in `forward_jvp`.

    Returns:
        `MaxUpdate`. In training mode batch norm uses the batch's statistics and dropout is active, with the same masks
        in the gradient and in the change; `notes` says so. Errors combine the scatter of the seeds' and of the
        batches' means, which counts their interaction twice.

    Raises:
        InvalidValueError: A loss or gradient that is not finite, nothing that counts, or nothing that moves.
        InvalidTypeError: A loss that is not one number.

    >>> net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False))
    >>> _ = nn.init.ones_(net[0].weight), nn.init.constant_(net[1].weight, 2.0)
    >>> result = max_update_lr(net, lambda f, y: (f - y).mean(), (torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]])))
    >>> result.moments, result.lr                 # the gradient is 2 (3, 4), the change 2 (3 * 3 + 4 * 4) = 50
    ({'0': 2500.0}, 0.02)
    """
    if mean not in get_args(Mean):
        raise unknown("`mean`", mean, get_args(Mean))
    batches, drawn = _batches(batch), seed_list(seeds)
    make = _maker(model, drawn)
    setting = _Setting(loss_fn, optimizer, count, blocks, lrs or {}, eps, method)
    draws = [[_draw(make(seed), one, seed, setting) for one in batches] for seed in drawn]
    return _combined(draws, mean, notes_on(make(drawn[0])))


@dataclass(frozen=True)
class _Setting:
    loss_fn: LossFn
    optimizer: OptimizerFamily
    count: Counted
    blocks: Select | None
    lrs: Mapping[str, float]
    eps: float
    method: Method | None


class _Draw(NamedTuple):
    jvp: Jvp[Tensor]
    readout: str
    unseen: list[str]


def _draw(model: nn.Module, batch: Batch, seed: int, setting: _Setting) -> _Draw:
    """Every counted pre-activation's S_l(1) for one network and one batch."""
    watched = _watched(model, (batch[0],), setting)
    called: list[str] = []
    with observe(model, {**maps(model), **dict.fromkeys(watched)}, lambda name, *_: called.append(name)):
        loss, grads = loss_gradient(model, setting.loss_fn, batch, seed)
    _check_finite(loss, grads)
    ends = _ends(model, called)
    steps = optimizer_step(grads, setting.optimizer, eps=setting.eps, hidden=_hidden(model, ends))
    for name, lr in setting.lrs.items():
        if name not in steps:
            raise unknown("trained parameter in `lrs`", name, steps)
        steps[name] = steps[name] * lr
    jvp = forward_jvp(model, (batch[0],), steps, modules=watched, keep=_mean_square, method=setting.method, seed=seed)
    jvp.outputs.pop(ends[-1], None)
    if not jvp.outputs:
        raise InvalidValueError(
            f"no pre-activation counts: `count`={setting.count!r} leaves none of {called} but the readout {ends[-1]!r}"
        )
    unseen = [name for name in maps(model) if name not in called]
    return _Draw(jvp, ends[-1], unseen)


def _watched(model: nn.Module, inputs: tuple[Any, ...], setting: _Setting) -> list[str]:
    if setting.count not in get_args(Counted):
        raise unknown("`count`", setting.count, get_args(Counted))
    if setting.count == "all":
        return list(maps(model))
    kinds = traced(model, inputs) if setting.blocks is None else which(model, setting.blocks)
    return [name for name, kind in kinds.items() if kind == setting.count]


def _ends(model: nn.Module, called: list[str]) -> tuple[str, str]:
    """The first and the last map called; the last is the readout."""
    linear = maps(model)
    order = [name for name in called if name.partition("@")[0] in linear]
    if len(order) < 2:
        raise InvalidValueError(
            f"the model must call two linear or convolution modules or more (the last is the readout), it calls {order}"
        )
    return order[0], order[-1]


def _hidden(model: nn.Module, ends: tuple[str, str]) -> set[str]:
    """The weights that Muon steps: those of all maps but the ends."""
    outer = {end.partition("@")[0] for end in ends}
    weights = {id(module.weight) for name, module in maps(model).items() if name not in outer}
    return {name for name, param in model.named_parameters() if id(param) in weights}


def _mean_square(_: Tensor, change: Tensor) -> Tensor:
    return widest(torch.linalg.vector_norm(change)).square() / change.numel()


def _check_finite(loss: Tensor, grads: Mapping[str, Tensor]) -> None:
    if not loss.isfinite():
        raise InvalidValueError(f"the loss must be finite, got {loss.item()}: check the data and the initialisation")
    bad = [name for name, grad in grads.items() if not grad.isfinite().all()]
    if bad:
        raise InvalidValueError(
            f"the gradient is not finite in {len(bad)} of {len(grads)} tensors, the last of them {bad[-1]!r}: "
            "look for a division by the spread of constant activations, or a loss of too large outputs"
        )


def _combined(draws: list[list[_Draw]], mean: Mean, notes: list[str]) -> MaxUpdate:
    names = list(draws[0][0].jvp.outputs)
    if any(list(draw.jvp.outputs) != names for row in draws for draw in row):
        raise InvalidValueError("the network calls different modules for different seeds or batches: no average exists")
    table = np.array([[[float(draw.jvp.outputs[name]) for name in names] for draw in row] for row in draws])
    moments = table.mean((0, 1))
    silent = tuple(name for name, moment in zip(names, moments, strict=True) if moment == 0)
    if len(silent) == len(names):
        raise InvalidValueError(
            "no pre-activation moves: every gradient before the readout is zero. Is the readout initialised to zero? "
            "Then take a step first, or give it its mean-field size"
        )
    level = _level(moments, mean)
    lr = float(level**-0.5)
    worst = max((draw.jvp for row in draws for draw in row), key=lambda jvp: get_args(Method).index(jvp.method))
    return MaxUpdate(
        lr=lr,
        lr_se=float(lr / 2 * _standard_error(_level(table, mean)) / level),
        moments=dict(zip(names, moments.tolist(), strict=True)),
        moments_se=dict(zip(names, _standard_error(table).tolist(), strict=True)),
        readout=draws[0][0].readout,
        silent=silent,
        method=worst.method,
        notes=(*notes, *_remarks(draws[0][0].unseen, silent, worst)),
    )


def _remarks(unseen: list[str], silent: tuple[str, ...], worst: Jvp[Tensor]) -> Iterator[str]:
    if unseen:
        yield f"maps that were not called as modules, and so not seen: {', '.join(unseen)}"
    if silent:
        yield f"pre-activations that do not move at all: {', '.join(silent)}"
    if worst.why:
        yield f"changes by {worst.method}, because {worst.why}"


def _level(moments: np.ndarray, mean: Mean) -> np.ndarray:
    """The mean over layers (the last axis)."""
    if mean == "arithmetic":
        return moments.mean(-1)
    return np.exp(np.log(moments, where=moments > 0, out=np.full_like(moments, np.nan)).mean(-1, where=moments > 0))


def _standard_error(table: np.ndarray) -> np.ndarray:
    """Of the mean over (seeds, batches, ...), from the scatter of the rows' and of the columns' means."""
    variances = [means.var(0, ddof=1) / len(means) for means in (table.mean(1), table.mean(0)) if len(means) > 1]
    return np.sqrt(sum(variances)) if variances else np.full(table.shape[2:], np.nan)


def _batches(batch: Any) -> list[Batch]:
    batches = batch if isinstance(batch, list) else [batch]
    if not batches or any(not isinstance(one, (tuple, list)) or len(one) != 2 for one in batches):
        raise InvalidTypeError("`batch` must be a pair (x, y) or a list of such pairs")
    return batches


def _maker(model: nn.Module | Callable[..., nn.Module], seeds: list[int]) -> Callable[[int], nn.Module]:
    if isinstance(model, nn.Module):
        return lambda seed: model
    if not callable(model):
        raise InvalidTypeError(
            f"`model` must be a torch.nn.Module or a function of `seed` that makes one, got {model!r}"
        )
    check_seeds(model, seeds)
    return lambda seed: build(model, seed)
