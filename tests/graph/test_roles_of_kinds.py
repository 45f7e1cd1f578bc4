"""Ways in which parameters enter a forward, one tiny network each: the right rates, or a refusal by name.

Width x4 throughout. Expected factors are those of docs/theory.md, section 5.1: Adam 1 / (ratio of fan_in), SGD (ratio
of fan_out) / (ratio of fan_in); for vectors Adam 1, SGD (ratio of the axis that grows).
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isoscale import Multiplier, parametrize
from isoscale.errors import InvalidValueError, PlanError

M, IN, OUT = 4, 5, 3


class Net(nn.Module):
    """An input layer, what is tested in between, and a readout; `make` gets the width and sets what it needs.

    What passes `seen` is what the measurement looks at.
    """

    def __init__(self, width, make, use, out=None, **sizes):
        super().__init__()
        self.width = width
        self.enter = nn.Linear(IN, width)
        self.use, self.seen = use, nn.Identity()
        make(self, width)
        self.leave = nn.Linear(out(width) if out else width, OUT)

    def forward(self, x):
        self.x = x
        return self.leave(self.use(self, self.enter(x)))


def parameter(*shape, scale=1.0):
    return nn.Parameter(torch.randn(shape) * scale)


def learned(**shapes):
    """Sets parameters of these shapes, each a function of the width."""

    def make(net, width):
        for name, shape in shapes.items():
            setattr(net, name, parameter(*shape(width)))

    return make


def modules(**made):
    def make(net, width):
        for name, module in made.items():
            setattr(net, name, module(width))

    return make


def plan_of(make, use, optimizer="adamw", out=None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base, model = (Net(width, make, use, out) for width in (8, 8 * M))
    return parametrize(model, base, "mup", optimizer, lr=1.0, example_inputs=(torch.zeros(2, IN),), **options)


def rates(*args, **options):
    return {entry.name: entry.lr for entry in plan_of(*args, **options).entries}


def linear(fan_in, fan_out):
    return lambda width: nn.Linear(fan_in(width), fan_out(width))


def n(width):
    return width


def fixed(size):
    return lambda _: size


custom = torch.library.custom_op("isoscale_tests::linear", mutates_args=())


@custom
def somebodys_own(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight.T


@somebodys_own.register_fake
def _(x, weight):
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def graph_attention(net, h):
    heads = h.unflatten(-1, (2, -1))
    weights = (heads * net.a).sum(-1, keepdim=True).sigmoid()
    return (heads * weights).flatten(-2)


def depthwise(net, h):
    return net.conv(h[..., None].expand(-1, -1, 4)).mean(-1)


def state_space(net, h):
    """One step of a selective state space model: a state of size 2 for each of the features."""
    b, c = net.bc(h).chunk(2, -1)
    dt = F.softplus(net.dt(net.low(h)))
    decay = torch.exp(dt[..., None] * -net.a_log.exp())
    state = decay * (dt * h)[..., None] * b[:, None]
    return (state * c[:, None]).sum(-1) + net.d * h


def multi_query(net, h):
    """Four heads more at the target, one head of keys and values at both."""
    q = net.q(h).unflatten(-1, (-1, 4)).transpose(0, 1)
    k, v = net.k(h)[None], net.v(h)[None]
    return net.o(F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1))


# name: (what is set, the forward, {parameter: (Adam, SGD)})
RIGHT = {
    "a fixed latent": (
        modules(down=linear(n, fixed(2)), up=linear(fixed(2), n)),
        lambda net, h: net.up(net.seen(net.down(h.relu()))).relu(),
        {"down.weight": (1 / M, 1 / M), "down.bias": (1, 1), "up.weight": (1, M)},
    ),
    "weight norm": (
        modules(h=lambda width: nn.utils.parametrizations.weight_norm(nn.Linear(width, width))),
        lambda net, h: net.seen(net.h(h)),
        {"h.parametrizations.weight.original0": (1, M), "h.parametrizations.weight.original1": (1 / M, 1)},
    ),
    "a router": (
        modules(gate=linear(n, fixed(2)), one=linear(n, n), two=linear(n, n)),
        lambda net, h: (torch.stack([net.one(h), net.two(h)], -1) * net.seen(net.gate(h)).softmax(-1)[:, None]).sum(-1),
        {"gate.weight": (1 / M, 1 / M), "one.weight": (1 / M, 1)},
    ),
    "keys of one head": (
        modules(q=linear(n, n), k=linear(n, fixed(4)), v=linear(n, fixed(4)), o=linear(n, n)),
        multi_query,
        {"q.weight": (1 / M, 1), "k.weight": (1 / M, 1 / M), "v.weight": (1 / M, 1 / M)},
    ),
    "random features": (
        lambda net, width: (net.register_buffer("f", torch.randn(IN, width)), modules(first=linear(n, n))(net, width)),
        lambda net, h: net.seen(net.first(net.x @ net.f)).relu() + h,
        {"first.weight": (1 / M, 1)},
    ),
    "einsum": (
        learned(w=lambda width: (width, 2 * width), back=lambda width: (2 * width, width)),
        lambda net, h: torch.einsum("bj,ji->bi", torch.einsum("bi,ij->bj", h, net.w).relu(), net.back),
        {"w": (1 / M, 1), "back": (1 / M, 1)},
    ),
    "a map for each head": (
        learned(w=lambda width: (width // 4, 4, 4)),
        lambda net, h: torch.einsum("bhc,hcd->bhd", h.unflatten(-1, (-1, 4)), net.w).flatten(1),
        {"w": (1, M)},
    ),
    "bilinear": (
        modules(score=lambda width: nn.Bilinear(width, width, 3)),
        lambda net, h: h + net.seen(net.score(h, h.relu())).sum(-1, keepdim=True),
        {"score.weight": (1 / M**2, 1 / M**2), "score.bias": (1, 1)},
    ),
    "a dot product": (
        learned(a=lambda width: (width,)),
        lambda net, h: h * net.seen((h * net.a).sum(-1, keepdim=True)).sigmoid(),
        {"a": (1 / M, 1 / M)},
    ),
    "a dot product for each of two heads": (
        learned(a=lambda width: (1, 2, width // 2)), graph_attention, {"a": (1 / M, 1 / M)}
    ),
    "a dot product in steps": (
        learned(a=lambda width: (2, width // 2)),
        lambda net, h: h * (h.view(2, 2, -1) * net.a * 2).flatten(1).view(2, 4, -1).sum(-1).sum(-1)[:, None],
        {"a": (1 / M, 1 / M)},
    ),
    "a sum over the batch": (
        learned(a=lambda width: (width,)), lambda net, h: h + (h * net.a).sum(0), {"a": (1, M)}
    ),
    "a mean of products": (
        learned(a=lambda width: (width,)),
        lambda net, h: h * (h * net.a).mean(-1, keepdim=True).sigmoid(),
        {"a": (1, M)},
    ),
    "a vector in a matrix product": (
        learned(a=lambda width: (width,)), lambda net, h: h * net.seen(h @ net.a)[:, None], {"a": (1 / M, 1 / M)}
    ),
    "gains whose width is not last": (
        learned(g=lambda width: (width, 1, 1), t=lambda width: (width, 3)),
        lambda net, h: ((h[..., None, None] * net.g).sum(-1) + net.t).mean(-1),
        {"g": (1, M), "t": (1, M)},
    ),
    "a gain on each channel, summed over positions": (
        learned(g=lambda width: (width, 1)),
        lambda net, h: (h[..., None].expand(-1, -1, 3) * net.g).sum(-1),
        {"g": (1, M)},
    ),
    "a table of positions": (
        learned(p=lambda width: (1, 6, width)),
        lambda net, h: (h[:, None] + net.p).mean(1),
        {"p": (1, M)},
    ),
    "an interpolated table": (
        learned(p=lambda width: (1, width, 2, 2)),
        lambda net, h: (h[..., None, None] + F.interpolate(net.p, (3, 3), mode="bicubic")).mean((2, 3)),
        {"p": (1, M)},
    ),
    "stacked and joined": (
        learned(a=lambda width: (width,), b=lambda width: (width,), w=lambda width: (width, width // 2),
                v=lambda width: (width, width // 2)),
        lambda net, h: (torch.stack([net.a, net.b]) + (h @ torch.cat([net.w, net.v], 1))[:, None]).mean(1),
        {"a": (1, M), "w": (1 / M, 1), "v": (1 / M, 1)},
    ),
    "a learned query": (
        lambda net, width: (learned(token=lambda w: (w,))(net, width), modules(k=linear(n, n))(net, width)),
        lambda net, h: net.k(h).relu() + net.k(net.token[None]),
        {"token": (1, M), "k.weight": (1 / M, 1), "k.bias": (1, M)},
    ),
    "a learned query through a norm, heads and attention": (
        lambda net, width: (
            learned(token=lambda w: (2, w))(net, width),
            modules(norm=nn.LayerNorm, q=linear(n, n), v=linear(n, n))(net, width),
        ),
        lambda net, h: net.v(
            F.scaled_dot_product_attention(
                net.q(net.norm(net.token)).unflatten(-1, (-1, 4)).transpose(0, 1),
                *[h.unflatten(-1, (-1, 4)).transpose(0, 1)] * 2,
            ).transpose(0, 1).flatten(1)
        ),
        {"token": (1, M), "norm.weight": (1, M), "q.weight": (1 / M, 1), "q.bias": (1, M)},
    ),
    "a table made by a network from constants, in place": (
        modules(net=lambda width: nn.Sequential(nn.Linear(2, width), nn.ReLU(inplace=True), nn.Linear(width, width))),
        lambda net, h: h + net.net(torch.ones(1, 2)),
        {"net.0.weight": (1, M), "net.2.weight": (1 / M, 1)},
    ),
    "a low-rank table": (
        learned(a=lambda _: (2, 3), b=lambda width: (3, width)),
        lambda net, h: h + net.a @ net.b,
        {"a": (1, 1), "b": (1, M)},
    ),
    "low-rank maps": (
        learned(a=lambda width: (width, 2), b=lambda width: (2, width)),
        lambda net, h: h + (h @ net.a) @ net.b,
        {"a": (1 / M, 1 / M), "b": (1, M)},
    ),
    "a depthwise convolution": (
        modules(conv=lambda width: nn.Conv1d(width, width, 3, groups=width)), depthwise, {"conv.weight": (1, M)}
    ),
    "groups of a fixed number": (
        modules(conv=lambda width: nn.Conv1d(width, 2 * width, 3, groups=2)),
        depthwise,
        {"conv.weight": (1 / M, 1)},
        lambda width: 2 * width,
    ),
    "groups of a fixed size": (
        modules(conv=lambda width: nn.Conv1d(width, width, 3, groups=width // 4)), depthwise, {"conv.weight": (1, M)}
    ),
    "a transposed convolution": (
        modules(conv=lambda width: nn.ConvTranspose1d(width, 2 * width, 3)),
        depthwise,
        {"conv.weight": (1 / M, 1)},
        lambda width: 2 * width,
    ),
    "a transposed depthwise convolution": (
        modules(conv=lambda width: nn.ConvTranspose1d(width, width, 3, groups=width)),
        depthwise,
        {"conv.weight": (1, M)},
    ),
    "a transposed convolution in two groups": (
        modules(conv=lambda width: nn.ConvTranspose1d(width, width, 3, groups=2)),
        depthwise,
        {"conv.weight": (1 / M, 1)},
    ),
    "a bag of embeddings": (
        modules(bag=lambda width: nn.EmbeddingBag(7, width), inner=linear(n, n)),
        lambda net, h: net.inner(net.bag(net.x.long().abs() % 7)),
        {"bag.weight": (1, M), "inner.weight": (1 / M, 1)},
    ),
    "a state space": (
        lambda net, width: (
            learned(a_log=lambda w: (w, 2), d=lambda w: (w,))(net, width),
            modules(bc=linear(n, fixed(4)), low=linear(n, fixed(2)), dt=linear(fixed(2), n))(net, width),
        ),
        state_space,
        {"a_log": (1, M), "d": (1, M), "bc.weight": (1 / M, 1 / M), "low.weight": (1 / M, 1 / M),
         "dt.weight": (1, M), "dt.bias": (1, M)},
    ),
    "a standardised weight with a gain": (
        lambda net, width: learned(w=lambda w: (w, w), g=lambda w: (w,))(net, width),
        lambda net, h: F.linear(h, F.batch_norm(net.w[None], None, None, weight=net.g, training=True)[0]),
        {"w": (1 / M, 1), "g": (1, M)},
    ),
    "a recurrent layer": (
        modules(r=lambda width: nn.GRU(width, width, bidirectional=True)),
        lambda net, h: net.r(h[None])[0][0],
        {"r.weight_ih_l0": (1 / M, 1), "r.weight_hh_l0_reverse": (1 / M, 1), "r.bias_hh_l0": (1, M)},
        lambda width: 2 * width,
    ),
    "a recurrent cell in a loop": (
        modules(r=lambda width: nn.LSTMCell(width, width)),
        lambda net, h: net.r(h, net.r(h))[0],
        {"r.weight_ih": (1 / M, 1), "r.weight_hh": (1 / M, 1), "r.bias_hh": (1, M)},
    ),
    "a dynamic depthwise kernel": (
        modules(make=lambda width: nn.Linear(width, 3 * width)),
        lambda net, h: F.conv1d(
            h[:, :, None].expand(-1, -1, 4), net.make(h[0]).view(-1, 1, 3), groups=net.width
        ).mean(-1),
        {"make.weight": (1 / M, 1)},
    ),
    "two towers, normalised": (
        modules(one=linear(n, n), two=linear(n, n)),
        lambda net, h: h * (F.normalize(net.one(h), dim=-1) * net.two(h)).sum(-1, keepdim=True)
        + (lambda z: z / z.pow(2).sum(-1, keepdim=True).pow(0.5))(net.one(h)) @ net.two(h).T @ h,
        {"one.weight": (1 / M, 1)},
    ),
    "two towers, divided": (
        modules(one=linear(n, n), two=linear(n, n)),
        lambda net, h: h * ((net.one(h) * net.two(h)).sum(-1, keepdim=True) / net.width),
        {"one.weight": (1 / M, 1)},
    ),
    "linear attention of heads of one size": (
        modules(q=linear(n, n), k=linear(n, n), v=linear(n, n)),
        lambda net, h: torch.einsum(
            "bhc,bhd,bhd->bhc", *[f(h).unflatten(-1, (-1, 4)) for f in (net.v, net.q, net.k)]
        ).flatten(1),
        {"q.weight": (1 / M, 1), "v.weight": (1 / M, 1)},
    ),
    "one layer at both ends of its width": (
        modules(same=linear(n, n)),
        lambda net, h: net.same(net.same(h).relu()),
        {"same.weight": (1 / M, 1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RIGHT)
def test_rates(kind):
    make, use, expected, *out = RIGHT[kind]
    for column, optimizer in enumerate(("adamw", "sgd")):
        found = rates(make, use, optimizer, *out)
        wanted = {name: pytest.approx(both[column]) for name, both in expected.items()}
        assert {name: found[name] for name in wanted} == wanted, optimizer


def test_a_gain_is_no_weight_matrix():
    for kind in ("a gain on each channel, summed over positions", "gains whose width is not last"):
        assert plan_role(plan_of(*RIGHT[kind][:2]), "g") == "vector"


# --- what is refused by name, and the way out that the message names ---
def embedding_with_norms(net, h):
    return net.e(h.argmax(-1)) + h


REFUSED = {
    "an operation of somebody's own": (
        learned(w=lambda width: (width, width)), lambda net, h: somebodys_own(h, net.w), {"w": "hidden"}
    ),
    "embeddings of bounded norm": (
        modules(e=lambda width: nn.Embedding(7, width, max_norm=1.0)), embedding_with_norms, {"e.weight": "input"}
    ),
    "distances to prototypes": (
        learned(p=lambda width: (6, width)), lambda net, h: h + torch.cdist(h, net.p).mean(1, keepdim=True),
        {"p": "input"},
    ),
    "a weight in polar form": (
        learned(w=lambda width: (width, width)),
        lambda net, h: (h + 0j).matmul(torch.polar(net.w, net.w)).abs(),
        {"w": "hidden"},
    ),
    "a product of weights": (
        learned(a=lambda width: (width, 2), b=lambda width: (2, width), w=lambda width: (width, width)),
        lambda net, h: h @ (net.w + net.a @ net.b),
        {"a": "hidden", "b": "input"},
    ),
    "a gain on a weight": (
        learned(g=lambda width: (width, 1), w=lambda width: (width, width)),
        lambda net, h: F.linear(h, net.g * net.w),
        {"g": "vector", "w": "hidden"},
    ),
    "weight norm by inputs": (
        modules(h=lambda width: nn.utils.parametrizations.weight_norm(nn.Linear(width, width), dim=1)),
        lambda net, h: net.h(h),
        {"h.parametrizations.weight.original0": "vector", "h.parametrizations.weight.original1": "hidden"},
    ),
    "a transposed convolution in groups of fixed size": (
        modules(conv=lambda width: nn.ConvTranspose1d(width, width, 3, groups=width // 4)),
        depthwise,
        {"conv.weight": "input"},
    ),
    "weights that a network makes": (
        modules(make=lambda width: nn.Linear(2, width * width), z=linear(n, fixed(2))),
        lambda net, h: torch.einsum("bi,bij->bj", h, net.make(net.z(h)).unflatten(-1, (net.width, net.width))),
        {"make.weight": "input"},
    ),
    "a kernel that a network makes": (
        modules(make=lambda width: nn.Linear(2, width * width)),
        lambda net, h: F.conv1d(h[..., None], net.make(h[:1, :2])[0].view(net.width, net.width, 1))[..., 0],
        {"make.weight": "input"},
    ),
    "a bilinear form written as an einsum": (
        learned(w=lambda width: (3, width, width)),
        lambda net, h: h + torch.einsum("bi,kij,bj->bk", h, net.w, h.relu()).sum(-1, keepdim=True),
        {"w": "output"},
    ),
    "two towers": (
        modules(one=linear(n, n), two=linear(n, n)),
        lambda net, h: h * (net.one(h) * net.two(h)).sum(-1, keepdim=True),
        {"one.weight": "hidden", "two.weight": "hidden"},
    ),
    "one tensor as a map and as a gain": (
        learned(w=lambda width: (1, width)), lambda net, h: h * net.w * (h @ net.w.T), {"w": "vector"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_name_the_tensor_and_a_way_out(kind):
    make, use, way_out = REFUSED[kind]
    names = "|".join(name.replace(".", r"\.") for name in way_out)
    with pytest.raises(PlanError, match=rf"`({names})`.*roles="):
        plan_of(make, use)
    plan = plan_of(make, use, roles=way_out)
    assert {name: plan_role(plan, name) for name in way_out} == way_out


def plan_role(plan, name):
    return next(str(entry.role) for entry in plan.entries if entry.name == name)


def test_tensors_that_the_forward_does_not_use_are_left_as_they_are():
    make = learned(mask=lambda width: (width,), spare=lambda width: (width, width))
    plan = plan_of(make, lambda net, h: h.relu())
    found = {entry.name: entry for entry in plan.entries}
    assert {name: (found[name].lr, found[name].init) for name in ("mask", "spare")} == {"mask": (1, 1), "spare": (1, 1)}
    assert "not used by the forward" in found["spare"].reason
    assert any("mask, spare" in note for note in plan.notes)
    held = {name for group in plan.param_groups() for name in group["param_names"]}
    assert {"mask", "spare"} <= held
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Net(8, make, None)
        drawn = Net(8 * M, make, None)
    assert torch.equal(plan._model.spare, drawn.spare)
    assert plan_role(plan_of(make, lambda net, h: h.relu(), roles={"mask": "vector"}), "mask") == "vector"


def test_the_gain_of_a_standardised_weight_carries_its_branch():
    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.w, self.g, self.b = parameter(width, width), nn.Parameter(torch.ones(width, 1)), parameter(width)

        def forward(self, h):
            w = F.batch_norm(self.w[None], None, None, weight=self.g.flatten(), training=True)[0]
            return h + F.linear(h.relu(), w, self.b)

    def make(width, depth):
        return nn.Sequential(nn.Linear(IN, width), *[Block(width) for _ in range(depth)], nn.Linear(width, OUT))

    plan = parametrize(make(32, 6), make(8, 2), "completep", lr=1.0, example_inputs=(torch.zeros(2, IN),))
    found = {entry.name: entry for entry in plan.entries}
    assert [found[f"2.{name}"].carries for name in "wgb"] == [False, True, True]
    assert [found[f"2.{name}"].init for name in "wgb"] == pytest.approx([1 / 2, 1 / 3, 1 / 3])
    assert [found[f"2.{name}"].lr for name in "wgb"] == pytest.approx([1 / 4, 1 / 3, 1 / 3])


class Adapted(nn.Module):
    """Residual blocks with a bottleneck of fixed rank."""

    def __init__(self, width, depth):
        super().__init__()
        self.enter, self.leave = nn.Linear(IN, width), nn.Linear(width, OUT)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, 2), nn.Linear(2, width)) for _ in range(depth))

    def forward(self, x):
        h = self.enter(x)
        for block in self.blocks:
            h = h + block(h)
        return self.leave(h)


def test_a_bottleneck_of_a_branch_has_widths_factors_by_its_sides_and_depths_by_its_place():
    r = 3
    plan = parametrize(
        Adapted(8 * M, 2 * r), Adapted(8, 2), "completep", "sgd", lr=1.0, example_inputs=(torch.zeros(2, IN),)
    )
    found = {entry.name: (str(entry.role), entry.init, entry.lr) for entry in plan.entries}
    # SGD under completep: x depth, and the branch multiplier 1/r folded into the last map: init / r, lr / r^2.
    assert found["blocks.1.0.weight"] == ("branch_internal", pytest.approx(1 / M), pytest.approx(r / M))
    assert found["blocks.1.1.weight"] == ("branch_last", pytest.approx(1 / r), pytest.approx(r * M / r**2))


def test_a_role_given_by_hand_says_which_side_counts():
    """Sparse data of growing size: input, whatever its fan_in."""
    make, use, _ = RIGHT["random features"]
    found = plan_of(make, use, "sgd", roles={"first.weight": "input"}).entries
    assert next((entry.lr, entry.init) for entry in found if entry.name == "first.weight") == (M, 1)


def test_a_plan_explains_each_tensor():
    plan = plan_of(*RIGHT["a fixed latent"][:2])
    said = plan.explain("down.weight")
    for words in ("hidden", "between other weight matrices", "32 -> 2", "8 -> 2", "fan_in x4, fan_out x1", "x1/4"):
        assert words in said, words
    with pytest.raises(InvalidValueError, match=r"no tensor named 'down\.weigt'.*Nearest: down\.weight"):
        plan.explain("down.weigt")


def test_a_multiplier_stands_for_its_own_readout_alone():
    """Another head's, and that of a latent, are folded as ever."""
    make = modules(aside=linear(n, fixed(2)), down=linear(n, fixed(2)), up=linear(fixed(2), n))

    class TwoHeads(Net):
        def __init__(self, width):
            super().__init__(width, make, lambda net, h: net.up(net.down(h)))
            Multiplier.before(self.leave)

        def forward(self, x):
            return super().forward(x), self.aside(self.enter(x))

    base, model = TwoHeads(8), TwoHeads(8 * M)
    plan = parametrize(model, base, "mup", "adamw", lr=1.0, example_inputs=(torch.zeros(2, IN),))
    assert plan.multipliers == {"leave.input_multiplier": 1 / M}
    found = {entry.name: (entry.init, entry.lr) for entry in plan.entries}
    assert found["leave.weight"] == (1, 1)
    assert found["aside.weight"] == found["down.weight"] == (1 / M, 1 / M)


