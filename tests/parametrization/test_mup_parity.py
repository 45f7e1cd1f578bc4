"""Against mup 1.0.0: the same invariants, and from the same function at step 0 the same training.

mup keeps its multipliers in the forward (1/m in MuReadout, 1/d in attention), we fold them into init and groups: so
columns differ and only what a symmetry leaves alone is compared (DESIGN.md, "What a plan promises").

Where mup does otherwise than the papers, it is met here on its own ground:
* Adam's eps is not scaled. Both get an eps too small to matter.
* MuAdam multiplies the decay of hidden maps by m for torch's Adam too, whose decay is part of the gradient and so is
  not in proportion to the learning rate. Adam is compared without decay; SGD and AdamW with it.
* It decays biases and norm gains, we never do. mup gets them in a group of their own without decay.
* MuReadout multiplies its bias by sqrt(m) at init, where ours keeps the base's size. Both start from mup's bias.
* It knows no head size: its users write 1/d themselves, with sqrt(base head size) before it for the base to be their
  tuned model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mup_models import CLASSES, FEATURES, TOKENS, VOCABULARY, Perceptron, ResidualPerceptron, Transformer
from torch import Tensor, nn
from torch.nn import functional as F

import isoscale

mup = pytest.importorskip("mup")

BASE, DELTA, TARGET = 8, 16, 24
M = TARGET / BASE
STEPS = 25
TINY = 1e-30  # an eps that no gradient here feels, whatever it is multiplied by
MODELS = {"mlp": Perceptron, "residual mlp": ResidualPerceptron, "transformer": Transformer}
OPTIMIZERS: dict[str, tuple[Callable[..., Any], type, dict[str, float], dict[str, float]]] = {
    "sgd": (mup.MuSGD, torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.02}, {"momentum": 0.9}),
    "adam": (mup.MuAdam, torch.optim.Adam, {"lr": 3e-3, "eps": TINY}, {}),
    "adamw": (mup.MuAdamW, torch.optim.AdamW, {"lr": 3e-3, "weight_decay": 0.1, "eps": TINY}, {}),
}


def _batch(kind: str) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    if kind == "transformer":
        tokens = torch.randint(VOCABULARY, (4, TOKENS + 1), generator=draw)
        return tokens[:, :-1], tokens[:, 1:].flatten()
    x = torch.randn(16, FEATURES, generator=draw, dtype=torch.float64)
    return x, torch.randint(CLASSES, (16,), generator=draw)


def _mups(kind: str) -> nn.Module:
    """The target as mup's users make it."""
    extra = {"base_head": BASE // 2} if kind == "transformer" else {}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        base, delta, target = (MODELS[kind](n, mup.MuReadout, **extra).double() for n in (BASE, DELTA, TARGET))
    mup.set_base_shapes(target, base, delta=delta)
    return target


def _multipliers(kind: str, theirs: nn.Module) -> dict[str, float]:
    """mup's multipliers by the weight that they act on: what ours have folded in."""
    queries = [name for name, _ in theirs.named_parameters() if ".query." in name]
    return {"readout.weight": 1 / M} | dict.fromkeys(queries, M**-0.5)


def _ours(kind: str, optimizer: str, theirs: nn.Module, rule: str = "mup") -> tuple[nn.Module, isoscale.Plan]:
    """The plain model with its plan, then set to mup's function."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        base, model = (MODELS[kind](n).double() for n in (BASE, TARGET))
    tuned = OPTIMIZERS[optimizer][2]
    plan = isoscale.parametrize(model, base, rule, optimizer, example_inputs=(_batch(kind)[0],), **tuned)
    folded = _multipliers(kind, theirs)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(theirs.get_parameter(name) * folded.get(name, 1.0))
    return model, plan


def _mu_optimizer(optimizer: str, model: nn.Module) -> torch.optim.Optimizer:
    make, _, tuned, more = OPTIMIZERS[optimizer]
    maps = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return make([{"params": maps}, {"params": vectors, "weight_decay": 0.0}], **tuned, **more)


def _losses(model: nn.Module, optimizer: torch.optim.Optimizer, kind: str) -> Tensor:
    x, y = _batch(kind)
    losses = []
    for _ in range(STEPS + 1):
        loss = F.cross_entropy(model(x).flatten(0, -2), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
def test_same_trajectory(kind, optimizer):
    """The two differ by rounding: 1e-16 a step, amplified by training; 1e-9 leaves seven digits for that."""
    theirs = _mups(kind)
    model, plan = _ours(kind, optimizer, theirs)
    _, cls, _, more = OPTIMIZERS[optimizer]
    own = _losses(model, cls(plan.param_groups(), **more), kind)
    expected = _losses(theirs, _mu_optimizer(optimizer, theirs), kind)
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-9)
    assert expected[-1] < 0.9 * expected[0]  # it did train


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_was_written_for_mup_may_stay_as_it_is(kind, optimizer):
    """MuReadout and 1/d attention stay in the forward: with the plan's groups it trains as under mup's optimizer."""
    theirs, ours = _mups(kind), _mups(kind)
    extra = {"base_head": BASE // 2} if kind == "transformer" else {}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        base = MODELS[kind](BASE, mup.MuReadout, **extra).double()
    mup.set_base_shapes(base, base)
    _, cls, tuned, more = OPTIMIZERS[optimizer]
    plan = isoscale.parametrize(ours, base, "mup", optimizer, example_inputs=(_batch(kind)[0],), **tuned)
    assert plan.forward_multipliers["readout.weight"] == pytest.approx((1.0, 1 / M))
    assert {entry.multiplier for entry in plan.entries} == {1.0}
    ours.load_state_dict(theirs.state_dict())
    own = _losses(ours, cls(plan.param_groups(), **more), kind)
    torch.testing.assert_close(own, _losses(theirs, _mu_optimizer(optimizer, theirs), kind), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", MODELS)
def test_another_rule_has_another_trajectory(kind):
    """The comparison is sharp: from the same function, sp's learning rates part at once."""
    theirs = _mups(kind)
    model, plan = _ours(kind, "adamw", theirs, rule="sp")
    own = _losses(model, torch.optim.AdamW(plan.param_groups()), kind)
    expected = _losses(theirs, _mu_optimizer("adamw", theirs), kind)
    assert (own - expected)[1:5].abs().max() > 1e-3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
def test_same_invariants(kind, optimizer):
    """multiplier x lr (Adam family), multiplier^2 x lr (SGD), lr x weight_decay; ours have multiplier 1."""
    theirs = _mups(kind)
    multipliers = _multipliers(kind, theirs)
    table = _ours(kind, optimizer, theirs)[1].table().set_index("name")
    found = _groups_by_name(theirs, _mu_optimizer(optimizer, theirs))
    power = 2 if optimizer == "sgd" else 1
    for name, group in found.items():
        c = multipliers.get(name, 1.0)
        assert table.lr[name] == pytest.approx(c**power * group["lr"], rel=1e-12), name
        own_decay = table.lr[name] * table.weight_decay[name]
        assert own_decay == pytest.approx(group["lr"] * group["weight_decay"], rel=1e-12), name


@pytest.mark.parametrize("kind", MODELS)
def test_eps_is_what_mup_leaves_out(kind):
    """eps / multiplier is to follow the gradient's size, 1/m for every map and vector of the width; mup keeps 1."""
    theirs = _mups(kind)
    multipliers = _multipliers(kind, theirs)
    table = _ours(kind, "adam", theirs)[1].table().set_index("name")
    for name, group in _groups_by_name(theirs, _mu_optimizer("adam", theirs)).items():
        grows = theirs.get_parameter(name).infshape.ninf() > 0
        assert group["eps"] == TINY
        assert table.eps[name] * multipliers.get(name, 1.0) == pytest.approx(TINY / (M if grows else 1), rel=1e-12)


@pytest.mark.parametrize("kind", MODELS)
def test_same_init(kind):
    """multiplier x init_std: both draw by torch's law, so root mean squares agree within five standard errors.

    A uniform draw's rms has relative standard error sqrt(1/5N) < sqrt(1/2N); ours is the base's, drawn apart, times
    an exact factor, so the smaller base tensor counts as well. The readout's bias is left out (see above).
    """
    theirs = _mups(kind)
    multipliers = _multipliers(kind, theirs)
    table = _ours(kind, "adam", theirs)[1].table().set_index("name")
    for name, parameter in theirs.named_parameters():
        if name == "readout.bias" or "norm" in name or name.endswith("0.bias"):
            continue
        rms = parameter.detach().square().mean().sqrt().item() * multipliers.get(name, 1.0)
        error = math.sqrt(1 / (2 * parameter.numel()) + 1 / (2 * math.prod(table.base_shape[name])))
        assert abs(math.log(table.init_std[name] / rms)) < 5 * error, name


def _groups_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
