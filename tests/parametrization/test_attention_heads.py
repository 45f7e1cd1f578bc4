"""Heads may grow in number or in size: in size, attention is to be q.k / d_head, relative to the base."""

import dataclasses
import json

import pytest
import torch
from small_nets import seeded, text_batches, tokens_in, train, transformer
from torch import nn

from isoscale import parametrize, rules, shapes
from isoscale.errors import PlanError
from isoscale.models import GPT

HEAD, BASE_HEAD, LR, DECAY, EPS = 16, 4, 0.01, 0.1, 1e-4
C = (HEAD / BASE_HEAD) ** -0.5


def of_queries(plan):
    """What the plan folds into each query weight: its init beside that of its keys, made of the same features."""
    inits = {entry.name: entry.init for entry in plan.entries}
    return [inits[name] / inits[name.replace("q.weight", "k.weight")] for name in inits if name.endswith("q.weight")]


SETTINGS = {"lr": LR, "weight_decay": DECAY, "eps": EPS, "example_inputs": tokens_in()}


def model_and_base():
    model = transformer(16, 2, dtype=torch.float64, heads=2, head=HEAD)
    return model, transformer(16, 2, seed=7, dtype=torch.float64, heads=2, head=BASE_HEAD)


def test_the_multiplier_of_the_logits_is_folded_into_the_queries():
    model, base = model_and_base()
    plan = parametrize(model, base, "mup", **SETTINGS)
    assert plan.scaling.head_size == HEAD / BASE_HEAD
    assert {entry.name.split(".", 3)[-1] for entry in plan.entries if entry.attention} == {"q.weight", "q.bias"}


def test_training_is_that_of_logits_divided_by_the_head_size():
    """torch divides by sqrt(d); the explicit model by sqrt(d_base) (d / d_base): q.k / d at the base's own scale.

    Queries have learning rate and eps before folding: docs/theory.md, section 5.1, an input map as far as fan_out
    grows."""
    model, base = model_and_base()
    plan = parametrize(model, base, "mup", **SETTINGS)
    explicit = model_and_base()[0]
    explicit.load_state_dict(model.state_dict())
    for layer in explicit.layers:
        layer.attention.logit_multiplier = C
        for parameter in layer.attention.q.parameters():
            parameter.data /= C
    groups = []
    for group in plan.param_groups(explicit):
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            own = {"params": [parameter]} | {key: group[key] for key in ("lr", "eps", "weight_decay")}
            if ".q." in name:
                decay = DECAY if name.endswith("weight") else 0.0
                own |= {"lr": LR, "eps": EPS * BASE_HEAD / HEAD, "weight_decay": decay}
            groups.append(own)
    batches = text_batches(2) * 3
    losses = train(model, torch.optim.AdamW(plan.param_groups()), batches)
    assert losses == pytest.approx(train(explicit, torch.optim.AdamW(groups), batches), rel=1e-9)
    assert losses[-1] < losses[0]
    scale = explicit.layers[0].attention.logit_multiplier / HEAD**0.5
    assert scale == pytest.approx(BASE_HEAD**0.5 / HEAD)


def test_heads_that_grow_in_number_ask_for_nothing():
    model, base = transformer(16, 2, heads=4), transformer(8, 2, seed=7, heads=2)
    plan = parametrize(model, base, "mup", **SETTINGS)
    assert of_queries(plan) == [1.0, 1.0]


def test_sp_leaves_the_logits_alone():
    assert of_queries(parametrize(*model_and_base(), "sp", **SETTINGS)) == [1.0, 1.0]


