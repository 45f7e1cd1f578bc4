"""The residual MLP of the depth-muP papers (docs/theory.md, sections 1 and 4)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isoscale.models.base import Model, default_seed
from isoscale.models.layers import Linear, Norm, Phi, activation, make_norm
from isoscale.models.sizes import check_sizes


class ResidualBlock(nn.Module):
    """h + branch(norm(h)); the branch has `block_depth` maps.

    One map: W phi(h). More: W_k phi(... phi(W_1 h)).
    """

    def __init__(
        self,
        width: int,
        block_depth: int,
        phi: Phi,
        norm: Norm | None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.phi = activation(phi)
        self.norm = make_norm(norm, width, device=device, dtype=dtype)
        self.maps = nn.ModuleList(Linear(width, width, device=device, dtype=dtype) for _ in range(block_depth))

    def forward(self, h: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        z = self.norm(h)
        if len(self.maps) == 1:
            z = self.phi(z)
        for index, linear in enumerate(self.maps):
            z = linear(z if index == 0 else self.phi(z))
        return h + z


class ResidualMLP(Model):
    """Input map, `depth` residual blocks, readout; no biases.

        h_0 = U x,    h_l = h_{l-1} + W_{l,k} phi(... phi(W_{l,1} h_{l-1})),    f = v h_L

    with ordinary weights: each map's entries are N(0, 1/fan_in), at every width and depth. What a
    rule adds (branch multiplier, init and learning-rate factors) is folded into init and optimizer
    groups by whoever trains it. Source: NFD (arXiv 2512.21075); docs/theory.md, sections 1 and 4.

    Args:
        in_features: Size of one sample.
        out_features: Number of outputs.
        width: Units of the residual stream.
        depth: Number of residual blocks.
        block_depth: Maps in a branch; 1 gives W phi(h), 2 gives W_2 phi(W_1 h).
        phi: Activation: "relu", "tanh", "gelu" or "linear".
        norm: Norm at the start of each branch and before the readout: "layer", "rms" or None.
        seed: Seed of the initial weights, 0 by default; the global generator is not touched.
        device, dtype: As in torch; the meta device is fine.

    Raises:
        InvalidValueError: A size below 1, an unknown activation or norm.

    Shapes: input (batch, in_features), output (batch, out_features).

    >>> model = ResidualMLP(64, 10, width=32, depth=4)
    >>> model(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int,
        depth: int,
        block_depth: int = 2,
        phi: Phi = "relu",
        norm: Norm | None = None,
        *,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_sizes(in_features=in_features, out_features=out_features, width=width)
        check_sizes(depth=depth, block_depth=block_depth)
        super().__init__()
        self.input = Linear(in_features, width, device=device, dtype=dtype)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, block_depth, phi, norm, device=device, dtype=dtype) for _ in range(depth)
        )
        self.norm = make_norm(norm, width, device=device, dtype=dtype)
        self.readout = Linear(width, out_features, device=device, dtype=dtype)
        self.reset_parameters(default_seed() if seed is None else seed)

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """One sample of zeros."""
        return (torch.zeros(1, self.input.in_features),)

    def reset_parameters(self, seed: int = 0) -> None:
        """Draw every weight anew from `seed`, in the order of `named_parameters`; norms to identity."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, Linear):
                module.reset_parameters(generator)
            elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
                module.reset_parameters()

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        h = self.input(x)
        for block in self.blocks:
            h = block(h)
        return self.readout(self.norm(h))
