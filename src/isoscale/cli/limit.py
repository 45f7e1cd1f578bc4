"""`isoscale limit`: training at infinite width and depth, and how far a finite network is from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from isoscale.cli import limit_words
from isoscale.cli.terminal import Callback, bars, console, framed, print_json
from isoscale.errors import InvalidValueError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from matplotlib.figure import Figure

MODES = ("reused", "independent")


@dataclass(frozen=True, kw_only=True)
class LimitCommand:
    """Solve for training at infinite width and depth, with backward weights reused and independent.

    The residual network with blocks of one layer under depth-muP, or of two and more under any depth rule; full
    batches. Samples are scaled to |x|^2 = features.

    Example: isoscale limit --steps 5 --compare width=512,depth=8
    """

    dataset: str = "digits"
    """Data set: digits (built in), or cifar10, mnist, fashion-mnist from --data."""
    data: str | None = None
    """Folder of the data sets; $ISOSCALE_DATA by default."""
    samples: int = 16
    """Training samples: the first ones of the data set, or of --classes."""
    classes: str | None = None
    """Which classes to take samples of: 3,5. Two of them are the targets +1 and -1 of mse."""
    sample_seed: int | None = None
    """Draw the samples with this seed instead of taking the first ones."""
    steps: int = 10
    """SGD steps."""
    lr: float = 0.15
    """Learning rate, free of width and depth."""
    phi: str = "tanh"
    """Activation: tanh, relu, gelu, erf, linear or another of torch's, as silu."""
    block_depth: int = 1
    """Layers of a residual block; of three and more at a finite --depth."""
    rule: str = "depth-mup"
    """Depth rule of blocks of two layers and more: depth-mup, completep, residual-family(ALPHA,BETA) or, at a finite
    depth, depth-mup-corrected."""
    norm: Literal["none", "rms", "layer"] = "none"
    """Norm before each branch."""
    optimizer: Literal["sgd", "adam", "adamw", "lion", "muon"] = "sgd"
    """Optimizer; others than sgd at a finite --depth."""
    betas: str | None = None
    """Of adam, adamw and lion, and of muon's Adam: 0.9,0.999."""
    momentum: float = 0.0
    """Of sgd and muon."""
    nesterov: bool = False
    """Whether momentum looks ahead."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    clip: float | None = None
    """Largest norm of the gradients of all blocks together."""
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    """How the learning rate falls over the steps."""
    optimal_lr: bool = False
    """Find the learning rate with the least loss after --steps instead; with --compare, how far from it is that of a
    finite network."""
    lr_drift: bool = False
    """Measure how far the best learning rates of finite depths and widths are from that of infinite size instead."""
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
    returns: bool = False
    """Is more depth worth it? Measure the loss at depths and at infinity, and what each doubling brings, instead."""
    convergence: bool = False
    """Measure the error against depth and width instead, and fit its exponents."""
    gap: bool = False
    """Measure the gap between the two versions against depth and horizon instead."""
    seed: int = 0
    """Seed of the noise."""
    out: str = "isoscale-limit"
    """Folder for figures (SVG, PNG) and data (NetCDF); or one file, .svg, .png, .pdf, .csv or .nc."""
    quiet: bool = False
    """Print errors only."""
    json: bool = False
    """Print the result as one JSON object instead of tables."""

    def run(self) -> int:
        asked = [self.convergence, self.gap, self.optimal_lr, self.lr_drift, self.returns]
        if sum(asked) > 1:
            raise InvalidValueError(
                "`--convergence`, `--gap`, `--optimal-lr`, `--lr-drift` and `--returns` are measurements of their own: "
                "run one after the other"
            )
        self._check_plain()
        if self.compare is not None and sum(asked) > self.optimal_lr:
            raise InvalidValueError("`--compare` goes with training and with `--optimal-lr`: leave it out")
        if self.depth is not None and sum(asked) > self.optimal_lr:
            raise InvalidValueError("the depths of a measurement of its own are chosen: leave out `--depth`")
        size = None if self.compare is None else limit_words.sizes(self.compare)
        if self.networks < 2:
            raise InvalidValueError(f"`networks` must be >= 2 for a standard error, got {self.networks}")
        x, y = self._problem()
        out = console(quiet=self.quiet or self.json)
        what = f"{self.samples} samples of {self.dataset}, {self.phi}, T={self.horizon:g}"
        if not (self.optimal_lr or self.lr_drift):
            what += f", lr {self.lr:g}"
        if self.returns:
            out.print(f"Loss against depth, infinite width: {what}", style="bold")
            self._returns(x, y, out)
        elif self.optimal_lr:
            out.print(f"Learning rate of the least loss after {self.steps} steps: {what}", style="bold")
            self._optimal_lr(x, y, size, out)
        elif self.lr_drift:
            out.print(f"Drift of the best learning rate after {self.steps} steps: {what}", style="bold")
            self._lr_drift(x, y, out)
        elif self.convergence:
            out.print(f"Rates of convergence to the limit: {what}", style="bold")
            self._convergence(x, y, out)
        elif self.gap:
            out.print(f"Independent against reused backward weights, infinite width: {what}", style="bold")
            self._gap(x, y, out)
        else:
            depth = " and depth" if self.depth is None else f", depth {self.depth}"
            out.print(f"Infinite width{depth}: {what}", style="bold")
            self._training(x, y, size, out)
        return 0

    def _problem(self) -> tuple[np.ndarray, np.ndarray]:
        """The samples, scaled to |x|^2 = features, and their targets."""
        import numpy as np

        from isoscale import data

        found = data.load(self.dataset, self.data).flatten()
        labels = found.train_y.numpy()
        chosen = limit_words.classes(self.classes, found.classes)
        among = np.flatnonzero(np.isin(labels, chosen))
        # Fewer samples than were asked for would be another problem: an error instead.
        if not 1 <= self.samples <= len(among):
            raise InvalidValueError(
                f"`samples` must be from 1 to the {len(among)} training samples of {self.dataset}"
                f"{'' if self.classes is None else ' of these classes'}, got {self.samples}"
            )
        if self.sample_seed is not None:
            if self.sample_seed < 0:
                raise InvalidValueError(f"`sample_seed` must be >= 0, got {self.sample_seed}")
            among = np.random.default_rng(self.sample_seed).permutation(among)
        picked = among[: self.samples]
        x = found.train_x[picked].double().numpy()
        x = x / np.sqrt((x**2).mean(1, keepdims=True))
        classes = labels[picked]
        if self.loss == "mse":
            # +1 to the first of two classes; else to even ones.
            is_first = classes == chosen[0] if len(chosen) == 2 else classes % 2 == 0
            return x, np.where(is_first, 1.0, -1.0)
        one_hot = np.eye(len(chosen))[np.searchsorted(np.sort(chosen), classes)]
        return x, one_hot

    def _check_plain(self) -> None:
        """Raise for what the measurements of the papers' own network do not know."""
        if not (self.convergence or self.gap):
            return
        given = {
            "block-depth": self.block_depth != 1,
            "rule": self.rule != "depth-mup",
            "norm": self.norm != "none",
            "optimizer": self.optimizer != "sgd",
            "momentum": self.momentum != 0,
            "weight-decay": self.weight_decay != 0,
            "clip": self.clip is not None,
            "schedule": self.schedule != "constant",
        }
        for name, is_given in given.items():
            if is_given:
                raise InvalidValueError(
                    f"`--convergence` and `--gap` know blocks of one layer under plain SGD: leave out `--{name}`"
                )

    # --- training, in both versions and beside a finite network ---
    def _training(self, x: np.ndarray, y: np.ndarray, size: dict[str, int] | None, out: Console) -> None:
        from isoscale import report

        runs: dict[str, xr.Dataset] = {}
        with self._progress() as track:
            for mode in self._modes():
                runs[mode] = self._solve(x, y, self.depth, mode, track(mode))
            if size:
                wide = f"depth {size['depth']}"
                finite = f"width {size['width']}, {wide}"
                runs[finite] = self._finite(x, y, size, track(finite))
                # Infinitely wide at the same depth: it tells how much of the distance is depth, how much width.
                runs[wide] = self._solve(x, y, size["depth"], "reused", track(wide))
        columns, rows = limit_words.losses(runs, self.steps)
        self._table(columns, rows, out)
        limit_words.verdict(runs, out)
        if size and self.depth is None:
            reused, _, at_size, at_depth = runs.values()
            limit_words.distance(reused, at_depth, at_size, size, out)
        data = {re.sub(r"\W+", "-", label): run for label, run in runs.items()}
        self._write({"training": report.training(runs)}, data, out)

    def _modes(self) -> tuple[str, ...]:
        """The kinds of backward weights whose limit is known."""
        sampled = self.block_depth == 1 or self.depth is not None
        return MODES if sampled or self.rule == "depth-mup" else ("reused",)

    def _solve(self, x: np.ndarray, y: np.ndarray, depth: int | None, mode: str, progress: Callback) -> xr.Dataset:
        """Training of the infinitely wide network."""
        from isoscale import limit

        times = (0.0, 0.5, 1.0)
        options = self._options(mode)
        return limit.solve(x, y, depth=depth, lr=self.lr, kernels=times, progress=progress, **options)

    def _options(self, mode: str) -> dict[str, Any]:
        """What is solved, but for its learning rate."""
        return {
            **self._training_options(),
            "backward_weights": mode,
            "tolerance": self.tolerance,
            "particles": self.particles,
            "replicas": self.replicas,
            "seed": self.seed,
        }

    def _training_options(self) -> dict[str, Any]:
        """Blocks and training, whatever the size; but for the learning rate."""
        return {
            "steps": self.steps,
            "phi": self.phi,
            "horizon": self.horizon,
            "loss": self.loss,
            "block_depth": self.block_depth,
            "rule": self.rule,
            "norm": None if self.norm == "none" else self.norm,
            "optimizer": self.optimizer,
            "betas": None if self.betas is None else limit_words.betas(self.betas),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "weight_decay": self.weight_decay,
            "clip": self.clip,
            "schedule": self.schedule,
        }

    def _finite(self, x: np.ndarray, y: np.ndarray, size: dict[str, int], progress: Callback) -> xr.Dataset:
        """Mean loss of finite networks over seeds, with its standard error."""
        import xarray as xr

        from isoscale import limit

        # The seeds --seed, --seed + 1, ... each draw another network.
        losses = []
        for index in range(self.networks):
            run = limit.simulate(
                x,
                y,
                width=size["width"],
                depth=size["depth"],
                lr=self.lr,
                kernels=False,
                seed=self.seed + index,
                **self._training_options(),
            )
            losses.append(run["loss"])
            progress((index + 1) / self.networks)
        every = xr.concat(losses, dim="network")
        se = every.std("network", ddof=1) / self.networks**0.5
        return xr.Dataset({"loss": every.mean("network"), "loss_se": se}, attrs={"backward_weights": "reused"})

    # --- what is measured of the limit itself ---
    def _optimal_lr(self, x: np.ndarray, y: np.ndarray, size: dict[str, int] | None, out: Console) -> None:
        from isoscale import limit, report

        data = {}
        with self._progress() as track:
            best = limit.optimal_lr(x, y, depth=self.depth, progress=track("rates"), **self._options("reused"))
            data["optimal-lr"] = best
            if size:
                data["lr-drift"] = self._drift(x, y, size, float(best["lr"]), track("drift"))
        columns, rows = limit_words.rates(best)
        self._table(columns, rows, out)
        lr, low, high = (float(best[name]) for name in ("lr", "lr_low", "lr_high"))
        least = limit_words.plus_minus(best["loss"], best["loss_se"])
        out.print(f"Best learning rate {lr:.4g} [{low:.4g}, {high:.4g}], loss {least}.")
        if size:
            out.print(limit_words.drift_of(data["lr-drift"]))
        self._write({"optimal-lr": report.limit_rates(best)}, data, out)

    def _drift(
        self, x: np.ndarray, y: np.ndarray, size: dict[str, int] | None, middle: float | None, progress: Callback
    ) -> xr.Dataset:
        """Of a finite size, or of several."""
        from isoscale import limit

        sizes: dict[str, Any] = {}
        if size:
            depth = size["depth"]
            sizes = {"depths": (depth, 2 * depth, 4 * depth), "widths": (size["width"],)}
        return limit.lr_drift(
            x,
            y,
            **sizes,
            middle=middle,
            networks=self.networks,
            particles=self.particles,
            replicas=self.replicas,
            seed=self.seed,
            progress=progress,
            **self._training_options(),
        )

    def _lr_drift(self, x: np.ndarray, y: np.ndarray, out: Console) -> None:
        from isoscale import report

        with self._progress() as track:
            data = self._drift(x, y, None, None, track("rates"))
        columns, rows = limit_words.drifts(data)
        self._table(columns, rows, out)
        for line in limit_words.laws_of_drift(data):
            out.print(line)
        self._write({"lr-drift": report.lr_drift(data)}, {"lr-drift": data}, out)

    def _returns(self, x: np.ndarray, y: np.ndarray, out: Console) -> None:
        from isoscale import limit, report

        with self._progress() as track:
            data = limit.depth_returns(
                x,
                y,
                lr=self.lr,
                particles=self.particles,
                replicas=self.replicas,
                seed=self.seed,
                progress=track("depths"),
                **self._training_options(),
            )
        columns, rows = limit_words.returns(data)
        self._table(columns, rows, out)
        out.print(limit_words.is_depth_worth_it(data))
        self._write({"returns": report.depth_returns(data)}, {"returns": data}, out)

    def _convergence(self, x: np.ndarray, y: np.ndarray, out: Console) -> None:
        from isoscale import limit, report

        with self._progress() as track:
            data = limit.convergence(
                x,
                y,
                steps=self.steps,
                lr=self.lr,
                phi=self.phi,
                horizon=self.horizon,
                particles=self.particles,
                replicas=self.replicas,
                seed=self.seed,
                progress=track("convergence"),
            )
        columns, rows = limit_words.exponents(data)
        self._table(columns, rows, out)
        out.print(limit_words.claim(rows[-1]))
        for line in limit_words.two_terms(data):
            out.print(line)
        self._write({"convergence": report.rates(data)}, {"convergence": data}, out)

    def _gap(self, x: np.ndarray, y: np.ndarray, out: Console) -> None:
        from isoscale import limit, report

        with self._progress() as track:
            data = limit.independence_gap(
                x,
                y,
                steps=self.steps,
                lr=self.lr,
                phi=self.phi,
                loss=self.loss,
                particles=self.particles,
                replicas=self.replicas,
                seed=self.seed,
                progress=track("gap"),
            )
        columns, rows = limit_words.gaps(data)
        self._table(columns, rows, out)
        self._write({"gap": report.gap(data)}, {"gap": data}, out)

    # --- what is shown ---
    def _table(self, columns: list[str], rows: list[list[str]], out: Console) -> None:
        if self.json:
            print_json([dict(zip(columns, row, strict=True)) for row in rows])
        else:
            out.print(framed(columns, rows))

    def _write(self, figures: Mapping[str, Figure], data: Mapping[str, xr.Dataset], out: Console) -> None:
        from isoscale import report

        where = Path(self.out)
        for figure in figures.values():
            report.captioned(figure, self._settings(data))
        if where.suffix:
            (figure,) = figures.values()
            report.write_one(where, figure, data, flag="--out")
        else:
            report.write_figures(where, figures, data, flag="--out")
        out.print(f"Figure and data: {self.out}")

    def _settings(self, data: Mapping[str, xr.Dataset]) -> dict[str, object]:
        """What a figure's caption says: the samples, and the attributes of the first data set."""
        samples = f"{self.samples} of {self.dataset}"
        if self.classes is not None:
            samples += f", classes {self.classes}"
        if self.sample_seed is not None:
            samples += f", drawn with seed {self.sample_seed}"
        (first, *_) = data.values()
        left_out = ("seconds", "diverged_step", "backward_weights") if len(data) > 1 else ("seconds", "diverged_step")
        return {"samples": samples, **{name: value for name, value in first.attrs.items() if name not in left_out}}

    def _progress(self) -> AbstractContextManager[Callable[[str], Callback]]:
        return bars(quiet=self.quiet or self.json, indent="  ")
