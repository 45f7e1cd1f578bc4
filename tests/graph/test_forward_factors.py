"""Numbers that a forward multiplies by are read, however they are spelled, and counted once.

A network is written plainly, and again with a multiplier of muP or CompleteP in its forward. Both are 1 at the base, so
both have one base, and from the same function at step 0 their plans must train them alike, to float64 round-off.
"""

import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isoscale import Multiplier, Plan, parametrize, shapes
from isoscale.errors import PlanError

# Powers of two, which single precision holds as well.
WIDTH, BASE_WIDTH, DEPTH, BASE_DEPTH = 64, 16, 8, 2
TOKENS, LABELS = torch.arange(12).reshape(3, 4), torch.arange(12) % 5
INPUTS = {"example_inputs": (TOKENS,)}


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h):
        return self.down(F.gelu(self.up(self.norm(h))))


class Net(nn.Module):
    """`enter`, `add` and `leave` say how tokens become features, branches are added and features become logits."""

    def __init__(self, width=WIDTH, depth=DEPTH, enter=None, add=None, leave=None, blocks=None):
        super().__init__()
        self.embed, self.place = nn.Embedding(12, width), nn.Embedding(4, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks or depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)
        self.m, self.r = width / BASE_WIDTH, depth / BASE_DEPTH
        self.depth, self.width = depth, width
        self.register_buffer("root", torch.tensor(self.m).sqrt(), persistent=False)
        self.register_buffer("wide", torch.full((width,), self.m))
        self.enter = enter or (lambda net, t: net.embed(t) + net.place.weight)
        self.add = add or (lambda net, h, block: h + block(h))
        self.leave = leave or (lambda net, h: net.head(h))

    def forward(self, t):
        h = self.enter(self, t)
        for i in range(self.depth):
            h = self.add(self, h, self.blocks[i % len(self.blocks)])
        return self.leave(self, self.norm(h))


ENTER = {
    "a number": lambda net, t: net.embed(t) * net.m**0.5 + net.place.weight,
    "a division": lambda net, t: net.embed(t) / net.m**-0.5 + net.place.weight,
    "in place": lambda net, t: net.embed(t).mul_(net.m**0.5) + net.place.weight,
    "a tensor of one number": lambda net, t: torch.tensor(net.m**0.5) * net.embed(t) + net.place.weight,
    "a tensor's root": lambda net, t: net.embed(t) * torch.tensor(net.m).sqrt() + net.place.weight,
    "a buffer": lambda net, t: net.embed(t) * net.root + net.place.weight,
    "a buffer cast and used in reverse": lambda net, t: (
        net.embed(t) / net.root.to(torch.float64).pow(-1) + net.place.weight
    ),
    "a buffer for each feature": lambda net, t: net.embed(t) * net.wide.sqrt() + net.place.weight,
    "on the weight": lambda net, t: F.embedding(t, net.embed.weight * net.m**0.5) + net.place.weight,
    "on a sum": lambda net, t: (net.embed(t) + net.place.weight) * net.m**0.5,
    "alpha of the sum": lambda net, t: torch.add(net.embed(t), net.place.weight, alpha=net.m**0.5),
    "twice": lambda net, t: (net.embed(t) * net.m**0.25 + net.place.weight) * net.m**0.25,
}
ADD = {
    "a number": lambda net, h, block: h + block(h) * (1 / net.r),
    "a division": lambda net, h, block: block(h) / net.r + h,
    "a root": lambda net, h, block: h + block(h) / net.r**0.5,
    "two roots": lambda net, h, block: h + block(h) / math.sqrt(net.r) / torch.tensor(net.r).sqrt(),
    "alpha": lambda net, h, block: torch.add(h, block(h), alpha=1 / net.r),
    "alpha in place": lambda net, h, block: h.clone().add_(block(h), alpha=1 / net.r),
    "value of addcmul": lambda net, h, block: torch.addcmul(h, block(h), torch.ones_like(h), value=1 / net.r),
    "value of addcdiv": lambda net, h, block: torch.addcdiv(h, block(h), torch.full_like(h, net.r)),
    "alpha of index_add": lambda net, h, block: h.index_add(0, torch.arange(3), block(h), alpha=1 / net.r),
    "added in places": lambda net, h, block: h.index_put((torch.arange(3),), block(h) / net.r, accumulate=True),
    "alpha and beta of addmm": lambda net, h, block: torch.addmm(
        h.flatten(0, 1), block(h).flatten(0, 1), torch.eye(net.width, dtype=h.dtype), beta=1, alpha=1 / net.r
    ).view_as(h),
    "before the last layer": lambda net, h, block: h + block.down(F.gelu(block.up(block.norm(h))) / net.r),
}
LEAVE = {
    "after": lambda net, h: net.head(h) / net.m,
    "before": lambda net, h: net.head(h * (1 / net.m)),
    "before, by a buffer": lambda net, h: net.head(h / net.wide),
    "before and after": lambda net, h: net.head(h / net.root) / net.root,
    "on the weight": lambda net, h: F.linear(h, net.head.weight / net.m, net.head.bias),
    "alpha of the product": lambda net, h: torch.addmm(
        net.head.bias, h.flatten(0, 1), net.head.weight.t(), alpha=1 / net.m
    ).unflatten(0, h.shape[:-1]),
}
SPELLINGS = (
    [pytest.param({"enter": enter}, id=f"embedding: {name}") for name, enter in ENTER.items()]
    + [pytest.param({"add": add}, id=f"branches: {name}") for name, add in ADD.items()]
    + [pytest.param({"leave": leave}, id=f"logits: {name}") for name, leave in LEAVE.items()]
    + [pytest.param({"enter": ENTER["a buffer"], "add": ADD["alpha"], "leave": LEAVE["before"]}, id="all three")]
)
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-5}),
}


