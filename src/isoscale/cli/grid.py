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

# Lists that need not be given, and options by name: what to type for each.
Integers = Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="INT [INT ...]")]
Numbers = Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="FLOAT [FLOAT ...]")]
Words = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="STR [STR ...]")]
Options = Annotated[dict[str, Value] | None, tyro.conf.arg(metavar="NAME VALUE [NAME VALUE ...]")]

# The name of an axis and its values, as often as there are axes.
_Axes = Annotated[
    tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME VALUE [VALUE ...]")
]

_RULES = ("sp", "depth-mup", "depth-mup-corrected", "completep")

# What of a model the commands state. A block that is normed and trained by AdamW is what most large models are made of,
# and its loss has a minimum inside the stable rates; without a norm, by SGD, it falls up to the limit of stability.
_STATED: dict[str, dict[str, Any]] = {"residual-mlp": {"block_depth": 2, "phi": "relu", "norm": "layer"}}

# What of a data set they state: 100 steps are one pass over classes that overlap. As in a language model no sample
# comes twice, and the loss stays well above 0, where a share of it would be noise.
_STATED_DATA: dict[str, dict[str, Any]] = {"synthetic": {"accuracy": 0.7, "train": 6400}}

# Models whose own norm is not none.
_ALWAYS_NORMED = ("vit", "gpt")


