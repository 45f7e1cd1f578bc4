"""The maximal-update learning rate against mathematics, finite differences and hostile networks."""

import copy
import math

import numpy as np
import pytest
import torch
from networks import MAKERS, network, squared
from torch import nn

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.measure import max_update_lr, optimizer_step
from isoscale.measure.tools.observe import linear_layers, observe
from isoscale.measure.tools.passes import loss_gradient, seeded
from isoscale.models import ResidualMLP

WIDTH, DEPTH, SEEDS = 768, 6, 16


def total(f, y):
    """A loss whose derivative in the output is 1: chi = 1."""
    return f.sum()


def sequential(seed):
    """DEPTH ReLU layers with entries N(0, 2/n) and a mean-field readout N(0, 1/n^2)."""
    generator = torch.Generator().manual_seed(seed)

    def linear(fan_out, std):
        module = nn.Linear(WIDTH, fan_out, bias=False, device="meta").to_empty(device="cpu")
        nn.init.normal_(module.weight, 0, std, generator)
        return module

    hidden = [part for _ in range(DEPTH) for part in (linear(WIDTH, (2 / WIDTH) ** 0.5), nn.ReLU())]
    return nn.Sequential(*hidden, linear(1, 1 / WIDTH))


def test_the_cubic_of_a_sequential_relu_net():
    # docs/theory.md, section 6: S_l = chi^2 C [l^2 + l (l-1) (2l-1) / 3]. With |x|^2 = n the input counts as phi of a
    # layer with
    # q = E h^2 = 2, all layers have |phi|^2 / n = q / 2 = 1, and the own update of each is -chi gamma_l with
    # gamma_l = n dL/dh_l / chi, E gamma_l^2 = E v^2 / 2: hence C = (q / 2)^2 / 2 = 1/2. Corrections are O(l / n) of the
    # value, against a scatter of O(sqrt(l / n)) for each seed: less than the error of the mean of 16 seeds.
    x = torch.ones(1, WIDTH)
    result = max_update_lr(sequential, total, (x, None), seeds=SEEDS)
    for layer, (name, moment) in enumerate(result.moments.items(), start=1):
        expected = (layer**2 + layer * (layer - 1) * (2 * layer - 1) / 3) / 2
        assert abs(moment - expected) < 4 * result.moments_se[name], name
        assert result.moments_se[name] < 0.15 * expected
    cubic = np.mean([(k**2 + k * (k - 1) * (2 * k - 1) / 3) / 2 for k in range(1, DEPTH + 1)])
    assert abs(result.lr - cubic**-0.5) < 4 * result.lr_se
    assert result.readout == str(2 * DEPTH)


@pytest.mark.parametrize("family", ["sgd", "adam", "sign", "muon"])
@pytest.mark.parametrize("name", MAKERS)
def test_moments_equal_finite_differences(name, family):
    model, x, y = network(name)
    result = max_update_lr(model, squared, (x, y), optimizer=family, eps=1e-3, seeds=[3])
    _, grads = loss_gradient(model, squared, (x, y), 3)
    linear = list(linear_layers(model))
    middle = {id(module.weight) for key, module in linear_layers(model).items() if key not in (linear[0], linear[-1])}
    hidden = {key for key, param in model.named_parameters() if id(param) in middle}
    step = optimizer_step(grads, family, eps=1e-3, hidden=hidden)

    def outputs(size):
        shifted, seen = copy.deepcopy(model), {}
        with torch.no_grad():
            for key, param in shifted.named_parameters():
                param.add_(step[key], alpha=size)
        with seeded(3), observe(shifted, linear, lambda key, _, out: seen.update({key: out.detach().clone()})):
            shifted(x)
        return seen

    # A fourth-order formula; a step that is a tiny part of each tensor keeps ReLUs on their sides.
    size = 1e-6 * min(float(model.get_parameter(k).detach().norm() / v.norm()) for k, v in step.items() if v.norm() > 0)
    at = {k: outputs(k * size) for k in (-2, -1, 1, 2)}
    for key, moment in result.moments.items():
        change = (8 * (at[1][key] - at[-1][key]) - (at[2][key] - at[-2][key])) / (12 * size)
        assert moment == pytest.approx(change.square().mean().item(), rel=1e-7)
    assert result.lr == pytest.approx(np.mean(list(result.moments.values())) ** -0.5)
    assert set(at[1]) - set(result.moments) == {result.readout}


def test_layers_beside_the_mean():
    model, x, y = network("convolutions")
    result = max_update_lr(model, squared, (x, y))
    lrs = {name: moment**-0.5 for name, moment in result.moments.items()}
    assert result.layer_lrs == lrs
    assert result.lowest == min(lrs.items(), key=lambda item: item[1])
    assert result.highest == max(lrs.items(), key=lambda item: item[1])
    assert result.lowest[1] <= result.lr <= result.highest[1]
    geometric = max_update_lr(model, squared, (x, y), mean="geometric")
    assert geometric.lr == pytest.approx(math.exp(np.mean(np.log(list(lrs.values())))))
    assert geometric.moments == result.moments


