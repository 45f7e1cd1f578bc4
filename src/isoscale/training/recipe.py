"""What the members of a shard share: model, size, rule, optimizer, data order; and what they do not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from isoscale import models
from isoscale.data import Dataset
from isoscale.errors import InvalidValueError
from isoscale.models import Model
from isoscale.scaling import rules
from isoscale.scaling.factors import Factors
from isoscale.training.steppers import Optimizer


class Member(NamedTuple):
    """One trial of a shard."""

    lr: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about a trial but its learning rate and seed.

    Attributes:
        model, model_args: A name of `isoscale.models.names()` and its own options.
        width, depth: Size to train at.
        base_width, base_depth: Size at which the rule changes nothing.
        rule: A name of `isoscale.rules.names()`.
        optimizer: Optimizer and base hyperparameters.
        steps, batch_size: Length of a run; batches are drawn epoch by epoch without replacement.
    """

    model: str = "residual-mlp"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    width: int
    depth: int
    base_width: int
    base_depth: int
    rule: str
    optimizer: Optimizer
    steps: int
    batch_size: int

    def build(self, in_shape: int | Sequence[int], out_features: int, seed: int) -> Model:
        """The model at its own size with the rule's initial weights, multipliers folded in.

        A fresh model's init is that of `sp`; the rule's init relative to it is applied on top. `in_shape` is the
        shape of one sample, or its number of features.
        """
        model = self._build(in_shape, out_features, seed=seed)
        standard = self.factors(model, "sp")
        with torch.no_grad():
            for name, factors in self.factors(model, self.rule).items():
                model.get_parameter(name).mul_(factors.init_std / standard[name].init_std)
        return model

    def sketch(self, in_shape: int | Sequence[int], out_features: int) -> Model:
        """The model on the meta device: its sizes are known and nothing is computed."""
        return self._build(in_shape, out_features, device="meta")

    def _build(self, in_shape: int | Sequence[int], out_features: int, **place: Any) -> Model:
        return models.build(
            self.model,
            self.model_args,
            in_shape=(in_shape,) if isinstance(in_shape, int) else in_shape,
            out_features=out_features,
            width=self.width,
            depth=self.depth,
            **place,
        )

    def factors(self, model: Model, rule: str) -> dict[str, Factors]:
        """Folded factors of each parameter, relative to the base."""
        ratios = {"width": self.width / self.base_width, "depth": self.depth / self.base_depth}
        family = self.optimizer.family
        return {
            name: rules.get(rule).factors(role, family, **ratios).fold(family) for name, role in model.roles.items()
        }


def as_taken(model: str, data: Dataset) -> Dataset:
    """The data as the model takes it: flattened for one that takes vectors, else as it is.

    Raises:
        InvalidValueError: A model of tokens and data that is none, or the other way round.
    """
    wanted = models.takes(model)
    if (wanted == "tokens") != (data.kind == "tokens"):
        raise InvalidValueError(f"model {model} takes {wanted}, data set {data.name} has {data.kind}")
    return data.flatten() if wanted == "features" else data


def batch_order(samples: int, batch_size: int, steps: int, seed: int) -> Int[Tensor, "steps batch_size"]:
    """Which samples each step sees: epochs of permutations, the odd rest of an epoch dropped.

    The order depends on the seed alone, so every model of a seed sees the same batches.

    Raises:
        InvalidValueError: A batch larger than the data.
    """
    if batch_size > samples:
        raise InvalidValueError(f"`batch_size` must be at most the {samples} training samples, got {batch_size}")
    generator = _generator(seed, "data")
    per_epoch = samples // batch_size
    epochs = [
        torch.randperm(samples, generator=generator)[: per_epoch * batch_size].view(per_epoch, batch_size)
        for _ in range(-(-steps // per_epoch))
    ]
    return torch.cat(epochs)[:steps]


def _generator(seed: int, purpose: str) -> torch.Generator:
    """A stream of its own for each purpose: equal seeds must not mean equal draws for init and data."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
