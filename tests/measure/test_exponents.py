"""Rules by measurement find the exponents that theory knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isoscale
from isoscale.errors import InvalidValueError, PlanError
from isoscale.measure import MeasuredRule, exponents
from isoscale.models import ResidualMLP

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class LoRA(nn.Module):
    """A frozen network with one adapter B A on its hidden layer, B zero."""

    def __init__(self, rank: int, scale: Callable[[int], float], seed: int = 0) -> None:
        super().__init__()
        width = 64
        frozen = torch.Generator().manual_seed(7)
        self.first, self.hidden, self.last = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 3)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.normal_(generator=frozen).mul_(parameter[0].numel() ** -0.5)
        self.a = nn.Parameter(torch.randn(rank, width) / width**0.5)
        self.b = nn.Parameter(torch.zeros(width, rank))
        self.scale = scale(rank)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.hidden(h) + self.scale * ((h @ self.a.T) @ self.b.T)))


class Experts(nn.Module):
    """A residual sum, or mean, over experts of two layers."""

    def __init__(self, experts: int, mean: bool, seed: int = 0) -> None:
        super().__init__()
        width = 32
        self.first, self.last = nn.Linear(6, width), nn.Linear(width, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)) for _ in range(experts)
        )
        self.factor = 1 / experts if mean else 1.0

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        # Quiet, so that the number of experts does not change what the readout gets.
        return self.last(h + 0.05 * self.factor * sum(expert(h) for expert in self.experts))


def mlp(width: int = 64, depth: int = 2, seed: int = 0, norm: str | None = None) -> nn.Module:
    return ResidualMLP(6, 3, width=width, depth=depth, seed=seed, norm=norm, phi="tanh")


class Quiet(nn.Module):
    """A residual network with norms whose branches are a small part of the stream at every depth that is tried."""

    def __init__(self, depth: int, seed: int = 0) -> None:
        super().__init__()
        width = 48
        self.first, self.last, self.norm = nn.Linear(6, width), nn.Linear(width, 3), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = h + 0.1 * block(h)
        return self.last(self.norm(h))


IN, UP, DOWN, OUT = "input.weight", "blocks.*.maps.0.weight", "blocks.*.maps.1.weight", "readout.weight"
INNER, OUTER = "experts.*.0.weight", "experts.*.2.weight"
WIDTHS = {"width": [64, 128, 256, 512]}
RANKS = {"rank": [8, 16, 32, 64]}
EXPERTS = {"experts": [4, 8, 16, 32]}
DEPTHS = {"depth": [4, 8, 16, 32]}
# case -> (network, sizes, optimizer, learning rates' exponents, every multiplier folded)
KNOWN: Mapping[str, tuple[Any, Mapping[str, Sequence[int]], str, Mapping[str, float]]] = {
    "muP, Adam": (mlp, WIDTHS, "adamw", {IN: 0, UP: -1, DOWN: -1, OUT: -1}),
    "muP, SGD": (mlp, WIDTHS, "sgd", {IN: 1, UP: 0, DOWN: 0, OUT: -1}),
    "muP, Muon": (mlp, WIDTHS, "muon", {IN: 0, UP: 0, DOWN: 0, OUT: -1}),
    "CompleteP, Adam": (Quiet, DEPTHS, "adamw", {"blocks.*.1.weight": 0, "blocks.*.3.weight": -1, "last.weight": 0}),
    "CompleteP, SGD": (Quiet, DEPTHS, "sgd", {"blocks.*.1.weight": 1, "blocks.*.3.weight": -1, "last.weight": 0}),
    # B (A x) sums over the rank: the step of B acts like rank x scale, Adam's learning rate undoes that.
    "LoRA, alpha / r": (partial(LoRA, scale=lambda r: 8 / r), RANKS, "adamw", {"a": 0, "b": 0}),
    "LoRA, alpha / sqrt(r)": (partial(LoRA, scale=lambda r: r**-0.5), RANKS, "adamw", {"a": 0, "b": -0.5}),
    "LoRA, alpha / r, SGD": (partial(LoRA, scale=lambda r: 8 / r), RANKS, "sgd", {"a": 1, "b": 1}),
    # Each of E experts is 1 of E in the mean: so is its gradient, and all of them together move the output.
    "experts, mean, Adam": (partial(Experts, mean=True), EXPERTS, "adamw", {INNER: 0, OUTER: 0}),
    "experts, mean, SGD": (partial(Experts, mean=True), EXPERTS, "sgd", {INNER: 1, OUTER: 1}),
    # A sum of residual experts is a sum of branches: the mean comes out, its 1 / E folded into the last layers.
    "experts, sum, Adam": (partial(Experts, mean=False), EXPERTS, "adamw", {INNER: 0, OUTER: -1}),
}


@pytest.mark.nightly
@pytest.mark.parametrize("case", KNOWN)
def test_known_exponents_are_found_within_a_tenth(case: str) -> None:
    make, sizes, optimizer, known = KNOWN[case]
    found = exponents(make, X, sizes=sizes, optimizer=optimizer, seeds=8)
    (axis,) = sizes
    for kind, power in known.items():
        assert found.powers[axis][kind].lr == pytest.approx(power, abs=0.1), kind


@pytest.fixture(scope="module")
def in_width() -> MeasuredRule:
    return exponents(mlp, X, sizes={"width": [32, 64, 128]})


def test_mup_comes_out(in_width: MeasuredRule) -> None:
    powers = in_width.powers["width"]
    for kind, lr in {IN: 0, UP: -1, DOWN: -1, OUT: -1}.items():
        assert powers[kind].lr == pytest.approx(lr, abs=0.2), kind
    for kind, init in {IN: 0, UP: -0.5, DOWN: -0.5, OUT: -1}.items():
        assert powers[kind].init == pytest.approx(init, abs=0.2), kind
    table = in_width.table()
    assert (table["lr_low"] <= table["lr"]).all()


def test_a_plan_holds_the_measured_numbers(in_width: MeasuredRule, tmp_path) -> None:
    base, model = mlp(32), mlp(128)
    plan = isoscale.parametrize(model, base, "measured", lr=1e-3, weight_decay=0.1, measured=in_width.at(width=128))
    entry = next(entry for entry in plan.entries if entry.name == "blocks.1.maps.0.weight")
    assert entry.lr == pytest.approx(1e-3 * 4 ** in_width.powers["width"][UP].lr)
    assert entry.lr * entry.weight_decay == pytest.approx(1e-4)
    size = float(model.get_parameter(entry.name).detach().square().mean().sqrt())
    assert size == pytest.approx(entry.init_std, rel=0.1)
    plan.save(tmp_path / "plan.json")
    assert isoscale.Plan.load(tmp_path / "plan.json").diff(plan).empty


def test_two_networks_at_hand_are_measured_too() -> None:
    plan = isoscale.parametrize(mlp(128, seed=1), mlp(32, seed=2), "measured", lr=1e-3, verify=X)
    rates = {entry.name: entry.lr for entry in plan.entries}
    assert rates["blocks.0.maps.0.weight"] == pytest.approx(1e-3 / 4, rel=0.25)
    assert rates["input.weight"] == pytest.approx(1e-3, rel=0.25)


def test_what_was_not_measured_is_refused(in_width: MeasuredRule) -> None:
    with pytest.raises(InvalidValueError, match="no measured axis named 'depth'"):
        in_width.at(depth=4)
    with pytest.raises(PlanError, match="is of no kind that was measured"):
        isoscale.parametrize(
            nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)),
            nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)),
            "measured",
            lr=1e-3,
            measured=in_width.at(width=64),
            example_inputs=(X,),
        )
    with pytest.raises(InvalidValueError, match='goes with rule="measured"'):
        isoscale.parametrize(mlp(64), mlp(32), lr=1e-3, measured=in_width.at(width=64))
    with pytest.raises(InvalidValueError, match="needs `measured`, or `verify`"):
        isoscale.parametrize(mlp(64), mlp(32), "measured", lr=1e-3)
