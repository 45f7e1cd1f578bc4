"""Where a measurement looks, and what a layer feels of its own step, in networks of every make."""

import math

import pytest
import torch
from networks import Apply, OnceSine, Sine
from torch import nn

from isoscale.measure import audit, coordinate_check
from isoscale.measure.tools.direct_update import direct_updates
from isoscale.measure.tools.hook_points import hook_points

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(4, 1, generator=torch.Generator().manual_seed(1))


class Root(nn.Module):
    """Blocks added in the root's own forward, h = h + f(h); `returns` says what comes out."""

    def __init__(self, width=8, depth=2, inner=nn.ReLU, norm=None, returns="tensor"):
        super().__init__()
        self.first, self.readout, self.returns = nn.Linear(6, width), nn.Linear(width, 1), returns
        norms = [[norm(width)] if norm else [] for _ in range(depth)]
        self.blocks = nn.ModuleList(
            nn.Sequential(*before, nn.Linear(width, width), inner(), nn.Linear(width, width)) for before in norms
        )

    def forward(self, x):
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        f = self.readout(h)
        return {"tensor": f, "tuple": (f, None, 3), "dict": {"out": f, "hidden": h}}[self.returns]


class InPlace(Root):
    def forward(self, x):
        h = self.first(x)
        for block in self.blocks:
            out = block(h)
            out += h
            h = out
        return self.readout(h)


class TupleBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h):
        return h + self.b(torch.relu(self.a(h))), None


class Tuples(nn.Module):
    """Blocks that return (stream, cache)."""

    def __init__(self, width=8, depth=2):
        super().__init__()
        self.first, self.readout = nn.Linear(6, width), nn.Linear(width, 1)
        self.h = nn.ModuleList(TupleBlock(width) for _ in range(depth))

    def forward(self, x):
        h = self.first(x)
        for block in self.h:
            h, _ = block(h)
        return self.readout(h)


class Heads(nn.Module):
    """torch's own encoder layers, with nn.MultiheadAttention."""

    def __init__(self, width=8, depth=2):
        super().__init__()
        self.first, self.norm, self.readout = nn.Linear(6, width), nn.LayerNorm(width), nn.Linear(width, 1)
        self.h = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, width, dropout=0.1, batch_first=True, norm_first=True)
            for _ in range(depth)
        )

    def forward(self, x):
        h = self.first(x).reshape(2, 2, -1)
        for block in self.h:
            h = block(h)
        return self.readout(self.norm(h)).reshape(-1, 1)


def loss(f, y):
    f = f["out"] if isinstance(f, dict) else f[0] if isinstance(f, tuple) else f
    return (f - y).square().mean()


def test_streams_that_modules_are_given():
    found = hook_points(Root(), (X,))
    assert found.stream == "<-readout"
    assert found.blocks == ("<-blocks.1.0", "<-readout")
    assert found.branch == ("blocks.0.0", "blocks.1.0")
    assert found.owners == {"blocks.0.0", "blocks.0.2", "blocks.1.0", "blocks.1.2"}


def test_streams_that_modules_return():
    found = hook_points(Tuples(), (X,))
    assert found.blocks == ("h.0", "h.1")
    assert found.stream == "h.1"
    assert found.branch == ("h.0.a", "h.1.a")
    heads = hook_points(Heads(), (X,))
    assert heads.blocks == ("<-h.0.norm2", "h.0", "<-h.1.norm2", "h.1")
    assert {"h.0.linear1", "h.1.linear1"} <= set(heads.branch)
    assert {"h.0.self_attn", "h.0.self_attn.out_proj", "h.0.linear1", "h.0.linear2"} <= heads.owners


def test_no_stream():
    found = hook_points(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1)), (X,))
    assert (found.stream, found.blocks, found.branch, found.owners) == (None, (), (), frozenset())


# --- own updates ---
def test_own_updates_by_hand():
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0]]))
        model[0].bias.fill_(7.0)
        model[1].weight.fill_(2.0)
    steps = {"0.weight": torch.tensor([[0.0, 1.0]]), "0.bias": torch.tensor([0.5]), "1.weight": torch.tensor([[-1.0]])}
    found = direct_updates(model, (torch.tensor([[1.0, 2.0]]),), steps, {"0.bias"}, 0)
    # |0 + 2| / |3 + 8| without the bias; the bias's own size; |-1 h| / |2 h| at whatever h.
    assert found == {"0.weight": pytest.approx(2 / 11), "0.bias": 0.5, "1.weight": pytest.approx(0.5)}


