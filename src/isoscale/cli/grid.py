"""The flags that say what to run and where, shared by the commands that train."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from isoscale.errors import InvalidValueError
from isoscale.sweeps.spec import Sweep, log2_grid


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What to train."""

    rule: tuple[str, ...] = ("sp", "depth-mup", "depth-mup-corrected", "completep")
    """Scaling rules to compare; `isoscale rules` lists them."""
    model: str = "residual-mlp"
    """Model to train."""
    block_depth: int = 2
    """Maps in a residual branch."""
    phi: str = "relu"
    """Activation: relu, tanh, gelu or linear."""
    norm: Literal["layer", "rms"] | None = None
    """Norm at the start of each branch."""
    dataset: str = "digits"
    """Data set: digits (built in), or cifar10, mnist, fashion-mnist from --data."""
    batches: tuple[int, ...] | None = None
    """CIFAR-10 only: which training batches to read."""
    optimizer: str = "sgd"
    """sgd, adam, adamw, sign or muon."""
    momentum: float | None = None
    """Momentum of sgd, sign or muon."""
    weight_decay: float = 0.0
    """Weight decay, as in torch."""
    widths: tuple[int, ...] = (64,)
    """Widths to train at."""
    depths: tuple[int, ...] = (4, 8, 16, 32)
    """Numbers of residual blocks to train at."""
    base_width: int | None = None
    """Width at which the rules change nothing; the smallest by default."""
    base_depth: int | None = None
    """Depth at which the rules change nothing; the smallest by default."""
    log2_lr: tuple[float, float] = (-10.0, 0.0)
    """Learning rates from 2^LOW to 2^HIGH ..."""
    per_octave: int = 1
    """... this many to a factor of two."""
    lrs: tuple[float, ...] | None = None
    """The learning rates themselves, instead of --log2-lr."""
    seeds: int = 3
    """Number of seeds: 0, 1, ..."""
    steps: int = 100
    """Optimizer steps of each trial."""
    batch_size: int = 64
    """Samples in a step."""
    config: Annotated[str | None, tyro.conf.arg(metavar="FILE.toml")] = None
    """Read the whole grid from a TOML file; flags of this group cannot be given beside it."""

    def spec(self) -> Sweep:
        """The sweep that the flags or the file describe."""
        if self.config is not None:
            self._refuse_flags_beside_file()
            return Sweep.from_toml(self.config)
        shared = {field.name for field in dataclasses.fields(Sweep)} - {"lrs"}
        values: dict[str, Any] = {name: value for name, value in vars(self).items() if name in shared}
        options = {"block_depth": self.block_depth, "phi": self.phi, "norm": self.norm}
        return Sweep(
            **values,
            model_args={name: value for name, value in options.items() if value is not None},
            dataset_args={} if self.batches is None else {"batches": self.batches},
            lrs=log2_grid(*self.log2_lr, self.per_octave) if self.lrs is None else self.lrs,
        )

    def _refuse_flags_beside_file(self) -> None:
        for field in dataclasses.fields(self):
            if field.name != "config" and getattr(self, field.name) != field.default:
                flag = f"--{field.name.replace('_', '-')}"
                raise InvalidValueError(f"`{flag}` cannot be given beside --config: put it into {self.config}")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where to run and where to keep the results."""

    data: str | None = None
    """Folder of the data sets; $ISOSCALE_DATA by default."""
    store: str = "isoscale.db"
    """File that keeps every trial: run again to resume, or to add to a grid."""
    engine: Literal["local", "ray"] = "local"
    """Worker processes on this machine, or tasks on a Ray cluster."""
    address: str | None = None
    """Of a running Ray cluster; $RAY_ADDRESS by default, else one is started here."""
    workers: int | None = None
    """Workers at once; one for each core, or for each GPU, by default."""
    device: str = "auto"
    """auto, cpu or cuda."""
    gpu_share: float = 1.0
    """Share of a GPU that a shard takes: with 0.5, two train on each at once."""
    dry_run: bool = False
    """Print the grid and what it would cost, and run nothing."""
    quiet: bool = False
    """Print errors only."""
    json: bool = False
    """Print the result as one JSON object instead of tables."""
