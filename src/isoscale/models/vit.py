"""A small vision transformer, with the mean over patches for a class token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from isoscale.errors import InvalidValueError
from isoscale.models.base import default_seed
from isoscale.models.layers import Embedding, Linear, Norm, Phi
from isoscale.models.sizes import check_sizes, checked_shape
from isoscale.models.transformer import NormPlace, Transformer


class ViT(Transformer):
    """Patches, each mapped to the stream; position embeddings; `depth` blocks; mean over patches; readout. No biases.

    Maps have entries N(0, 1/fan_in), the patch map's fan_in being channels * patch^2; position embeddings N(0, 1).
    Each block has two residual branches, attention and MLP.

    Args:
        in_shape: One sample: (channels, height, width).
        out_features: Number of outputs.
        width: Units of the residual stream.
        depth: Number of blocks.
        patch: Pixels along the side of a patch; must divide height and width.
        head_size: Units of a head; the number of heads grows with the width.
        heads: A fixed number of heads instead; then q.k is divided by the size of a head, not by its root.
        mlp_ratio: Width inside an MLP, in widths.
        phi: Activation: "gelu", "relu", "tanh" or "linear".
        norm: "layer", "rms" or None.
        norm_place: "pre": at the start of each branch and before the mean; "post": on the stream after each.
        seed: Seed of the initial weights, 0 by default; the global generator is not touched.
        device, dtype: As in torch; the meta device is fine.

    Raises:
        InvalidValueError: A size below 1, an image that is no multiple of the patch or a width that is none of the
            head size, an unknown option.

    Shapes: input (batch, *in_shape), output (batch, out_features).

    >>> model = ViT((3, 32, 32), 10, width=64, depth=2)
    >>> model(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: int,
        width: int,
        depth: int,
        patch: int = 4,
        head_size: int = 16,
        heads: int | None = None,
        mlp_ratio: int = 4,
        phi: Phi = "gelu",
        norm: Norm | None = "layer",
        norm_place: NormPlace = "pre",
        *,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = checked_shape(in_shape, "(channels, height, width)", dims=(2,))
        check_sizes(patch=patch)
        if shape[1] % patch or shape[2] % patch:
            raise InvalidValueError(f"`patch` {patch} does not divide the image, {shape[1]}x{shape[2]}")
        place = {"device": device, "dtype": dtype}
        super().__init__(
            out_features, width, depth, head_size, heads, mlp_ratio, phi, norm, norm_place, causal=False, **place
        )
        self.in_shape, self.patch = shape, patch
        self.positions = math.prod(shape[1:]) // patch**2
        self.patches = Linear(shape[0] * patch**2, width, **place)
        self.places = Embedding(self.positions, width, **place)
        self.reset_parameters(default_seed() if seed is None else seed)

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """One image of zeros."""
        return (torch.zeros(1, *self.in_shape),)

    def forward(self, x: Float[Tensor, "*batch channels height width"]) -> Float[Tensor, "*batch out_features"]:
        if tuple(x.shape[-3:]) != self.in_shape:
            raise InvalidValueError(f"input must be (batch, *{self.in_shape}), got {tuple(x.shape)}")
        h = self.patches(self._cut(x)) + self.places.weight.unsqueeze(-3)  # (..., batch, patches, width)
        return self.readout(self.transform(h).mean(-2))

    def _cut(self, x: Tensor) -> Tensor:
        """The patches, row by row, each as one vector: (..., patches, channels * patch^2)."""
        rows, columns = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        x = x.unflatten(-1, (columns, self.patch)).unflatten(-3, (rows, self.patch))
        # (..., channels, rows, patch, columns, patch) -> (..., rows, columns, channels, patch, patch)
        return x.movedim((-4, -2), (-5, -4)).flatten(-3).flatten(-3, -2)
