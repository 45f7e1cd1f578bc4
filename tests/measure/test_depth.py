"""Effective depth and path sum against tables worked out by hand (docs/theory.md, section 6)."""

import pytest
import torch
from torch import nn

from isoscale.errors import TraceError
from isoscale.measure import effective_depth, path_sum
from isoscale.models import GPT, ConvNet, ConvResNet, ResidualMLP, ViT


class Residual(nn.Module):
    """n blocks h + relu(W h), nothing else."""

    def __init__(self, blocks):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(4, 4) for _ in range(blocks))

    def forward(self, h):
        for linear in self.maps:
            h = h + torch.relu(linear(h))
        return h


class Dense(nn.Module):
    """As in DenseNet: each map reads the input and what all before it made; the readout reads all."""

    def __init__(self, layers):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(4 * (i + 1), 4) for i in range(layers))
        self.readout = nn.Linear(4 * (layers + 1), 1)

    def forward(self, h):
        for linear in self.maps:
            h = torch.cat([h, torch.relu(linear(h))], -1)
        return self.readout(h)


class UNet(nn.Module):
    """One long skip around two maps, joined by concatenation or by addition."""

    def __init__(self, join):
        super().__init__()
        self.join = join
        self.first, self.down, self.up, self.readout = (nn.Linear(4, 4) for _ in range(4))
        self.last = nn.Linear(8 if join == "cat" else 4, 4)

    def forward(self, x):
        h = torch.relu(self.first(x))
        z = torch.relu(self.up(torch.relu(self.down(h))))
        joined = torch.cat([h, z], -1) if self.join == "cat" else h + z
        return self.readout(torch.relu(self.last(joined)))


class Block(nn.Module):
    """ResNet's basic block; a change of channels has a projection on the shortcut."""

    def __init__(self, fan_in, fan_out):
        super().__init__()
        self.a, self.b = nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.Conv2d(fan_out, fan_out, 3, padding=1)
        self.na, self.nb = nn.BatchNorm2d(fan_out), nn.BatchNorm2d(fan_out)
        self.shortcut = (
            nn.Identity()
            if fan_in == fan_out
            else nn.Sequential(nn.Conv2d(fan_in, fan_out, 1), nn.BatchNorm2d(fan_out))
        )

    def forward(self, h):
        return torch.relu(self.shortcut(h) + self.nb(self.b(torch.relu(self.na(self.a(h))))))


def resnet():
    blocks = [Block(4, 4), Block(4, 4), Block(4, 8), Block(8, 8), Block(8, 16)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), *blocks, *head)


def plain(layers):
    return nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(4, 4), nn.ReLU())), nn.Linear(4, 1))


def encoder(norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


VECTORS, IMAGES, TOKENS = torch.zeros(2, 4), torch.zeros(2, 3, 8, 8), torch.zeros(2, 6, dtype=torch.long)
SEQUENCE = torch.zeros(2, 5, 8)
IMAGE = {"in_shape": (3, 8, 8), "out_features": 5, "width": 16, "depth": 3}

DEPTHS = {
    # weight layers and residual additions on the shortest path
    "MLP: 3 maps and the readout": (lambda: plain(3), VECTORS, 4),
    "residual MLP: input, 3 additions, readout": (lambda: ResidualMLP(4, 1, 8, 3), VECTORS, 5),
    "CNN: 3 convolutions and the readout": (lambda: ConvNet(**IMAGE), IMAGES, 4),
    "conv residual net: stem, 3 additions, readout": (lambda: ConvResNet(**IMAGE), IMAGES, 5),
    "pre-activation": (lambda: ConvResNet(block="pre", block_depth=2, **IMAGE), IMAGES, 5),
    "ResNet: stem, 5 additions, 2 shortcut convolutions, readout": (resnet, IMAGES, 9),
    "pre-norm encoder: 2 a block": (lambda: encoder(True), SEQUENCE, 6),
    "post-norm encoder: 2 a block": (lambda: encoder(False), SEQUENCE, 6),
    "GPT: embedding, 2 a block, readout": (lambda: GPT(vocab=7, context=6, width=16, depth=3), TOKENS, 8),
    "ViT: patches, 2 a block, readout": (lambda: ViT(**IMAGE), IMAGES, 8),
    "DenseNet: the readout sees the input": (lambda: Dense(3), VECTORS, 1),
    "U-Net, cat: first, last, readout": (lambda: UNet("cat"), VECTORS, 3),
    "U-Net, add: first, addition, last, readout": (lambda: UNet("add"), VECTORS, 4),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_effective_depth(name):
    make, x, expected = DEPTHS[name]
    assert effective_depth(make(), (x,)) == expected
    assert effective_depth(make().to("meta"), (x.to("meta"),)) == expected


SUMS = {
    # weight layers before the readout: each path gives the cube of their number
    "MLP: 3^3": (lambda: plain(3), VECTORS, 27),
    "one block of one map after the input: 1 + 2^3": (lambda: ResidualMLP(4, 1, 8, 1, block_depth=1), VECTORS, 9),
    "three blocks: 1 + 3 * 2^3 + 3 * 3^3 + 4^3": (lambda: ResidualMLP(4, 1, 8, 3, block_depth=1), VECTORS, 170),
    "three blocks of two maps: 1 + 3 * 3^3 + 3 * 5^3 + 7^3": (lambda: ResidualMLP(4, 1, 8, 3), VECTORS, 800),
    "DenseNet of two maps: 0 + 1 + 1 + 2^3": (lambda: Dense(2), VECTORS, 10),
    "DenseNet of three: 3 * 1 + 3 * 2^3 + 3^3": (lambda: Dense(3), VECTORS, 54),
    "U-Net: 2^3 + 4^3": (lambda: UNet("cat"), VECTORS, 72),
    # lengths x (1 + x^2)^3 (x + x^2)^2: 280 + 2700 + 6288 + 4060
    "ResNet": (resnet, IMAGES, 13328),
}


@pytest.mark.parametrize("name", SUMS)
def test_path_sum(name):
    make, x, expected = SUMS[name]
    assert path_sum(make(), (x,)) == expected


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 7, 30])
def test_the_closed_form_of_one_layer_blocks(blocks):
    assert path_sum(Residual(blocks), (VECTORS,)) * 8 == blocks**2 * (blocks + 3) * 2**blocks
    assert effective_depth(Residual(blocks), (VECTORS,)) == blocks


def test_an_output_without_its_input():
    class Deaf(nn.Module):
        def forward(self, x):
            return torch.ones(2)

    for measured in (effective_depth, path_sum):
        with pytest.raises(TraceError, match="no path"):
            measured(Deaf(), (VECTORS,))
