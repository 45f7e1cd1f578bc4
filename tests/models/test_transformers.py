"""GPT and ViT against torch's own transformer layers, which know nothing of ours."""

import math

import pytest
import torch
import torch.nn.functional as F

from isoscale import models
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.models import GPT, ViT
from isoscale.scaling.roles import Role
from isoscale.training import stack
from roles import roles_of

F64 = torch.float64


def sample(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def tokens(*shape, vocab=7, seed=1):
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


def shaken(model):
    """Norms start as the identity: make gains and biases count."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(sample(*parameter.shape, seed=len(name)))
    return model


def torch_block(block, width, heads, norm_place):
    """torch's layer with our weights; it has biases, which are set to zero."""
    layer = torch.nn.TransformerEncoderLayer(
        width,
        heads,
        4 * width,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=norm_place == "pre",
        dtype=F64,
    )
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        layer.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
        layer.self_attn.out_proj.weight.copy_(block.attention.proj.weight)
        layer.linear1.weight.copy_(block.mlp.up.weight)
        layer.linear2.weight.copy_(block.mlp.down.weight)
    layer.norm1.load_state_dict(block.attention_norm.state_dict())
    layer.norm2.load_state_dict(block.mlp_norm.state_dict())
    return layer


@pytest.mark.parametrize("norm_place", ["pre", "post"])
def test_gpt_is_torchs_encoder_with_a_causal_mask(norm_place):
    model = shaken(GPT(7, 6, 8, 3, head_size=4, norm_place=norm_place, dtype=F64))
    x = tokens(2, 5)
    h = model.tokens.weight[x] + model.places.weight[:5]
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5, dtype=F64)
    for block in model.blocks:
        h = torch_block(block, 8, 2, norm_place)(h, src_mask=mask, is_causal=True)
    if norm_place == "pre":
        h = F.layer_norm(h, (8,), model.norm.weight, model.norm.bias)
    torch.testing.assert_close(model(x), h @ model.readout.weight.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm_place", ["pre", "post"])
def test_vit_is_a_strided_convolution_and_torchs_encoder(norm_place):
    model = shaken(ViT((3, 4, 6), 5, 8, 2, patch=2, head_size=4, norm_place=norm_place, dtype=F64))
    x = sample(2, 3, 4, 6)
    h = F.conv2d(x, model.patches.weight.view(8, 3, 2, 2), stride=2).flatten(2).mT + model.places.weight
    for block in model.blocks:
        h = torch_block(block, 8, 2, norm_place)(h)
    if norm_place == "pre":
        h = F.layer_norm(h, (8,), model.norm.weight, model.norm.bias)
    torch.testing.assert_close(model(x), h.mean(1) @ model.readout.weight.T, rtol=1e-9, atol=1e-9)


def test_no_token_sees_a_later_one():
    model = GPT(7, 6, 8, 2, head_size=4, dtype=F64)
    x = tokens(1, 6)
    changed = x.clone()
    changed[0, 4] = (x[0, 4] + 1) % 7
    same = (model(x) == model(changed)).all(-1)[0]
    assert same.tolist() == [True] * 4 + [False] * 2


MAKERS = [
    (lambda seed, **options: GPT(7, 6, 8, 2, head_size=4, seed=seed, dtype=F64, **options), (tokens(3, 5, 6))),
    (
        lambda seed, **options: ViT((2, 4, 4), 3, 8, 2, patch=2, head_size=4, seed=seed, dtype=F64, **options),
        sample(3, 5, 2, 4, 4),
    ),
]


@pytest.mark.parametrize(("make", "x"), MAKERS, ids=["gpt", "vit"])
@pytest.mark.parametrize(
    "options", [{}, {"norm_place": "post"}, {"norm": "rms"}, {"norm": None}, {"heads": 4, "phi": "relu"}], ids=str
)
def test_a_stack_is_its_members(make, x, options):
    members = [shaken(make(seed, **options)) for seed in range(3)]
    stacked = stack(members)
    together = stacked(x)
    torch.testing.assert_close(together, torch.stack([m(x[i]) for i, m in enumerate(members)]))
    grads = torch.autograd.grad(together.square().sum(), list(stacked.parameters()))
    alone = [torch.autograd.grad(m(x[i]).square().sum(), list(m.parameters())) for i, m in enumerate(members)]
    for index, grad in enumerate(grads):
        torch.testing.assert_close(grad, torch.stack([g[index] for g in alone]))


@pytest.mark.parametrize("norm_place", ["pre", "post"])
@pytest.mark.parametrize(("make", "x"), MAKERS, ids=["gpt", "vit"])
def test_every_parameter_has_its_role(make, x, norm_place):
    model = make(0, norm_place=norm_place)
    norm = Role.BRANCH_VECTOR if norm_place == "pre" else Role.VECTOR
    entrance = {"tokens", "places"} if isinstance(model, GPT) else {"patches", "places"}
    expected = {f"{name}.weight": Role.INPUT for name in entrance} | {"readout.weight": Role.OUTPUT}
    for block in (f"blocks.{index}" for index in range(2)):
        expected |= {f"{block}.attention.qkv.weight": Role.BRANCH_INTERNAL}
        expected |= {f"{block}.attention.proj.weight": Role.BRANCH_LAST}
        expected |= {f"{block}.mlp.up.weight": Role.BRANCH_INTERNAL, f"{block}.mlp.down.weight": Role.BRANCH_LAST}
        expected |= {
            f"{block}.{kind}_norm.{leaf}": norm for kind in ("attention", "mlp") for leaf in ("weight", "bias")
        }
    if norm_place == "pre":
        expected |= {"norm.weight": Role.VECTOR, "norm.bias": Role.VECTOR}
    assert roles_of(model) == expected


def test_entries_have_variance_one_over_fan_in():
    for model in (GPT(65, 128, 128, 1), ViT((3, 32, 32), 10, 128, 1)):
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                fan_in = 1 if name in ("tokens.weight", "places.weight") else weight.shape[1]
                square = weight.detach().double().square().mean() * fan_in
                assert abs(square - 1) < 4 * math.sqrt(2 / weight.numel()), name


@pytest.mark.parametrize(("make", "x"), MAKERS, ids=["gpt", "vit"])
def test_seeds_and_meta_device(make, x):
    state = torch.get_rng_state()
    a, b, c = make(7), make(7), make(8)
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
    assert not torch.equal(a.readout.weight, c.readout.weight)
    with torch.device("meta"):
        empty = make(7)
    empty = empty.to_empty(device="cpu")
    empty.reset_parameters(7)
    torch.testing.assert_close(empty.state_dict(), a.state_dict())
    assert torch.equal(state, torch.get_rng_state())


def test_positions():
    assert GPT(7, 6, 8, 1, head_size=4).positions == 6
    assert ViT((3, 32, 32), 10, 16, 1).positions == 64


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gpt", {"head_size": 5}, "`width` must be a multiple of `head_size` 5, got 16"),
        ("vit", {"heads": 3}, "`width` must be a multiple of `heads` 3, got 16"),
        ("vit", {"patch": 5}, "`patch` 5 does not divide the image, 8x8"),
        ("gpt", {"norm_place": "mid"}, "`norm_place` must be pre or post, got 'mid'"),
        ("gpt", {"norm": "batch"}, "`norm` must be one of layer, rms or None, got 'batch'"),
        ("gpt", {"phi": "gleu"}, "Nearest: gelu"),
        ("vit", {"mlp_ratio": 0}, "`mlp_ratio` must be >= 1, got 0"),
        ("gpt", {"vocab": 9}, "no option of gpt named 'vocab'"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(InvalidValueError, match=message):
        models.build(name, options, in_shape=(3, 8, 8), out_features=10, width=16, depth=1)


def test_bad_input_is_named():
    model = GPT(7, 6, 8, 1, head_size=4)
    with pytest.raises(InvalidTypeError, match="input must be tokens, whole numbers"):
        model(torch.zeros(2, 6))
    with pytest.raises(InvalidValueError, match="input has 7 tokens a sequence, more than `context` 6"):
        model(tokens(2, 7))
    with pytest.raises(InvalidValueError, match=r"input must be \(batch, \*\(3, 8, 8\)\), got \(2, 3, 8, 6\)"):
        ViT((3, 8, 8), 10, 16, 1)(torch.zeros(2, 3, 8, 6))
