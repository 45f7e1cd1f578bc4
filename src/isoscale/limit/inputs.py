"""Checks of a user's arguments, and the `Problem` that they describe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isoscale.checks import number, share, usable_device, whole
from isoscale.errors import InvalidTypeError, InvalidValueError, unknown
from isoscale.limit import activations, losses
from isoscale.limit.blocks import Architecture, depth_rule, norm_of
from isoscale.limit.memory import check_words
from isoscale.limit.network import Problem
from isoscale.limit.optimizers import BETAS, OPTIMIZERS, Optimizer
from isoscale.scaling.schedules import SCHEDULES, lr_factor

MODES = ("independent", "reused")
DTYPES = {"float64": torch.float64, "float32": torch.float32}

Schedule = str | Sequence[float] | None
"""Of the learning rate: its name, or by what each step multiplies it."""

Kernels = bool | Sequence[float]
"""Whether to record kernels; or the layer times in [0, 1] at which to."""


def positive(name: str, value: object, *, zero: bool = False) -> float:
    """A finite real argument, > 0 (or >= 0)."""
    try:
        number = float(value)  # pyrefly: ignore
    except (TypeError, ValueError):
        raise InvalidTypeError(f"`{name}` must be a number, got {value!r}") from None
    too_small = number < 0 or (number == 0 and not zero)
    if not math.isfinite(number) or too_small:
        bound = ">=" if zero else ">"
        raise InvalidValueError(f"`{name}` must be finite and {bound} 0, got {value}")
    return number


def mode(value: object) -> bool:
    """Whether `backward_weights` requests the forward pass's own weights."""
    if value not in MODES:
        raise unknown("kind of `backward_weights`", value, MODES)
    return value == "reused"


def kernel_layers(kernels: Kernels, depth: int) -> tuple[int, ...]:
    """The layers, of 0 .. depth, whose kernels are recorded."""
    if isinstance(kernels, bool):
        # A layer costs the run far more than it costs here.
        check_words(int(kernels) * 8 * depth, "Use a smaller `depth`, or fewer `kernels`.")
        return tuple(range(depth + 1)) if kernels else ()
    layers = set()
    for value in kernels:
        layer_time = positive("kernels", value, zero=True)
        if layer_time > 1:
            raise InvalidValueError(f"`kernels` must be True, False or layer times in [0, 1], got {kernels!r}")
        layers.add(round(layer_time * depth))
    return tuple(sorted(layers))


