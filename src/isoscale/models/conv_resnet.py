"""Residual conv nets: the published post-activation block, and blocks to compare it with.

Source: docs/theory.md, section 6.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from isoscale.errors import InvalidValueError
from isoscale.graph.multiplier import Multiplier
from isoscale.models.base import default_seed
from isoscale.models.conv_layers import Dropout, Padding, make_conv
from isoscale.models.conv_model import ConvModel, ConvNorm, he_gain, make_batch_norm
from isoscale.models.layers import HOMOGENEOUS, Phi, activation, centred
from isoscale.models.sizes import check_flags, check_sizes

Block = Literal["post", "pre"]
BranchInit = Literal["he", "he/sqrt(K)", "he/K"]

# The power of K that multiplies the standard deviation.
_POWER = {"he": 0.0, "he/sqrt(K)": -0.5, "he/K": -1.0}


class ConvBranch(nn.Module):
    """`maps` convolutions, each with its activation: after it ("post") or before it ("pre").

    Where the branch ends in an activation that is not positively homogeneous (gelu, tanh, any that is centred), no
    factor on the branch can be folded into its weights: there it ends in a `Multiplier`, which a plan sets.
    """

    def __init__(
        self,
        maps: Sequence[nn.Module],
        norms: Sequence[nn.Module],
        dropouts: Sequence[Dropout],
        phi: Callable[[Tensor], Tensor],
        block: Block,
        *,
        homogeneous: bool,
    ) -> None:
        super().__init__()
        self.maps, self.norms, self.dropouts = nn.ModuleList(maps), nn.ModuleList(norms), nn.ModuleList(dropouts)
        self.phi, self.block = phi, block
        self.end = nn.Identity() if block == "pre" or homogeneous else Multiplier()

    def forward(self, z: Tensor) -> Tensor:
        for conv, norm, dropout in zip(self.maps, self.norms, self.dropouts, strict=True):
            z = dropout(self.phi(norm(conv(z)))) if self.block == "post" else conv(dropout(self.phi(norm(z))))
        return self.end(z)


class ConvBlock(nn.Module):
    """h + branch(h), once for each branch: the convolutions and, if there is one, the MLP over channels."""

    def __init__(self, branches: Sequence[ConvBranch]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, h: Tensor) -> Tensor:
        for branch in self.branches:
            h = h + branch(h)
        return h


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """The options that every branch of a network shares."""

    kernel: int
    padding: Padding
    dims: int
    norm: ConvNorm | None
    dropout: float
    phi: Callable[[Tensor], Tensor]
    homogeneous: bool
    block: Block
    place: dict[str, Any]

    def conv(self, fan_in: int, fan_out: int, kernel: int) -> nn.Module:
        return make_conv(fan_in, fan_out, kernel, self.padding, self.dims, **self.place)

    def branch(self, channels: Sequence[int], kernel: int) -> ConvBranch:
        """Convolutions from each of these numbers of channels to the next."""
        normed = channels[1:] if self.block == "post" else channels[:-1]
        return ConvBranch(
            [self.conv(fan_in, fan_out, kernel) for fan_in, fan_out in itertools.pairwise(channels)],
            [make_batch_norm(self.norm, count, **self.place) for count in normed],
            [Dropout(self.dropout, device=self.place["device"]) for _ in normed],
            self.phi,
            self.block,
            homogeneous=self.homogeneous,
        )

    def block_of(self, width: int, block_depth: int, mlp_ratio: int) -> ConvBlock:
        branches = [self.branch([width] * (block_depth + 1), self.kernel)]
        if mlp_ratio:
            branches.append(self.branch([width, mlp_ratio * width, width], 1))
        return ConvBlock(branches)


class ConvResNet(ConvModel):
    """Input convolution, `depth` residual blocks, the average over places, a linear readout.

        block="post":  h + phi(conv(h))      as published: neither centred nor normalised, so the stream grows
        block="pre":   h + conv(phi(h))

    with `block_depth` convolutions in a branch, each with its activation. Convolutions have stride 1, no bias and
    as many places out as in. Weights are ordinary, entries N(0, 1/fan_in) with fan_in = kernel^dims * channels,
    unless `branch_init` says otherwise. Sources: AM-muP (arXiv 2510.04327), MultiPath (2602.07494), docs/theory.md,
    section 6.

    Args:
        in_shape: One sample: (channels, height, width) or (channels, length).
        out_features: Number of outputs.
        width: Channels of the residual stream.
        depth: Number of residual blocks, K.
        block: "post" or "pre".
        block_depth: Convolutions in a branch.
        mlp_ratio: If not 0, each block has a second branch: two 1x1 convolutions with `mlp_ratio * width` channels
            between them, norm, activation and dropout as in the first.
        dims: 1 or 2; by default as `in_shape` says. 1 reads an image row by row as one sequence.
        kernel: 3, 4, 5 or 1.
        padding: "circular" or "zero".
        phi: Activation: "relu", "gelu", "tanh" or "linear".
        centre: Subtract the activation's mean under a unit Gaussian.
        norm: "batch" beside each activation, before it, or None. After the last convolution of a post-activation
            branch it undoes that layer's scale: then `branch_init` does not act on the branch's size, only on how fast
            the layer turns, and a rule's multiplier stands on the norm's gain and bias.
        dropout: Rate after each activation; masks follow from `seed`.
        branch_init: Standard deviation of every branch weight. None: 1/sqrt(fan_in). "he": sqrt(c/fan_in), c = 2
            for relu and gelu, 1 for tanh and linear. "he/sqrt(K)": that times K^(-1/2), so that the variance is
            c/(K fan_in) as in AM-muP. "he/K": that times K^(-1). The input convolution has sqrt(c/fan_in) in
            all three. The power of K is part of the model at its own size: `isoscale.depth_law` trains it so. A rule
            sets what a branch weight is relative to the base's instead, "sp" included, and leaves no power of K on top.
        readout_bias: Whether the readout has a bias.
        seed: Seed of the initial weights and of dropout, 0 by default; the global generator is not touched.
        device, dtype: As in torch; the meta device is fine.

    Raises:
        InvalidValueError: A size below 1, a kernel larger than the image, an unknown option.

    Shapes: input (batch, *in_shape), output (batch, out_features).

    >>> model = ConvResNet((3, 8, 8), 10, width=16, depth=4, block="pre", block_depth=2)
    >>> model(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: int,
        width: int,
        depth: int,
        block: Block = "post",
        block_depth: int = 1,
        mlp_ratio: int = 0,
        dims: Literal[1, 2] | None = None,
        kernel: int = 3,
        padding: Padding = "circular",
        phi: Phi = "relu",
        centre: bool = False,
        norm: ConvNorm | None = None,
        dropout: float = 0.0,
        branch_init: BranchInit | None = None,
        readout_bias: bool = False,
        *,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_shape, out_features, width, depth, dims, kernel, norm, dropout)
        check_sizes(block_depth=block_depth, **({"mlp_ratio": mlp_ratio} if mlp_ratio else {}))
        check_flags(centre=centre, readout_bias=readout_bias)
        _check_choices(block, branch_init)
        self.expansion = max(1, mlp_ratio)
        self.gain, self.branch_gain = 1.0, 1.0
        if branch_init is not None:
            self.gain = he_gain(phi)
            self.branch_gain = self.gain * depth ** _POWER[branch_init]
        make = _Maker(
            kernel=kernel,
            padding=padding,
            dims=self.dims,
            norm=norm,
            dropout=dropout,
            phi=centred(phi) if centre else activation(phi),
            homogeneous=phi in HOMOGENEOUS and not centre,
            block=block,
            place={"device": device, "dtype": dtype},
        )
        self.stem = make.conv(self.in_shape[0], width, kernel)
        self.blocks = nn.ModuleList(make.block_of(width, block_depth, mlp_ratio) for _ in range(depth))
        self.norm = make_batch_norm(norm if block == "pre" else None, width, device=device, dtype=dtype)
        self._make_readout(width, out_features, readout_bias, device, dtype)
        self.reset_parameters(default_seed() if seed is None else seed)

    def features(self, h: Tensor) -> Tensor:
        h = self.stem(h)
        for block in self.blocks:
            h = block(h)
        return self.norm(h)

    def _gain(self, name: str) -> float:
        return self.branch_gain if name.startswith("blocks.") else self.gain


def _check_choices(block: str, branch_init: str | None) -> None:
    if block not in get_args(Block):
        raise InvalidValueError(f"`block` must be {' or '.join(get_args(Block))}, got {block!r}")
    if branch_init is not None and branch_init not in _POWER:
        raise InvalidValueError(f"`branch_init` must be one of {', '.join(_POWER)} or None, got {branch_init!r}")
