"""Networks from a user's factory, and the checks of what they are trained on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.graph.unwrapping import without_wrappers
from isoscale.measure.tools.observe import tensors
from isoscale.measure.tools.passes import Batch, seeded
from isoscale.models.base import seeding
from isoscale.training.memory import is_out_of_memory

Factory = Callable[..., nn.Module]


def build(make_model: Factory, seed: int, **sizes: Any) -> nn.Module:
    """The network of these sizes and seed.

    A factory that has a parameter `seed` gets it. One that has none draws from the global generator, which starts
    from the seed and comes back afterwards; the models of isoscale, which do not draw from that, start from it too.
    """
    # A factory with **options may hand a seed on, so it gets one too.
    takes_seed = False
    for parameter in inspect.signature(make_model).parameters.values():
        if parameter.name == "seed" or parameter.kind is parameter.VAR_KEYWORD:
            takes_seed = True
    if takes_seed:
        sizes = {**sizes, "seed": seed}
    try:
        # Parameters that are made in a caller's `inference_mode` never get a gradient.
        with seeded(seed), seeding(seed), torch.inference_mode(False):
            model = make_model(**sizes)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        of_size = ", ".join(f"{name} {size}" for name, size in sizes.items() if name != "seed")
        raise InvalidValueError(f"there is no memory for the network of {of_size}: leave out that size") from error
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"`make_model` must return a torch.nn.Module, got {model!r}")
    # What is compiled or checkpointed can neither be looked into nor differentiated in every way.
    return without_wrappers(model)


def check_seeds(make_model: Factory, seeds: Sequence[int], **sizes: Any) -> None:
    """Raise InvalidValueError if the factory makes the same network of different seeds."""
    if len(seeds) < 2:
        return
    first = build(make_model, seeds[0], **sizes).state_dict()
    second = build(make_model, seeds[1], **sizes).state_dict()
    for name, tensor in first.items():
        if not torch.equal(tensor, second[name]):
            return
    raise InvalidValueError(
        f"`make_model` makes the same network for seeds {seeds[0]} and {seeds[1]}: give it a parameter `seed` "
        "that its weights follow"
    )


def another_seed(seed: int) -> int:
    """A seed whose networks are independent of those of `seed` and of other small seeds."""
    # SeedSequence hashes its words: neighbouring seeds give unrelated states.
    sequence = np.random.SeedSequence([seed, 0xB])
    (state,) = sequence.generate_state(1)
    return int(state)


def checked_batches(batches: Any) -> list[Batch]:
    """`batches` as a list of pairs, one or more.

    Raises:
        InvalidTypeError: No list, or something in it is no pair.
        InvalidValueError: An empty list.
    """
    wanted = "`batches` must be a list of one pair (x, y) or more"
    if not isinstance(batches, Sequence) or isinstance(batches, str):
        raise InvalidTypeError(wanted)
    if not batches:
        raise InvalidValueError("`batches` must hold one pair (x, y) or more, got none")
    return [pair(batch, wanted) for batch in batches]


def check_finite_data(batches: Sequence[Batch]) -> None:
    """Raise InvalidValueError if a batch holds numbers that are not finite."""
    for number, batch in enumerate(batches):
        for letter, side in zip("xy", batch, strict=True):
            for name, tensor in tensors(side, letter):
                bad = tensor.numel() - int(tensor.isfinite().sum())
                if bad:
                    raise InvalidValueError(
                        f"`batches[{number}]` must hold finite numbers, got {bad} of {tensor.numel()} in `{name}` "
                        "that are NaN or infinite"
                    )


def trainable(value: Any) -> Any:
    """The value, with each tensor that was made in `torch.inference_mode` as a copy: autograd takes no such tensor."""
    with torch.inference_mode(False):
        return tree_map_only(Tensor, lambda tensor: tensor.clone() if tensor.is_inference() else tensor, value)


def pair(batch: Any, wanted: str) -> Batch:
    """`batch` as (x, y), of which autograd takes both.

    Raises:
        InvalidTypeError: It is none; the message is what was wanted.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise InvalidTypeError(wanted)
    x, y = trainable(batch)
    return x, y
