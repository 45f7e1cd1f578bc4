"""Networks from a user's factory, and what is common to experiments over sizes and seeds."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.measure.tools.passes import Batch, seeded
from isoscale.models.base import seeding

Factory = Callable[..., nn.Module]


def build(make_model: Factory, seed: int, **sizes: Any) -> nn.Module:
    """The network of these sizes and seed.

    A factory that has a parameter `seed` gets it. One that has none draws from the global generator, which starts
    from the seed and comes back afterwards; the models of isoscale, which do not draw from that, start from it too.
    """
    extra = {"seed": seed} if _takes_seed(make_model) else {}
    with seeded(seed), seeding(seed):
        model = make_model(**sizes, **extra)
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"`make_model` must return a torch.nn.Module, got {model!r}")
    return model


def check_seeds(make_model: Factory, seeds: Sequence[int], **sizes: Any) -> None:
    """Raise InvalidValueError if the factory makes the same network of different seeds."""
    if len(seeds) > 1:
        first, second = (build(make_model, seed, **sizes).state_dict() for seed in seeds[:2])
        if all(torch.equal(first[name], second[name]) for name in first):
            raise InvalidValueError(
                f"`make_model` makes the same network for seeds {seeds[0]} and {seeds[1]}: give it a parameter `seed` "
                "that its weights follow"
            )


def check_run(batches: Sequence[Batch], steps: int) -> None:
    """Raise unless there is something to train on and a number of updates."""
    if not batches:
        raise InvalidValueError("`batches` must hold one pair (x, y) or more, got none")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise InvalidTypeError(f"`steps` must be a number of updates >= 0, got {steps!r}")


def checked_steps(steps: Any) -> int:
    """`steps`, a whole number >= 1."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InvalidValueError(f"`steps` must be a whole number >= 1, got {steps!r}")
    return steps


def checked_batches(batches: Any) -> list[Batch]:
    """`batches` as a list of pairs, one or more."""
    pairs = list(batches) if isinstance(batches, Sequence) and not isinstance(batches, str) else []
    if not pairs or any(not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in pairs):
        raise InvalidTypeError("`batches` must be a list of one pair (x, y) or more")
    return [(x, y) for x, y in pairs]


def seed_list(seeds: int | Sequence[int]) -> list[int]:
    """`seeds` as a list: a number n means 0 .. n - 1."""
    if isinstance(seeds, bool) or not isinstance(seeds, (int, Sequence)):
        raise InvalidTypeError(f"`seeds` must be a number of seeds or a list of them, got {seeds!r}")
    found = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not found:
        raise InvalidValueError(f"`seeds` must name one seed or more, got {seeds!r}")
    return found


def grid(**axes: Sequence[Any] | None) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    """The sizes to build: the axes that are given, and every combination of their values.

    >>> grid(width=None, depth=[2, 4])
    ({'depth': [2, 4]}, [{'depth': 2}, {'depth': 4}])
    """
    given = {name: list(values) for name, values in axes.items() if values is not None}
    for name, values in given.items():
        if not values:
            raise InvalidValueError(f"`{name}s` must hold one {name} or more, got []")
    return given, [dict(zip(given, values, strict=True)) for values in itertools.product(*given.values())]


def another_seed(seed: int) -> int:
    """A seed whose networks are independent of those of `seed` and of other small seeds."""
    return int(np.random.SeedSequence([seed, 0xB]).generate_state(1)[0])


def make_optimizer(
    optimizer: str | Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module, lr: float
) -> torch.optim.Optimizer:
    """torch's optimizer of that name over all parameters, or the one that the user's function makes."""
    if callable(optimizer):
        return optimizer(model)
    if optimizer not in _OPTIMIZERS:
        raise InvalidValueError(f"`optimizer` must be one of {', '.join(_OPTIMIZERS)} or a function, got {optimizer!r}")
    return _OPTIMIZERS[optimizer](model.parameters(), lr=lr)


_OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def _takes_seed(make_model: Factory) -> bool:
    parameters = inspect.signature(make_model).parameters.values()
    return any(p.name == "seed" or p.kind is p.VAR_KEYWORD for p in parameters)