def matrix(name: str, value: Any, *, features: int | None = None) -> np.ndarray:
    """A finite (samples, features) array of float64."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"`{name}` must be a (samples, features) array with as many features in each sample: {error}"
        ) from None
    if array.ndim != 2 or 0 in array.shape:
        raise InvalidValueError(f"`{name}` must have shape (samples, features), got {array.shape}")
    if features is not None and array.shape[1] != features:
        raise InvalidValueError(f"`{name}` must have {features} features as `x` has, got {array.shape[1]}")
    _check_finite(name, array)
    return array


def architecture(block_depth: int, alpha: float, beta: float, rule: str | None, norm: str | None) -> Architecture:
    """The residual blocks requested.

    Raises:
        InvalidValueError: A rule or norm that is unknown, or a rule that blocks of one layer do not have.
    """
    found = Architecture(
        layers=whole("block_depth", block_depth),
        rule=depth_rule(rule, alpha, beta),
        norm=norm_of(norm),
    )
    if found.layers == 1 and (found.rule.beta != 0.5 or found.rule.corrected):
        name = "beta" if rule is None else "rule"
        raise InvalidValueError(
            f"`{name}` is for blocks of two layers: those of one layer are scaled by depth-mup. Give block_depth=2, or "
            "leave it out"
        )
    return found


def optimizer_of(
    *,
    steps: int,
    lr: float,
    optimizer: str = "sgd",
    betas: Sequence[float] | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: Schedule = None,
) -> Optimizer:
    """The optimizer requested."""
    if optimizer not in OPTIMIZERS:
        raise unknown("`optimizer`", optimizer, OPTIMIZERS)
    momentum = share("momentum", momentum)
    if momentum and optimizer not in ("sgd", "muon"):
        raise InvalidValueError(f"`momentum` of {optimizer} is the first of its `betas`: leave it out")
    if nesterov and not momentum:
        raise InvalidValueError("`nesterov` looks ahead along the momentum: give `momentum`, or leave it out")
    rates = positive("lr", lr, zero=True) * _factors(schedule, steps)
    weight_decay = number("weight_decay", weight_decay, least=0)
    if weight_decay and optimizer == "adam":
        raise InvalidValueError("the decay of adam passes through its moments, which is not built: use adamw")
    if (np.abs(1 - rates * weight_decay) < 1e-6).any():
        raise InvalidValueError(
            f"`weight_decay` of {weight_decay:g} takes all of the weights in one step at learning rate "
            f"{rates.max():g}: their product must not be 1"
        )
    return Optimizer(
        rates=rates,
        name=optimizer,
        momentum=momentum,
        nesterov=bool(nesterov),
        betas=_betas(optimizer, betas),
        weight_decay=weight_decay,
        clip=None if clip is None else positive("clip", clip),
    )


def check_extrapolates(problem: Problem) -> None:
    """Raise for an optimizer under which it is not known how errors fall with depth."""
    if not problem.optimizer.is_linear:
        raise InvalidValueError(
            f"the limit of infinite depth under `optimizer` {problem.optimizer.name} is not derived, nor how errors "
            "fall with depth: give a finite `depth`, or use sgd"
        )


def _betas(optimizer: str, betas: Sequence[float] | None) -> tuple[float, float] | None:
    if betas is None:
        return BETAS.get(optimizer)
    if optimizer not in BETAS:
        raise InvalidValueError(f"`betas` are of {', '.join(BETAS)}; {optimizer} has `momentum`")
    if not isinstance(betas, Sequence) or isinstance(betas, str) or len(betas) != 2:
        raise InvalidTypeError(f"`betas` must be two numbers in [0, 1), got {betas!r}")
    first, second = betas
    return share("betas", first), share("betas", second)


def _factors(schedule: Schedule, steps: int) -> np.ndarray:
    """By what each step multiplies the learning rate."""
    if schedule is None:
        return np.ones(steps)
    if not isinstance(schedule, (str, Sequence, np.ndarray)):
        raise InvalidTypeError(f"`schedule` must be a name ({', '.join(SCHEDULES)}) or numbers, got {schedule!r}")
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise unknown("`schedule`", schedule, SCHEDULES)
        return np.array([lr_factor(schedule, step / steps) for step in range(steps)])
    factors = np.array([number("schedule", factor, least=0) for factor in schedule])
    if len(factors) != steps:
        raise InvalidValueError(
            f"`schedule` must be a name ({', '.join(SCHEDULES)}) or hold one factor for each of the {steps} steps, got "
            f"{len(factors)} factors"
        )
    return factors


def targets(y: Any, samples: int, loss: losses.Loss) -> np.ndarray:
    """Targets of shape (samples, outputs); integer classes become one-hot rows."""
    if isinstance(y, Tensor):
        y = y.detach().cpu().numpy()
    array = np.asarray(y)
    if array.ndim not in (1, 2) or array.shape[0] != samples or array.size == 0:
        raise InvalidValueError(
            f"`y` must have shape (samples,) or (samples, outputs) with {samples} samples as `x` has, got {array.shape}"
        )
    # Classes are one-hot already here: from now on both losses have targets of shape (samples, outputs).
    if loss == "cross-entropy":
        array = _class_probabilities(array)
    array = array.astype(np.float64)
    _check_finite("y", array)
    if array.ndim == 1:
        return array[:, None]
    return array


def problem(
    x: Any,
    y: Any,
    *,
    x_test: Any = None,
    steps: int,
    lr: float,
    phi: activations.Phi,
    horizon: float,
    loss: losses.Loss,
    train_ends: bool,
    batches: Sequence[Sequence[int]] | None = None,
    blocks: Architecture | None = None,
    optimizer: str = "sgd",
    betas: Sequence[float] | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: Schedule = None,
    dtype: str = "float64",
    device: str | torch.device = "cpu",
) -> Problem:
    """The checked `Problem`; see `isoscale.limit.simulate` for the arguments."""
    steps = whole("steps", steps, least=0)
    if dtype not in DTYPES:
        raise unknown("`dtype`", dtype, DTYPES)
    trained = matrix("x", x)
    samples, features = trained.shape
    y = targets(y, samples, loss)
    everyone = trained
    if x_test is not None:
        test = matrix("x_test", x_test, features=features)
        everyone = np.vstack([trained, test])
    function, derivative = activations.resolve(phi)
    device = usable_device(device)
    # Each of them twice: as an array, and as a tensor.
    words = steps * samples + len(everyone) * (len(everyone) + features)
    check_words(2 * words, "Use fewer steps or fewer samples.")
    weights = _batch_weights(batches, steps, samples)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.tensor(array, dtype=DTYPES[dtype], device=device)

    return Problem(
        # Kx = x.x / d
        gram=tensor(everyone @ everyone.T / features),
        y=tensor(y),
        batch_weights=tensor(weights),
        inputs=tensor(everyone / math.sqrt(features)),
        optimizer=optimizer_of(
            steps=steps,
            lr=lr,
            optimizer=optimizer,
            betas=betas,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            clip=clip,
            schedule=schedule,
        ),
        horizon=positive("horizon", horizon),
        phi=function,
        derivative=derivative,
        loss=losses.resolve(loss),
        train_ends=bool(train_ends),
        architecture=blocks or Architecture(),
    )


def _check_finite(name: str, array: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(array))
    count = len(bad)
    if count:
        where = tuple(bad[0].tolist())
        raise InvalidValueError(f"`{name}` must be finite, got {array[where]} at {where} ({count} such entries)")


def _class_probabilities(y: np.ndarray) -> np.ndarray:
    if y.ndim == 2:
        sums_to_one = np.allclose(y.sum(1), 1)
        if (y < 0).any() or not sums_to_one:
            raise InvalidValueError("`y` of shape (samples, outputs) must hold class probabilities for cross-entropy")
        return y
    integers = np.issubdtype(y.dtype, np.integer)
    if not integers or y.min() < 0:
        raise InvalidValueError(f"`y` must hold classes 0, 1, ... as integers for cross-entropy, got dtype {y.dtype}")
    classes = max(2, int(y.max()) + 1)
    return np.eye(classes)[y]


def _batch_weights(batches: Sequence[Sequence[int]] | None, steps: int, samples: int) -> np.ndarray:
    """Weight of each sample's loss at each step: 1 in a full batch, samples / batch size or 0 in a mini-batch."""
    if batches is None:
        return np.ones((steps, samples))
    if len(batches) != steps:
        raise InvalidValueError(f"`batches` must hold one index set for each of the {steps} steps, got {len(batches)}")
    weights = np.zeros((steps, samples))
    for k, batch in enumerate(batches):
        index = np.asarray(batch)
        integers = np.issubdtype(index.dtype, np.integer)
        if index.ndim != 1 or not index.size or not integers:
            raise InvalidValueError(f"`batches[{k}]` must be a non-empty list of sample indices, got {batch!r}")
        if index.min() < 0 or index.max() >= samples:
            raise InvalidValueError(f"`batches[{k}]` must hold indices in 0..{samples - 1}, got {batch!r}")
        # chi holds the 1/P of a mean over all samples: P/B makes it the mean over the batch. Repetitions add up.
        np.add.at(weights[k], index, samples / index.size)
    return weights
