"""How far the optimal learning rate of a finite size is from that of infinite size, and how that falls with size."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale import stats as laws
from isoscale.checks import number, whole
from isoscale.errors import InvalidValueError
from isoscale.limit import inputs, results
from isoscale.limit.choices import choose_plan, depth_sequence
from isoscale.limit.memory import check_words
from isoscale.limit.network import Problem, Size, run
from isoscale.limit.noise import GaussianNoise
from isoscale.limit.optimal_lr import optimal_lr
from isoscale.limit.particles import Plan, groups, sample
from isoscale.limit.progress import Progress
from isoscale.limit.richardson import append_limit
from isoscale.stats.least_squares import t_quantile

if TYPE_CHECKING:
    import xarray as xr

# Rates tried: so many octaves to each side of the middle, so many of them an octave.
_REACH = 1.0
_AN_OCTAVE = 8

# A drift is fitted where it is so many standard errors from nothing.
_SEEN = 2.0

_BLOCKS = {"block_depth": 1, "alpha": 0.5, "beta": 0.5, "rule": None, "norm": None}


def lr_drift(
    x: Any,
    y: Any,
    depths: Sequence[int] = (4, 8, 16, 32),
    widths: Sequence[int] = (64, 128, 256),
    *,
    steps: int = 10,
    middle: float | None = None,
    particles: int | None = None,
    replicas: int | None = None,
    networks: int = 32,
    backward_weights: str = "reused",
    seed: int = 0,
    progress: Progress = None,
    **options: Any,
) -> xr.Dataset:
    """Drift of the learning rate with the least final loss, in octaves from infinite size, against depth and width.

    All sizes share their noise between the rates, and depths share it with one another: each optimum is the vertex of
    a parabola through the best of the rates tried and its neighbours, eight an octave, each error a jackknife.

    Args:
        x: Inputs, shape (samples, features).
        y: Targets, shape (samples,) or (samples, outputs).
        depths: Numbers of blocks at infinite width, each dividing the next; infinite depth is extrapolated from the
            finest three.
        widths: Widths of finite networks, which have the first of `depths` blocks; their drift is from infinite width
            at that depth.
        steps: SGD updates.
        middle: Rate about which others are tried, an octave to both sides; None: the optimum of infinite size.
        particles, replicas: Those of `solve`; replicas at least 3.
        networks: Finite networks drawn at each width, at least 3.
        backward_weights: "reused" or "independent".
        seed: Of all noise.
        progress: Called with the fraction done.
        **options: Further arguments of `solve`: phi, horizon, block_depth, rule, norm, momentum, ...

    Returns:
        Dataset: lr(depth) and lr_of_width(width), the optima; drift(depth), drift_of_width(width) and their sum
        drift_of_size(width), of that width and the first depth from infinite size, in octaves, with _low and _high
        (95 %), NaN where the best rate is the first or last that was tried; limit_lr at infinite size;
        exponent(law), exponent_low, exponent_high of |drift| against size for the laws "depth" and "width", NaN unless
        each drift is seen (two standard errors). attrs: rates tried, particles, replicas, networks, seconds, settings.

    Raises:
        InvalidValueError: A value makes no sense, or a depth rule whose errors do not fall like 1/depth.
        InvalidTypeError: An argument cannot be used.
    """
    import xarray as xr

    begin = time.perf_counter()
    for name in ("lr", "depth", "kernels", "x_test", "ladder", "tolerance"):
        if name in options:
            raise InvalidValueError(f"`{name}` is no option of a drift of learning rates: leave it out")
    blocks = inputs.architecture(**{name: options.get(name, default) for name, default in _BLOCKS.items()})
    if blocks.rule.corrected or blocks.rule.beta not in (0.5, 1.0):
        raise InvalidValueError(
            "`rule` must be depth-mup or completep for a drift with depth: under others errors do not fall like 1/depth"
        )
    levels = depth_sequence("depths", depths, 3, ordered=True)
    sizes = sorted({whole("widths", width) for width in widths})
    networks = whole("networks", networks, least=3)
    check_words(len(sizes) * networks, "Use fewer `networks`.")
    reused = inputs.mode(backward_weights)
    training = {name: value for name, value in options.items() if name not in _BLOCKS}
    given: dict[str, Any] = {"phi": "tanh", "horizon": 1.0, "loss": "mse", "train_ends": True, **training}
    if middle is None:
        middle = float(optimal_lr(x, y, steps=steps, backward_weights=backward_weights, seed=seed, **options).lr)
    middle = number("middle", middle, above=0)
    octaves = np.arange(-_REACH * _AN_OCTAVE, _REACH * _AN_OCTAVE + 1) / _AN_OCTAVE
    rates = middle * 2.0**octaves

    def at(rate: float) -> Problem:
        return inputs.problem(x, y, blocks=blocks, steps=steps, lr=rate, **given)

    problem = at(middle)
    inputs.check_extrapolates(problem)
    plan = choose_plan(problem, levels, particles, replicas, seed=seed, least_replicas=3)
    size = Size(n=sizes[0], depth=levels[0], reused=reused)
    by_rate: list[np.ndarray] = []
    by_rate_of_width: list[list[np.ndarray]] = []
    for done, rate in enumerate(rates.tolist()):
        trained = at(rate)
        by_rate.append(_of_depths(trained, plan, reused))
        by_rate_of_width.append([_of_width(trained, size, width, networks, seed) for width in sizes])
        if progress is not None:
            progress((done + 1) / len(rates))
    losses = np.stack(by_rate)  # (rate, depth and infinity, replica)
    optima, limit, drifts = _drifts(octaves, losses)
    of_width = _width_drifts(octaves, np.array(by_rate_of_width), losses[:, 0])
    data: dict[str, Any] = {
        "lr": ("depth", middle * 2.0**optima),
        "limit_lr": ((), middle * 2.0**limit),
        "lr_of_width": ("width", middle * 2.0**of_width.optima),
    }
    by_name = {
        "drift": ("depth", drifts),
        "drift_of_width": ("width", of_width.drift),
        "drift_of_size": ("width", of_width.drift.plus(drifts, 0)),
    }
    for name, (axis, found) in by_name.items():
        data[name] = (axis, found.value)
        data[f"{name}_low"] = (axis, found.value - found.half)
        data[f"{name}_high"] = (axis, found.value + found.half)
    fits = [_exponent(levels, drifts), _exponent(sizes, of_width.drift)]
    for place, name in enumerate(("exponent", "exponent_low", "exponent_high")):
        data[name] = ("law", [fit[place] for fit in fits])
    attrs = {
        "particles": plan.particles,
        "replicas": plan.replicas,
        "networks": networks,
        "seconds": time.perf_counter() - begin,
        **results.settings(problem, lr=middle, phi=given["phi"], backward_weights=backward_weights, loss=given["loss"]),
        "seed": seed,
    }
    attrs["rates"] = rates.tolist()
    coords = {"depth": list(levels), "width": sizes, "law": ["depth", "width"]}
    return xr.Dataset(data, coords=coords, attrs=attrs)


@dataclasses.dataclass(frozen=True)
class _Drift:
    """Octaves from infinite size, standard errors, and half-widths of the 95 % interval."""

    value: np.ndarray
    error: np.ndarray
    half: np.ndarray

    def plus(self, other: _Drift, place: int) -> _Drift:
        """With the drift at this place of another's added to each, as if the two were independent."""
        return _Drift(
            self.value + other.value[place],
            np.hypot(self.error, other.error[place]),
            np.hypot(self.half, other.half[place]),
        )


