"""One tensor that is embedding and readout at once needs a multiplier in the forward."""

import pytest
import torch
from small_nets import CONTEXT, text_batches, tokens_in, train, transformer

from isoscale import Multiplier, Role, parametrize
from isoscale.errors import PlanError

M = 4.0
SETTINGS = {
    "lr": 0.01,
    "weight_decay": 0.1,
    "eps": 1e-4,
    "example_inputs": (torch.zeros(1, CONTEXT, dtype=torch.long),),
}


def tied(width=32, depth=2, seed=0):
    return transformer(width, depth, seed, torch.float64, tied=True, heads=width // 4)


def base(depth=2):
    return tied(8, depth, seed=7)


def mended(width=32, depth=2):
    model = tied(width, depth)
    Multiplier.before(model.readout)
    return model


def test_without_a_multiplier_it_is_refused_with_name_and_remedy():
    model = tied()
    with pytest.raises(
        PlanError, match=r"`tokens\.weight` is embedding and readout.*multiplier 0\.25.*isoscale\.Multiplier"
    ):
        parametrize(model, base(), "mup", **SETTINGS)
    forced = parametrize(model, base(), "mup", force=True, **SETTINGS)
    assert len(forced.open_items) == 1


def test_where_no_multiplier_is_asked_none_is_needed():
    parametrize(tied(), base(), "sp", **SETTINGS)
    parametrize(tied(8, 4), base(), "completep", **SETTINGS)


def test_with_a_multiplier_it_trains_as_the_explicit_forward():
    """The explicit side: logits x 1/m by hand, and the groups of docs/theory.md, section 5: embedding lr 1, eps 1/m."""
    model = mended()
    plan = parametrize(model, base(), "mup", **SETTINGS)
    entry = next(entry for entry in plan.entries if entry.name == "tokens.weight")
    assert (entry.role, entry.tied) == (Role.INPUT, True)
    assert plan.multipliers == {"readout.input_multiplier": 1 / M}
    losses = train(model, torch.optim.AdamW(plan.param_groups()), text_batches(2) * 4)

    explicit = tied()
    explicit.norm.register_forward_hook(lambda module, args, out: out / M)
    groups = [_by_theory(name, parameter) for name, parameter in explicit.named_parameters()]
    _base_sizes(explicit)
    reference = train(explicit, torch.optim.AdamW(groups), text_batches(2) * 4)
    assert losses == pytest.approx(reference, rel=1e-9)
    assert losses[-1] < losses[0]


def _by_theory(name, parameter):
    hidden = name.startswith("layers") and parameter.dim() == 2
    decays = parameter.dim() == 2
    return {
        "params": [parameter],
        "lr": SETTINGS["lr"] / (M if hidden else 1),
        "eps": SETTINGS["eps"] / M,
        "weight_decay": SETTINGS["weight_decay"] * (M if hidden else 1) * decays,
    }


def _base_sizes(model):
    """torch draws biases by the fan_in of their map; vectors of any width have entries of the base's size."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "norm" not in name:
            parameter.data *= M**0.5


def test_the_multiplier_is_where_a_tied_and_an_untied_plan_differ():
    """An untied readout folds 1/m; both make the same logits from the same entries."""
    model = mended()
    untied = transformer(32, 2, 0, torch.float64, heads=8)
    untied.load_state_dict(model.state_dict(), strict=False)
    untied_base = transformer(8, 2, 7, torch.float64, heads=2)
    untied_base.load_state_dict(base().state_dict(), strict=False)
    plan = parametrize(model, base(), "mup", **SETTINGS)
    parametrize(untied, untied_base, "mup", **SETTINGS)
    tokens = text_batches(1)[0][0]
    torch.testing.assert_close(model(tokens), untied(tokens), rtol=1e-10, atol=1e-12)
    assert plan.scaling.depth == 1


def test_a_multiplier_in_the_users_own_forward():
    class Own(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.multiplier = inner, Multiplier()
            inner.norm.register_forward_hook(lambda module, args, out: self.multiplier(out))

        def forward(self, tokens):
            return self.inner(tokens)

    model, hooked = Own(tied()), mended()
    plan = parametrize(model, Own(base()), "mup", **SETTINGS)
    assert plan.multipliers == {"multiplier": 1 / M}
    other = parametrize(hooked, base(), "mup", **SETTINGS)
    batches = text_batches(3)
    losses = train(model, torch.optim.AdamW(plan.param_groups()), batches)
    assert losses == train(hooked, torch.optim.AdamW(other.param_groups()), batches)


def test_a_tied_plan_survives_its_file(tmp_path):
    model = mended()
    plan = parametrize(model, base(), "mup", **SETTINGS)
    plan.save(tmp_path / "plan.json")
    fresh = mended()
    type(plan).load(tmp_path / "plan.json").apply(fresh)
    tokens = tokens_in()[0]
    assert torch.equal(fresh(tokens), model(tokens))