def test_maps_of_every_kind():
    generator = torch.Generator().manual_seed(2)

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 4)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.conv = nn.Conv1d(3, 4, 3, padding=1)
            self.scale = nn.Parameter(torch.ones(4, 4))

        def forward(self, ids):
            h = self.table(ids)
            h = self.attention(h, h, h)[0]
            return self.conv(h) @ self.scale

    model, ids = Mixed(), torch.tensor([[0, 1, 4], [2, 2, 3]])
    steps = {n: torch.randn(p.shape, generator=generator) for n, p in model.named_parameters() if p.dim() > 1}
    found = direct_updates(model, (ids,), steps, set(), 0)
    step, table = steps["table.weight"], model.table.weight
    assert found["table.weight"] == pytest.approx(float((step[ids].norm() / table[ids].norm()).detach()), rel=1e-5)
    h = table[ids].detach()
    moved, whole = h @ steps["attention.in_proj_weight"].T, h @ model.attention.in_proj_weight.detach().T
    assert found["attention.in_proj_weight"] == pytest.approx(float(moved.norm() / whole.norm()), rel=1e-5)
    assert 0 < found["conv.weight"] < math.inf
    assert math.isnan(found["scale"])  # used by the root itself, which does more than multiply
    assert math.isnan(found["attention.out_proj.weight"])  # a function gets it, no module is called


def test_a_module_that_is_not_linear_in_its_weight():
    class Squared(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.weight**2, self.bias)

    model = nn.Sequential(Squared(2, 2))
    found = direct_updates(model, (torch.ones(1, 2),), {"0.weight": torch.ones(2, 2)}, set(), 0)
    assert math.isnan(found["0.weight"])


# --- whole measurements survive ---
def same(first, second):
    for name in first.data.data_vars:
        a, b = first.data[name].values, second.data[name].values
        assert torch.allclose(torch.tensor(a), torch.tensor(b), rtol=1e-4, atol=1e-7, equal_nan=True), name


def of(make, dtype=torch.float32, **options):
    def built(depth):
        return make(depth=depth, **options).to(dtype)

    batch = X.to(dtype), Y.to(dtype)
    return audit(built, batch, loss, depths=[2, 3, 4], rule="completep", seeds=2)


def checked(make, **options):
    return coordinate_check(
        lambda depth: make(depth=depth, **options), [(X, Y)], loss, depths=[2, 3, 4], rule="completep", steps=2, seeds=2
    )


def test_in_whatever_it_returns_and_however_it_adds():
    plain = of(Root)
    assert "branch_internal" in plain.data["role"].values
    for other in (
        of(Root, returns="tuple"),
        of(Root, inner=lambda: nn.ReLU(inplace=True)),
        of(InPlace),
        of(Root, dtype=torch.float64),
    ):
        same(plain, other)
    measured = of(Root, returns="dict").data["output_update"]
    assert torch.allclose(torch.tensor(measured.values), torch.tensor(plain.data["output_update"].values), rtol=1e-4)


def test_half_precision_is_near():
    single, half = of(Root).data, of(Root, dtype=torch.bfloat16).data
    for name in ("own_update", "stream_update", "output_update"):
        ratio = (half[name] / single[name]).values
        assert (abs(ratio[ratio == ratio] - 1) < 0.1).all(), name  # 8 bits, through four blocks


def test_operations_without_forward_mode_fall_back_and_say_so():
    native, once, twice = (of(Root, inner=make) for make in (Sines, lambda: Apply(OnceSine), lambda: Apply(Sine)))
    same(native, twice)
    assert not any("changes by" in note for note in native.notes)
    assert any("changes by double backward, because" in note for note in twice.notes)
    assert any("changes by finite differences, because" in note for note in once.notes)
    for name in ("stream_update", "output_update"):
        assert torch.allclose(torch.tensor(once.data[name].values), torch.tensor(native.data[name].values), rtol=0.05)


class Sines(nn.Module):
    def forward(self, x):
        return x.sin()


class Constant(nn.Module):
    def forward(self, x):
        return torch.full_like(x, self.value)

    value = 0.5


class Zero(nn.Module):
    """A branch through which nothing goes, though it depends on its input."""

    def forward(self, x):
        return 0.0 * x


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (Root, {"inner": lambda: nn.Dropout(0.3)}, "dropout active"),
        (Root, {"norm": nn.BatchNorm1d}, "batch statistics"),
        (Root, {"inner": Constant}, "residual stream"),
        (Root, {"inner": Zero}, "nothing to judge"),
        (Tuples, {}, ""),
        (Heads, {}, "dropout active"),
    ],
)
def test_hostile_networks(make, options, words):
    found = of(make, **options)
    assert any(words in note for note in found.notes) or not words
    assert found.data["output_update"].notnull().any()
    assert checked(make, **options).data["change"].notnull().all()


def test_frozen_parameters_stay_out():
    def frozen(depth):
        model = Root(depth=depth)
        model.first.weight.requires_grad_(False)
        model.blocks[0][0].weight.requires_grad_(False)
        return model

    found, change = of(frozen), checked(frozen)
    assert "input" not in found.data["role"].values
    assert any("2 frozen tensors" in note for note in found.notes)
    assert any("2 frozen tensors" in note for note in change.notes)
    assert float(change.data["change"].sel(module="output").min()) > 0
