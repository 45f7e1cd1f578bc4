"""What more depth still brings, if a finite depth's error falls like 1/L."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from isoscale.errors import InvalidValueError
from isoscale.stats.intervals import LEVEL, RESAMPLES, need_dims

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import ArrayLike


def diminishing_returns(
    loss_at_depths: xr.DataArray | Mapping[int, float],
    limit: float | None = None,
    *,
    loss_se: ArrayLike | None = None,
    limit_se: float = 0.0,
    seed: int = 0,
) -> xr.Dataset:
    """What more depth still brings: fits loss(L) = limit + c / L (NFD: the error of a finite depth is O(1/L)).

    Args:
        loss_at_depths: Losses over `depth`, and over `seed` if there are several; or {depth: loss}.
        limit: The loss at infinite depth, from `isoscale.limit.solve`; None fits it too.
        loss_se: Standard errors of the losses where there is no `seed` dimension; without either, they are
            taken from the scatter about the fit.
        limit_se: Standard error of a given `limit`.
        seed: Of the resampling that the intervals come from.

    Returns:
        Dataset with `limit` and `coefficient` (c), and over `depth`: `loss`, `fitted`, `gain` (loss that doubling
        this depth saves, c / 2L) and `share` (the gain, as a share of what depth can bring in all from
        the smallest one: its loss - limit); each but `loss` with `_low` and `_high`, the 95 % interval.

    Raises:
        InvalidValueError: Fewer depths than the fit needs (two, three without `limit` and errors), a loss that is
            not finite.

    >>> found = diminishing_returns({4: 1.25, 8: 1.125, 16: 1.0625}, loss_se=[1e-6] * 3)
    >>> round(float(found.limit), 4), round(float(found.share.sel(depth=4)), 4)
    (1.0, 0.5)
    """
    import xarray as xr

    losses = _losses_by_depth(loss_at_depths)
    inverse = 1 / losses["depth"].values
    means = losses.mean("seed").values
    freedom = len(inverse) - (1 if limit is not None else 2)
    if freedom < 0 or (freedom == 0 and losses.sizes["seed"] < 2 and loss_se is None):
        raise InvalidValueError(f"`loss_at_depths` has too few depths for the fit: {losses['depth'].values.tolist()}")
    rng = np.random.default_rng(seed)
    fitted = _inverse_law(inverse, means[None], None if limit is None else np.array([limit]))
    draws = _draws(losses.values, loss_se, means - fitted[0] - fitted[1] * inverse, freedom, rng)
    limits = None if limit is None else limit + limit_se * rng.standard_normal(len(draws))
    found = _returns(inverse, means[None], *fitted)
    resampled = _returns(inverse, draws, *_inverse_law(inverse, draws, limits))
    data: dict[str, Any] = {"loss": ("depth", means)}
    for name, (value,) in found.items():
        low, high = np.quantile(resampled[name], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        dims = ("depth",) if np.ndim(value) else ()
        data |= {name: (dims, value), f"{name}_low": (dims, low), f"{name}_high": (dims, high)}
    return xr.Dataset(data, {"depth": losses["depth"].values})


def _losses_by_depth(losses: xr.DataArray | Mapping[int, float]) -> xr.DataArray:
    """Losses over (depth, seed), sorted by depth."""
    import xarray as xr

    if isinstance(losses, Mapping):
        losses = xr.DataArray(list(losses.values()), {"depth": list(losses)}, dims="depth")
    if "seed" not in losses.dims:
        losses = losses.expand_dims("seed")
    need_dims(losses, "depth", "seed")
    losses = losses.transpose("depth", "seed").sortby("depth").astype(float)
    if not np.isfinite(losses.values).all():
        raise InvalidValueError("`loss_at_depths` must be finite: leave out depths at which training diverged")
    return losses


def _draws(
    losses: Float[np.ndarray, "depth seed"],
    loss_se: ArrayLike | None,
    residuals: Float[np.ndarray, " depth"],
    freedom: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draw depth"]:
    """Plausible mean losses: from the seeds, from standard errors, or from the scatter about the fit."""
    depths, seeds = losses.shape
    if seeds > 1:
        # Seeds at different depths share data but not weights; each depth is resampled alone.
        picks = rng.integers(seeds, size=(RESAMPLES, depths, seeds))
        return np.take_along_axis(losses[None], picks, axis=2).mean(2)
    if loss_se is not None:
        noise = rng.standard_normal((RESAMPLES, depths)) * np.asarray(loss_se, float)
    else:
        noise = rng.standard_t(freedom, (RESAMPLES, depths)) * math.sqrt(residuals @ residuals / freedom)
    return losses[:, 0] + noise


def _inverse_law(
    inverse: Float[np.ndarray, " depth"],
    losses: Float[np.ndarray, "draw depth"],
    limits: Float[np.ndarray, " draw"] | None,
) -> tuple[Float[np.ndarray, " draw"], Float[np.ndarray, " draw"]]:
    """Least squares of loss = limit + c * inverse, with the limit given or free."""
    if limits is not None:
        return limits, (losses - limits[:, None]) @ inverse / (inverse @ inverse)
    centred = inverse - inverse.mean()
    slope = losses @ centred / (centred @ centred)
    return losses.mean(1) - slope * inverse.mean(), slope


def _returns(
    inverse: Float[np.ndarray, " depth"],
    losses: Float[np.ndarray, "draw depth"],
    limits: Float[np.ndarray, " draw"],
    slopes: Float[np.ndarray, " draw"],
) -> dict[str, np.ndarray]:
    gain = slopes[:, None] * inverse / 2
    return {
        "limit": limits,
        "coefficient": slopes,
        "fitted": limits[:, None] + 2 * gain,
        "gain": gain,
        "share": gain / (losses[:, :1] - limits[:, None]),
    }
