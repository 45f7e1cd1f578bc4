"""What more depth still brings, if a finite depth's error falls like 1/L."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from isoscale.checks import number
from isoscale.errors import InvalidValueError
from isoscale.stats.axes import ascending, need_dims
from isoscale.stats.bootstrap import RESAMPLES, smooth_interval, unpaired_means
from isoscale.stats.least_squares import least_squares

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
        loss_se: Standard errors of the losses where there is no `seed` dimension, one for each depth or one for all;
            without either, they are taken from the scatter about the fit.
        limit_se: Standard error of a given `limit`.
        seed: Of the resampling that the intervals come from.

    Returns:
        Dataset with `limit` and `coefficient` (c), and over `depth`: `loss`, `fitted`, `gain` (loss that doubling
        this depth saves, c / 2L) and `share` (the gain, as a share of what depth can bring in all from
        the smallest one: its loss - limit); each but `loss` with `_low` and `_high`, the 95 % interval.

    Raises:
        InvalidValueError: Fewer depths than the fit needs (two, three without `limit` and errors), a depth that is not
            positive, a loss that is not finite.

    >>> found = diminishing_returns({4: 1.25, 8: 1.125, 16: 1.0625}, loss_se=[1e-6] * 3)
    >>> round(float(found.limit), 4), round(float(found.share.sel(depth=4)), 4)
    (1.0, 0.5)
    """
    import xarray as xr

    losses = _losses_by_depth(loss_at_depths, loss_se)
    depths = losses["depth"].values
    means = losses.mean("seed").values
    has_errors = loss_se is not None or losses.sizes["seed"] > 1
    coefficients = 2 if limit is None else 1
    spare = len(depths) - coefficients
    if spare < 0 or (spare == 0 and not has_errors):
        raise InvalidValueError(f"`loss_at_depths` has too few depths for the fit: {depths.tolist()}")

    rng = np.random.default_rng(seed)
    inverse = 1 / depths
    if limit is None:
        law = _free_limit(inverse, means[None])
        draws = _draws(losses, law, rng)
        drawn_laws = _free_limit(inverse, draws)
    else:
        limit = number("limit", float(limit))
        limit_se = number("limit_se", float(limit_se), least=0.0)
        law = _given_limit(inverse, means[None], np.array([limit]))
        draws = _draws(losses, law, rng)
        noise = rng.standard_normal(len(draws))
        drawn_laws = _given_limit(inverse, draws, limit + limit_se * noise)

    found = _returns(inverse, means[None], law)
    resampled = _returns(inverse, draws, drawn_laws)
    data: dict[str, Any] = {"loss": ("depth", means)}
    for name, (value,) in found.items():
        low, high = smooth_interval(resampled[name])
        dims = ("depth",) if np.ndim(value) else ()
        for key, array in ((name, value), (f"{name}_low", low), (f"{name}_high", high)):
            data[key] = (dims, array)
    return xr.Dataset(data, {"depth": depths})


def _losses_by_depth(
    losses: xr.DataArray | Mapping[int, float],
    loss_se: ArrayLike | None,
) -> xr.DataArray:
    """Losses over (depth, seed) in ascending order, with their standard errors, if there are, as a coordinate `se`."""
    import xarray as xr

    name = "loss_at_depths"
    if isinstance(losses, Mapping):
        depths = list(losses)
        losses = xr.DataArray(list(losses.values()), {"depth": depths}, dims="depth")
    if "seed" not in losses.dims:
        losses = losses.expand_dims("seed")
    need_dims(losses, "depth", name=name)
    if loss_se is not None:
        # As a coordinate, the errors stay with their depths when these are sorted.
        errors = _standard_errors(loss_se, losses.sizes["depth"])
        losses = losses.assign_coords(se=("depth", errors))
    losses = ascending(losses, "depth", name=name)
    losses = losses.transpose("depth", "seed")
    losses = losses.astype(float)
    is_finite = np.isfinite(losses.values)
    if not is_finite.all():
        raise InvalidValueError(f"`{name}` must be finite: leave out depths at which training diverged")
    return losses


def _standard_errors(loss_se: ArrayLike, depths: int) -> Float[np.ndarray, " depth"]:
    errors = np.asarray(loss_se, float)
    if errors.shape not in ((), (depths,)):
        raise InvalidValueError(f"`loss_se` must hold one error, or one for each of {depths} depths, got {loss_se!r}")
    is_usable = np.isfinite(errors) & (errors >= 0)
    if not is_usable.all():
        raise InvalidValueError(f"`loss_se` must be >= 0 and finite, got {loss_se!r}")
    return np.broadcast_to(errors, depths)


class _InverseLaws(NamedTuple):
    """loss = limit + coefficient / L, one law for each draw of the losses; `variance` is the losses' about the law."""

    limits: Float[np.ndarray, " draw"]
    coefficients: Float[np.ndarray, " draw"]
    variance: Float[np.ndarray, " draw"]
    freedom: int


def _free_limit(
    inverse: Float[np.ndarray, " depth"],
    losses: Float[np.ndarray, "draw depth"],
) -> _InverseLaws:
    """Least squares against 1 / L."""
    ones = np.ones_like(inverse)
    design = np.stack([ones, inverse], axis=1)
    fit = least_squares(design, losses.T)
    limits, coefficients = fit.coefficients
    return _InverseLaws(limits, coefficients, np.asarray(fit.variance), fit.freedom)


def _given_limit(
    inverse: Float[np.ndarray, " depth"],
    losses: Float[np.ndarray, "draw depth"],
    limits: Float[np.ndarray, " draw"],
) -> _InverseLaws:
    """Least squares of what lies above the limit, against 1 / L."""
    above = losses - limits[:, None]
    fit = least_squares(inverse[:, None], above.T)
    (coefficients,) = fit.coefficients
    return _InverseLaws(limits, coefficients, np.asarray(fit.variance), fit.freedom)


def _draws(
    losses: xr.DataArray,
    law: _InverseLaws,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draw depth"]:
    """Plausible mean losses: from the seeds, from standard errors, or from the scatter about the fit."""
    depths, seeds = losses.shape
    if seeds > 1:
        # Seeds at different depths share data but not weights; each depth is resampled alone.
        return unpaired_means(losses.values, rng)
    shape = (RESAMPLES, depths)
    if "se" in losses.coords:
        unit = rng.standard_normal(shape)
        scale = losses["se"].values
    else:
        # s^2 is itself an estimate: its noise is Student's.
        unit = rng.standard_t(law.freedom, shape)
        scale = np.sqrt(law.variance)
    return losses.values[:, 0] + unit * scale


def _returns(
    inverse: Float[np.ndarray, " depth"],
    losses: Float[np.ndarray, "draw depth"],
    laws: _InverseLaws,
) -> dict[str, np.ndarray]:
    """Limit, coefficient, fitted losses, gain and share of each draw."""
    limits = laws.limits[:, None]
    coefficients = laws.coefficients[:, None]
    # From L to 2 L the loss falls by c / L - c / 2L.
    gain = coefficients * inverse / 2
    in_all = losses[:, :1] - limits
    with np.errstate(divide="ignore", invalid="ignore"):
        share = gain / in_all
    return {
        "limit": laws.limits,
        "coefficient": laws.coefficients,
        "fitted": limits + 2 * gain,
        "gain": gain,
        "share": share,
    }
