"""Whether more depth is worth it at infinite width: losses at depths and at infinity, and what a doubling brings."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.errors import InvalidValueError
from isoscale.limit import activations, inputs, losses, results
from isoscale.limit.choices import choose_plan, depth_sequence
from isoscale.limit.network import Problem
from isoscale.limit.particles import sample
from isoscale.limit.progress import Progress, portion
from isoscale.limit.richardson import extrapolate
from isoscale.limit.solve import solve
from isoscale.stats import diminishing_returns
from isoscale.stats.least_squares import t_quantile
from isoscale.stats.summary import mean_and_se

if TYPE_CHECKING:
    import xarray as xr

# Depths that infinity is extrapolated from where it has no equations.
_FINEST = 3

# Of a normal distribution, 95 %.
_NORMAL = 1.96


def depth_returns(
    x: Any,
    y: Any,
    depths: Sequence[int] = (4, 8, 16, 32),
    steps: int = 10,
    lr: float = 0.15,
    phi: activations.Phi = "tanh",
    horizon: float = 1.0,
    particles: int | None = None,
    replicas: int | None = None,
    backward_weights: str = "reused",
    seed: int = 0,
    *,
    train_ends: bool = True,
    loss: losses.Loss = "mse",
    block_depth: int = 1,
    alpha: float = 0.5,
    beta: float = 0.5,
    rule: str | None = None,
    norm: str | None = None,
    optimizer: str = "sgd",
    betas: Sequence[float] | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: inputs.Schedule = None,
    progress: Progress = None,
) -> xr.Dataset:
    """The loss at the end of training against depth, at infinite width, and what each doubling still brings.

    Doublings between depths that run are measured on common noise. Beyond, where errors fall like 1/depth (depth-mup
    and completep), they are read off the fit of `isoscale.stats.diminishing_returns`.

    Args:
        depths: Numbers of blocks, each twice the one before.
        particles: n of each replica, even; None: twice what `solve` starts with.
        replicas: Repetitions, at least 3; None: chosen.
        seed: All depths share the noise of this seed.
        progress: Called with the fraction done.

    The other arguments are those of `solve`.

    Returns:
        Dataset over `depth`: loss and loss_se at the last step; gain, the loss that doubling this depth saves, with
        gain_low and gain_high (95 %), measured (1) or fitted (0) as `is_measured` says, NaN where neither is known;
        above_limit = loss - limit, with _low and _high. limit and limit_se: the loss at infinite depth, NaN where it
        has none (depth-mup-corrected) or no known one
        (optimizers other than SGD). attrs: law ("1/L", or "none" where no fit is made), particles,
        replicas, seconds, diverged_step and the settings. Losses are NaN at depths at which training diverged.

    Raises:
        InvalidValueError: A value makes no sense.
        InvalidTypeError: An argument cannot be used.

    >>> found = depth_returns([[1.0, 0.0], [0.0, 1.0]], [1.0, -1.0], (2, 4, 8), steps=1, lr=0.5)
    >>> found.is_measured.values.tolist(), bool((found.gain_low <= found.gain_high).all())
    ([1, 1, 0], True)
    """
    import xarray as xr

    begin = time.perf_counter()
    levels = depth_sequence("depths", depths, _FINEST, ordered=True)
    if any(2 * coarse != fine for coarse, fine in itertools.pairwise(levels)):
        raise InvalidValueError(f"`depths` must be doublings, such as 4, 8, 16, 32, got {list(depths)}")
    options: dict[str, Any] = {
        "steps": steps,
        "lr": lr,
        "phi": phi,
        "horizon": horizon,
        "train_ends": train_ends,
        "loss": loss,
        "optimizer": optimizer,
        "betas": betas,
        "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
        "clip": clip,
        "schedule": schedule,
    }
    blocks = inputs.architecture(block_depth, alpha, beta, rule, norm)
    problem = inputs.problem(x, y, blocks=blocks, **options)
    plan = choose_plan(
        problem,
        levels,
        particles,
        replicas,
        seed=seed,
        more_particles=2,
        least_replicas=3,
    )
    drawn = sample(problem, plan, reused=inputs.mode(backward_weights), progress=portion(progress, 0, 0.9, 1))
    # (depth, replica)
    last = np.stack([values["loss"][:, -1] for values in drawn.values])
    loss_mean, loss_se = mean_and_se(last, axis=1)
    if _has_equations(problem):
        limit_run = solve(
            x,
            y,
            backward_weights=backward_weights,
            seed=seed,
            kernels=False,
            block_depth=block_depth,
            alpha=alpha,
            beta=beta,
            rule=rule,
            norm=norm,
            **options,
        )
        limit, limit_se = float(limit_run.loss[-1]), float(limit_run.loss_se[-1])
    else:
        limit, limit_se = _extrapolated(problem, last, levels)
    data = _returns(problem, levels, last, limit, limit_se)
    labels = {
        "loss": "training loss after the last step",
        "gain": "loss that doubling the depth saves",
        "above_limit": "loss above that of infinite depth",
        "limit": "training loss after the last step at infinite depth",
    }
    data |= {"loss": loss_mean, "loss_se": loss_se}
    variables: dict[str, Any] = {}
    for name, value in data.items():
        variables[name] = ("depth", value, {"units": "1", "long_name": labels.get(name, name)})
    for name, value in (("limit", limit), ("limit_se", limit_se)):
        variables[name] = ((), value, {"units": "1", "long_name": labels.get(name, name)})
    if progress is not None:
        progress(1.0)
    attrs = {
        "law": "1/L" if _is_inverse(problem) else "none",
        "particles": plan.particles,
        "replicas": plan.replicas,
        "seconds": time.perf_counter() - begin,
        "diverged_step": results.diverged_step(drawn.diverged),
        **results.settings(problem, lr=lr, phi=phi, backward_weights=backward_weights, loss=loss),
        "seed": seed,
    }
    return xr.Dataset(variables, coords={"depth": list(levels)}, attrs=attrs)


def _is_inverse(problem: Problem) -> bool:
    """Whether the error of a finite depth is of order 1/L."""
    blocks = problem.architecture
    return problem.optimizer.is_linear and blocks.rule.beta in (0.5, 1.0) and not blocks.rule.corrected


def _has_equations(problem: Problem) -> bool:
    """Whether `solve` knows infinite depth without a ladder of particles."""
    blocks = problem.architecture
    if (
        blocks.layers != 2
        or not problem.optimizer.is_linear
        or blocks.rule.corrected
        or problem.optimizer.clip is not None
    ):
        return False
    return blocks.norm is None or blocks.rule.beta < 1


def _extrapolated(problem: Problem, last: np.ndarray, depths: tuple[int, ...]) -> tuple[float, float]:
    """Infinite depth from the finest depths, and its standard error; NaN where there is no such way."""
    if not _is_inverse(problem):
        return math.nan, math.nan
    values, extrapolation = extrapolate(list(last[-_FINEST:]), depths[-_FINEST:])
    mean, sampling = mean_and_se(values)
    return float(mean), math.hypot(float(sampling), float(extrapolation))


def _returns(
    problem: Problem, depths: tuple[int, ...], last: np.ndarray, limit: float, limit_se: float
) -> dict[str, np.ndarray]:
    """What a doubling of each depth brings, and what all further depth can."""
    means, errors = mean_and_se(last, axis=1)
    # Replicas share their noise: differences are taken replica by replica.
    saved, saved_se = mean_and_se(last[:-1] - last[1:], axis=1)
    half = saved_se * t_quantile(last.shape[1] - 1)
    gain, low, high = (np.full(len(depths), math.nan) for _ in range(3))
    gain[:-1], low[:-1], high[:-1] = saved, saved - half, saved + half
    finite = np.isfinite(means).all() and math.isfinite(limit)
    if finite and _is_inverse(problem):
        # 1/L holds where L is large: the deepest three.
        finest = slice(-_FINEST, None)
        by_depth = dict(zip(depths[finest], means[finest].tolist(), strict=True))
        fit = diminishing_returns(by_depth, limit, loss_se=errors[finest], limit_se=limit_se).isel(depth=-1)
        gain[-1], low[-1], high[-1] = float(fit.gain), float(fit.gain_low), float(fit.gain_high)
    above = means - limit
    above_half = _NORMAL * np.hypot(errors, limit_se)
    is_measured = np.ones(len(depths), dtype=int)
    is_measured[-1] = 0
    return {
        "gain": gain,
        "gain_low": low,
        "gain_high": high,
        "is_measured": is_measured,
        "above_limit": above,
        "above_limit_low": above - above_half,
        "above_limit_high": above + above_half,
    }