def test_the_returned_rate_moves_pre_activations_by_one():
    # The first-order promise itself: at lr / 1000 a real SGD step moves them by 1 / 1000, to relative O(1 / 1000).
    model = ResidualMLP(8, 3, width=32, depth=3, phi="tanh", dtype=torch.float64)
    x, y = torch.randn(10, 8, dtype=torch.float64), torch.arange(10) % 3
    result = max_update_lr(model, nn.functional.cross_entropy, (x, y))
    seen = []
    for _ in range(2):
        with observe(model, list(result.moments), lambda _, __, out: seen.append(out.detach().clone())):
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        torch.optim.SGD(model.parameters(), lr=result.lr / 1000).step()
    half = len(seen) // 2
    moved = np.mean([(b - a).square().mean().item() for a, b in zip(seen[:half], seen[half:], strict=True)])
    assert moved**0.5 * 1000 == pytest.approx(1, rel=0.01)


def test_stream_and_branch():
    model = ResidualMLP(8, 3, width=16, depth=2, dtype=torch.float64)
    x, y = torch.randn(5, 8, dtype=torch.float64), torch.arange(5) % 3
    results = {
        count: max_update_lr(model, nn.functional.cross_entropy, (x, y), count=count, blocks=["blocks.*"])
        for count in ("all", "stream", "branch")
    }
    assert set(results["stream"].moments) == {"input", "blocks.0", "blocks.1"}
    assert set(results["branch"].moments) == {f"blocks.{i}.maps.{j}" for i in (0, 1) for j in (0, 1)}
    assert set(results["all"].moments) == {"input", *results["branch"].moments}
    assert results["all"].moments["input"] == results["stream"].moments["input"]
    for count in ("stream", "branch"):  # the graph says the same without being told the blocks
        traced = max_update_lr(model, nn.functional.cross_entropy, (x, y), count=count)
        assert (traced.moments, traced.lr) == (results[count].moments, results[count].lr)
    with pytest.raises(InvalidValueError, match="no residual branches"):
        max_update_lr(nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 3)), squared, (x, x[:, 0]), count="stream")


def test_averages_over_seeds_and_batches():
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 8, generator=generator), torch.arange(4) % 3) for _ in range(3)]

    def make(seed):
        return ResidualMLP(8, 3, width=16, depth=2, seed=seed)

    def moments_of(seed, batch):
        return list(max_update_lr(make(seed), nn.functional.cross_entropy, batch).moments.values())

    single = np.array([[*map(moments_of, [s] * 3, batches)] for s in (0, 1)])
    both = max_update_lr(make, nn.functional.cross_entropy, batches, seeds=2)
    np.testing.assert_allclose(list(both.moments.values()), single.mean((0, 1)), rtol=1e-6)
    rows, columns = single.mean(1), single.mean(0)
    expected = np.sqrt(rows.var(0, ddof=1) / 2 + columns.var(0, ddof=1) / 3)
    np.testing.assert_allclose(list(both.moments_se.values()), expected, rtol=1e-6)
    assert both.lr == pytest.approx(single.mean() ** -0.5, rel=1e-6)
    levels = single.mean(-1)
    se = math.sqrt(levels.mean(1).var(ddof=1) / 2 + levels.mean(0).var(ddof=1) / 3)
    assert both.lr_se == pytest.approx(both.lr / 2 * se / levels.mean(), rel=1e-6)
    alone = max_update_lr(make(0), nn.functional.cross_entropy, batches[0])
    assert math.isnan(alone.lr_se)


def test_relative_rates_scale_the_step():
    model, x, y = network("attention")
    plain = max_update_lr(model, squared, (x, y))
    names = [name for name, _ in model.named_parameters()]
    halved = max_update_lr(model, squared, (x, y), lrs=dict.fromkeys(names, 0.5))
    assert halved.lr == pytest.approx(2 * plain.lr)
    frozen = max_update_lr(model, squared, (x, y), lrs={name: 0.0 for name in names if name.startswith("0.")})
    assert frozen.silent == ("0",)
    with pytest.raises(InvalidValueError, match="trained parameter in `lrs`"):
        max_update_lr(model, squared, (x, y), lrs={"0.wieght": 1.0})


def test_what_a_reader_should_know_is_said():
    model, x, y = network("convolutions")
    model[0].weight.requires_grad_(False)
    notes = " | ".join(max_update_lr(model, squared, (x, y)).notes)
    for part in ("batch statistics in 1 norm (1)", "dropout active in 1 module (5)", "1 frozen tensor (0.weight)"):
        assert part in notes
    assert max_update_lr(model.eval(), squared, (x, y)).notes == ("1 frozen tensor (0.weight): not stepped",)
    model, x, y = network("own function")
    result = max_update_lr(model, squared, (x, y))
    assert result.method == "double backward"
    assert "custom autograd.Function" in result.notes[0]
    encoder = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), nn.Linear(8, 3))
    assert (
        "not seen: 0.self_attn.out_proj"
        in max_update_lr(encoder, squared, (torch.ones(4, 5, 8), torch.ones(4))).notes[0]
    )


