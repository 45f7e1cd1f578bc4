"""The learning rate that minimises the loss at the end of training, at infinite size or at a finite depth."""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.checks import number, whole
from isoscale.errors import InvalidValueError
from isoscale.limit import inputs, two_layer
from isoscale.limit.network import Problem
from isoscale.limit.progress import Progress
from isoscale.limit.solve import solve

if TYPE_CHECKING:
    import xarray as xr

# Octaves that a walk to a bracket may take, and the octaves to which the optimum is located in it.
_FARTHEST = 16
_RESOLUTION = 0.02

# Standard errors of the loss within which a rate may be the best.
_NORMAL = 1.96

# The optimum of equations is sought on few points in layer time, not to rounding: first that of a limit that is far
# cheaper, in octaves, then their own about it.
_FROZEN = {"points": 4, "converged": 1e-3, "frozen": True}
_ROUGH = {"points": 5, "converged": 1e-5, "frozen": False}

# The loss at a rate, and its error; inf where training diverges.
_Losses = Callable[[float], tuple[float, float]]


def optimal_lr(
    x: Any,
    y: Any,
    *,
    steps: int = 10,
    depth: int | None = None,
    start: float | None = None,
    progress: Progress = None,
    **options: Any,
) -> xr.Dataset:
    """The learning rate with the least training loss after `steps` steps of the infinitely wide network.

    A walk in octaves brackets the optimum, a bounded search in log2(lr) locates it. Where the limit is sampled, all
    rates share the noise. Where it is the kernel equations of docs/theory.md, section 9.3, they are solved on few
    points while the search goes on, which begins at the optimum of the far cheaper equation of section 9.4. At the
    optimum they are solved to rounding. If the two losses there differ by so much that the optimum may be elsewhere,
    the search goes on to rounding.

    Args:
        x: Inputs, shape (samples, features).
        y: Targets, shape (samples,) or (samples, outputs).
        steps: SGD updates.
        depth: Residual blocks; None: infinitely many.
        start: Where the walk begins; None: under SGD the rate at which the linearised network's fastest direction is
            fitted at once, else 1 / (8 steps).
        progress: Called with the fraction done, which is a guess: how long the walk is shows on the way.
        **options: Further arguments of `solve`: phi, horizon, block_depth, rule, norm, momentum, ...

    Returns:
        Dataset with lr, lr_low, lr_high (0.02 octaves at least to both sides: as far as it was located; of a sampled
        limit every rate whose loss cannot be told from the least, at 95 %), loss and loss_se there, and over
        `tried` the rates that the last search solved with their losses (inf where training diverges). attrs: seconds,
        solves, and those of the solution at the optimum.

    Raises:
        InvalidValueError: No rate within 16 octaves of `start` is better than its neighbours: all diverge, or the loss
            goes on falling (as with zero targets). Or an option makes no sense.
        InvalidTypeError: An argument cannot be used.

    >>> best = optimal_lr([[1.0, 0.0], [0.0, 1.0]], [1.0, -1.0], steps=2, phi="erf", block_depth=2)
    >>> 0.1 < float(best.lr) < 1.0
    True
    """
    import xarray as xr

    begin = time.perf_counter()
    steps = whole("steps", steps)
    for name in ("lr", "kernels", "x_test"):
        if name in options:
            raise InvalidValueError(f"`{name}` is no option of a search for the learning rate: leave it out")
    options = {"steps": steps, "depth": depth, "kernels": False, **options}
    first = _first_rate(x, steps, options) if start is None else number("start", start, above=0)
    exact = _Exact(x, y, options)
    search = _Search(exact.loss, progress)
    rough = _rough_losses(x, y, options)
    if rough is None:
        best = search.locate(math.log2(first))
    else:
        search, best = _of_equations(rough, exact, math.log2(first), progress)
    loss, error = exact.loss(best)
    left, right = search.indistinguishable(best)
    tried = np.array(sorted(search.solved))
    return xr.Dataset(
        {
            "lr": ((), 2.0**best, {"long_name": "learning rate of the least final loss", "units": "1"}),
            "lr_low": ((), 2.0 ** min(left, best - _RESOLUTION)),
            "lr_high": ((), 2.0 ** max(right, best + _RESOLUTION)),
            "loss": ((), loss, {"long_name": "loss after the last step", "units": "1"}),
            "loss_se": ((), error),
            "loss_tried": ("tried", np.array([search.solved[log2_lr][0] for log2_lr in tried])),
            "loss_tried_se": ("tried", np.array([search.solved[log2_lr][1] for log2_lr in tried])),
        },
        coords={"tried": 2.0**tried},
        attrs={**exact.attrs, "solves": len(tried), "seconds": time.perf_counter() - begin},
    )