# --- measured: the first step moves what comes after these layers alike at every width ---
MEASURED = (
    "a fixed latent",
    "a router",
    "bilinear",
    "a dot product",
    "a vector in a matrix product",
    "random features",
)


@pytest.mark.parametrize("kind", MEASURED)
def test_a_step_of_adam_changes_its_result_alike_at_every_width(kind):
    make, use, *_ = RIGHT[kind]
    widths, seeds = (64, 256, 1024), 4
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, IN, generator=generator), torch.randn(16, OUT, generator=generator)
    changes = []
    for width in widths:
        total = 0.0
        for seed in range(seeds):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                base, model = Net(widths[0], make, use), Net(width, make, use)
            plan = parametrize(model, base, "mup", lr=1e-4, example_inputs=(x,))
            optimizer = torch.optim.AdamW(plan.param_groups())
            before = seen(model, x)
            F.mse_loss(model(x), y).backward()
            optimizer.step()
            total += float((seen(model, x) - before).square().mean())
        changes.append(math.sqrt(total / seeds))
    slope = math.log(changes[-1] / changes[0]) / math.log(widths[-1] / widths[0])
    assert abs(slope) < 0.2, changes


def seen(model, x):
    """What passes the module of that name."""
    found = []
    hook = model.seen.register_forward_hook(lambda module, args, out: found.append(out.detach()))
    model(x)
    hook.remove()
    return found[0]
