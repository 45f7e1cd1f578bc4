"""Does one optimizer step do the same at every size? Answered without training, by forward-mode derivatives.

For each role the first step of the optimizer, at the rule's own learning rates, is followed to first order: what it
does to its own layer at fixed input, to the pre-activations inside the branches, to the end of the residual stream
and to the output. Over widths and depths each effect is a power of the size; docs/theory.md, sections 4 and 5 say
which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from isoscale import checks
from isoscale.errors import InvalidValueError, unknown
from isoscale.graph.anatomy import Roles
from isoscale.measure.tools.building import Factory, pair
from isoscale.measure.tools.experiment import Experiment, Progress, Size
from isoscale.measure.tools.noise import made_by_noise
from isoscale.measure.tools.notes import crowded, notes_over_sizes
from isoscale.measure.tools.passes import Batch, LossFn
from isoscale.measure.tools.slopes import (
    DEPENDS,
    SAME,
    UNDECIDED,
    Answer,
    Effect,
    Thresholds,
    answer,
    judged,
    undecided,
)
from isoscale.measure.tools.stepped import QUANTITIES, By, Stepped, stepped
from isoscale.scaling import rules
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import Rule

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What one step does at each size, and the exponents of that.

    Attributes:
        exponents: A row for each role (or tensor), quantity and axis: columns role, (tensor,) quantity, axis,
            exponent, low, high (95 % interval), expected, verdict.
        data: Dataset with own_update, branch_update, stream_update, output_update(role or tensor, width, depth, seed),
            root mean squares to first order in a step at base learning rate 1; stream(width, depth, seed), that of the
            stream's end at initialisation where a norm divides by it. NaN where the grid was not measured.
        notes: What a reader should know about the model.
        experiment, rule: What was measured, under which rule; `suggest` measures it again under others.
        thresholds: What the verdicts were reached with.
    """

    exponents: pd.DataFrame
    data: xr.Dataset
    notes: tuple[str, ...]
    experiment: Experiment = field(repr=False)
    rule: Rule = field(repr=False)
    thresholds: Thresholds = field(default_factory=Thresholds)

    @property
    def answer(self) -> Answer:
        """Whether one step does the same at every size."""
        found = answer(self.exponents)
        if found == SAME and any(True for _ in _without_signal(self.exponents)):
            return UNDECIDED
        return found

    @property
    def ok(self) -> bool:
        """Whether no exponent that was measured is off, and every role has one."""
        return self.answer != DEPENDS and not any(True for _ in _without_signal(self.exponents))

    def _repr_html_(self) -> str:
        return self.exponents.to_html(index=False, escape=True, float_format="{:.2f}".format)