def planned(optimizer="adamw", rule="completep", base=None, **spelling):
    """A network and its plan."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = Net(BASE_WIDTH, BASE_DEPTH, **spelling).double()
        net = Net(**spelling).double()
    return net, parametrize(net, base or small, rule, optimizer, **OPTIMIZERS[optimizer][1], **INPUTS)


def train(net, plan):
    optimizer = OPTIMIZERS[plan.settings.optimizer][0](plan.param_groups(net))
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(net(TOKENS).flatten(0, -2), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def plain():
    """By optimizer the plainly written network's plan, entries at step 0 and losses."""
    found = {}
    for optimizer in OPTIMIZERS:
        net, plan = planned(optimizer)
        start = {name: value.clone() for name, value in net.state_dict().items()}
        found[optimizer] = plan, start, train(net, plan)
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_multiplier_in_the_forward_is_counted_once(spelling, optimizer, plain):
    expected, start, losses = plain[optimizer]
    net, plan = planned(optimizer, **spelling)
    assert not plan.notes
    assert plan.forward_multipliers
    with torch.no_grad():
        for entry, other in zip(plan.entries, expected.entries, strict=True):
            # The draws were alike: the plan has rescaled them to the same function up to rounding.
            ratio = entry.init / other.init
            torch.testing.assert_close(net.get_parameter(entry.name), ratio * start[entry.name], rtol=1e-12, atol=0)
    assert train(net, plan) == pytest.approx(losses, rel=1e-10)
    assert losses[-1] < losses[0]


class Gated(Net):
    """Each branch is multiplied by one number of the model, 1 / depth."""

    def __init__(self, width, depth, is_trained):
        super().__init__(width, depth, add=lambda net, h, block: h + net.gate * block(h))
        self.gate = nn.Parameter(torch.tensor([1 / depth]), requires_grad=is_trained)


@pytest.mark.parametrize("is_trained", [True, False])
def test_a_single_number_is_a_parameter_if_it_is_trained_and_else_one_of_the_forward(is_trained):
    """A trained one begins where the base's does, and the branch gets its 1/4; a frozen one is that 1/4."""
    net = Gated(WIDTH, DEPTH, is_trained)
    plan = parametrize(net, Gated(BASE_WIDTH, BASE_DEPTH, is_trained), "completep", "adamw", lr=0.01, **INPUTS)
    last = next(entry for entry in plan.entries if entry.name == "blocks.3.down.weight")
    assert (net.gate.item(), last.multiplier) == ((1 / BASE_DEPTH, 0.25) if is_trained else (1 / DEPTH, 1.0))
    assert not any("not used" in note for note in plan.notes)


