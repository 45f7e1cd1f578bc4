"""Checks of what a user passes, and the `Problem` that it describes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isoscale.errors import InvalidTypeError, InvalidValueError, unknown
from isoscale.limit import activations
from isoscale.limit.losses import LOSSES
from isoscale.limit.network import Problem

MODES = ("independent", "reused")
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def count(name: str, value: object, least: int) -> int:
    """An integer argument of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidTypeError(f"`{name}` must be an integer, got {value!r}")
    if value < least:
        raise InvalidValueError(f"`{name}` must be >= {least}, got {value}")
    return int(value)


def positive(name: str, value: object, *, zero: bool = False) -> float:
    """A finite real argument, > 0 (or >= 0)."""
    try:
        number = float(value)  # pyrefly: ignore
    except (TypeError, ValueError):
        raise InvalidTypeError(f"`{name}` must be a number, got {value!r}") from None
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise InvalidValueError(f"`{name}` must be finite and {'>=' if zero else '>'} 0, got {value}")
    return number


def mode(value: object) -> bool:
    """Whether `backward_weights` asks for the forward pass's own weights."""
    if value not in MODES:
        raise unknown("kind of `backward_weights`", value, MODES)
    return value == "reused"


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
    _finite(name, array)
    return array


def targets(y: Any, samples: int, loss: str) -> np.ndarray:
    """Targets of shape (samples, outputs); integer classes become one-hot rows."""
    if isinstance(y, Tensor):
        y = y.detach().cpu().numpy()
    array = np.asarray(y)
    if array.ndim not in (1, 2) or array.shape[0] != samples or array.size == 0:
        raise InvalidValueError(
            f"`y` must have shape (samples,) or (samples, outputs) with {samples} samples as `x` has, got {array.shape}"
        )
    if loss == "cross-entropy":
        array = _classes(array)
    array = array.astype(np.float64)
    _finite("y", array)
    return array if array.ndim == 2 else array[:, None]


def problem(
    x: Any,
    y: Any,
    *,
    x_test: Any = None,
    steps: int,
    lr: float,
    phi: activations.Phi,
    horizon: float,
    loss: str,
    train_ends: bool,
    batches: Sequence[Sequence[int]] | None,
    dtype: str = "float64",
    device: str | torch.device = "cpu",
) -> Problem:
    """The checked `Problem`; see `isoscale.limit.simulate` for the arguments."""
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    if dtype not in DTYPES:
        raise unknown("`dtype`", dtype, DTYPES)
    known = matrix("x", x)
    y = targets(y, len(known), loss)
    everyone = known if x_test is None else np.vstack([known, matrix("x_test", x_test, features=known.shape[1])])
    function, slope = activations.resolve(phi)
    cast: Callable[[np.ndarray], Tensor] = lambda a: torch.tensor(a, dtype=DTYPES[dtype], device=device)  # noqa: E731
    return Problem(
        gram=cast(everyone @ everyone.T / known.shape[1]),
        y=cast(y),
        shares=cast(_shares(batches, count("steps", steps, 0), len(known))),
        lr=positive("lr", lr, zero=True),
        horizon=positive("horizon", horizon),
        phi=function,
        slope=slope,
        loss=LOSSES[loss],
        train_ends=bool(train_ends),
    )


def _finite(name: str, array: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        raise InvalidValueError(f"`{name}` must be finite, got {array[where]} at {where} ({len(bad)} such entries)")


def _classes(y: np.ndarray) -> np.ndarray:
    if y.ndim == 2:
        if (y < 0).any() or not np.allclose(y.sum(1), 1):
            raise InvalidValueError("`y` of shape (samples, outputs) must hold class probabilities for cross-entropy")
        return y
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise InvalidValueError(f"`y` must hold classes 0, 1, ... as integers for cross-entropy, got dtype {y.dtype}")
    return np.eye(max(2, int(y.max()) + 1))[y]


def _shares(batches: Sequence[Sequence[int]] | None, steps: int, samples: int) -> np.ndarray:
    """Each step's weights of the samples: 1 in a full batch, samples / batch size or 0 in a mini-batch."""
    if batches is None:
        return np.ones((steps, samples))
    if len(batches) != steps:
        raise InvalidValueError(f"`batches` must hold one index set for each of the {steps} steps, got {len(batches)}")
    shares = np.zeros((steps, samples))
    for k, batch in enumerate(batches):
        index = np.asarray(batch)
        if index.ndim != 1 or not index.size or not np.issubdtype(index.dtype, np.integer):
            raise InvalidValueError(f"`batches[{k}]` must be a non-empty list of sample indices, got {batch!r}")
        if index.min() < 0 or index.max() >= samples:
            raise InvalidValueError(f"`batches[{k}]` must hold indices in 0..{samples - 1}, got {batch!r}")
        np.add.at(shares[k], index, samples / index.size)
    return shares
