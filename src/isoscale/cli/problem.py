"""What the measuring commands measure on: a model at any size, batches, and a loss."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from isoscale.cli.factory import Factory, factory
from isoscale.cli.grid import Options
from isoscale.errors import InvalidValueError

if TYPE_CHECKING:
    import torch

# Where no data set is asked for: what comes with the library, of the kind that the model takes.
_DEFAULT_DATA = {"features": "digits", "images": "digits", "tokens": "text"}


@dataclass(frozen=True, kw_only=True)
class On:
    """What to measure on."""

    dataset: str | None = None
    """Data set, as for `isoscale transfer`; digits by default for the built-in models."""
    data: str | None = None
    """Folder of the data sets; $ISOSCALE_DATA by default."""
    batch_size: int = 64
    """Samples in a batch."""
    model_args: Annotated[Options, tyro.conf.arg(aliases=["--options"])] = None
    """The model's options by name: --model-args block_depth 1 norm layer."""

    def problem(self, name: str, batches: int) -> Problem:
        """The model of that name, and that many batches.

        Raises:
            InvalidValueError: No such model or data set, or a factory that says nothing of its data.
        """
        if self.batch_size < 1:
            raise InvalidValueError(f"`--batch-size` must be >= 1, got {self.batch_size}")
        made = factory(name)
        options = dict(self.model_args or {})
        if made.module is None:
            return _built_in(name, options, self, batches)
        own = getattr(made.module, "batches", None)
        if own is not None and self.dataset is None:
            found = _own_batches(name, own, batches)
        else:
            dataset = _dataset(self, made)
            found = _from_data(dataset, self, batches, flat=False)
        loss_fn = getattr(made.module, "loss_fn", standard_loss)
        return Problem(
            name=name,
            make=_maker(made, options),
            batches=found,
            loss_fn=_named(name, loss_fn),
            made=made,
        )


@dataclass(frozen=True)
class Problem:
    """A model of any size, with batches (x, y) and loss_fn(model(x), y).

    Attributes:
        takes: Which of width and depth its factory takes.
    """

    name: str
    make: Callable[..., Any]
    batches: list[tuple[Any, Any]]
    loss_fn: Callable[[Any, Any], torch.Tensor]
    made: Factory

    @property
    def takes(self) -> list[str]:
        return [size for size in ("width", "depth") if _has(self.made.make, size)]


def _has(make: Callable[..., Any], argument: str) -> bool:
    for parameter in inspect.signature(make).parameters.values():
        if parameter.name == argument or parameter.kind is parameter.VAR_KEYWORD:
            return True
    return False


def _maker(made: Factory, options: dict[str, Any]) -> Callable[..., Any]:
    """The user's factory; one that knows no seed draws from the global generator, which its caller has seeded."""

    # Options win over sizes: a user may hold the depth of a model fixed.
    def make(**given: Any) -> Any:
        if not _has(made.make, "seed"):
            given.pop("seed", None)
        return made.build(given | options)

    return make


def _own_batches(name: str, own: Any, count: int) -> list[tuple[Any, Any]]:
    from isoscale.measure.tools.building import checked_batches

    try:
        every = own() if callable(own) else own
        # A generator may never end: no more is asked of it than is needed.
        found = list(itertools.islice(every, count))
    except Exception as error:
        raise InvalidValueError(f"`batches` beside {name} fails: {type(error).__name__}: {error}") from error
    return checked_batches(found)


def _named(name: str, loss_fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The loss, which names itself when it fails."""

    def loss(output: Any, y: Any) -> Any:
        try:
            return loss_fn(output, y)
        except Exception as error:
            raise InvalidValueError(
                f"the loss of {name} fails on the model's output: {type(error).__name__}: {error}; define "
                "`loss_fn(output, y)` beside the factory if the standard one is not meant"
            ) from error

    return loss


def _built_in(name: str, options: dict[str, Any], on: On, batches: int) -> Problem:
    from isoscale import data, models

    kind = models.takes(name)
    dataset = on.dataset or _DEFAULT_DATA[kind]
    found = data.load(dataset, on.data)
    pairs = _from_data(found, on, batches, flat=kind == "features")

    def make(**sizes: Any) -> Any:
        return models.build(name, options, in_shape=found.in_shape, out_features=found.classes, **sizes)

    return Problem(
        name=name,
        make=make,
        batches=pairs,
        loss_fn=standard_loss,
        made=factory(name),
    )


def _dataset(on: On, made: Factory) -> Any:
    from isoscale import data

    if on.dataset is None:
        raise InvalidValueError(
            f"{made.name} says nothing of its data: define `batches` beside it, a list of pairs (x, y) or a function "
            "that returns one (and `loss_fn(output, y)` if neither cross-entropy nor mean squares is the loss), or "
            "give --dataset"
        )
    return data.load(on.dataset, on.data)


def _from_data(found: Any, on: On, batches: int, *, flat: bool) -> list[tuple[Any, Any]]:
    from isoscale.training.config import batch_order

    samples = len(found.train_x)
    batch_size = min(on.batch_size, samples)
    pairs = []
    for rows in batch_order(samples, batch_size, batches, seed=0):
        x = found.train_x[rows]
        if flat:
            x = x.flatten(1)
        pairs.append((x, found.train_y[rows]))
    return pairs


def standard_loss(output: Any, y: Any) -> Any:
    """Cross-entropy over the last axis for whole-number labels, half the mean square for others."""
    import torch.nn.functional as F

    from isoscale.measure.tools.observe import tensors

    # The first tensor of whatever the model returns.
    logits = next(tensor for _, tensor in tensors(output))
    if y.is_floating_point():
        errors = logits.reshape(y.shape) - y
        return 0.5 * errors.square().mean()
    return F.cross_entropy(logits.flatten(0, -2), y.flatten())
