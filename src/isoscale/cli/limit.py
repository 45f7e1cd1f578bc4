"""`isoscale limit`: training at infinite width and depth, and how far a finite network is from it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from isoscale.cli.limit_words import distance, finite_networks, plus_minus, sizes, verdict
from isoscale.cli.terminal import console, error_console, framed
from isoscale.errors import InvalidValueError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

MODES = ("reused", "independent")


@dataclass(frozen=True, kw_only=True)
class LimitCommand:
    """Solve for training at infinite width and depth, with backward weights reused and independent.

    The one-layer-block residual network under depth-muP, full-batch SGD. Samples are scaled to |x|^2 = features.
    """

    dataset: str = "digits"
    """Data set: digits (built in), or cifar10, mnist, fashion-mnist from --data."""
    data: str | None = None
    """Folder of the data sets; $ISOSCALE_DATA by default."""
    samples: int = 16
    """Training samples: the first ones of the data set."""
    steps: int = 10
    """SGD steps."""
    lr: float = 0.15
    """Learning rate, free of width and depth."""
    phi: Literal["tanh", "relu", "gelu", "linear"] = "tanh"
    """Activation."""
    horizon: float = 1.0
    """T: branches are multiplied by sqrt(T / depth)."""
    depth: int | None = None
    """Residual blocks; infinitely many by default."""
    loss: Literal["mse", "cross-entropy"] = "mse"
    """mse fits +1 to even and -1 to odd classes; cross-entropy has an output a class."""
    tolerance: float = 1e-3
    """Standard error asked of the loss."""
    particles: int | None = None
    """Particles of each replica of the infinitely wide network: more for less error; chosen by default."""
    replicas: int | None = None
    """Replicas, which the errors come from; chosen by default."""
    compare: str | None = None
    """A finite network to set beside it: width=512,depth=8."""
    networks: int = 16
    """Seeds of the finite network."""
    convergence: bool = False
    """Measure the error against depth and width instead, and fit its exponents."""
    gap: bool = False
    """Measure the gap between the two versions against depth and horizon instead."""
    seed: int = 0
    """Seed of the noise."""
    out: str = "isoscale-limit"
    """Folder for figures (SVG, PNG) and data (NetCDF)."""
    quiet: bool = False
    """Print errors only."""
    json: bool = False
    """Print the result as one JSON object instead of tables."""

    def run(self) -> int:
        if self.convergence and self.gap:
            raise InvalidValueError("`--convergence` and `--gap` are two measurements: run one after the other")
        compare = None if self.compare is None else sizes(self.compare)
        if self.networks < 2:
            raise InvalidValueError(f"`networks` must be >= 2 for a standard error, got {self.networks}")
        x, y = self._problem()
        out = console(quiet=self.quiet or self.json)
        what = f"{self.samples} samples of {self.dataset}, {self.phi}, T={self.horizon:g}, lr {self.lr:g}"
        if self.convergence:
            return self._convergence(x, y, out, what)
        if self.gap:
            return self._gap(x, y, out, what)
        return self._solve(x, y, out, what, compare)

    # --- what is solved -------------------------------------------------------------------------------------
    def _problem(self) -> tuple[np.ndarray, np.ndarray]:
        """The samples, scaled, and their targets."""
        import numpy as np

        from isoscale import data

        found = data.load(self.dataset, self.data).flatten()
        if not 1 <= self.samples <= len(found.train_x):
            raise InvalidValueError(
                f"`samples` must be from 1 to the {len(found.train_x)} training samples of {self.dataset}, "
                f"got {self.samples}"
            )
        x = found.train_x[: self.samples].double().numpy()
        x = x / np.sqrt((x**2).mean(1, keepdims=True))
        classes = found.train_y[: self.samples].numpy()
        return x, (1.0 - 2.0 * (classes % 2) if self.loss == "mse" else np.eye(found.classes)[classes])

    def _settings(self, *without: str) -> dict[str, Any]:
        names = {"steps", "lr", "phi", "horizon", "seed", "loss"} - set(without)
        return {name: getattr(self, name) for name in names}

    def _effort(self) -> dict[str, Any]:
        return {"particles": self.particles, "replicas": self.replicas}

    def _solve(self, x: np.ndarray, y: np.ndarray, out: Console, what: str, compare: dict[str, int] | None) -> int:
        place = "infinite width and depth" if self.depth is None else f"infinite width, depth {self.depth}"
        out.print(f"{place.capitalize()}: {what}", style="bold")
        with self._progress() as track:
            runs = {mode: self._run_limit(x, y, self.depth, mode, track(mode)) for mode in MODES}
            if compare:
                finite, wide = f"width {compare['width']}, depth {compare['depth']}", f"depth {compare['depth']}"
                runs[finite] = finite_networks(x, y, compare, self.networks, self._settings(), track(finite))
                runs[wide] = self._run_limit(x, y, compare["depth"], "reused", track(wide))
        self._show(runs, out)
        verdict(runs, out)
        if compare and self.depth is None:
            _, _, finite, wide = runs
            distance(runs["reused"], runs[wide], runs[finite], compare, out)
        self._write(runs, out)
        return 0

    def _run_limit(
        self, x: np.ndarray, y: np.ndarray, depth: int | None, mode: str, progress: Callable[[float], None]
    ) -> xr.Dataset:
        from isoscale import limit

        asked: dict[str, Any] = {"tolerance": self.tolerance, "kernels": (0.0, 0.5, 1.0), "progress": progress}
        return limit.solve(x, y, depth=depth, backward_weights=mode, **asked, **self._effort(), **self._settings())

    def _convergence(self, x: np.ndarray, y: np.ndarray, out: Console, what: str) -> int:
        from isoscale import limit, report

        out.print(f"Rates of convergence to the limit: {what}", style="bold")
        with self._progress() as track:
            data = limit.convergence(x, y, progress=track("convergence"), **self._effort(), **self._settings("loss"))
        rows = [
            [
                law,
                *(f"{float(data[field].sel(law=law)):+.2f}" for field in ("exponent", "exponent_low", "exponent_high")),
            ]
            for law in data["law"].values.tolist()
        ]
        self._table(["law", "exponent", "95 % from", "to"], rows, out)
        out.print(
            "Claim (Neural Feature Dynamics): the gap between independent and reused backward weights closes with "
            f"depth. Measured: at step 0 it falls with width; in training its exponent in depth is {rows[-1][1]} "
            f"[{rows[-1][2]}, {rows[-1][3]}]. An exponent of 0 means that it does not close."
        )
        report.write_figures(Path(self.out), {"convergence": report.rates(data)}, {"convergence": data})
        out.print(f"Figure and data: {self.out}")
        return 0

    def _gap(self, x: np.ndarray, y: np.ndarray, out: Console, what: str) -> int:
        from isoscale import limit, report

        out.print(f"Independent against reused backward weights, infinite width: {what}", style="bold")
        with self._progress() as track:
            data = limit.independence_gap(x, y, progress=track("gap"), **self._effort(), **self._settings("horizon"))
        last = data.isel(step=-1)
        rows = [
            [
                f"{h:g}",
                *(
                    plus_minus(float(c["gap"]), float(c["gap_se"]))
                    for c in (last.sel(horizon=h, depth=d) for d in depths)
                ),
            ]
            for depths in [last["depth"].values]
            for h in last["horizon"].values
        ]
        self._table(["T", *(f"depth {depth:g}" for depth in last["depth"].values)], rows, out)
        report.write_figures(Path(self.out), {"gap": report.gap(data)}, {"gap": data})
        out.print(f"Figure and data: {self.out}")
        return 0

    # --- what is shown --------------------------------------------------------------------------------------
    def _show(self, runs: dict[str, xr.Dataset], out: Console) -> None:
        steps = range(self.steps + 1)
        rows = [
            [str(step), *(plus_minus(float(run["loss"][step]), float(run["loss_se"][step])) for run in runs.values())]
            for step in steps
            if step % max(1, self.steps // 10) == 0 or step == self.steps
        ]
        self._table(["step", *(f"loss ({label})" for label in runs)], rows, out)

    def _table(self, columns: list[str], rows: list[list[str]], out: Console) -> None:
        if self.json:
            console().print_json(json.dumps([dict(zip(columns, row, strict=True)) for row in rows]))
        else:
            out.print(framed(columns, rows))

    def _write(self, runs: dict[str, xr.Dataset], out: Console) -> None:
        from isoscale import report

        named = {re.sub(r"\W+", "-", label): run for label, run in runs.items()}
        report.write_figures(Path(self.out), {"training": report.training(runs)}, named)
        out.print(f"Figure and data: {self.out}")

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Callable[[str], Callable[[float], None]]]:
        """A maker of progress callbacks, each with its own bar; nothing is drawn off a terminal."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        screen = error_console()
        columns = (TextColumn("  {task.description}"), BarColumn(), TimeRemainingColumn())
        hidden = self.quiet or self.json or not screen.is_terminal
        with Progress(*columns, console=screen, disable=hidden) as bars:

            def track(label: str) -> Callable[[float], None]:
                task = bars.add_task(label, total=1.0)
                return lambda done: bars.update(task, completed=done)

            yield track