class _Exact:
    """Final losses by `solve`, each solved once."""

    def __init__(self, x: Any, y: Any, options: dict[str, Any]) -> None:
        self._x, self._y, self._options = x, y, options
        self._solved: dict[float, tuple[float, float]] = {}
        # of the solution that was asked for last
        self.attrs: dict[str, Any] = {}

    def loss(self, log2_lr: float) -> tuple[float, float]:
        """The final loss and its error; inf if training diverges."""
        if log2_lr not in self._solved:
            found = solve(self._x, self._y, lr=2.0**log2_lr, **self._options)
            value, error = float(found.loss[-1]), float(found.loss_se[-1])
            if found.attrs["diverged_step"] >= 0 or not math.isfinite(value):
                value, error = math.inf, math.nan
            elif "particles" in found.attrs:
                # With as many particles at every rate the noise is the same, and the curve smooth.
                self._options.setdefault("particles", int(found.attrs["particles"]))
                self._options.setdefault("replicas", int(found.attrs["replicas"]))
            self._solved[log2_lr] = value, error
            self.attrs = {name: value for name, value in found.attrs.items() if name != "lr"}
        return self._solved[log2_lr]


class _Search:
    """The least of the losses over log2(lr), each asked for once."""

    def __init__(self, losses: _Losses, progress: Progress = None) -> None:
        self._losses = losses
        self._progress = progress
        self.solved: dict[float, tuple[float, float]] = {}

    def loss(self, log2_lr: float) -> float:
        """The final loss; inf if training diverges."""
        log2_lr = float(log2_lr)
        if log2_lr not in self.solved:
            self.solved[log2_lr] = self._losses(log2_lr)
            if self._progress is not None:
                self._progress(1 - 0.9 ** len(self.solved))
        return self.solved[log2_lr][0]

    def locate(self, start: float, *, stride: float = 1.0, resolution: float = _RESOLUTION) -> float:
        """The best of the rates tried, the walk to its bracket going by so many octaves at a time."""
        from scipy.optimize import minimize_scalar

        low, high = self._bracket(start, stride)

        def height(log2_lr: float) -> float:
            # Losses span orders of magnitude: their logarithm is closer to a parabola, and as low where they are.
            return math.log(max(self.loss(log2_lr), 1e-300))

        minimize_scalar(height, bounds=(low, high), method="bounded", options={"xatol": resolution})
        # Those outside the bracket are of no account: where training all but diverges, means over replicas are noise.
        within = [log2_lr for log2_lr in self.solved if low <= log2_lr <= high]
        return min(within, key=lambda log2_lr: self.solved[log2_lr][0])

    def _bracket(self, start: float, stride: float) -> tuple[float, float]:
        """Two rates, two strides apart, with a better one between them."""
        here = start
        for _ in range(round(_FARTHEST / stride)):
            left, middle, right = (self.loss(here + step) for step in (-stride, 0, stride))
            if middle <= left and middle <= right and math.isfinite(middle):
                if left == middle == right:
                    break
                return here - stride, here + stride
            # Where nothing trains there is only one way.
            here += stride if right < left and math.isfinite(right) else -stride
        raise InvalidValueError(
            f"no learning rate between {2.0 ** (start - _FARTHEST):.3g} and {2.0 ** (start + _FARTHEST):.3g} is better "
            "than both of its neighbours: targets that are all zero, or a `start` far off"
        )

    def indistinguishable(self, best: float) -> tuple[float, float]:
        """The rates around the best whose losses are within the errors of its own, between those that were solved."""
        loss, error = self.solved[best]
        ends = []
        for side in (-1, 1):
            end = best
            for other in sorted(
                (rate for rate in self.solved if (rate - best) * side > 0), key=lambda r: abs(r - best)
            ):
                value, its_error = self.solved[other]
                apart = _NORMAL * math.hypot(error, its_error) if math.isfinite(its_error) else 0.0
                if value - loss <= apart:
                    end = other
                    continue
                # The loss crosses the line somewhere on the way: linear in log2(lr).
                before = self.solved[end][0]
                share = (loss + apart - before) / (value - before) if math.isfinite(value) else 0.0
                end += (other - end) * min(max(share, 0.0), 1.0)
                break
            ends.append(end)
        return ends[0], ends[1]