def test_what_the_forward_lacks_is_folded_and_no_more():
    """CompleteP written out asks for nothing: every folded multiplier is 1, and the rates are the table's."""
    everything = {"enter": ENTER["a buffer"], "add": ADD["alpha"], "leave": LEAVE["before"]}
    _, plan = planned(**everything)
    table = plan.table().set_index("name")
    left = {entry.name: entry.multiplier for entry in plan.entries if entry.multiplier != 1}
    assert left == {"embed.weight": 0.5}  # TP5 wants no sqrt(width) on embeddings
    assert "the forward already multiplies by x1/4" in table.reason["head.weight"]
    assert "the forward already multiplies by x1/4" in table.reason["blocks.7.down.weight"]
    assert plan.forward_multipliers["embed.weight"] == (1.0, 2.0)
    assert plan.forward_multipliers["blocks.7.down.bias"] == (1.0, 0.25)
    assert plan.forward_multipliers["head.weight"] == (1.0, 0.25)


@pytest.mark.parametrize(
    ("rule", "asked"), [("depth-mup", 1.0), ("completep", 0.5), ("mup", 1.0), ("sp", 1.0)], ids=lambda value: str(value)
)
def test_rules_complete_a_root_of_the_depth(rule, asked):
    """1/sqrt(r) is depth-mup's own; completep wants 1/r; a rule without a multiplier for branches leaves it."""
    _, plan = planned(rule=rule, add=ADD["a root"])
    multipliers = {entry.name: entry.multiplier for entry in plan.entries}
    assert multipliers["blocks.3.down.weight"] == pytest.approx(asked, rel=1e-12)
    assert any("left as it is, mup says" in note for note in plan.notes) == (rule == "mup")


@pytest.mark.parametrize("rule", ["sp", "ntp"])
def test_a_rule_without_multipliers_leaves_the_forward_to_the_user(rule):
    everything = {"enter": ENTER["a buffer"], "add": ADD["alpha"], "leave": LEAVE["before"]}
    with_factors, without = planned(rule=rule, **everything)[1], planned(rule=rule)[1]
    assert [(e.init, e.lr, e.eps) for e in with_factors.entries] == [(e.init, e.lr, e.eps) for e in without.entries]
    assert with_factors.forward_multipliers
    assert not without.forward_multipliers


# --- what a plan must know, and where it is kept ------------------------------------------------------------------
def sqrt_of_width(net, t):
    return net.embed(t) * net.width**0.5 + net.place.weight


def test_the_stream_starts_alike_at_every_width():
    """Embeddings of a fixed size times sqrt(width), as in Gemma and Marian: the base's rms and factor decide."""
    net, plan = planned(enter=sqrt_of_width, rule="mup")
    assert plan.forward_multipliers["embed.weight"] == (4.0, 8.0)
    embedding = plan.table().set_index("name").loc["embed.weight"]
    assert embedding.lr == 0.01 / 2
    assert embedding.eps == pytest.approx(1e-5 / 4 * 2)
    assert net.embed.weight.square().mean().sqrt().item() == pytest.approx(0.5, rel=0.1)  # drawn N(0, 1)


def test_factors_travel_in_the_shapes_of_a_base_and_in_a_plans_file(tmp_path):
    spelling = {"enter": ENTER["a buffer"], "add": ADD["alpha"], "leave": LEAVE["before"]}
    _, plan = planned(**spelling)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = Net(BASE_WIDTH, BASE_DEPTH, **spelling).double()
    written = json.loads(json.dumps(shapes(base, (TOKENS,))))
    assert planned(base=written, **spelling)[1] == plan
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").forward_multipliers == plan.forward_multipliers
    unknown = planned(base=shapes(base), **spelling)[1]
    assert any("was not traced" in note and "embed.weight" in note for note in unknown.notes)
    for key, value in {"factors": {"head.weight": 0.0}, "uses": {"head.weight": -1e99}, "elsewhere": ["x"]}.items():
        with pytest.raises(PlanError, match=key):
            planned(base=written | {key: value})


