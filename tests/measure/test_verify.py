"""A plan that checks itself: correct plans pass, misreadings are named, and it costs a few training steps."""

from __future__ import annotations

import importlib
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import isoscale
from isoscale.errors import InvalidTypeError, InvalidValueError, PlanError
from isoscale.measure import verify
from isoscale.measure.tools.first_step import first_step
from isoscale.measure.tools.promises import QUANTITIES, promised
from isoscale.models import ResidualMLP
from isoscale.scaling import rules
from isoscale.scaling.optimizers import OPTIMIZERS
from isoscale.scaling.roles import Role

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
WIDTHS, DEPTHS = [32, 64, 128], [2, 4, 8]


def mlp(width: int = 32, depth: int = 2, seed: int = 0, **options: object) -> nn.Module:
    return ResidualMLP(6, 3, width=width, depth=depth, seed=seed, norm="layer", **options)


class Tokens(nn.Module):
    """An embedding, residual blocks, a readout; the embedding may be multiplied by the root of the width."""

    def __init__(self, width: int, root: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(2)
        )
        self.readout = nn.Linear(width, 11, bias=False)
        self.factor = math.sqrt(width) if root else 1.0
        # Not read off the trace: it comes from a table that was made beforehand.
        self.register_buffer("table", torch.full((1,), self.factor))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens) * float(self.factor)
        for block in self.blocks:
            h = h + block(h)
        return self.readout(h)


TEXT = torch.arange(8).reshape(2, 4)


# --- what one step does, in closed form ---
def test_direct_effects_of_a_step() -> None:
    """A linear layer with a bias, a gain, and numbers behind the layer: Delta W x, Delta b, (Delta g) z."""
    layer, norm = nn.Linear(6, 5), nn.LayerNorm(5)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = layer, norm

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.layer(x) / 4) * 2.0

    model = Net()
    steps = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    found = first_step(model, (X,), steps)
    expected = {
        "layer.weight": (X @ steps["layer.weight"].T / 4),
        "layer.bias": steps["layer.bias"] / 4,
        "norm.weight": steps["norm.weight"] * nn.functional.layer_norm(layer(X) / 4, (5,)),
        "norm.bias": steps["norm.bias"],
    }
    for name, change in expected.items():
        assert found.update[name] == pytest.approx(_rms(change), rel=1e-4), name
    assert found.start["layer.weight"] == pytest.approx(_rms(X @ layer.weight.T / 4), rel=1e-4)


def _rms(tensor: Tensor) -> float:
    return float(tensor.detach().square().mean().sqrt())


def test_layers_of_any_kind_are_followed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(6, 5, batch_first=True)
            self.attention = nn.MultiheadAttention(5, 1, batch_first=True)
            self.pair = nn.Bilinear(5, 5, 4)

        def forward(self, x: Tensor) -> Tensor:
            h, _ = self.lstm(x[None])
            h = h + self.attention(h, h, h)[0]
            return self.pair(h, h)

    model = Net()
    steps = {name: 1e-3 * torch.ones_like(p) for name, p in model.named_parameters()}
    found = first_step(model, (X,), steps)
    assert set(found.update) == set(steps)
    assert not found.missed
    assert all(change > 0 for change in found.update.values())


# --- what is promised ---
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_mup_and_completep_are_flat_by_their_own_table(optimizer: str) -> None:
    """Update and loss of every kind, from the rules' exponents alone (docs/theory.md, section 5)."""

    class Entry:
        fan_in = fan_out = 4.0

    for role in (Role.INPUT, Role.HIDDEN, Role.VECTOR, Role.BRANCH_INTERNAL, Role.BRANCH_LAST):
        entry = Entry()
        entry.carries = role is Role.BRANCH_LAST
        entry.optimizer = "adamw" if optimizer == "muon" and not role.is_hidden_map else optimizer
        in_width = promised(rules.get("mup"), entry, role, "width")
        assert [in_width[name] for name in ("start", "update", "loss")] == [0, 0, 0]
        in_depth = promised(rules.get("completep"), entry, role, "depth")
        # One of L updates that add up.
        assert in_depth["update"] == (-1 if entry.carries else 0)
        assert in_depth["loss"] == 0
        assert set(in_depth) == set(QUANTITIES)


def test_muon_on_a_layer_onto_a_fixed_size() -> None:
    """A router under Muon: its step is flat under every rule whose hidden layers' are."""

    class Router:
        optimizer, carries, fan_in, fan_out = "muon", False, 4.0, 1.0

    for rule in ("mup", "sp"):
        assert promised(rules.get(rule), Router(), Role.BRANCH_INTERNAL, "width")["action"] == 0


# --- verdicts ---
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_correct_plan_passes(optimizer: str) -> None:
    sizes = {"width": WIDTHS, "depth": DEPTHS}
    found = verify(mlp, X, sizes=sizes, optimizer=optimizer)
    assert found.open_items == ()
    assert found.kinds == 8
    assert set(found.exponents["axis"]) == {"width", "depth"}
    assert set(found.data.dims) == {"kind", "network"}


MISREAD = {
    "blocks.*.maps.0.weight": ("width", Role.INPUT, "hidden"),
    "blocks.*.maps.1.weight": ("depth", Role.HIDDEN, "branch_last"),
    "readout.weight": ("width", Role.INPUT, "output"),
}


