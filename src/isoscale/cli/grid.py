"""The flags that say what to run and where, shared by the commands that train."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from isoscale.errors import InvalidValueError
from isoscale.runs.spec import Sweep, log2_grid

Value = int | float | bool | str

# What of a model the commands state. A block that is normed and trained by AdamW is what most large models are made of,
# and its loss has a minimum inside the stable rates; without a norm, by SGD, it falls up to the limit of stability.
_STATED: dict[str, dict[str, Any]] = {"residual-mlp": {"block_depth": 2, "phi": "relu", "norm": "layer"}}

# What of a data set they state: 100 steps are one pass over classes that overlap. As in a language model no sample
# comes twice, and the loss stays well above 0, where a share of it would be noise.
_STATED_DATA: dict[str, dict[str, Any]] = {"synthetic": {"accuracy": 0.7, "train": 6400}}

# Models whose own norm is not none.
_ALWAYS_NORMED = ("vit", "gpt")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What to train."""

    rule: tuple[str, ...] = ("sp", "depth-mup", "depth-mup-corrected", "completep")
    """Scaling rules to compare; `isoscale rules` lists them."""
    model: str = "residual-mlp"
    """Model to train: residual-mlp, conv-net, conv-resnet, vit or gpt."""
    block_depth: int | None = None
    """Maps in a residual branch, of models that have the option; 2 for residual-mlp."""
    phi: str | None = None
    """Activation: relu, tanh, gelu or linear; by default the model's own."""
    norm: Literal["layer", "rms", "batch", "none"] | None = None
    """Norm: layer or rms, batch for conv nets, none; by default layer for residual-mlp, else the model's own."""
    model_args: dict[str, Value] | None = None
    """The model's other options by name: --model-args padding zero kernel 5."""
    dataset: str = "synthetic"
    """Data set: synthetic (6400 samples, of which the best classifier gets 70 % right) or digits, or from --data:
    cifar10, mnist, fashion-mnist, image-folder, audio-folder, text, arrays."""
    dataset_args: dict[str, Value] | None = None
    """The data set's options by name: --dataset-args context 128."""
    batches: tuple[int, ...] | None = None
    """CIFAR-10 only: which training batches to read."""
    optimizer: str = "adamw"
    """sgd, adam, adamw, sign or muon."""
    momentum: float | None = None
    """Momentum of sgd, sign or muon."""
    weight_decay: float = 0.0
    """Weight decay, as in torch."""
    widths: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--width"])] = (64,)
    """Widths to train at."""
    depths: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--depth"])] = (4, 12, 32)
    """Numbers of residual blocks (of conv-net: of layers) to train at."""
    paired: bool = False
    """Train the first width at the first depth, the second at the second, ...: a path of sizes."""
    base_width: int | None = None
    """Width at which the rules change nothing; the smallest by default."""
    base_depth: int | None = None
    """Depth at which the rules change nothing; the smallest by default."""
    log2_lr: tuple[float, float] = (-12.0, 0.0)
    """Learning rates from 2^LOW to 2^HIGH; a search goes on where the best lies at an end ..."""
    per_octave: int = 1
    """... this many to a factor of two."""
    lrs: tuple[float, ...] | None = None
    """The learning rates themselves, instead of --log2-lr."""
    search: Literal["adaptive", "grid"] | None = None
    """adaptive: from a short pilot to the optimum; grid: every learning rate. By default adaptive for transfer, grid
    for sweep."""
    seeds: int = 5
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
        # Most flags are settings of a sweep under the same name.
        shared = {field.name for field in dataclasses.fields(Sweep)} - {"lrs", "model_args", "dataset_args"}
        values: dict[str, Any] = {name: value for name, value in vars(self).items() if name in shared}
        of_model = {"block_depth": self.block_depth, "phi": self.phi, "norm": self.norm}
        model_args = _STATED.get(self.model, {}) | _joined("--model-args", self.model_args, of_model)
        if self.norm == "none":
            if self.model in _ALWAYS_NORMED:
                raise InvalidValueError(f"`--norm none`: every block of {self.model} has a norm, layer or rms")
            # These models' own is none.
            del model_args["norm"]
        dataset_args = _joined("--dataset-args", self.dataset_args, {"batches": self.batches})
        dataset_args = _STATED_DATA.get(self.dataset, {}) | dataset_args
        lrs = log2_grid(*self.log2_lr, self.per_octave) if self.lrs is None else self.lrs
        return Sweep(
            **values,
            model_args=model_args,
            dataset_args=dataset_args,
            lrs=lrs,
        )

    def _refuse_flags_beside_file(self) -> None:
        for field in dataclasses.fields(self):
            if field.name != "config" and getattr(self, field.name) != field.default:
                flag = f"--{field.name.replace('_', '-')}"
                raise InvalidValueError(f"`{flag}` cannot be given beside --config: put it into {self.config}")


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
    dry_run: bool = False
    """Print the grid and what it would cost, and run nothing."""
    quiet: bool = False
    """Print errors only."""
    json: bool = False
    """Print the result as one JSON object instead of tables."""
