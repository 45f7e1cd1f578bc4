"""The flags that say what to run and where, shared by the commands that train."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from isoscale.errors import InvalidValueError
from isoscale.runs.spec import Sweep, log2_grid

Value = int | float | bool | str

# The name of an axis and its values, as often as there are axes.
_Axes = Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction]

_RULES = ("sp", "depth-mup", "depth-mup-corrected", "completep")

# Stated in full, so that a trial that was stored before is found again.
_STATED = {"residual-mlp": {"block_depth": 2, "phi": "relu"}}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What to train."""

    train: str | None = None
    """Your own training function, file.py:train or pkg.module:train, instead of a model and a data set."""
    command: str | None = None
    """Or any program: "python train.py --width {width} --lr {lr} --seed {seed}"."""
    loss_pattern: str | None = None
    """Regular expression whose group is the loss in what the program prints; by default a line of JSON has it."""
    time_limit: float | None = None
    """Seconds after which a trial of your own code has failed."""
    version: str | None = None
    """Name of this version of your own code: trials of different versions are never mixed."""
    rule: tuple[str, ...] | None = None
    """Scaling rules to compare; `isoscale rules` lists them. By default sp, depth-mup, depth-mup-corrected and
    completep, and none for your own code."""
    model: str | None = None
    """Model to train: residual-mlp (default), conv-net, conv-resnet, vit or gpt; or a factory of your own,
    file.py:make, with functions `batches` and `loss_fn` beside it, or with --dataset."""
    block_depth: int | None = None
    """Maps in a residual branch, of models that have the option; 2 for residual-mlp."""
    phi: str | None = None
    """Activation: relu, tanh, gelu or linear; by default the model's own."""
    norm: Literal["layer", "rms", "batch"] | None = None
    """Norm: layer or rms, batch for conv nets; by default the model's own."""
    model_args: dict[str, Value] | None = None
    """The model's other options by name: --model-args padding zero kernel 5."""
    dataset: str | None = None
    """Data set: digits (default) or synthetic, or from --data: cifar10, mnist, fashion-mnist, image-folder,
    audio-folder, text, arrays."""
    dataset_args: dict[str, Value] | None = None
    """The data set's options by name: --dataset-args context 128."""
    batches: tuple[int, ...] | None = None
    """CIFAR-10 only: which training batches to read."""
    optimizer: str | None = None
    """sgd (default), adam, adamw, sign or muon; by default your own code's."""
    momentum: float | None = None
    """Momentum of sgd, sign or muon."""
    weight_decay: float = 0.0
    """Weight decay, as in torch."""
    widths: Annotated[tuple[int, ...] | None, tyro.conf.arg(aliases=["--width"])] = None
    """Widths to train at; 64 by default, none for your own code."""
    depths: Annotated[tuple[int, ...] | None, tyro.conf.arg(aliases=["--depth"])] = None
    """Numbers of residual blocks (conv-net: of layers) to train at; 4 8 16 32 by default, none for your own code."""
    paired: bool = False
    """Train the first width at the first depth, the second at the second, ...: a path of sizes."""
    batch_sizes: tuple[int, ...] = ()
    """Batch sizes to train at, as an axis."""
    size: _Axes = ()
    """Further sizes of your own code, each by its name and values: --size experts 2 4 8."""
    hyperparameter: _Axes = ()
    """Further hyperparameters to tune, each by its name and values: --hyperparameter weight_decay 0 0.1."""
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
    search: Literal["adaptive", "grid"] | None = None
    """adaptive: from a short pilot to the optimum; grid: every learning rate. Default: adaptive for transfer, grid for
    sweep."""
    seeds: int = 3
    """Number of seeds: 0, 1, ..."""
    steps: int = 100
    """Optimizer steps of each trial."""
    batch_size: int = 64
    """Samples in a step."""
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    """How the learning rate of a model of your own goes on after its warmup."""
    warmup: float = 0.0
    """Share of the steps in which it rises."""
    clip: float | None = None
    """Norm to which the gradients of a model of your own are clipped."""
    accumulate: int = 1
    """Batches in a step of it."""
    config: Annotated[str | None, tyro.conf.arg(metavar="FILE.toml")] = None
    """Read the whole grid from a TOML file; flags of this group cannot be given beside it."""

    def spec(self) -> Sweep:
        """The sweep that the flags or the file describe."""
        if self.config is not None:
            self._refuse_flags_beside_file()
            return Sweep.from_toml(self.config)
        # Most flags are settings of a sweep under the same name.
        shared = {field.name for field in dataclasses.fields(Sweep)} - {"lrs", "model_args", "dataset_args", "batches"}
        values: dict[str, Any] = {name: value for name, value in vars(self).items() if name in shared}
        is_own = self.train is not None or self.command is not None
        if self.rule is None and not is_own:
            values["rule"] = _RULES
        file, _, factory = (self.model or "").rpartition(":")
        if file and factory and self.dataset is None:
            # Beside the factory, as for the measuring commands.
            values |= {"batches": f"{file}:batches", "loss_fn": f"{file}:loss_fn"}
        of_model = {"block_depth": self.block_depth, "phi": self.phi, "norm": self.norm}
        model_args = _joined("--model-args", self.model_args, of_model)
        dataset_args = _joined("--dataset-args", self.dataset_args, {"batches": self.batches})
        lrs = log2_grid(*self.log2_lr, self.per_octave) if self.lrs is None else self.lrs
        stated = {} if is_own else _STATED.get(self.model or "residual-mlp", {})
        return Sweep(
            **values,
            model_args=stated | model_args,
            dataset_args=dataset_args,
            sizes=_axes("--size", self.size),
            hyperparameters=_axes("--hyperparameter", self.hyperparameter),
            lrs=lrs,
        )

    def _refuse_flags_beside_file(self) -> None:
        for field in dataclasses.fields(self):
            if field.name != "config" and getattr(self, field.name) != field.default:
                flag = f"--{field.name.replace('_', '-')}"
                raise InvalidValueError(f"`{flag}` cannot be given beside --config: put it into {self.config}")


def _axes(flag: str, given: Sequence[Sequence[str]]) -> dict[str, list[Value]]:
    """The values of each axis by its name."""
    axes: dict[str, list[Value]] = {}
    for name, *values in given:
        if name in axes:
            raise InvalidValueError(f"`{flag} {name}` is given twice: give all of its values at once")
        if not values:
            raise InvalidValueError(f"`{flag}` is written {flag} name value value ..., got {name}")
        axes[name] = [value_of(value) for value in values]
    return axes


def value_of(text: str) -> int | float | bool | str:
    """A word of the command line as the number or the truth value that it writes, else as it is."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _joined(flag: str, options: Mapping[str, Any] | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The options given by name and those that have a flag of their own."""
    by_name = dict(options or {})
    # Of two values for one option neither is more the user's.
    given = {name: value for name, value in flags.items() if value is not None}
    for name in given:
        if name in by_name:
            own_flag = f"--{name.replace('_', '-')}"
            raise InvalidValueError(f"`{name}` is given twice: by `{own_flag}` and by `{flag}`")
    return given | by_name


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
    reuse: bool = False
    """If your own code changed since the store's trials: count these as trials of it."""
    fresh: bool = False
    """If your own code changed since the store's trials: train them again."""
    dry_run: bool = False
    """Print the grid and what it would cost, or the commands, and run nothing."""
    quiet: bool = False
    """Print errors only."""
    json: bool = False
    """Print the result as one JSON object instead of tables."""
