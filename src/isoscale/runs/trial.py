"""One trial of a sweep as its parts: the network, its plan and its batches, for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from isoscale.data import Dataset
from isoscale.models import Model
from isoscale.parametrization.plan import Plan
from isoscale.runs.keys import Metric, Source, digest, identity
from isoscale.training import TrialConfig
from isoscale.training.config import batch_order


class Trial:
    """What a sweep trains at one rule, size, learning rate and seed.

    A plain loop over these parts gives the curve that the sweep stores, up to round-off:

        trial = spec.trial(rule="completep", width=64, depth=8, lr=2**-5, seed=0)
        model = trial.model()
        optimizer = torch.optim.SGD(trial.plan.param_groups())
        for x, y in trial.batches():
            loss = trial.loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    Attributes:
        config: Everything about the trial but its learning rate and seed.
        lr, seed: These.
        data: The data set, as the model takes it.
        device: Where the model and the batches are.
        metric: What the sweep judges it by instead of the loss.
    """

    def __init__(
        self,
        config: TrialConfig,
        lr: float,
        seed: int,
        source: Source,
        dataset: Dataset,
        device: str = "cpu",
        metric: Metric | None = None,
    ) -> None:
        self.config, self.lr, self.seed, self.device = config, lr, seed, device
        self.metric = metric
        self._source, self.data = source, dataset
        self._fresh, self._plan = self._build()
        self._handed_out = False

    @property
    def rule(self) -> str:
        """Name of the rule."""
        return self.config.rule

    @property
    def width(self) -> int:
        """Width of the model."""
        return self.config.width

    @property
    def depth(self) -> int:
        """Depth of the model."""
        return self.config.depth

    @property
    def sizes(self) -> dict[str, int]:
        """Width and depth, by name."""
        return {"width": self.width, "depth": self.depth}

    @property
    def key(self) -> str:
        """What a store keeps the trial under: `store.read([trial.key])`."""
        return digest(identity(self.config, self._source, self.metric) | {"lr": self.lr, "seed": self.seed})

    @property
    def plan(self) -> Plan:
        """The plan at this learning rate, bound to the model that was handed out last (or will be first)."""
        return self._plan

    def model(self) -> Model:
        """A fresh model with the plan's initial weights; each call returns another one, with the same weights."""
        if self._handed_out:
            self._fresh, self._plan = self._build()
        self._handed_out = True
        return self._fresh

    def _build(self) -> tuple[Model, Plan]:
        shape, classes = self._source.in_shape, self._source.classes
        plan = self.config.plan(shape, classes, lr=self.lr)
        model, bound = self.config.build(shape, classes, self.seed, plan)
        return model.to(self.device), bound

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(x, y) of each step, in the order in which the sweep sees them; with accumulation, several for each step."""
        config, data = self.config, self.data
        count = config.steps * config.loop.accumulate
        for rows in batch_order(len(data.train_x), config.batch_size, count, self.seed):
            yield data.train_x[rows].to(self.device), data.train_y[rows].to(self.device)

    def lr_factor(self, step: int) -> float:
        """What the sweep's schedule multiplies the learning rates by at a step, counted from 0."""
        return self.config.loop.lr_factor(step, self.config.steps)

    @staticmethod
    def loss(output: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of a batch, as the sweep records and descends."""
        return F.cross_entropy(output.flatten(0, -2), y.flatten())

    def __repr__(self) -> str:
        shown: dict[str, Any] = {"rule": self.rule, **self.sizes, "lr": self.lr, "seed": self.seed}
        return f"Trial({', '.join(f'{name}={value}' for name, value in shown.items())})"