def stated(model: str, dataset: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a model and of a data set that the commands state, unless others are given."""
    return dict(_STATED.get(model, {})), dict(_STATED_DATA.get(dataset, {}))


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
    rule: Words = None
    """Scaling rules to compare; `isoscale rules` lists them. By default sp, depth-mup, depth-mup-corrected and
    completep, and none for your own code."""
    model: str | None = None
    """Model to train: residual-mlp (default), conv-net, conv-resnet, vit or gpt; or a factory of your own,
    file.py:make, with functions `batches` and `loss_fn` beside it, or with --dataset."""
    block_depth: int | None = None
    """Maps in a residual branch, of models that have the option; 2 for residual-mlp."""
    phi: str | None = None
    """Activation: relu, tanh, gelu or linear; by default the model's own."""
    norm: Literal["layer", "rms", "batch", "none"] | None = None
    """Norm: layer or rms, batch for conv nets, none; by default layer for residual-mlp, else the model's own."""
    model_args: Options = None
    """The model's other options by name: --model-args padding zero kernel 5."""
    dataset: str | None = None
    """Data set: synthetic (default: 6400 samples, of which the best classifier gets 70 % right) or digits, or from
    --data: cifar10, mnist, fashion-mnist, image-folder, audio-folder, text, arrays."""
    dataset_args: Options = None
    """The data set's options by name: --dataset-args context 128."""
    batches: Integers = None
    """CIFAR-10 only: which training batches to read."""
    optimizer: str | None = None
    """adamw (default), sgd, adam, sign or muon; by default your own code's."""
    momentum: float | None = None
    """Momentum of sgd, sign or muon."""
    weight_decay: float = 0.0
    """Weight decay, as in torch."""
    widths: Annotated[Integers, tyro.conf.arg(aliases=["--width"])] = None
    """Widths to train at; 64 by default, none for your own code."""
    depths: Annotated[Integers, tyro.conf.arg(aliases=["--depth"])] = None
    """Numbers of residual blocks (conv-net: of layers) to train at; 4 12 32 by default, none for your own code."""
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
    budget: str = "none"
    """Rule by which the settings follow batch size and steps, from the smallest of each on: see `isoscale rules`."""
    budget_axis: Literal["steps", "tokens", "tokens-per-parameter"] = "steps"
    """What stays at other sizes: the steps of --steps; the samples seen, steps x batch size (the steps follow
    --batch-sizes, the batch size follows --steps); or the samples for each parameter of the hidden layers."""
    log2_lr: Annotated[tuple[float, float], tyro.conf.arg(metavar="LOW HIGH")] = (-12.0, 0.0)
    """Learning rates from 2^LOW to 2^HIGH; a search goes on where the best lies at an end ..."""
    per_octave: int = 1
    """... this many to a factor of two."""
    lrs: Numbers = None
    """The learning rates themselves, instead of --log2-lr."""
    search: Literal["adaptive", "grid", "random"] | None = None
    """adaptive: from a short pilot to the optimum; grid: every learning rate; random: points spread over the ranges of
    all that is tuned, the same at every size. Default: adaptive for transfer, grid for sweep."""
    early_stop: bool = True
    """Whether an adaptive search stops trials that are hopeless after a quarter or half of their steps: their loss has
    fallen by less than a share, --hopeless, of what the best one's of that size had fallen by then."""
    hopeless: float = 0.25
    """That share."""
    points: int | None = None
    """How many points a random search has; 32 by default."""
    linear: tuple[str, ...] = ()
    """Hyperparameters that a random search draws evenly in themselves and not in their logarithm."""
    seeds: int = 5
    """Number of seeds: 0, 1, ..."""
    steps: tuple[int, ...] = (100,)
    """Optimizer steps of each trial; several lengths are an axis of sizes."""
    batch_size: int = 64
    """Samples in a step."""
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    """How the learning rate goes on after its warmup; a function or a program has its own."""
    warmup: float = 0.0
    """Share of the steps in which it rises."""
    clip: float | None = None
    """Norm to which gradients are clipped."""
    accumulate: int = 1
    """Batches in a step."""
    autocast: Literal["bfloat16"] | None = None
    """Precision of the forward pass; by default that of the weights."""
    metric: str | None = None
    """A function file.py:f of the model's outputs and the targets: its mean over the held-out batches (of a model of
    your own, `eval_batches` beside the factory) is judged instead of the training loss."""
    better: Literal["lower", "higher"] | None = None
    """Which values of the metric are."""
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
        file, _, factory = (self.model or "").rpartition(":")
        is_module = bool(file and factory)
        if is_module and self.dataset is None:
            # Beside the factory, as for the measuring commands.
            values |= {"batches": f"{file}:batches", "loss_fn": f"{file}:loss_fn"}
            if self.metric is not None:
                values["eval_batches"] = f"{file}:eval_batches"
        model, dataset = self.model, self.dataset
        if not is_own:
            # What the commands train if nothing is said; code of the user's says it itself.
            values["rule"] = self.rule or _RULES
            values["optimizer"] = self.optimizer or "adamw"
            values["depths"] = (4, 12, 32) if self.depths is None and not is_module else self.depths
        if not is_own and not is_module:
            values["model"] = model = self.model or "residual-mlp"
            values["dataset"] = dataset = self.dataset or "synthetic"
        lrs = log2_grid(*self.log2_lr, self.per_octave) if self.lrs is None else self.lrs
        return Sweep(
            **values,
            model_args=self._model_args(model or ""),
            dataset_args=self._dataset_args(dataset or ""),
            sizes=_axes("--size", self.size),
            hyperparameters=_axes("--hyperparameter", self.hyperparameter),
            lrs=lrs,
        )

    def _model_args(self, model: str) -> dict[str, Any]:
        of_model = {"block_depth": self.block_depth, "phi": self.phi, "norm": self.norm}
        model_args = _STATED.get(model, {}) | _joined("--model-args", self.model_args, of_model)
        if self.norm == "none":
            if model in _ALWAYS_NORMED:
                raise InvalidValueError(f"`--norm none`: every block of {model} has a norm, layer or rms")
            # These models' own is none.
            del model_args["norm"]
        return model_args

    def _dataset_args(self, dataset: str) -> dict[str, Any]:
        given = _joined("--dataset-args", self.dataset_args, {"batches": self.batches})
        return _STATED_DATA.get(dataset, {}) | given

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
            about = " (what a question is about: --about)" if flag == "--hyperparameter" else ""
            raise InvalidValueError(f"`{flag}` is written {flag} name value value ..., got {name}{about}")
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