def audit(
    make_model: Factory,
    batch: Batch,
    loss_fn: LossFn,
    *,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    rule: str | Rule = "completep",
    optimizer: str | type = "sgd",
    seeds: int | Sequence[int] = 3,
    by: By = "role",
    roles: Roles | None = None,
    thresholds: Thresholds | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Measure what the first step of each role does, over widths and depths, without training.

    Args:
        make_model: Called with `width` and `depth` (those that are given) and with `seed` if it takes one.
        batch: (x, y).
        loss_fn: loss_fn(model(x), y) is the loss, one number.
        widths, depths: Sizes, three or more for a useful interval. Widths are measured at the smallest depth, depths
            at the largest width; the rule's base has the smallest width and one block. None: the factory takes no
            such argument.
        rule: A name of `isoscale.rules.names()`, or a Rule.
        optimizer: Family or class, as in `isoscale.parametrize`.
        seeds: How many (0, 1, ...) or which.
        by: "role", or "tensor" for one row each kind of tensor (all blocks together).
        roles: Glob pattern -> role, as for `isoscale.parametrize`.
        thresholds: When an exponent is one; see `Thresholds`.
        progress: Called with the share that is done.

    Returns:
        `Audit`. Direct updates ("own_update") are relative, |Delta W x| / |W x|, for weight matrices and absolute for
        vector-like parameters; the other three quantities are root mean squares of first-order changes. Expected is
        0, but for a branch's output projection in depth (b - 1, if its branch starts at size L^-b: its updates add up,
        its noise does not) and a mean-field readout in width (1/2: its output starts at n^-1/2).

    Raises:
        InvalidValueError, InvalidTypeError, PlanError, TraceError: As `isoscale.parametrize`; no axis with two sizes.

    Source: docs/theory.md, section 4.

    >>> import torch
    >>> from isoscale.models import ResidualMLP
    >>> make = lambda depth, seed: ResidualMLP(4, 1, width=64, depth=depth, seed=seed)
    >>> batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.ones(8, 1)
    >>> found = audit(make, batch, lambda f, y: (f - y).square().mean(), depths=[4, 8, 16, 32], rule="depth-mup")
    >>> found.exponents.set_index(["role", "quantity"]).loc[("branch_internal", "own_update"), "verdict"][:15]
    'vanishes like L'
    """
    if by not in get_args(By):
        raise unknown("`by`", by, get_args(By))
    experiment = Experiment.of(
        make_model,
        [pair(batch, "`batch` must be a pair (x, y)")],
        loss_fn,
        axes={"width": checks.sizes("widths", widths), "depth": checks.sizes("depths", depths)},
        seeds=seeds,
        rule=rules.get(rule),
        optimizer=optimizer,
        roles=roles,
        progress=progress,
    )
    return audited(experiment, by, thresholds or Thresholds())


def audited(experiment: Experiment, by: By, thresholds: Thresholds) -> Audit:
    """Audit an experiment under its rule."""
    rule = experiment.rule
    assert rule is not None
    sizes = experiment.lines()
    networks = experiment.over(sizes, lambda size, seed: stepped(experiment, by, seed, size))
    roles: dict[str, Role] = {}
    methods: dict[str, None] = {}
    for of_seeds in networks:
        for network in of_seeds:
            roles |= network.roles
            if network.method:
                methods[network.method] = None
    data = _dataset(experiment, by, sizes, networks)
    carried: set[str] = set()
    for of_seeds in networks:
        for network in of_seeds:
            carried |= network.carried
    effects = list(_effects(experiment, rule, data, roles, carried))
    exponents = judged(effects, thresholds, crowded=crowded(experiment))
    notes = (
        *notes_over_sizes(experiment, exponents),
        *methods,
        *_not_hooked(data),
        *_without_signal(exponents),
        *undecided(exponents),
    )
    return Audit(
        exponents=exponents,
        data=data,
        notes=notes,
        experiment=experiment,
        rule=rule,
        thresholds=thresholds,
    )


# --- all networks ---
def _dataset(
    experiment: Experiment,
    by: By,
    sizes: list[Size],
    networks: list[list[Stepped]],
) -> xr.Dataset:
    import xarray as xr

    assert experiment.rule is not None
    first = networks[0][0]
    labels = list(first.effects["own_update"])
    for size, (network, *_) in zip(sizes, networks, strict=True):
        differing = first.roles.items() ^ network.roles.items()
        if differing:
            named = ", ".join(sorted({label for label, _ in differing}))
            raise InvalidValueError(
                f"between {_words(sizes[0])} and {_words(size)} the tensors change their roles ({named}): "
                "no exponent runs through both, leave out the smaller"
            )
    coords: dict[str, list[Any]] = {
        by: labels,
        **experiment.axes,
        "seed": experiment.seeds,
    }
    shape = [len(values) for values in coords.values()]
    # Only the two lines of sizes are measured; the rest of the grid stays NaN.
    nothing = {quantity: (tuple(coords), np.full(shape, np.nan)) for quantity in QUANTITIES}
    nothing["stream"] = (tuple(coords)[1:], np.full(shape[1:], np.nan))
    data = xr.Dataset(
        nothing,
        coords,
        attrs={
            "rule": experiment.rule.name,
            "optimizer": experiment.family.name,
            "lr": experiment.lr,
        },
    )
    for size, of_seeds in zip(sizes, networks, strict=True):
        for seed, network in zip(experiment.seeds, of_seeds, strict=True):
            at = {**size, "seed": seed}
            for quantity, values in network.effects.items():
                data[quantity].loc[at] = [values[label] for label in labels]
            data["stream"].loc[at] = network.stream
    return data


def _words(size: Size) -> str:
    return ", ".join(f"{axis} {number}" for axis, number in size.items())


def _effects(
    experiment: Experiment,
    rule: Rule,
    data: xr.Dataset,
    roles: dict[str, Role],
    carried: set[str],
) -> Iterator[Effect]:
    by = _by(data)
    for label in data[by].values.tolist():
        named = {"role": str(roles[label])}
        if by == "tensor":
            named["tensor"] = label
        for quantity in QUANTITIES:
            values = data[quantity].sel({by: label})
            for axis in experiment.fitted_axes:
                sizes, at_sizes = experiment.along(axis, values)
                yield Effect(
                    named={**named, "quantity": quantity, "axis": axis},
                    sizes=sizes,
                    values=at_sizes,
                    expected=expectation(roles[label], quantity, axis, rule, ends_branch=label in carried),
                    noise=made_by_noise(experiment, axis, data["stream"]),
                )


def expectation(role: Role, quantity: str, axis: str, rule: Rule, *, ends_branch: bool) -> float:
    """The exponent with which a network trains alike at every size."""
    if quantity != "own_update":
        return 0.0
    if axis == "depth" and ends_branch:
        # L updates of 1/L, relative to a start of size L^-b. A bias or norm scale is measured before the branch's
        # multiplier; how its entries start does not matter.
        start = rule.depth.branch
        if role is Role.BRANCH_LAST:
            start += rule.depth.init_last
        return -1.0 - start
    if axis == "width" and role is Role.OUTPUT:
        # |W x| starts at n^(1/2) times the readout's own size, and the update keeps it at 1.
        start_of_readout = rule.factors(Role.OUTPUT, "sgd", width=2.0)
        power = np.log2(start_of_readout.init_std * start_of_readout.multiplier)
        return 0.0 - (power + 0.5)
    return 0.0


# --- what to say of it ---
def _by(data: xr.Dataset) -> str:
    return "role" if "role" in data.dims else "tensor"


def _not_hooked(data: xr.Dataset) -> Iterator[str]:
    """Direct updates and streams that no module shows."""
    by = _by(data)
    others = [dim for dim in data.dims if dim != by]
    missing = data["own_update"].isnull().all(others)
    if bool(missing.any()):
        labels = data[by].values[missing.values]
        yield f"direct updates that no module shows: {', '.join(map(str, labels))}"
    if bool(data["stream_update"].isnull().all()):
        yield "no submodule is given or returns the residual stream: its updates were not measured"


def _without_signal(exponents: pd.DataFrame) -> Iterator[str]:
    """Roles (or tensors) that do nothing at all, and so cannot be judged."""
    by = "tensor" if "tensor" in exponents else "role"
    # An exponent is NaN where the effect is 0 or has not been seen; with all of them NaN there is no verdict.
    missing = exponents["exponent"].isnull()
    silent = missing.groupby(exponents[by], sort=False).all()
    if bool(silent.any()):
        yield (
            f"nothing to judge, as the step does nothing that is seen: {', '.join(silent.index[silent])}. "
            "A readout that starts at zero sends no gradient back: give it its mean-field size for the audit"
        )