NOTED = {
    "an unknown number": ({"leave": lambda net, h: net.head(h) * torch.rand(())}, r"cannot be read.*`head\.weight`"),
    "different uses": (
        {"leave": lambda net, h: net.head(h) + net.head(h) / net.m},
        r"or by several, at .*`head\.weight`",
    ),
    "behind a nonlinearity": (
        {"leave": lambda net, h: net.head(h).tanh() * net.m},
        r"multiplies by 4 and, in the base",
    ),
    "on the stream": ({"add": lambda net, h, block: (h + block(h)) * net.r**-0.5}, r"multiplies by 0\.5 and"),
    "a product of features": (
        {"leave": lambda net, h: net.head(h) + (net.head(h) * h[..., :5]).sum(-1, keepdim=True) / net.m},
        r"multiplies by 0\.25 and",
    ),
    "by the block's number": (
        {"add": lambda net, h, block: h + block(h) / (1 + list(net.blocks).index(block))},
        r"`blocks\.\*\.down\.weight` by differs from block to block",
    ),
}


@pytest.mark.parametrize("kind", NOTED)
def test_what_is_not_counted_is_noted(kind):
    spelling, note = NOTED[kind]
    _, plan = planned(rule="mup", **spelling)
    assert any(re.search(note, one) for one in plan.notes), plan.notes
    assert plan.forward_multipliers == {}


def test_a_softcap_of_one_size_is_part_of_the_architecture():
    _, plan = planned(leave=lambda net, h: 30 * torch.tanh(net.head(h) / 30))
    assert (plan.forward_multipliers, plan.notes) == ({}, ())


# --- where nothing can be folded ----------------------------------------------------------------------------------
class Tied(nn.Module):
    """Embeddings times `up`, and before the readout, which is the same tensor, times `down`; both 1 at the base."""

    def __init__(self, width, up=0.0, down=0.0, multiplier=True):
        super().__init__()
        self.embed, self.hidden, self.norm = nn.Embedding(12, width), nn.Linear(width, width), nn.LayerNorm(width)
        self.multiplier = Multiplier() if multiplier else nn.Identity()
        self.up, self.down = (width / BASE_WIDTH) ** up, (width / BASE_WIDTH) ** down

    def forward(self, t):
        h = self.norm(self.hidden(self.embed(t) * self.up).relu())
        return F.linear(self.multiplier(h * self.down), self.embed.weight)


@pytest.mark.parametrize(("up", "down"), [(0, 0), (0.5, 0), (0, -1), (0.5, -0.5), (0, -0.5)])
def test_a_tied_readout_takes_what_is_missing(up, down):
    """Embedding: total 1, so it shrinks by `up`; readout: total 1/m, of a tensor that has shrunk by `up`."""
    m = WIDTH / BASE_WIDTH
    plan = parametrize(Tied(WIDTH, up, down), Tied(BASE_WIDTH, up, down), "mup", lr=1.0, **INPUTS)
    embedding = next(entry for entry in plan.entries if entry.name == "embed.weight")
    assert (embedding.init, embedding.lr) == pytest.approx((m**-up, m**-up))
    assert plan.multipliers["multiplier"] * m**down * embedding.init == pytest.approx(1 / m)
    without = (Tied(WIDTH, up, down, multiplier=False), Tied(BASE_WIDTH, up, down, multiplier=False))
    if up - down == 1:
        assert not parametrize(*without, "mup", lr=1.0, **INPUTS).open_items
    else:
        with pytest.raises(PlanError, match=r"the readout needs an explicit multiplier"):
            parametrize(*without, "mup", lr=1.0, **INPUTS)


def test_a_branch_that_nothing_folds_into_may_have_its_multiplier_already():
    with pytest.raises(PlanError, match=r"ends in tanh: its multiplier 0\.25"):
        planned(add=lambda net, h, block: h + block(h).tanh())
    with pytest.raises(PlanError, match=r"ends in tanh: its multiplier 0\.5"):
        planned(add=lambda net, h, block: h + block(h).tanh() / net.r**0.5)
    _, plan = planned(add=lambda net, h, block: h + block(h).tanh() / net.r)
    assert plan.forward_multipliers == {f"blocks.{i}.down.weight (branch)": (1.0, 0.25) for i in range(DEPTH)}


