"""What a training function is called with: one trial of a sweep."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from isoscale.errors import InvalidValueError
from isoscale.runs.keys import digest
from isoscale.runs.spec import NO_RULE

if TYPE_CHECKING:
    from torch import nn

    from isoscale.parametrization.make_plan import Reading
    from isoscale.parametrization.plan import Plan


class HandedTrial:
    """One trial, handed to the user's training function.

    Attributes:
        lr, seed: Its base learning rate and seed. Torch's, NumPy's and Python's own generators were seeded with it.
        rule, optimizer: Names; None where the sweep has none.
        sizes: Its value on each size axis, width and depth included.
        hyperparameters: Its value on each further tuned axis.
        steps, batch_size: Of the sweep.
        device: Where it should train.
        key: What the store keeps it under.

    >>> from isoscale import Sweep
    >>> trial = Sweep(train="math:sqrt", widths=[8, 16], lrs=[0.1], seeds=1).trial(width=16)
    >>> trial, trial.sizes
    (HandedTrial(width=16, lr=0.1, seed=0), {'width': 16})
    """

    def __init__(self, settings: Mapping[str, Any], *, key: str, device: str, folder: Path) -> None:
        self.lr: float = settings["lr"]
        self.seed: int = settings["seed"]
        self.rule: str | None = None if settings["rule"] == NO_RULE else settings["rule"]
        self._options: dict[str, Any] = settings.get("optimizer", {})
        self._budget: dict[str, Any] = dict(settings.get("budget", {}))
        self.optimizer: str | None = self._options.get("family") or None
        self.sizes: dict[str, Any] = dict(settings["sizes"])
        self.hyperparameters: dict[str, Any] = dict(settings["hyperparameters"])
        # A command may take neither.
        self.steps: int = settings.get("steps", 0)
        self.batch_size: int = settings.get("batch_size", 0)
        self.key, self.device = key, device
        self._settings = settings
        self._folder = folder

    @property
    def width(self) -> int:
        """Its width.

        Raises:
            InvalidValueError: The sweep has no widths.
        """
        return self._size("width")

    @property
    def depth(self) -> int:
        """Its depth.

        Raises:
            InvalidValueError: The sweep has no depths.
        """
        return self._size("depth")

    @property
    def folder(self) -> Path:
        """A folder of its own, for its checkpoints: the same after an interruption, with all that was left in it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def at_lr(self, lr: float) -> Self:
        """The trial with another learning rate."""
        other = copy.copy(self)
        other.lr = lr
        return other

    @property
    def of_model(self) -> str:
        """Digest of all that its model may depend on: everything but its rule and its learning rate."""
        return digest({name: value for name, value in self._settings.items() if name not in ("rule", "lr")})

    def parametrize(self, model: nn.Module, base: nn.Module | Mapping[str, Any] | Reading, **options: Any) -> Plan:
        """`isoscale.parametrize` with the trial's rule, optimizer, hyperparameters and budget.

        Args:
            model, base: As for `isoscale.parametrize`.
            **options: Its other arguments, `example_inputs` for one; what is given here wins over the trial's own.

        Returns:
            The plan, bound to the model: `plan.param_groups()` goes to the optimizer.

        Raises:
            Whatever `isoscale.parametrize` raises.
        """
        from isoscale.parametrization.make_plan import parametrize

        filled: dict[str, Any] = {"lr": self.lr, **self._budget}
        # What the sweep does not say is left to `isoscale.parametrize`.
        if self.rule is not None:
            filled["rule"] = self.rule
        if self.optimizer is not None:
            filled["optimizer"] = self.optimizer
        for name in ("weight_decay", "eps", "momentum"):
            value = self.hyperparameters.get(name, self._options.get(name))
            if value is not None:
                filled[name] = value
        betas = self._betas()
        if betas is not None:
            filled["betas"] = betas
        return parametrize(model, base, **(filled | options))

    def _betas(self) -> tuple[float, float] | None:
        """Those of the sweep, one or both replaced by a hyperparameter; None if nobody said any."""
        said = self._options.get("betas")
        tuned = [self.hyperparameters.get(name) for name in ("beta1", "beta2")]
        if said is None and tuned == [None, None]:
            return None
        default = said or (0.9, 0.999)
        first, second = (before if new is None else new for new, before in zip(tuned, default, strict=True))
        return first, second

    def _size(self, name: str) -> int:
        if name not in self.sizes:
            raise InvalidValueError(f"the sweep has no {name}: give it `{name}s`, or do not ask its trials for one")
        return self.sizes[name]

    def __repr__(self) -> str:
        shown: dict[str, Any] = {} if self.rule is None else {"rule": self.rule}
        shown |= self.sizes | self.hyperparameters | {"lr": self.lr, "seed": self.seed}
        return f"HandedTrial({', '.join(f'{name}={value}' for name, value in shown.items())})"
