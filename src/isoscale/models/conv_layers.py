"""Convolution, batch norm and dropout that also run as a stack, members beside one another in the channels.

Between a conv net's entrance and its readout a stack's activations are (batch, members * channels, *space), so
that a stack is one grouped convolution and everything else is what it is for a single network.
"""

from __future__ import annotations

import hashlib
import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from isoscale.errors import InvalidValueError
from isoscale.models.circular import circular_conv
from isoscale.models.layers import fill_normal_

Padding = Literal["circular", "zero"]
KERNELS = (1, 3, 4, 5)

_MODE: dict[str, Literal["circular", "zeros"]] = {"circular": "circular", "zero": "zeros"}


def padding_mode(padding: str) -> Literal["circular", "zeros"]:
    """torch's name of a padding; raises InvalidValueError for another."""
    if padding not in _MODE:
        raise InvalidValueError(f"`padding` must be {' or '.join(get_args(Padding))}, got {padding!r}")
    return _MODE[padding]


class _Conv(nn.modules.conv._ConvNd):
    """What both numbers of dimensions share; stride 1, no bias, as many places out as in."""

    def reset_parameters(self, generator: torch.Generator | None = None, gain: float = 1.0) -> None:
        """Draw the weight, entries N(0, gain^2 / fan_in), fan_in = channels * kernel^dims.

        The constructor calls this without a generator: then nothing is drawn.
        """
        if generator is not None:
            fan_in = self.in_channels * math.prod(self.kernel_size)
            fill_normal_(self.weight, gain / math.sqrt(fan_in), generator)

    def _weight_and_groups(self) -> tuple[Tensor, int]:
        stacked = self.weight.dim() > 2 + len(self.kernel_size)
        return (self.weight.flatten(0, 1), len(self.weight)) if stacked else (self.weight, 1)

    def _convolved(self, x: Tensor) -> Tensor:
        """Of (batch, channels, height, width); a sequence is an image of one row."""
        weight, groups = self._weight_and_groups()
        if weight.dim() == 3:
            weight = weight.unsqueeze(2)
        if self.padding_mode == "circular" and self.kernel_size[0] > 1:
            return circular_conv(x, weight, groups)
        if self.kernel_size[0] % 2:  # the kernel pads as it goes
            return F.conv2d(x, weight, padding=[size // 2 for size in weight.shape[2:]], groups=groups)
        # As torch's padding="same": an even kernel looks one place further ahead than back.
        before, after = (self.kernel_size[0] - 1) // 2, self.kernel_size[0] // 2
        return F.conv2d(F.pad(x, (before, after) * len(self.kernel_size)), weight, groups=groups)


class Conv1d(_Conv, nn.Conv1d):
    """torch.nn.Conv1d, with weight (out, in, kernel) or (members, out, in, kernel)."""

    def forward(self, input: Float[Tensor, "batch fan_in length"]) -> Float[Tensor, "batch fan_out length"]:
        return self._convolved(input.unsqueeze(2)).squeeze(2)


class Conv2d(_Conv, nn.Conv2d):
    """torch.nn.Conv2d, with weight (out, in, kernel, kernel) or (members, out, in, kernel, kernel)."""

    def forward(self, input: Float[Tensor, "batch fan_in height width"]) -> Float[Tensor, "batch fan_out height width"]:
        return self._convolved(input)


def make_conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    padding: str,
    dims: int,
    *,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Conv1d | Conv2d:
    """A convolution without bias of stride 1 that keeps the number of places.

    Raises:
        InvalidValueError: A kernel other than 1, 3, 4 and 5, or an unknown padding.
    """
    if kernel not in KERNELS:
        raise InvalidValueError(f"`kernel` must be one of {', '.join(map(str, KERNELS))}, got {kernel}")
    kind = Conv1d if dims == 1 else Conv2d
    mode = padding_mode(padding)
    return kind(
        in_channels, out_channels, kernel, padding="same", padding_mode=mode, bias=False, device=device, dtype=dtype
    )


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over every axis but the channels, gain and bias (channels,) or (members, channels).

    Each member has its own statistics: a stack normalises each channel as a single network does.
    """

    def _check_input_dim(self, input: Tensor) -> None: ...

    def forward(self, input: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, var = self.running_mean.flatten(), self.running_var.flatten()  # views: written by batch_norm
        assert self.momentum is not None
        # A sequence as an image of one row: torch's kernel knows channels last of images only.
        image = input.unsqueeze(2) if input.dim() == 3 else input
        normed = F.batch_norm(
            image, mean, var, self.weight.flatten(), self.bias.flatten(), self.training, self.momentum, self.eps
        )
        return normed.squeeze(2) if input.dim() == 3 else normed


class Dropout(nn.Module):
    """Dropout whose masks follow from a seed and the number of the call alone, whatever runs beside it.

    Attributes:
        rate: Probability that an entry is zeroed, in training; the others are divided by 1 - rate.
        seed: Seed of the masks, () or (members,).
    """

    seed: Tensor

    def __init__(self, rate: float, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.rate, self.calls = rate, 0
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64, device=device), persistent=False)

    def reset(self, seed: int, place: int) -> None:
        """Start the masks of `seed` anew; `place` tells a network's dropouts apart."""
        digest = hashlib.sha256(f"dropout:{seed}:{place}".encode()).digest()
        self.calls = 0
        if not self.seed.is_meta:
            # Two bits to spare: the number of the call is added to it.
            self.seed.fill_(int.from_bytes(digest[:8], "big") >> 2)

    def forward(self, x: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        if not self.training or self.rate == 0:
            return x
        seeds = self.seed.reshape(-1).tolist()
        shape = (len(x), x.shape[1] // len(seeds), *x.shape[2:])
        keep = torch.cat([self._mask(seed + self.calls, shape) for seed in seeds], dim=1)
        self.calls += 1
        # Laid out like `x`: the product is then one pass, and its gradient another.
        return x * torch.empty_like(x).copy_(keep).div_(1 - self.rate)

    def _mask(self, seed: int, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) >= self.rate