def test_dropout_masks_repeat():
    model, x, y = network("convolutions")
    first, again, other = (max_update_lr(model, squared, (x, y), seeds=[seed]).lr for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_bfloat16_is_close_to_double():
    model, x, y = network("attention")
    low = max_update_lr(copy.deepcopy(model).bfloat16(), squared, (x.bfloat16(), y.bfloat16()))
    high = max_update_lr(model, squared, (x, y))
    assert low.lr == pytest.approx(high.lr, rel=0.1)


def test_constant_and_zero_activations_give_no_nan():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 1)).double()
    nn.init.zeros_(model[0].weight), nn.init.ones_(model[0].bias)  # all activations equal: the norm makes them zero
    result = max_update_lr(model, total, (torch.ones(2, 3, dtype=torch.float64), None))
    assert all(math.isfinite(moment) for moment in result.moments.values())
    assert result.silent == ("0",)  # relu'(0) = 0 lets no gradient through
    assert result.moments["3"] > 0


def test_a_silent_layer_is_named_and_infinite():
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 4), nn.Linear(4, 1))
    nn.init.zeros_(model[1].weight)
    result = max_update_lr(model, total, (torch.ones(2, 3), None))
    assert result.silent == ("0",)
    assert result.layer_lrs["0"] == math.inf
    assert result.highest[0] == "1"
    assert "do not move at all: 0" in result.notes[-1]
    geometric = max_update_lr(model, total, (torch.ones(2, 3), None), mean="geometric")
    assert geometric.lr == pytest.approx(result.moments["1"] ** -0.5)


def test_a_zero_readout_is_explained():
    model = ResidualMLP(3, 1, width=4, depth=1)
    nn.init.zeros_(model.readout.weight)
    with pytest.raises(InvalidValueError, match="readout initialised to zero"):
        max_update_lr(model, total, (torch.ones(2, 3), None))


@pytest.mark.parametrize(
    ("loss_fn", "error", "words"),
    [
        (lambda f, y: f.sum() * math.nan, InvalidValueError, "loss must be finite"),
        (lambda f, y: f, InvalidTypeError, r"got a tensor of shape \(2, 1\)"),
        (lambda f, y: 1.0, InvalidTypeError, "got 1.0"),
        (lambda f, y: f.detach().sum(), InvalidValueError, "depends on no parameter"),
        (lambda f, y: (f.mean() - f.mean()).abs().sqrt(), InvalidValueError, "gradient is not finite in 3 of 3"),
    ],
)
def test_bad_losses(loss_fn, error, words):
    with pytest.raises(error, match=words):
        max_update_lr(ResidualMLP(3, 1, width=4, depth=1, block_depth=1), loss_fn, (torch.ones(2, 3), None))


def test_bad_arguments():
    x, model = torch.ones(2, 3), ResidualMLP(3, 1, width=4, depth=1)
    with pytest.raises(InvalidTypeError, match="must be a pair"):
        max_update_lr(model, total, x)
    with pytest.raises(InvalidTypeError, match="`model` must be"):
        max_update_lr("model", total, (x, None))
    with pytest.raises(InvalidValueError, match="two linear or convolution modules"):
        max_update_lr(nn.Linear(3, 1), total, (x, None))
    with pytest.raises(InvalidValueError, match="no `count` named"):
        max_update_lr(model, total, (x, None), count="some")
    with pytest.raises(InvalidValueError, match="no `mean` named"):
        max_update_lr(model, total, (x, None), mean="harmonic")
    with pytest.raises(InvalidValueError, match="same network for seeds 0 and 1"):
        max_update_lr(lambda: ResidualMLP(3, 1, width=4, depth=1, seed=0), total, (x, None), seeds=2)


def test_a_factory_without_seed_draws_from_the_global_generator_and_gives_it_back():
    state = torch.get_rng_state()
    result = max_update_lr(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), total, (torch.ones(2, 3), None), seeds=4
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert result.lr_se > 0


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_published_transformers(family):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "Llama": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 8},
    }[family]
    config = getattr(transformers, f"{family}Config")(vocab_size=32, bos_token_id=0, eos_token_id=0, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    tokens = torch.arange(12).view(2, 6)

    def loss_fn(output, y):
        return nn.functional.cross_entropy(output.logits.flatten(0, 1), y.flatten())

    first, second, third = (
        max_update_lr(model, loss_fn, (tokens, tokens.flip(1)), optimizer="adam", method=method)
        for method in (None, "double backward", "finite differences")
    )
    assert first.method == "forward-mode"
    assert first.readout == "lm_head"
    assert len(first.moments) == {"Llama": 14, "GPT2": 8}[family]  # q k v o gate up down; qkv o up down
    for name, moment in first.moments.items():
        assert second.moments[name] == pytest.approx(moment, rel=1e-6)
        # Llama's norms run in single precision, whose rounding differences of 1e-5 of the weights magnify to a percent.
        assert third.moments[name] == pytest.approx(moment, rel=0.02)