class Packed(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.input, self.readout = nn.Linear(5, width), nn.Linear(width, 3)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        h = self.input(x)
        return self.readout(h + self.attention(h, h, h, need_weights=False)[0])


def test_packed_attention_whose_heads_grow_in_number_trains():
    model, base = seeded(lambda: Packed(32, 8)), seeded(lambda: Packed(8, 2))
    plan = parametrize(model, base, lr=LR, example_inputs=(torch.zeros(1, 4, 5),))
    packed = next(entry for entry in plan.entries if entry.name == "attention.in_proj_weight")
    assert (packed.fan_in, packed.fan_out) == (4.0, 4.0)
    assert packed.lr == 0.25 * LR
    generator = torch.Generator().manual_seed(0)
    batch = (torch.randn(8, 4, 5, generator=generator), torch.randint(3, (8, 4), generator=generator))
    losses = train(model, torch.optim.AdamW(plan.param_groups()), [batch] * 10)
    assert losses[-1] < losses[0]


def test_packed_attention_whose_heads_grow_in_size_is_refused_by_name():
    model, base = seeded(lambda: Packed(32, 2)), seeded(lambda: Packed(8, 2))
    message = r"`attention\.in_proj_weight` holds queries and keys in one.*0\.5.*scale the number of heads"
    with pytest.raises(PlanError, match=message):
        parametrize(model, base, lr=LR, example_inputs=(torch.zeros(1, 4, 5),))
    parametrize(model, base, "sp", lr=LR, example_inputs=(torch.zeros(1, 4, 5),))


class TwoAttentions(nn.Module):
    """Attentions with heads of two sizes, each run a number of times."""

    def __init__(self, first, second, depth=1, shared=False):
        super().__init__()
        self.input, self.readout, self.heads = nn.Linear(5, 16), nn.Linear(16, 3), (first, second)
        self.layers = nn.ModuleList(nn.ModuleDict({k: nn.Linear(16, 16) for k in "qkv"}) for _ in range(2 * depth))
        if shared:
            self.layers = nn.ModuleList([self.layers[0], self.layers[0]])

    def forward(self, x):
        h = self.input(x)
        half = len(self.layers) // 2
        for i, layer in enumerate(self.layers):
            size = self.heads[i >= half]
            q, k, v = (layer[key](h).unflatten(-1, (-1, size)).transpose(1, 2) for key in "qkv")
            h = h + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.readout(h)


def test_each_attention_is_compared_with_its_own_counterpart():
    inputs = {"example_inputs": (torch.zeros(1, 4, 5),), "lr": LR}
    same = parametrize(TwoAttentions(2, 8, depth=4), TwoAttentions(2, 8, depth=2), "mup", **inputs)
    assert (same.ratios["head_size"], set(of_queries(same))) == (1.0, {1.0})
    with pytest.raises(PlanError, match=r"head sizes \[2, 16\] and, in the base, \[2, 8\] are in no one ratio"):
        parametrize(TwoAttentions(2, 16, depth=4), TwoAttentions(2, 8, depth=2), "mup", **inputs)
    grown = parametrize(TwoAttentions(2, 8), TwoAttentions(2, 2), "mup", **inputs)
    assert of_queries(grown) == pytest.approx([1.0, 0.5])
    assert grown.forward_multipliers == {"layers.1.q.weight (logits)": pytest.approx((2**-0.5, 8**-0.5))}


def test_one_weight_for_two_head_sizes_is_refused_by_name():
    base, model = TwoAttentions(2, 2, shared=True), TwoAttentions(2, 8, shared=True)
    with pytest.raises(PlanError, match=r"`layers\.0\.q\.\w+`.* head sizes that grow by x1 and x4"):
        parametrize(model, base, "mup", lr=LR, example_inputs=(torch.zeros(1, 4, 5),))


def test_the_head_size_travels_in_the_shapes_of_a_base():
    model, base = model_and_base()
    plan = parametrize(model, base, "mup", **SETTINGS)
    twin = model_and_base()[0]
    assert parametrize(twin, shapes(base, tokens_in()), "mup", **SETTINGS) == plan
    unknown = parametrize(model_and_base()[0], shapes(base), "mup", **SETTINGS)
    assert any("head size is unknown" in note for note in unknown.notes)


# --- the scale that the forward has already ---
class Scaled(nn.Module):
    """One attention of 4 heads, its logits multiplied by `scale`; None is torch's own 1/sqrt(head size)."""

    def __init__(self, width, scale=None):
        super().__init__()
        self.input, self.readout, self.scale = nn.Linear(5, width), nn.Linear(width, 3), scale
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        h = self.input(x)
        q, k, v = (linear(h).unflatten(-1, (4, -1)).transpose(1, 2) for linear in (self.q, self.k, self.v))
        z = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.readout(h + z.transpose(1, 2).flatten(2))


def scaled_plan(scale, base_scale, rule="mup"):
    model, base = Scaled(48, scale), Scaled(16, base_scale)
    return parametrize(model, base, rule, lr=LR, example_inputs=(torch.zeros(1, 3, 5),))


@pytest.mark.parametrize("width", [32, 48, 80])
def test_a_forward_that_divides_by_the_head_size_is_left_alone(width):
    """GPT with a fixed number of heads does; queries and keys are packed, so anything else would be an open item."""

    def gpt(width):
        return GPT(11, 6, width, 2, heads=4)

    plan = parametrize(gpt(width), gpt(16), "mup", lr=LR, example_inputs=tokens_in())
    assert plan.scaling.head_size == width / 16
    assert plan.forward_multipliers == {
        f"blocks.{i}.attention.qkv.weight (logits)": pytest.approx((1 / 4, 4 / width)) for i in range(2)
    }
    assert not plan.open_items


@pytest.mark.parametrize(
    ("scale", "base_scale", "missing"),
    [
        (None, None, 3**-0.5),  # 1/sqrt(d) is there, 1/d is wanted
        (12**-0.5, None, 3**-0.5),
        (1 / 12, 1 / 4, 1.0),
        (1.0, 1.0, 1 / 3),
        (1 / 12, None, 1 / 3 * (4**-0.5) / (1 / 12)),
    ],
)
def test_the_queries_take_what_the_forward_lacks(scale, base_scale, missing):
    plan = scaled_plan(scale, base_scale)
    assert of_queries(plan) == pytest.approx([missing], rel=1e-12)
    assert {entry.name for entry in plan.entries if entry.attention} == {"q.weight", "q.bias"}
    assert of_queries(scaled_plan(scale, base_scale, "sp")) == [1.0]


@pytest.mark.parametrize(("scale", "base_scale", "missing"), [(None, None, 1.0), (1 / 12, 1 / 4, 3**0.5)])
def test_a_rule_may_keep_one_over_the_root_of_the_head_size(scale, base_scale, missing):
    rule = dataclasses.replace(rules.get("mup"), name="mup-sqrt", head_size=0.0)
    assert of_queries(scaled_plan(scale, base_scale, rule)) == pytest.approx([missing], rel=1e-12)


def test_torchs_own_scale_is_the_power_to_the_last_bit():
    assert {entry.logits for entry in scaled_plan(None, None).entries if entry.attention} == {3**-0.5}


def test_the_logits_scale_travels_in_the_shapes_of_a_base():
    base = Scaled(16, 1 / 4)
    inputs = (torch.zeros(1, 3, 5),)
    written = json.loads(json.dumps(shapes(base, inputs)))
    assert written["logit_scales"] == [0.25]
    settings = {"rule": "mup", "lr": LR, "example_inputs": inputs}
    assert of_queries(parametrize(Scaled(48, 1 / 12), written, **settings)) == [1.0]
    older = {key: value for key, value in written.items() if key != "logit_scales"}
    assert of_queries(parametrize(Scaled(48, 1 / 12), older, **settings)) == pytest.approx([3**-0.5])
    for damaged in ([0.0], [float("inf")], ["x"], 3):
        with pytest.raises(PlanError, match="logit_scales"):
            parametrize(Scaled(48), written | {"logit_scales": damaged}, **settings)


def test_each_attention_takes_what_its_own_logits_lack():
    def make(width, first, second):
        return nn.Sequential(Scaled(width, first), nn.Linear(3, 5), Scaled(width, second))

    inputs = (torch.zeros(1, 4, 5),)
    plan = parametrize(make(32, 0.1, 0.2), make(16, 0.1, 0.1), "mup", lr=LR, example_inputs=inputs)
    assert of_queries(plan) == pytest.approx([1 / 2, 1 / 4])
