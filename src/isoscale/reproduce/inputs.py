"""Samples, batches and networks that the claims share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import isoscale
from isoscale import data, models
from isoscale.scaling.rules import Rule


def problem(settings: Mapping[str, Any], folder: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The first `samples` of a data set scaled to |x|^2 = features, and +1 for even and -1 for odd classes."""
    found = data.load(settings["dataset"], folder, **settings.get("dataset_args", {})).flatten()
    count = settings["samples"]
    x = found.train_x[:count].double().numpy()
    x = x / np.sqrt((x**2).mean(1, keepdims=True))
    classes = found.train_y[:count].numpy()
    return x, 1.0 - 2.0 * (classes % 2)


def batches(
    settings: Mapping[str, Any], folder: str | None, *, flat: bool = False
) -> tuple[data.Dataset, list[tuple[Tensor, Tensor]]]:
    """A data set and the first batches of its training samples, in their order."""
    found = data.load(settings["dataset"], folder, **settings.get("dataset_args", {}))
    if flat:
        found = found.flatten()
    size = settings["batch_size"]
    pairs = []
    for start in range(0, size * settings.get("batches", 1), size):
        pairs.append((found.train_x[start : start + size], found.train_y[start : start + size]))
    return found, pairs


def by_depth_and_seed(settings: Mapping[str, Any], measured: Callable[[int, int], list[Any]]) -> list[list[Any]]:
    """What `measured(depth, seed)` gives for each of a claim's depths and seeds: (depth, seed, ...)."""
    found = []
    for depth in settings["depths"]:
        of_seeds = [measured(depth, seed) for seed in range(settings["seeds"])]
        found.append(of_seeds)
    return found


def loss_of(output: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy; of a sequence over all of its positions."""
    return nn.functional.cross_entropy(output.flatten(0, -2), y.flatten())


class Scaled:
    """Makes networks under a rule, and the optimizers of those that it made.

    Args:
        network: `model`, `width` and the model's own options.
        dataset: What it is trained on.
        rule, optimizer, lr: As for `isoscale.parametrize`.
        base_depth: Where the rule changes nothing.
    """

    def __init__(
        self,
        network: Mapping[str, Any],
        dataset: data.Dataset,
        *,
        rule: str | Rule,
        optimizer: str,
        lr: float,
        base_depth: int,
    ) -> None:
        self._options = {name: value for name, value in network.items() if name not in ("model", "width")}
        self._network = network
        self._dataset = dataset
        self._rule, self._optimizer, self._lr, self._base_depth = rule, optimizer, lr, base_depth

    def network(self, depth: int, seed: int) -> nn.Module:
        """The model as its own code draws it."""
        return models.build(
            self._network["model"],
            self._options,
            in_shape=self._dataset.in_shape,
            out_features=self._dataset.classes,
            width=self._network["width"],
            depth=depth,
            seed=seed,
        )

    def make(self, depth: int, seed: int) -> nn.Module:
        """The network with the rule's initial weights; it carries the rule's groups."""
        model = self.network(depth, seed)
        plan = isoscale.parametrize(
            model,
            self.network(self._base_depth, seed),
            self._rule,
            self._optimizer,
            lr=self._lr,
            example_inputs=(self._dataset.train_x[:1],),
        )
        # An attribute that is no tensor and no module leaves the state dict as it is.
        model.__dict__["_groups"] = plan.param_groups()
        return model

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a network that `make` made."""
        classes = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        own = dict(model.named_parameters())
        groups = []
        for group in model.__dict__["_groups"]:
            groups.append({**group, "params": [own[name] for name in group["param_names"]]})
        return classes[self._optimizer](groups)
