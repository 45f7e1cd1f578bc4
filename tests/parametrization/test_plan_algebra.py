"""Plans as algebra: ratio 1 is the identity, ratios compose, a second time changes nothing, diff sees what differs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import (
    features_in,
    mlp,
    mlp_batches,
    planned_mlp,
    same_weights,
    text_batches,
    tokens_in,
    train,
    transformer,
)

from isoscale import parametrize, rules

RULES = [*rules.names(), "residual-family(0.5,0.75)"]
FAMILIES = ["sgd", "adam", "adamw", "sign", "muon"]
SIZES = st.sampled_from([1, 2, 3])


def plan_of(size, base, rule="completep", optimizer="adamw", **options):
    width, depth = size
    given = {"lr": 1.0, "weight_decay": 1.0, "eps": 1.0} | options
    base_model = mlp(*base, seed=7, device="meta")
    return parametrize(
        mlp(width, depth, device="meta"), base_model, rule, optimizer, example_inputs=features_in(), **given
    )


def factors(plan):
    """Of every tensor outside the blocks and in the first: (init_std, lr, weight_decay, eps)."""
    found = {entry.name: (entry.init, entry.lr, entry.weight_decay, entry.eps or 1.0) for entry in plan.entries}
    return {name: f for name, f in found.items() if not name.startswith("blocks.") or name.startswith("blocks.0.")}


@settings(max_examples=25)
@given(
    first=st.tuples(SIZES, SIZES),
    second=st.tuples(SIZES, SIZES),
    rule=st.sampled_from(RULES),
    optimizer=st.sampled_from(FAMILIES),
)
def test_ratios_compose(first, second, rule, optimizer):
    """2x then 3x equals 6x, in width and in depth, for every rule and family."""
    base = (4, 1)
    middle = (base[0] * first[0], base[1] * first[1])
    target = (middle[0] * second[0], middle[1] * second[1])
    near, far, whole = (
        factors(plan_of(size, other, rule, optimizer))
        for size, other in ((middle, base), (target, middle), (target, base))
    )
    assert near.keys() == far.keys() == whole.keys()
    for name in whole:
        product = [a * b for a, b in zip(near[name], far[name], strict=True)]
        assert product == pytest.approx(list(whole[name]), rel=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", ["sgd", "adamw"])
def test_at_the_base_nothing_changes_bitwise(rule, family):
    cls = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[family]
    model, plain = transformer(8, 2), transformer(8, 2)
    plan = parametrize(
        model, transformer(8, 2, seed=7), rule, family, lr=0.01, weight_decay=0.1, example_inputs=tokens_in()
    )
    assert same_weights(model, plain)
    decays = [[p for p in plain.parameters() if (p.dim() > 1) is matrix] for matrix in (True, False)]
    ordinary = cls([{"params": decays[0], "weight_decay": 0.1}, {"params": decays[1], "weight_decay": 0.0}], lr=0.01)
    assert train(model, cls(plan.param_groups()), text_batches(3)) == train(plain, ordinary, text_batches(3))
    assert same_weights(model, plain)


def test_planning_draws_nothing_from_the_global_generator():
    state = torch.get_rng_state()
    planned_mlp()
    assert torch.equal(torch.get_rng_state(), state)


def test_planning_is_reproducible():
    (a, first), (b, second) = planned_mlp(), planned_mlp()
    assert first == second
    assert same_weights(a, b)
    assert first.diff(second).empty


def test_diff_names_what_differs():
    rows = plan_of((16, 4), (8, 2)).diff(plan_of((16, 4), (8, 2), "depth-mup"))
    changed = rows.groupby("name")["what"].agg(set)
    assert changed["blocks.0.maps.0.weight"] == {"lr", "weight_decay", "eps", "reason"}
    assert changed["blocks.0.maps.1.weight"] == {"multiplier", "init", "reason"}
    assert "input.weight" not in set(rows["name"])
    deeper = plan_of((16, 4), (8, 2)).diff(plan_of((16, 6), (8, 2)))
    assert set(deeper.loc[deeper["what"] == "tensor", "name"]) == {
        f"blocks.{i}.maps.{j}.weight" for i in (4, 5) for j in (0, 1)
    }


def test_tables_say_why():
    _, plan = planned_mlp()
    table = plan.table()
    assert list(table["name"]) == [entry.name for entry in plan.entries]
    assert table["reason"].str.len().min() > 0
    last = table.set_index("name").loc["blocks.0.maps.1.weight"]
    assert last["place"] == "map 2 of 2"
    assert "branch multiplier x1/2 folded in" in last["reason"]
    assert "<table" in plan._repr_html_()


def test_a_group_for_each_distinct_setting_and_every_tensor_once():
    model, plan = planned_mlp(width=64, depth=12)
    groups = plan.param_groups()
    told = [tuple(v for k, v in group.items() if k not in ("params", "param_names", "name")) for group in groups]
    assert len(set(told)) == len(groups) == 4
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    losses = train(model, torch.optim.AdamW(groups), mlp_batches(1) * 5)
    assert losses[-1] < losses[0]
