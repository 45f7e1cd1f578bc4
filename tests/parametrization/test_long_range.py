"""Networks whose connections reach further than a block: U-Nets, dense nets, side inputs, torch's own encoder."""

import pytest
import torch
from block_zoo import ROWS, Rows, conv
from small_nets import seeded, train
from torch import nn

from isoscale import Role, parametrize


class TimedBlock(nn.Module):
    """A convolutional residual block that is told the time."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.first, self.second = nn.GroupNorm(2, width), conv(width, width), conv(width, width)
        self.time = nn.Linear(width, width)

    def forward(self, x, time):
        z = self.first(torch.relu(self.norm(x))) + self.time(time)[:, :, None, None]
        return x + self.second(torch.relu(z))


class UNet(nn.Module):
    """Two levels, skips by concatenation, a time embedding beside; (batch, 2, 8, 8) -> (batch, 2, 8, 8)."""

    def __init__(self, width, depth):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.input, self.readout = conv(2, width), conv(width, 2)
        self.downs = nn.ModuleList(TimedBlock(width) for _ in range(depth))
        self.middle = nn.ModuleList(TimedBlock(width) for _ in range(depth))
        self.pool, self.up, self.merge = nn.AvgPool2d(2), nn.Upsample(scale_factor=2), conv(2 * width, width)
        self.ups = nn.ModuleList(TimedBlock(width) for _ in range(depth))

    def forward(self, x):
        time = self.time(x.mean((1, 2, 3))[:, None])
        h = self.input(x)
        for block in self.downs:
            h = block(h, time)
        low = self.pool(h)
        for block in self.middle:
            low = block(low, time)
        h = self.merge(torch.cat([h, self.up(low)], 1))
        for block in self.ups:
            h = block(h, time)
        return self.readout(h)


class LongAdditive(nn.Module):
    """Blocks inside a long skip that is added, not concatenated."""

    def __init__(self, width, depth):
        super().__init__()
        self.input, self.readout = nn.Linear(5, width), nn.Linear(width, 3)
        self.blocks = nn.ModuleList(ROWS["pre-norm"](width) for _ in range(depth))

    def forward(self, x):
        h = start = self.input(x)
        for block in self.blocks:
            h = block(h)
        return self.readout(start + h)


class Dense(nn.Module):
    """Every layer reads all before it, concatenated; (batch, 5) -> (batch, 3)."""

    def __init__(self, width, depth):
        super().__init__()
        self.input = nn.Linear(5, width)
        self.layers = nn.ModuleList(nn.Linear(width * (i + 1), width) for i in range(depth))
        self.readout = nn.Linear(width * (depth + 1), 3)

    def forward(self, x):
        features = [self.input(x)]
        for layer in self.layers:
            features.append(torch.relu(layer(torch.cat(features, -1))))
        return self.readout(torch.cat(features, -1))


def batches(shape, targets, count=1):
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(targets[0], targets[1:], generator=generator)
    return [(torch.randn(shape, generator=generator), draw)] * count


def roles_of(plan):
    return {entry.name: entry.role for entry in plan.entries}


def test_a_u_net_has_its_blocks_and_no_other():
    model, base = (seeded(lambda size=size: UNet(*size)) for size in ((16, 2), (8, 1)))
    plan = parametrize(model, base, lr=0.01, example_inputs=(torch.zeros(1, 2, 8, 8),))
    roles = roles_of(plan)
    blocks = {entry.block for entry in plan.entries if entry.block}
    assert blocks == {f"{level}.{i}" for level in ("downs", "middle", "ups") for i in (0, 1)}
    assert plan.scaling.depth == 2
    assert roles["merge.weight"] is Role.HIDDEN
    assert roles["middle.1.time.weight"] is Role.BRANCH_INTERNAL
    assert roles["middle.1.second.weight"] is Role.BRANCH_LAST
    assert (roles["time.0.weight"], roles["time.2.weight"]) == (Role.INPUT, Role.HIDDEN)
    assert (roles["readout.weight"], roles["readout.bias"]) == (Role.OUTPUT, Role.SCALAR)
    # Each branch alone carries the multiplier; the time embedding is shared by all and carries none.
    assert {entry.name.split(".", 2)[-1] for entry in plan.entries if entry.carries} == {"second.weight", "second.bias"}
    optimizer = torch.optim.AdamW(plan.param_groups())
    losses = train(_channels_last(model), optimizer, batches((4, 2, 8, 8), (2, 4, 8, 8), 8))
    assert losses[-1] < losses[0]


def _channels_last(model):
    return nn.Sequential(model, _Permute())


class _Permute(nn.Module):
    def forward(self, x):
        return x.movedim(1, -1)


def test_a_long_skip_bounds_no_branch():
    model, base = (seeded(lambda depth=depth: LongAdditive(8, depth)) for depth in (6, 2))
    plan = parametrize(model, base, lr=0.01, example_inputs=(torch.zeros(1, 5),))
    assert plan.scaling.depth == 3
    assert {entry.block for entry in plan.entries if entry.block} == {f"blocks.{i}" for i in range(6)}
    losses = train(model, torch.optim.AdamW(plan.param_groups()), batches((8, 5), (3, 8), 10))
    assert losses[-1] < losses[0]


def test_concatenation_is_no_residual():
    """Layers of a dense net are hidden maps; each fan_in grows with the width (and the same at any depth)."""
    model, base = (seeded(lambda width=width: Dense(width, 3)) for width in (32, 8))
    plan = parametrize(model, base, lr=0.01, example_inputs=(torch.zeros(1, 5),))
    roles = roles_of(plan)
    assert {role for name, role in roles.items() if name.startswith("layers") and "weight" in name} == {Role.HIDDEN}
    assert roles["readout.weight"] is Role.OUTPUT
    assert {(e.fan_in, e.fan_out) for e in plan.entries if e.role is Role.HIDDEN} == {(4.0, 4.0)}
    losses = train(model, torch.optim.AdamW(plan.param_groups()), batches((8, 5), (3, 8), 10))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_encoder(norm_first):
    def make(width, depth):
        layer = nn.TransformerEncoderLayer(width, width // 4, 2 * width, 0.0, batch_first=True, norm_first=norm_first)
        encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        return nn.Sequential(nn.Linear(5, width), encoder, nn.Linear(width, 3))

    model, base = (seeded(lambda size=size: make(*size)) for size in ((16, 3), (8, 1)))
    plan = parametrize(model, base, lr=0.01, example_inputs=(torch.zeros(1, 4, 5),))
    roles = {name.split("layers.2.")[-1]: role for name, role in roles_of(plan).items() if "layers.2" in name}
    assert plan.scaling.depth == 3
    assert roles == {
        "self_attn.in_proj_weight": Role.BRANCH_INTERNAL,
        "self_attn.in_proj_bias": Role.BRANCH_VECTOR,
        "self_attn.out_proj.weight": Role.BRANCH_LAST,
        "self_attn.out_proj.bias": Role.BRANCH_VECTOR,
        "linear1.weight": Role.BRANCH_INTERNAL,
        "linear1.bias": Role.BRANCH_VECTOR,
        "linear2.weight": Role.BRANCH_LAST,
        "linear2.bias": Role.BRANCH_VECTOR,
    } | {f"norm{i}.{x}": Role.BRANCH_VECTOR if norm_first else Role.VECTOR for i in (1, 2) for x in ("weight", "bias")}
    losses = train(model, torch.optim.AdamW(plan.param_groups()), batches((8, 4, 5), (3, 8, 4), 10))
    assert losses[-1] < losses[0]


def test_rotary_embeddings_add_no_branches():
    """One branch a block: x cos + rotate(x) sin is a sum of one value with itself."""
    model, base = (seeded(lambda depth=depth: Rows(8, depth, ROWS["rotary attention"])) for depth in (4, 2))
    plan = parametrize(model, base, lr=0.01, example_inputs=(torch.zeros(1, 3, 5),))
    assert plan.scaling.depth == 2
    assert {entry.name.split(".", 2)[-1] for entry in plan.entries if entry.carries} == {"branch.1.out.weight"}


@pytest.mark.parametrize("depth", [2, 6])
def test_a_plain_network_has_no_branches_and_no_depth_factors(depth):
    def make(width, layers):
        maps = [m for _ in range(layers) for m in (nn.Linear(width, width), nn.ReLU())]
        return nn.Sequential(nn.Linear(5, width), nn.ReLU(), *maps, nn.Linear(width, 3))

    model, base = (seeded(lambda width=width: make(width, depth)) for width in (16, 8))
    plan = parametrize(model, base, "completep", lr=0.01, example_inputs=(torch.zeros(1, 5),))
    assert not any(entry.role.in_branch for entry in plan.entries)
    assert len([entry for entry in plan.entries if entry.role is Role.HIDDEN]) == depth
