"""The transformer block that GPT and ViT share: attention and an MLP, each a residual branch, pre- or post-norm."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from isoscale.errors import InvalidValueError
from isoscale.models.base import Model
from isoscale.models.layers import Embedding, Linear, Norm, Phi, activation, make_norm
from isoscale.models.sizes import check_sizes

NormPlace = Literal["pre", "post"]


class Attention(nn.Module):
    """proj(softmax(q k / scale) v), heads side by side; scale as `heads_of` says."""

    def __init__(
        self,
        width: int,
        heads: int,
        logit_scale: float,
        causal: bool,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.logit_scale, self.causal = heads, logit_scale, causal
        self.qkv = Linear(width, 3 * width, device=device, dtype=dtype)
        self.proj = Linear(width, width, device=device, dtype=dtype)

    def forward(self, h: Float[Tensor, "*batch time width"]) -> Float[Tensor, "*batch time width"]:
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.logit_scale)
        return self.proj(mixed.transpose(-2, -3).flatten(-2))


class MLP(nn.Module):
    """down(phi(up(h))), `ratio` times as wide inside."""

    def __init__(
        self,
        width: int,
        ratio: int,
        phi: Phi,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.phi = activation(phi)
        self.up = Linear(width, ratio * width, device=device, dtype=dtype)
        self.down = Linear(ratio * width, width, device=device, dtype=dtype)

    def forward(self, h: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return self.down(self.phi(self.up(h)))


class TransformerBlock(nn.Module):
    """Pre-norm: h + attention(norm(h)), then h + mlp(norm(h)). Post-norm: norm(h + attention(h)), and so on."""

    def __init__(
        self, attention: Attention, mlp: MLP, attention_norm: nn.Module, mlp_norm: nn.Module, norm_place: NormPlace
    ) -> None:
        super().__init__()
        self.attention_norm, self.attention = attention_norm, attention
        self.mlp_norm, self.mlp = mlp_norm, mlp
        self.norm_place = norm_place

    def forward(self, h: Float[Tensor, "*batch time width"]) -> Float[Tensor, "*batch time width"]:
        if self.norm_place == "post":
            h = self.attention_norm(h + self.attention(h))
            return self.mlp_norm(h + self.mlp(h))
        h = h + self.attention(self.attention_norm(h))
        return h + self.mlp(self.mlp_norm(h))


class Transformer(Model):
    """Blocks, a last norm and a readout; what enters them is the business of GPT and ViT."""

    def __init__(
        self,
        out_features: int,
        width: int,
        depth: int,
        head_size: int,
        heads: int | None,
        mlp_ratio: int,
        phi: Phi,
        norm: Norm | None,
        norm_place: NormPlace,
        *,
        causal: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        check_sizes(out_features=out_features, width=width, depth=depth, mlp_ratio=mlp_ratio)
        if norm_place not in get_args(NormPlace):
            raise InvalidValueError(f"`norm_place` must be {' or '.join(get_args(NormPlace))}, got {norm_place!r}")
        heads, scale = heads_of(width, head_size, heads)
        place = {"device": device, "dtype": dtype}
        self.norm_place = norm_place
        self.expansion = max(3, mlp_ratio)  # queries, keys and values side by side
        self.blocks = nn.ModuleList(
            TransformerBlock(
                Attention(width, heads, scale, causal, **place),
                MLP(width, mlp_ratio, phi, **place),
                make_norm(norm, width, **place),
                make_norm(norm, width, **place),
                norm_place,
            )
            for _ in range(depth)
        )
        # After post-norm blocks the stream is normalised already.
        self.norm = make_norm(norm if norm_place == "pre" else None, width, **place)
        self.readout = Linear(width, out_features, **place)

    def reset_parameters(self, seed: int = 0) -> None:
        """Draw every weight anew from `seed`, in the order of `named_parameters`; norms to identity."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, (Linear, Embedding)):
                module.reset_parameters(generator)
            elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
                module.reset_parameters()

    def transform(self, h: Float[Tensor, "*batch time width"]) -> Float[Tensor, "*batch time width"]:
        """The stream after all blocks and the last norm."""
        for block in self.blocks:
            h = block(h)
        return self.norm(h)


def heads_of(width: int, head_size: int, heads: int | None) -> tuple[int, float]:
    """Number of heads, and what the logits q.k are multiplied by.

    Heads of a fixed size grow in number with the width: 1/sqrt(head_size). A fixed number of heads grows in size:
    1/size, as muP asks (docs/theory.md, section 5).

    Raises:
        InvalidValueError: The width is not a multiple.

    >>> heads_of(64, 16, None)
    (4, 0.25)
    """
    if heads is not None:
        check_sizes(heads=heads)
        if width % heads:
            raise InvalidValueError(f"`width` must be a multiple of `heads` {heads}, got {width}")
        return heads, heads / width
    check_sizes(head_size=head_size)
    if width % head_size:
        raise InvalidValueError(f"`width` must be a multiple of `head_size` {head_size}, got {width}")
    return width // head_size, head_size**-0.5
