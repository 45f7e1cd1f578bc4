"""Loss curves whose optimum, drift and regret are known: what the verdict's error rates are measured on.

Every seed has an optimum (or a cliff) of its own at every size: a part that it has at both sizes and a part of
that size. Its log loss is a shape of the distance u = log2(lr) - optimum, plus its own level, plus noise of each run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from isoscale.stats.curve import Curve

Shape = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Family:
    """A shape of loss curves.

    Attributes:
        name: Of the family.
        shape: Log loss above its least over u octaves from the optimum.
        cliff: Octaves above the optimum from which runs diverge; 0 where the loss falls up to the cliff.
    """

    name: str
    shape: Shape
    cliff: float


def _skewed(u: np.ndarray) -> np.ndarray:
    """Twice as steep above the optimum as below it."""
    return 0.25 * (np.exp(0.6 * u) - 0.6 * u - 1)


def _cliff(u: np.ndarray) -> np.ndarray:
    """Falls by 7 % an octave over the last six octaves."""
    return 0.07 * np.clip(-u, 0.0, 6.0)


FAMILIES = (
    Family("basin", lambda u: 0.015 * u**2 + 0.001 * u**4, 5.0),
    Family("valley", lambda u: 0.08 * u**2, 1.25),
    Family("skewed", _skewed, 3.0),
    Family("cliff", _cliff, 0.0),
    Family("flat", lambda u: 0.002 * u**2, 6.0),
)

# Standard deviations: of a seed's optimum in octaves, of its level and of a run, both of log loss.
SCATTER = 0.4
LEVEL = 0.02
NOISE = 0.005
# Share of the variance of a seed's optimum that is the same at both sizes.
SHARED = 0.5
# Octaves below the median cliff of the rate to hand on.
MARGIN = 0.5


@dataclass(frozen=True)
class Pair:
    """One experiment: runs of the base and of the target, and the truth that they were drawn from.

    Attributes:
        base, target: The runs.
        optima: log2 of the mean optimum at the base and at the target.
        drift: Octaves from one to the other.
    """

    family: Family
    base: Curve
    target: Curve
    optima: tuple[float, float]

    @property
    def drift(self) -> float:
        return self.optima[1] - self.optima[0]

    def regret(self, log2_lr: float) -> float:
        """True regret at the target of a rate, as a share of the loss at the target's own.

        The target's own rate is its mean optimum, or where the loss falls up to the cliff half an octave below the
        median cliff. Both losses are means over all seeds that train at both rates. Not below 0.
        """
        own = self.optima[1] - (MARGIN if self.family.cliff == 0 else 0.0)
        at = _QUANTILES * SCATTER + self.optima[1]
        trains = max(log2_lr, own) < at + self.family.cliff
        if not trains.any():
            return np.inf
        there = np.exp(self.family.shape(log2_lr - at[trains])).mean()
        tuned = np.exp(self.family.shape(own - at[trains])).mean()
        return max(float(there / tuned - 1), 0.0)

    def lost(self, log2_lr: float) -> float:
        """True share of the target's seeds that diverge at a rate."""
        at = _QUANTILES * SCATTER + self.optima[1]
        return float((log2_lr >= at + self.family.cliff).mean())


def _normal_quantiles(count: int) -> np.ndarray:
    from scipy import stats

    return stats.norm.ppf((np.arange(count) + 0.5) / count)


# A population of seeds.
_QUANTILES = _normal_quantiles(2001)


def draw(
    family: Family,
    *,
    seeds: int,
    spacing: float | None,
    drift: float,
    rng: np.random.Generator,
    gain: float = 0.1,
) -> Pair:
    """One experiment.

    Args:
        family: Shape of both curves.
        seeds: Paired across the two sizes.
        spacing: Octaves between learning rates of an 11-octave grid; None: 20 rates of each seed's own, anywhere in it.
        drift: True octaves from the base's mean optimum to the target's.
        rng: Draws everything.
        gain: By which share the target's least loss is below the base's.
    """
    optima = _optima(drift, rng)
    curves = []
    for at, level in _sizes(optima, seeds, gain, rng):
        curves.append(_runs(family, at, level, spacing, rng))
    return Pair(family, curves[0], curves[1], optima)


