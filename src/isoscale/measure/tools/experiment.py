"""One network at many sizes and seeds: how it is made, what it is trained on, and what steps it.

Every verb turns its arguments into an `Experiment`, and asks that for networks, updates and tables of runs.

A rule is applied relative to a base of the smallest width and one block: a branch multiplier r^-1/2 then starts from 1
at depth 1, as in the papers, and sizes of tens of blocks are close to the limit. From a base of b blocks they would be
b times further.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from isoscale import checks
from isoscale.errors import InvalidValueError
from isoscale.graph.anatomy import Roles
from isoscale.measure.tools.building import Factory, build, check_seeds
from isoscale.measure.tools.hook_points import HookPoints, hook_points
from isoscale.measure.tools.observe import linear_layers
from isoscale.measure.tools.passes import Batch, LossFn, called_layers, descend
from isoscale.parametrization import Plan, shapes
from isoscale.parametrization.make_plan import make, read, settings
from isoscale.scaling.optimizers import FAMILIES, OPTIMIZERS, Family, OptimizerFamily, family_of
from isoscale.scaling.rules import Rule
from isoscale.stats.summary import mean_and_se
from isoscale.training import torch_optimizers

if TYPE_CHECKING:
    import xarray as xr

Cell = TypeVar("Cell")
Found = TypeVar("Found")
Size = dict[str, Any]
"""Keyword arguments of the factory: {"width": 64, "depth": 4}."""
Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What a verb measures; `Experiment.of` makes one of a verb's arguments.

    Attributes:
        make_model: Called with the entries of a size, and with `seed` if it takes one.
        batches: (x, y) pairs, used in turn.
        loss_fn: loss_fn(model(x), y) is the loss, one number.
        seeds: Which.
        axes: Sizes by axis ("width", "depth", ...); an axis that the factory does not take is missing.
        rule: What `scaled` gives a network; None if networks are measured as the factory makes them.
        optimizer: A family, a class of one, or a function that makes a network's optimizer.
        lr: The base's learning rate; without a rule, everybody's.
        weight_decay: What the base is trained with.
        roles: Glob pattern -> role, as for `isoscale.parametrize`.
        steps: Updates of each network.
        progress: Called with the share that is done.
    """

    make_model: Factory
    batches: list[Batch]
    loss_fn: LossFn
    seeds: list[int]
    axes: dict[str, list[Any]]
    rule: Rule | None
    optimizer: Any
    lr: float
    weight_decay: float
    roles: Roles | None
    steps: int
    progress: Progress | None

    @classmethod
    def of(
        cls,
        make_model: Factory,
        batches: list[Batch],
        loss_fn: LossFn,
        *,
        seeds: int | Sequence[int],
        axes: Mapping[str, Sequence[Any] | None] | None = None,
        rule: Rule | None = None,
        optimizer: Any = "sgd",
        lr: float = 1.0,
        weight_decay: float = 0.0,
        roles: Roles | None = None,
        steps: int = 0,
        least_steps: int = 0,
        progress: Progress | None = None,
    ) -> Experiment:
        """Of a verb's arguments, which it checks; an axis whose sizes are None is left out.

        Raises:
            InvalidTypeError, InvalidValueError: Seeds, sizes or steps that make no sense.
        """
        given: dict[str, list[Any]] = {}
        for axis, sizes in (axes or {}).items():
            if sizes is None:
                continue
            given[axis] = list(sizes)
            if not given[axis]:
                raise InvalidValueError(f"`{axis}s` must hold one size or more, got []")
        return cls(
            make_model=make_model,
            batches=batches,
            loss_fn=loss_fn,
            seeds=checks.seeds(seeds),
            axes=given,
            rule=rule,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            roles=roles,
            steps=checks.whole("steps", steps, least=least_steps),
            progress=progress,
        )

    # --- what it is about ---
    @property
    def inputs(self) -> tuple[Any, ...]:
        """Arguments of the forward pass on the first batch, on which everything is seen."""
        x, _ = self.batches[0]
        return (x,)

    @property
    def family(self) -> Family:
        """The optimizer's row of the table.

        Raises:
            InvalidValueError: No such family.
        """
        return FAMILIES[family_of(self.optimizer)]

    # --- networks ---
    def build(self, seed: int, **size: Any) -> nn.Module:
        """The network of that size and seed, as the factory makes it."""
        return build(self.make_model, seed, **size)

    def check_seeds(self, size: Size) -> None:
        """Raise InvalidValueError if the factory makes the same network of different seeds."""
        check_seeds(self.make_model, self.seeds, **size)

    def scaled(self, seed: int, **size: Any) -> tuple[nn.Module, Plan]:
        """The network of that size and seed, and the rule's plan, applied to it."""
        model = self.build(seed, **size)
        return model, self._plan(model, size).apply(model)

    def _plan(self, model: nn.Module, size: Size) -> Plan:
        """The plan for that size, bound to no model: networks of one size are read once, whatever their seeds."""
        assert self.rule is not None
        key = _key(size)
        if key not in self._plans:
            reading = read(model, self.base, self.inputs, self.roles)
            chosen = settings(self.family.name, self.lr, self.weight_decay)
            # Forced, since open items are told to the reader of a measurement as notes.
            self._plans[key] = make(reading, self.rule, chosen, force=True)
        return self._plans[key]

    def hook_points(self, model: nn.Module, size: Size) -> HookPoints:
        """Where to look in the network of that size; found once for each."""
        key = _key(size)
        if key not in self._points:
            self._points[key] = hook_points(model, self.inputs)
        return self._points[key]

    @cached_property
    def _plans(self) -> dict[Any, Plan]:
        return {}

    @cached_property
    def _points(self) -> dict[Any, HookPoints]:
        return {}

    @cached_property
    def base(self) -> dict[str, Any]:
        """The base's shapes, init and trace; of the smallest depth that has a block of each kind, from depth 1 on.

        A plain net of one layer has no hidden layer, and a stage of one block only the block that begins it: neither
        can be the base of a deeper one, nor be measured with them.

        Raises:
            InvalidValueError: The smallest depth of several has not a block of each kind.
        """
        size = self.smallest
        if "depth" not in size:
            return shapes(self.build(0, **size), self.inputs)
        depths = sorted(self.axes["depth"])
        lacks_a_kind = False
        for depth in sorted({1, *depths}):
            # Whatever goes wrong, at the smallest depth it goes wrong once more and is heard.
            with contextlib.suppress(Exception):
                candidate = shapes(self.build(0, **{**size, "depth": depth}), self.inputs)
                # A kind that the second of the depths does not have yet comes with no depth.
                for other in depths[:2]:
                    read(self.build(0, **{**size, "depth": other}), candidate, self.inputs, self.roles)
                lacks_a_kind = depth > depths[0]
                if lacks_a_kind:
                    break
                return candidate
        if lacks_a_kind:
            raise InvalidValueError(
                f"at depth {depths[0]} the network has not a block of each kind that depth {depths[1]} has, and what "
                f"differs would be taken for an effect of depth: leave it out, `depths={depths[1:]}`"
            )
        return shapes(self.build(0, **size), self.inputs)

    # --- sizes ---
    @property
    def smallest(self) -> Size:
        """The smallest size of every axis."""
        return {axis: min(sizes) for axis, sizes in self.axes.items()}

    @property
    def largest(self) -> Size:
        """The largest size of every axis."""
        return {axis: max(sizes) for axis, sizes in self.axes.items()}

    def grid(self) -> list[Size]:
        """Every combination of sizes."""
        combinations = itertools.product(*self.axes.values())
        return [dict(zip(self.axes, sizes, strict=True)) for sizes in combinations]

    @property
    def fitted_axes(self) -> list[str]:
        """The axes with two sizes or more, along which an exponent can be fitted."""
        return [axis for axis, sizes in self.axes.items() if len(sizes) > 1]

    def line(self, axis: str) -> list[Size]:
        """The sizes along one axis: widths at the smallest depth, depths at the largest width."""
        fixed: Size = {}
        if axis != "width" and "width" in self.axes:
            fixed["width"] = self.largest["width"]
        if axis != "depth" and "depth" in self.axes:
            fixed["depth"] = self.smallest["depth"]
        return [{**fixed, axis: size} for size in self.axes[axis]]

    def lines(self) -> list[Size]:
        """The sizes along all fitted axes, each once.

        Raises:
            InvalidValueError: No axis has two sizes, or the factory makes the same network of different seeds.
        """
        if not self.fitted_axes:
            raise InvalidValueError("`widths` or `depths` must hold two sizes or more: an exponent needs them")
        sizes: list[Size] = []
        # The two lines cross where the width is largest and the depth smallest.
        for axis in self.fitted_axes:
            for size in self.line(axis):
                if size not in sizes:
                    sizes.append(size)
        self.check_seeds(sizes[0])
        return sizes

    def along(self, axis: str, values: xr.DataArray) -> tuple[list[int], np.ndarray]:
        """Sizes along an axis and the values there, (sizes, seeds)."""
        sizes = self.line(axis)
        rows = [values.sel(size).values for size in sizes]
        return [size[axis] for size in sizes], np.stack(rows)

    # --- runs ---
    def over(
        self,
        cells: Iterable[Cell],
        measure: Callable[[Cell, int], Found],
    ) -> list[list[Found]]:
        """measure(cell, seed) for each cell (a size, a learning rate): for each cell a list over the seeds."""
        todo = list(cells)
        found: list[list[Found]] = []
        for cell in todo:
            found.append([measure(cell, seed) for seed in self.seeds])
            if self.progress:
                self.progress(len(found) / len(todo))
        return found

    def summary(
        self,
        name: str,
        text: str,
        dims: Sequence[str],
        table: Sequence[Sequence[np.ndarray]],
    ) -> dict[str, Any]:
        """A variable of a dataset over the grid: the mean over seeds of what `over` found, and its standard error.

        Args:
            name, text: The variable, and what it is in words.
            dims: Those of each entry, beside the axes.
            table: An array for each size and seed.
        """
        mean, error = mean_and_se(np.array(table), axis=1)
        shape = [len(sizes) for sizes in self.axes.values()]
        shape += mean.shape[1:]
        dims = (*self.axes, *dims)
        of_mean = {"units": "1", "long_name": text}
        of_error = {"units": "1", "long_name": f"standard error of {name}"}
        return {
            name: (dims, mean.reshape(shape), of_mean),
            f"{name}_se": (dims, error.reshape(shape), of_error),
        }

    def step(
        self,
        model: nn.Module,
        steppers: Sequence[torch.optim.Optimizer],
        number: int,
    ) -> float:
        """Update `number` on the batch whose turn it is; returns the loss before it."""
        batch = self.batches[number % len(self.batches)]
        return descend(model, steppers, self.loss_fn, batch)

    def optimizers_of_plan(self, plan: Plan) -> list[torch.optim.Optimizer]:
        """Torch's optimizers of the named family, or the user's own class, over the groups of a plan."""
        groups = plan.param_groups()
        if isinstance(self.optimizer, str):
            return torch_optimizers.optimizers(self.family.name, groups)
        return [self.optimizer(groups)]

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """The optimizer that the user's function makes, or torch's of the named family over all parameters at `lr`.

        Raises:
            InvalidValueError: No such family.
        """
        if callable(self.optimizer):
            return [self.optimizer(model)]
        if self.optimizer not in FAMILIES:
            families = ", ".join(OPTIMIZERS)
            raise InvalidValueError(f"`optimizer` must be one of {families} or a function, got {self.optimizer!r}")
        groups = self.groups(model, lr=self.lr)
        return torch_optimizers.optimizers(self.family.name, groups)

    def groups(self, model: nn.Module, **options: Any) -> list[dict[str, Any]]:
        """Parameter groups that all have these options, for torch's optimizers of the family.

        Where another family must step beside it (Muon), that gets the first and the last linear layer called and
        whatever is no linear layer's weight.
        """
        if not self.family.beside:
            trained = [param for param in model.parameters() if param.requires_grad]
            return [{"params": trained, **options}]
        families = self.families(model)
        by_family: dict[OptimizerFamily, list[nn.Parameter]] = {self.family.name: [], self.family.beside: []}
        for name, param in model.named_parameters():
            if param.requires_grad:
                by_family[families[name]].append(param)
        groups: list[dict[str, Any]] = []
        # A family that steps nothing gets no optimizer.
        for family, params in by_family.items():
            if params:
                groups.append({"params": params, "optimizer": family, **options})
        return groups

    def families(self, model: nn.Module) -> dict[str, OptimizerFamily]:
        """Which family steps each parameter, by name; as in `groups`."""
        row = self.family
        if not row.beside:
            return {name: row.name for name, _ in model.named_parameters()}
        # By identity: a weight that two layers share is one parameter.
        linear = linear_layers(model)
        inner = called_layers(model, self.inputs[0])[1:-1]
        hidden = {id(linear[name].weight) for name in inner}
        families: dict[str, OptimizerFamily] = {}
        for name, param in model.named_parameters():
            families[name] = row.name if id(param) in hidden else row.beside
        return families


def _key(size: Size) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(size.items()))