@pytest.mark.parametrize("name", MISREAD)
def test_a_misreading_is_named_with_the_role_that_would_be_right(name: str) -> None:
    axis, wrong, right = MISREAD[name]
    sizes = {"width": [32], "depth": [2], axis: WIDTHS if axis == "width" else DEPTHS}
    found = verify(mlp, X, sizes=sizes, optimizer="sgd", roles={name: wrong})
    (item,) = found.open_items
    assert item.startswith(f"`{name}`:")
    assert f"Taken as {wrong}".replace("_", " ") in item
    assert f"as {right} it would be flat: roles={{{name!r}: {right!r}}}" in item


class PostNorm(nn.Module):
    """norm(h + block(h)), and so on."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.first, self.readout = nn.Linear(6, 32), nn.Linear(32, 3)
        self.maps = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for layer, norm in zip(self.maps, self.norms, strict=True):
            h = norm(h + torch.relu(layer(h)))
        return self.readout(h)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norms_on_the_stream_are_named_with_the_role_that_slows_them_down(optimizer: str) -> None:
    sizes = {"depth": [2, 4, 8, 16]}
    found = verify(PostNorm, X, sizes=sizes, optimizer=optimizer, roles={"norms.*": "vector"})
    assert any("`norms." in item and "as stream_vector it would be flat" in item for item in found.open_items)
    assert verify(PostNorm, X, sizes=sizes, optimizer=optimizer, roles={"norms.*": "stream_vector"}).ok


def test_a_number_that_no_plan_knows_of_is_named() -> None:
    """The embedding times sqrt(width) in training alone, which no trace for inference sees."""
    right = partial(Tokens, root=False)
    assert verify(lambda width, seed: right(width, seed=seed), TEXT, sizes={"width": WIDTHS}).ok

    def hooked(width: int, seed: int) -> nn.Module:
        model = Tokens(width, seed=seed)
        model.embed.register_forward_hook(lambda module, args, out: out * math.sqrt(width) if module.training else out)
        return model

    found = verify(hooked, TEXT, sizes={"width": WIDTHS})
    assert any("`embed.weight`" in item or "`blocks.*.0.weight`" in item for item in found.open_items)


def test_cost_in_training_steps() -> None:
    """Of all networks of one size together, in floating-point operations."""
    with FlopCounterMode(display=False) as checked:
        verify(mlp, X, sizes={"width": WIDTHS})
    with FlopCounterMode(display=False) as trained:
        for width in WIDTHS:
            mlp(width)(X).sum().backward()
    assert checked.get_total_flops() <= 10 * trained.get_total_flops()


def test_a_time_limit_is_kept_and_said() -> None:
    found = verify(mlp, X, sizes={"width": WIDTHS}, seconds=0.0)
    assert found.kinds == 0
    assert any("time limit" in note for note in found.notes)


def test_rules_that_keep_nothing_are_held_to_what_they_promise() -> None:
    """sp grows in width as its table says, and promises nothing of the depth."""
    found = verify(mlp, X, sizes={"width": WIDTHS, "depth": DEPTHS}, rule="sp")
    assert found.ok
    hidden = found.exponents.set_index(["kind", "quantity", "axis"]).loc[("blocks.*.maps.0.weight", "update", "width")]
    assert hidden["exponent"] == pytest.approx(1, abs=0.15)
    assert any("sp promises nothing along depth" in note for note in found.notes)


# --- parametrize(verify=...) ---
def test_parametrize_checks_itself() -> None:
    model, base = mlp(128, seed=1), mlp(32, seed=2)
    plan = isoscale.parametrize(model, base, lr=1e-3, verify=X)
    assert not plan.open_items
    assert "two sizes show no trend" in plan.notes[-1].lower()
    with pytest.raises(PlanError, match=r"`blocks.\*.maps.0.weight`: .* as hidden it would be flat"):
        isoscale.parametrize(
            mlp(128, seed=1),
            base,
            lr=1e-3,
            verify=X,
            example_inputs=(X,),
            roles={"blocks.*.maps.0.weight": Role.INPUT},
        )


def test_what_parametrize_cannot_verify_is_refused() -> None:
    model, base = mlp(64), mlp(32)
    with pytest.raises(InvalidTypeError, match="give it as a module"):
        isoscale.parametrize(model, isoscale.shapes(base, (X,)), lr=1e-3, verify=X)
    with torch.device("meta"):
        empty = nn.Linear(6, 3)
    with pytest.raises(InvalidValueError, match="`model` is on the meta device"):
        isoscale.parametrize(empty, nn.Linear(6, 3), lr=1e-3, verify=X)
    with pytest.raises(InvalidValueError, match="a power needs them"):
        verify(mlp, X, sizes={"width": [32]})


@pytest.mark.nightly
def test_error_rates_on_real_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred cases of the benchmark's: fewer than four false alarms, and 95 % of the faults are named."""
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    study = importlib.import_module("verify")
    chosen = study.Study(seed=95_000, cases=100, kept=tmp_path / "kept.jsonl", page=None)
    results = study.run(chosen, Console(quiet=True))
    correct = [result for result in results if not result.case.fault]
    faulty = [result for result in results if result.case.fault and result.exists]
    # Of 25 plans with a rate of 2 %, four alarms or more have a chance below 0.2 %.
    assert sum(result.alarm for result in correct) < 4
    assert sum(result.named for result in faulty) >= 0.95 * len(faulty)