def _optima(drift: float, rng: np.random.Generator) -> tuple[float, float]:
    """log2 of the mean optimum at the base and at the target."""
    place = -5.0 + rng.uniform(-0.5, 0.5)
    return place, place + drift


def _sizes(
    optima: tuple[float, float],
    seeds: int,
    gain: float,
    rng: np.random.Generator,
) -> Iterator[tuple[Float[np.ndarray, " seed"], Float[np.ndarray, " seed"]]]:
    """Optimum and level of every seed at the base, then at the target; each is drawn when it is asked for."""
    shared = rng.standard_normal(seeds) * np.sqrt(SHARED)
    for size, optimum in enumerate(optima):
        own = rng.standard_normal(seeds) * np.sqrt(1 - SHARED)
        at = optimum + SCATTER * (shared + own)
        level = size * np.log1p(-gain) + LEVEL * rng.standard_normal(seeds)
        yield at, level


def _runs(
    family: Family,
    optima: Float[np.ndarray, " seed"],
    levels: Float[np.ndarray, " seed"],
    spacing: float | None,
    rng: np.random.Generator,
) -> Curve:
    """Runs of every seed at one size."""
    seeds = len(optima)
    if spacing is None:
        rates = rng.uniform(-10.5, 0.5, (20, seeds))
    else:
        grid = np.arange(-10.0, 0.0 + spacing / 2, spacing)
        rates = np.repeat(grid[:, None], seeds, axis=1)
    u = rates - optima
    logs = levels + family.shape(u) + NOISE * rng.standard_normal(rates.shape)
    loss = np.where(u >= family.cliff, np.inf, np.exp(logs))
    numbers = np.broadcast_to(np.arange(seeds), rates.shape)
    return Curve.of_runs(2.0**rates, numbers, loss)


class Landscape:
    """What a run of one size would give at any learning rate and seed: what a search is tried on.

    Args:
        family: Shape of every seed's curve.
        optima: log2 of each seed's own optimum.
        levels: Log of each seed's least loss.
        noise: Seed of the runs' noise; equal runs have equal noise.
        pilot: Octaves by which the optimum of a short run lies above that of a full one.

    >>> import math
    >>> found = Landscape(FAMILIES[1], np.array([-4.0]), np.array([0.0]))
    >>> round(found.loss(2.0**-4, 0), 2), math.isinf(found.loss(1.0, 0))
    (1.0, True)
    """

    def __init__(
        self,
        family: Family,
        optima: Float[np.ndarray, " seed"],
        levels: Float[np.ndarray, " seed"],
        noise: int = 0,
        pilot: float = 0.5,
    ) -> None:
        self.family = family
        self._optima = optima
        self._levels = levels
        self._noise = noise
        self._pilot = pilot

    def loss(self, lr: float, seed: int, *, is_short: bool = False) -> float:
        """Loss of one run, inf where it diverges; a short run's is higher, and twice as noisy."""
        log2_lr = float(np.log2(lr))
        u = log2_lr - self._optima[seed]
        if u >= self.family.cliff:
            return float("inf")
        place = round(1000 * (log2_lr + 100))
        rng = np.random.default_rng([self._noise, seed, place, is_short])
        noise = NOISE * rng.standard_normal()
        if is_short:
            # A limit of stability is the same for both.
            shift = self._pilot if self.family.cliff > 0 else 0.0
            noise = 0.3 + 2 * noise
            u = u - shift
        log_loss = self._levels[seed] + float(self.family.shape(np.array(u))) + noise
        return float(np.exp(log_loss))


def landscapes(
    family: Family,
    *,
    seeds: int,
    drift: float,
    rng: np.random.Generator,
    gain: float = 0.1,
) -> tuple[Landscape, Landscape, Pair]:
    """A base and a target as `draw` has them, with any learning rate to be asked for; and a pair without runs.

    Args as for `draw`.
    """
    optima = _optima(drift, rng)
    found = []
    for at, level in _sizes(optima, seeds, gain, rng):
        found.append(Landscape(family, at, level, noise=int(rng.integers(2**31))))
    nothing = Curve.of_runs([], [], [])
    return found[0], found[1], Pair(family, nothing, nothing, optima)
