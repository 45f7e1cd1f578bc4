"""Steppers against torch.optim in float64, alone and stacked."""

import math

import pytest
import torch

from isoscale.errors import InvalidValueError
from isoscale.scaling.factors import Factors
from isoscale.scaling.roles import Role
from isoscale.training import Optimizer
from isoscale.training.steppers import orthogonalize, stepper
from planned import planned

F64 = torch.float64
LRS = torch.tensor([0.003, 0.03, 0.3], dtype=F64)
STEPS = 12


def gradients():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(STEPS, len(LRS), 5, 4, generator=generator, dtype=F64)


def start():
    return torch.linspace(-1, 1, len(LRS) * 20, dtype=F64).reshape(len(LRS), 5, 4).clone()


def ours(optimizer, role=Role.BRANCH_INTERNAL):
    param = start()
    plan = planned(optimizer, role, Factors(lr=0.5, eps=0.1))
    one = stepper(param, [plan] * len(LRS), LRS.tolist())
    for grad in gradients():
        one.step(grad)
    return param


def torchs(make):
    """torch.optim on each member alone."""
    members = []
    for member, lr in enumerate(LRS):
        param = start()[member].requires_grad_()
        optimizer = make([param], lr.item() * 0.5)
        for grad in gradients():
            param.grad = grad[member].clone()
            optimizer.step()
        members.append(param.detach())
    return torch.stack(members)


CASES = {
    "sgd": (Optimizer(), lambda p, lr: torch.optim.SGD(p, lr=lr)),
    "sgd momentum and decay": (
        Optimizer(momentum=0.9, weight_decay=0.1),
        lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=0.1),
    ),
    "adam": (Optimizer(family="adam", eps=1e-2), lambda p, lr: torch.optim.Adam(p, lr=lr, eps=1e-3)),
    "adam with coupled decay": (
        Optimizer(family="adam", betas=(0.8, 0.9), weight_decay=0.1, eps=1e-7),
        lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.8, 0.9), eps=1e-8, weight_decay=0.1),
    ),
    "adamw": (
        Optimizer(family="adamw", weight_decay=0.1, eps=1e-7),
        lambda p, lr: torch.optim.AdamW(p, lr=lr, eps=1e-8, weight_decay=0.1),
    ),
    # Without momentum, sign descent is Adam with both betas 0 and no eps.
    "sign": (
        Optimizer(family="sign", momentum=0.0),
        lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.0, 0.0), eps=0.0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_are_torchs(case):
    optimizer, make = CASES[case]
    torch.testing.assert_close(ours(optimizer), torchs(make), rtol=1e-12, atol=1e-12)


def test_muon_is_torchs_up_to_its_bfloat16():
    optimizer = Optimizer(family="muon", momentum=0.9, weight_decay=0.1)
    found = ours(optimizer) - start()
    expected = torchs(lambda p, lr: torch.optim.Muon(p, lr=lr, momentum=0.9, weight_decay=0.1)) - start()
    # Five Newton-Schulz iterations amplify bfloat16's 2^-9 by their slope at zero, up to 3.44^5 on the smallest
    # singular values; on the whole update a few per cent remain.
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_muon_leaves_other_roles_to_adamw():
    muon, adamw = Optimizer(family="muon", weight_decay=0.1), Optimizer(family="adamw", weight_decay=0.1)
    for role in (Role.INPUT, Role.OUTPUT, Role.VECTOR):
        torch.testing.assert_close(ours(muon, role), ours(adamw, role), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9), (3, 7, 5)])
def test_orthogonalize_evens_out_the_singular_values(shape):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(*shape, generator=generator, dtype=F64)
    found = torch.linalg.svdvals(orthogonalize(matrix))
    original = torch.linalg.svdvals(matrix)
    # What five quintic steps leave of singular values above 1 % of the norm, as Muon's authors state.
    well = original > 0.01 * torch.linalg.matrix_norm(matrix).unsqueeze(-1)
    assert found[well].min() > 0.6
    assert found.max() < 1.3
    assert torch.equal(orthogonalize(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_vectors_do_not_decay():
    decayed = Optimizer(family="adamw", weight_decay=10.0)
    plain = Optimizer(family="adamw")
    torch.testing.assert_close(ours(decayed, Role.BRANCH_VECTOR), ours(plain, Role.BRANCH_VECTOR), rtol=0, atol=0)
    assert not torch.allclose(ours(decayed, Role.OUTPUT), ours(plain, Role.OUTPUT))


@pytest.mark.parametrize("family", ["sgd", "adam", "adamw", "sign", "muon"])
def test_nan_in_one_member_touches_no_other(family):
    param, clean = start(), start()
    optimizer = Optimizer(family=family)
    plans = [planned(optimizer, Role.HIDDEN)] * len(LRS)
    poisoned, pure = (stepper(p, plans, LRS.tolist()) for p in (param, clean))
    for step, grad in enumerate(gradients()):
        pure.step(grad.clone())
        grad[1] = math.nan if step == 3 else grad[1]
        poisoned.step(grad)
    assert param[1].isnan().all()
    torch.testing.assert_close(param[[0, 2]], clean[[0, 2]], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"family": "sdg"}, "Nearest: sgd"),
        ({"family": "adam", "momentum": 0.9}, "`momentum` is not an option of adam"),
        ({"momentum": 1.0}, "`momentum`"),
        ({"betas": (0.9, 1.0)}, "`betas`"),
        ({"eps": 0.0}, "`eps`"),
        ({"weight_decay": -0.1}, "`weight_decay`"),
        ({"weight_decay": math.nan}, "`weight_decay`"),
    ],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(InvalidValueError, match=named):
        Optimizer(**settings)