@dataclasses.dataclass(frozen=True)
class _OfWidth:
    optima: np.ndarray
    drift: _Drift


# --- final losses ---
def _of_depths(problem: Problem, plan: Plan, reused: bool) -> np.ndarray:
    """(depth and infinity, replica) at infinite width."""
    drawn = sample(problem, plan, reused=reused)
    levels = [values["loss"][:, -1] for values in drawn.values]
    return np.stack(append_limit(levels, plan.depths))


def _of_width(problem: Problem, size: Size, width: int, count: int, seed: int) -> np.ndarray:
    """Of networks of this width."""
    parts = []
    for first, replicas in groups(count, width):
        group = dataclasses.replace(size, n=width, replicas=replicas)
        history = run(problem, group, GaussianNoise(seed, first, like=problem.gram))
        parts.append(history.loss[:, -1].double().cpu().numpy())
    return np.concatenate(parts)


# --- optima ---
def _best(octaves: np.ndarray, losses: np.ndarray) -> float:
    """Vertex of the parabola through a least loss and its neighbours; NaN at either end.

    The one that is downhill from the middle: near the rates that diverge a mean over replicas is noise, of any sign.
    """
    finite = np.where(np.isfinite(losses), losses, math.inf)
    place = len(losses) // 2
    # Where nothing trains there is only one way.
    while place and not math.isfinite(finite[place]):
        place -= 1
    while 0 < place < len(losses) - 1:
        left, here, right = finite[place - 1 : place + 2]
        if here <= left and here <= right:
            break
        place += 1 if right < left else -1
    if not 0 < place < len(losses) - 1:
        return math.nan
    left, here, right = finite[place - 1 : place + 2]
    if not math.isfinite(left + right):
        return math.nan
    step = octaves[1] - octaves[0]
    bend = left - 2 * here + right
    return float(octaves[place] + (step * (left - right) / (2 * bend) if bend > 0 else 0.0))


