"""The plain conv net of the arithmetic-mean muP papers (docs/theory.md, section 6, protocol)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from isoscale.errors import InvalidValueError
from isoscale.models.base import default_seed
from isoscale.models.conv_layers import Dropout, Padding, make_conv
from isoscale.models.conv_model import ConvModel, ConvNorm, he_gain, make_batch_norm
from isoscale.models.layers import Phi, activation
from isoscale.models.sizes import check_flags


class ConvLayer(nn.Module):
    """dropout(phi(norm(conv(h))))."""

    def __init__(self, conv: nn.Module, norm: nn.Module, phi: Phi, dropout: Dropout) -> None:
        super().__init__()
        self.conv, self.norm, self.phi, self.dropout = conv, norm, activation(phi), dropout

    def forward(self, h: Tensor) -> Tensor:
        return self.dropout(self.phi(self.norm(self.conv(h))))


class ConvNet(ConvModel):
    """`depth` layers phi(conv(h)), the average over places, a linear readout.

    Convolutions have stride 1, no bias and as many places out as in. Weights are ordinary, entries N(0, 1/fan_in)
    with fan_in = kernel^dims * channels; `init="he"` multiplies the convolutions' by sqrt(c), c = 2 for relu and
    gelu, 1 for tanh and linear. Source: AM-muP (arXiv 2510.04327), docs/theory.md, section 6; its setting is
    `width=64, init="he"` with the other options left as they are.

    Args:
        in_shape: One sample: (channels, height, width) or (channels, length).
        out_features: Number of outputs.
        width: Channels of every layer.
        depth: Number of conv layers; the first is the input map.
        dims: 1 or 2; by default as `in_shape` says. 1 reads an image row by row as one sequence.
        kernel: 3, 4, 5 or 1.
        padding: "circular" or "zero".
        phi: Activation: "relu", "gelu", "tanh" or "linear".
        norm: "batch" between convolution and activation, or None.
        dropout: Rate after each activation; masks follow from `seed`.
        init: "he" or None.
        readout_bias: Whether the readout has a bias.
        seed: Seed of the initial weights and of dropout, 0 by default; the global generator is not touched.
        device, dtype: As in torch; the meta device is fine.

    Raises:
        InvalidValueError: A size below 1, a kernel larger than the image, an unknown option.

    Shapes: input (batch, *in_shape), output (batch, out_features).

    >>> model = ConvNet((3, 8, 8), 10, width=16, depth=4)
    >>> model(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: int,
        width: int,
        depth: int,
        dims: Literal[1, 2] | None = None,
        kernel: int = 3,
        padding: Padding = "circular",
        phi: Phi = "relu",
        norm: ConvNorm | None = None,
        dropout: float = 0.0,
        init: Literal["he"] | None = None,
        readout_bias: bool = False,
        *,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_shape, out_features, width, depth, dims, kernel, norm, dropout)
        activation(phi)
        check_flags(readout_bias=readout_bias)
        if init not in (None, "he"):
            raise InvalidValueError(f"`init` must be he or None, got {init!r}")
        self.gain = he_gain(phi) if init else 1.0
        channels = [self.in_shape[0], *[width] * depth]
        self.layers = nn.ModuleList(
            ConvLayer(
                make_conv(fan_in, width, kernel, padding, self.dims, device=device, dtype=dtype),
                make_batch_norm(norm, width, device=device, dtype=dtype),
                phi,
                Dropout(dropout, device=device),
            )
            for fan_in in channels[:-1]
        )
        self._make_readout(width, out_features, readout_bias, device, dtype)
        self.reset_parameters(default_seed() if seed is None else seed)

    def features(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(h)
        return h

    def _gain(self, name: str) -> float:
        return self.gain