def _rough_losses(x: Any, y: Any, options: dict[str, Any]) -> Callable[..., _Losses] | None:
    """Losses by `two_layer.rough_loss`, given its settings; None where the limit has no such equations."""
    # Checked and completed as `solve` does it.
    call = inspect.signature(solve).bind(x, y, **options)
    call.apply_defaults()
    given = call.arguments
    blocks = inputs.architecture(*(given[name] for name in ("block_depth", "alpha", "beta", "rule", "norm")))
    if given["depth"] is not None or given["ladder"] is not None:
        return None
    of_problem: dict[str, Any] = {}
    for name in inspect.signature(inputs.problem).parameters:
        if name in given:
            of_problem[name] = given[name]
    of_problem |= {"dtype": "float64", "blocks": blocks}

    def problem(lr: float) -> Problem:
        of_problem["lr"] = lr
        return inputs.problem(**of_problem)

    if not two_layer.has_equations(problem(1.0)):
        return None
    reused = inputs.mode(given["backward_weights"])

    def losses(log2_lr: float, **settings: Any) -> tuple[float, float]:
        return two_layer.rough_loss(problem(2.0**log2_lr), given["phi"], reused, **settings), 0.0

    return lambda **settings: functools.partial(losses, **settings)


def _of_equations(
    rough: Callable[..., _Losses], exact: _Exact, start: float, progress: Progress
) -> tuple[_Search, float]:
    """The search that located the optimum of the kernel equations, and where it is."""
    frozen = _Search(rough(**_FROZEN))
    start = frozen.locate(start, resolution=0.1)
    search = _Search(rough(**_ROUGH), progress)
    best = search.locate(start, stride=0.5)
    error = abs(search.loss(best) - exact.loss(best)[0])
    search.solved = {log2_lr: (loss, error) for log2_lr, (loss, _) in search.solved.items()}
    left, right = search.indistinguishable(best)
    if max(best - left, right - best) > _RESOLUTION:
        search = _Search(exact.loss, progress)
        best = search.locate(best, stride=0.25)
    return search, best


def _first_rate(x: Any, steps: int, options: dict[str, Any]) -> float:
    """P / lambda with lambda the largest eigenvalue of Kx times the tangent kernel's growth 2 (1 + T) exp(T).

    Of an optimizer whose updates have a size of their own, the rate at which all steps together move a weight by an
    eighth of its own size: well below the best.
    """
    if options.get("optimizer", "sgd") != "sgd":
        return 1 / (8 * max(steps, 1))
    known = inputs.matrix("x", x)
    horizon = inputs.positive("horizon", options.get("horizon", 1.0))
    largest = float(np.linalg.eigvalsh(known @ known.T / known.shape[1])[-1])
    # Beyond a horizon of a few the growth is that of linear branches, and no guide.
    growth = 2 * (1 + horizon) * math.exp(min(horizon, 3.0))
    return len(known) / max(largest * growth, 1e-12)