def _jackknife(of: Callable[[np.ndarray], np.ndarray], losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A statistic of mean losses over replicas (last axis), and its standard error."""
    count = losses.shape[-1]
    total = losses.sum(-1)
    left_out = np.stack([of((total - losses[..., i]) / (count - 1)) for i in range(count)])
    # se^2 = (R - 1) / R sum_i (left_out_i - mean)^2
    return of(losses.mean(-1)), left_out.std(0) * math.sqrt(count - 1)


def _drifts(octaves: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, float, _Drift]:
    """Optima of the depths and of infinite depth, and how far they are apart."""

    def optima(means: np.ndarray) -> np.ndarray:
        return np.array([_best(octaves, of_depth) for of_depth in means.T])

    def drift(means: np.ndarray) -> np.ndarray:
        found = optima(means)
        return found[:-1] - found[-1]

    found = optima(losses.mean(-1))
    value, error = _jackknife(drift, losses)
    return found[:-1], float(found[-1]), _Drift(value, error, error * t_quantile(losses.shape[-1] - 1))


def _width_drifts(octaves: np.ndarray, losses: np.ndarray, infinite: np.ndarray) -> _OfWidth:
    """The same of widths, from infinite width at the same depth (rate, replica)."""

    def optimum(means: np.ndarray) -> np.ndarray:
        return np.array(_best(octaves, means))

    limit, limit_error = _jackknife(optimum, infinite)
    optima, errors = [], []
    for place in range(losses.shape[1]):
        best, error = _jackknife(optimum, losses[:, place])
        optima.append(float(best))
        errors.append(math.hypot(float(error), float(limit_error)))
    error = np.array(errors)
    freedom = min(losses.shape[-1], infinite.shape[-1]) - 1
    drift = _Drift(np.array(optima) - float(limit), error, error * t_quantile(freedom))
    return _OfWidth(np.array(optima), drift)


def _exponent(sizes: Sequence[int], drift: _Drift) -> tuple[float, float, float]:
    """Of |drift| against size, with its interval; NaN where a drift is not seen."""
    size = np.abs(drift.value)
    if len(size) < 3 or not (size > _SEEN * drift.error).all():
        return math.nan, math.nan, math.nan
    law = laws.fit_power_law(sizes, size, np.maximum(drift.error, 1e-9 * size))
    return law.exponent, law.exponent_low, law.exponent_high
