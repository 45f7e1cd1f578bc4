"""The step of each family is the first step that its optimizer takes."""

import pytest
import torch

from isoscale.errors import InvalidValueError
from isoscale.measure import optimizer_step

GRAD = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LR = 2.0**-10


def first_step(optimizer, lr=LR, **options):
    param = torch.nn.Parameter(torch.zeros_like(GRAD))
    param.grad = GRAD.clone()
    optimizer([param], lr=lr, **options).step()
    return param.detach() / lr


@pytest.mark.parametrize(
    ("family", "optimizer", "options"),
    [
        ("sgd", torch.optim.SGD, {}),
        ("adam", torch.optim.Adam, {"eps": 0.1}),
        ("adamw", torch.optim.AdamW, {"eps": 0.1, "weight_decay": 0.0}),
    ],
)
def test_equals_torchs_first_step(family, optimizer, options):
    step = optimizer_step({"w": GRAD}, family, eps=0.1)["w"]
    torch.testing.assert_close(step, first_step(optimizer, **options), rtol=1e-12, atol=1e-12)


def test_sign():
    assert torch.equal(optimizer_step({"w": GRAD}, "sign")["w"], -GRAD.sign())


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (4, 2, 3)])
def test_muon_is_orthogonal_and_scaled_by_fans(shape):
    step = optimizer_step({"w": GRAD.reshape(shape)}, "muon")["w"].flatten(1)
    sizes = torch.linalg.svdvals(step)
    gain = max(1.0, shape[0] / (24 / shape[0])) ** 0.5
    torch.testing.assert_close(sizes, torch.full_like(sizes, gain))
    # The polar factor is the orthogonal matrix nearest to the gradient: its inner product is the nuclear norm.
    aligned = -(step * GRAD.reshape(shape).flatten(1)).sum()
    torch.testing.assert_close(aligned, gain * torch.linalg.svdvals(GRAD.reshape(shape).flatten(1)).sum())


def test_muon_is_near_torchs():
    # Torch runs Newton-Schulz in bfloat16: singular values between 0.7 and 1.2, directions right to some percent.
    ours = optimizer_step({"w": GRAD}, "muon")["w"]
    theirs = first_step(torch.optim.Muon, weight_decay=0.0)
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.97
    assert 0.7 < theirs.norm() / ours.norm() < 1.2


def test_muon_leaves_directions_without_gradient_still():
    column, row = GRAD[:, :1].float(), GRAD[:1].float()
    step = optimizer_step({"w": column @ row, "zero": torch.zeros(6, 4)}, "muon")
    assert torch.linalg.matrix_rank(step["w"]) == 1
    torch.testing.assert_close(torch.linalg.matrix_norm(step["w"], 2).item(), 1.5**0.5)
    assert torch.equal(step["zero"], torch.zeros(6, 4))


def test_muon_steps_the_rest_by_adam():
    grads = {"hidden": GRAD, "embedding": GRAD, "bias": GRAD[0]}
    steps = optimizer_step(grads, "muon", hidden={"hidden"})
    adam = optimizer_step(grads, "adam")
    assert torch.equal(steps["embedding"], adam["embedding"])
    assert torch.equal(steps["bias"], adam["bias"])
    assert not torch.equal(steps["hidden"], adam["hidden"])


@pytest.mark.parametrize("family", ["sgd", "adam", "sign", "muon"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_and_half(family, dtype):
    grad = torch.zeros(3, 3, dtype=dtype)
    grad[0, 0] = 1
    step = optimizer_step({"w": grad}, family)["w"]
    assert step.dtype is dtype
    torch.testing.assert_close(step, -grad)


def test_unknown_family():
    with pytest.raises(InvalidValueError, match="no optimizer family named 'sdg'"):
        optimizer_step({}, "sdg")
