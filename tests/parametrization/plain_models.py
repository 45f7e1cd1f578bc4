"""Three architectures in plain torch, written as their papers draw them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TextEncoder(nn.Module):
    """torch's own encoder between an embedding and a readout."""

    def __init__(self, vocabulary: int, tokens: int, classes: int, width: int, depth: int, *, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(tokens, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True, activation="gelu"
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, classes)
        _draw_each_layer_anew(self.encoder)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.encoder(self.embedding(input_ids) + self.positions)
        return self.readout(self.norm(x).mean(1))


def _draw_each_layer_anew(encoder: nn.Module) -> None:
    """nn.TransformerEncoder copies one layer: without this all its layers start equal."""
    for module in encoder.modules():
        if isinstance(module, nn.MultiheadAttention):
            module._reset_parameters()
        elif isinstance(module, nn.Linear):
            module.reset_parameters()


class _MixerBlock(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, width // 2), nn.GELU(), nn.Linear(width // 2, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class MLPMixer(nn.Module):
    """Tolstikhin et al. 2021, arXiv 2105.01601: perceptrons over patches and over channels in turn."""

    def __init__(self, channels: int, classes: int, grid: int, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 2, stride=2)
        self.blocks = nn.ModuleList(_MixerBlock(grid * grid, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.stem(pixel_values).flatten(2).transpose(1, 2)  # (B, patches, width)
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x).mean(1))


class _ConvBlock(nn.Module):
    """norm-act-conv, plus the time, norm-act-conv; a projection where the number of channels changes.

    The last convolution starts at zero, as in Ho et al. 2020 (arXiv 2006.11239).
    """

    def __init__(self, channels: int, out: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, channels), nn.GroupNorm(4, out)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.time = nn.Linear(time, out)
        self.shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        self.act = nn.SiLU()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(self.act(self.norm1(x)))
        h = h + self.time(self.act(time))[:, :, None, None]
        return self.shortcut(x) + self.conv2(self.act(self.norm2(h)))


class UNet(nn.Module):
    """A diffusion model's net with two resolutions: the skip is concatenated, the time enters every block."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.frequencies = 8
        self.time = nn.Sequential(nn.Linear(2 * self.frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(_ConvBlock(width, width, width) for _ in range(depth))
        self.downsample = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = nn.ModuleList(_ConvBlock(2 * width, 2 * width, width) for _ in range(depth))
        self.upsample = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.up = nn.ModuleList(_ConvBlock(2 * width if i == 0 else width, width, width) for i in range(depth))
        self.norm = nn.GroupNorm(4, width)
        self.readout = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        rates = torch.exp(-math.log(1e4) * torch.arange(self.frequencies) / self.frequencies)
        angles = time[:, None] * rates
        t = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x = self.stem(x)
        for block in self.down:
            x = block(x, t)
        skip, x = x, self.downsample(x)
        for block in self.middle:
            x = block(x, t)
        x = torch.cat([self.upsample(x), skip], 1)
        for block in self.up:
            x = block(x, t)
        return self.readout(nn.functional.silu(self.norm(x)))