# --- one block that runs several times ----------------------------------------------------------------------------
def test_a_gradient_over_r_uses_has_sgds_rate_divided_by_r():
    """Adam's step is free of the gradient's size, and its eps follows that size."""
    r = DEPTH / BASE_DEPTH
    for optimizer, lr, eps in (("sgd", 1 / r, None), ("adamw", 1.0, r)):
        several, one = (planned(optimizer, blocks=blocks)[1].table().set_index("name") for blocks in (None, 1))
        for name in one.index:
            shared = name.startswith("blocks")
            assert one.lr[name] == pytest.approx(several.lr[name] * (lr if shared else 1)), name
            if eps:
                assert one.eps[name] == pytest.approx(several.eps[name] * (eps if shared else 1)), name
            decay = one.lr[name] * one.weight_decay[name]
            assert decay == pytest.approx(several.lr[name] * several.weight_decay[name]), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_moves_the_logits_alike_however_often_a_block_runs(optimizer):
    """To first order in the rate and 1/depth: from 8 to 32 runs the change of the logits moves by less than 1.2.

    Without the division by the number of runs SGD's would grow by up to 4.
    """
    cls = OPTIMIZERS[optimizer][0]
    changes = []
    for depth in (8, 32):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            base, net = Net(BASE_WIDTH, 2, blocks=1).double(), Net(BASE_WIDTH, depth, blocks=1).double()
        net.load_state_dict(base.state_dict())
        plan = parametrize(net, base, "completep", optimizer, lr=1e-5, **INPUTS)
        own = cls([group for group in plan.param_groups() if any("blocks" in n for n in group["param_names"])])
        before = net(TOKENS)
        F.cross_entropy(before.flatten(0, -2), LABELS).backward()
        own.step()
        changes.append((net(TOKENS) - before).square().mean().sqrt().item())
    assert 1 / 1.2 < changes[1] / changes[0] < 1.2


def test_uses_of_parts_are_no_further_uses():
    """A packed projection that is cut into heads is used once, however many heads there are."""

    class Cut(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.first, self.head = nn.Linear(8, width, bias=False), nn.Linear(width, 3)

        def forward(self, x):
            return self.head(torch.cat([F.linear(x, part) for part in self.first.weight.split(8)], -1))

    plan = parametrize(Cut(64), Cut(16), "mup", "sgd", lr=1.0, example_inputs=(torch.zeros(2, 8),))
    assert {entry.uses for entry in plan.entries} == {1.0}


@pytest.mark.parametrize(
    "norm",
    [
        lambda h: F.normalize(h, dim=-1) * h.shape[-1] ** 0.5,
        lambda h: h / h.norm(dim=-1, keepdim=True) * h.shape[-1] ** 0.5,
        lambda h: h / h.norm(dim=-1, keepdim=True).clamp(min=1e-6) * h.shape[-1] ** 0.5,
    ],
)
def test_an_l2_norm_times_the_root_of_its_size_is_an_rms_norm(norm):
    """The root only makes up for the l2 norm's own, and is no multiplier."""

    def rates(leave):
        base, model = Net(BASE_WIDTH, BASE_DEPTH, leave=leave), Net(leave=leave)
        return parametrize(model, base, "completep", "adamw", lr=1.0, **INPUTS).table().set_index("name").lr

    assert rates(lambda net, h: net.head(norm(h))).equals(rates(lambda net, h: net.head(F.rms_norm(h, h.shape[-1:]))))


class Standardised(nn.Module):
    """A convolution of standardised weights with a gain, times fan_in^-1/2, as in NFNets."""

    def __init__(self, width):
        super().__init__()
        self.enter, self.leave = nn.Conv1d(3, width, 1), nn.Linear(width, 2)
        self.weight, self.gain = nn.Parameter(torch.randn(width, width, 1)), nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x):
        scale = (self.gain * self.weight[0].numel() ** -0.5).flatten()
        rows = self.weight.flatten(1)[None]
        weight = F.batch_norm(rows, None, None, weight=scale, training=True).reshape(self.weight.shape)
        return self.leave(F.conv1d(self.enter(x).relu(), weight).relu().mean(-1))


def test_the_size_of_a_standardised_weight_is_no_multiplier():
    base, model = Standardised(16), Standardised(64)
    plan = parametrize(model, base, "mup", "adamw", lr=1.0, example_inputs=(torch.zeros(2, 3, 4),))
    assert plan.table().set_index("name").lr[["weight", "gain"]].tolist() == [1 / 4, 1.0]
