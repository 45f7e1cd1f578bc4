"""What the conv nets share: the way in, the average over places, the readout."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isoscale.errors import InvalidValueError
from isoscale.models.base import Model
from isoscale.models.conv_layers import BatchNorm, Conv1d, Conv2d, Dropout
from isoscale.models.layers import Linear
from isoscale.models.sizes import check_rate, check_sizes, checked_shape

ConvNorm = Literal["batch"]

# c of Var W = c / fan_in, which keeps the mean square of a wide layer's input (docs/theory.md, section 6).
_HE = {"relu": 2.0, "gelu": 2.0, "tanh": 1.0, "linear": 1.0}


def he_gain(phi: str) -> float:
    """sqrt(c) of He's initialisation Var W = c / fan_in: c = 2 for relu and gelu, 1 for tanh and linear."""
    return math.sqrt(_HE[phi])


class ConvModel(Model):
    """A network on images or sequences: features by convolutions, their average over places, a linear readout."""

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: int,
        width: int,
        depth: int,
        dims: int | None,
        kernel: int,
        norm: str | None,
        dropout: float,
    ) -> None:
        super().__init__()
        shape = checked_shape(in_shape, "(channels, height, width) or (channels, length)", dims=(1, 2))
        check_sizes(out_features=out_features, width=width, depth=depth, kernel=kernel)
        check_rate("dropout", dropout)
        if norm not in (None, "batch"):
            raise InvalidValueError(f"`norm` of a conv net must be batch or None, got {norm!r}")
        self.in_shape = shape
        self.dims = _checked_dims(dims, shape)
        self.space = shape[1:] if self.dims == len(shape) - 1 else (math.prod(shape[1:]),)
        self.positions = math.prod(self.space)
        if kernel > min(self.space):
            raise InvalidValueError(f"`kernel` {kernel} is larger than the image, {'x'.join(map(str, self.space))}")

    def _make_readout(
        self,
        width: int,
        out_features: int,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        self.readout = Linear(width, out_features, bias=bias, device=device, dtype=dtype)

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """One sample of zeros."""
        return (torch.zeros(1, *self.in_shape),)

    @abstractmethod
    def features(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch width *space"]:
        """The last layer's features; a stack's members lie beside one another in the channels."""

    @abstractmethod
    def _gain(self, name: str) -> float:
        """By what the convolution of that name has its initial weights multiplied."""

    def reset_parameters(self, seed: int = 0) -> None:
        """Draw every weight anew from `seed`, in the order of `named_parameters`; norms to identity."""
        generator = torch.Generator().manual_seed(seed)
        for place, (name, module) in enumerate(self.named_modules()):
            if isinstance(module, (Conv1d, Conv2d)):
                module.reset_parameters(generator, self._gain(name))
            elif isinstance(module, Linear):
                module.reset_parameters(generator)
            elif isinstance(module, BatchNorm):
                module.reset_parameters()
            elif isinstance(module, Dropout):
                module.reset(seed, place)

    def forward(self, x: Float[Tensor, "*batch channels *space"]) -> Float[Tensor, "*batch out_features"]:
        features = self.features(self._enter(x)).flatten(2)  # (batch, members * width, positions)
        # Not `mean`: its gradient would be a tensor of its own, and not channels last.
        pooled = features.sum(2) / features.shape[2]
        if self.readout.weight.dim() == 3:
            pooled = pooled.unflatten(1, (len(self.readout.weight), -1)).transpose(0, 1)
        return self.readout(pooled)

    def _enter(self, x: Tensor) -> Tensor:
        axes = len(self.in_shape)
        if tuple(x.shape[-axes:]) != self.in_shape:
            raise InvalidValueError(f"input must be (batch, *{self.in_shape}), got {tuple(x.shape)}")
        if self.dims < axes - 1:
            x = x.flatten(-2)
        if self.readout.weight.dim() == 3:  # (members, batch, ...)
            x = x.transpose(0, 1).flatten(1, 2)
        # Measured: on CPUs channels last is faster at any number of channels (benchmarks/conv_ensemble.py).
        return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.device.type == "cpu" else x


def _checked_dims(dims: int | None, shape: tuple[int, ...]) -> int:
    if dims is None:
        return len(shape) - 1
    if dims not in (1, 2) or dims > len(shape) - 1:
        raise InvalidValueError(f"`dims` must be 1, or 2 for images, got {dims} for samples of shape {shape}")
    return dims


def make_batch_norm(
    norm: str | None, width: int, *, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module:
    """Batch norm, or the identity for None."""
    return nn.Identity() if norm is None else BatchNorm(width, device=device, dtype=dtype)
