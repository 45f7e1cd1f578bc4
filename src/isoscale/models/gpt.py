"""A small GPT: a causal transformer on tokens."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.models.base import default_seed
from isoscale.models.layers import Embedding, Norm, Phi
from isoscale.models.sizes import check_sizes
from isoscale.models.transformer import NormPlace, Transformer


class GPT(Transformer):
    """Token and position embeddings, `depth` blocks of causal attention and MLP, an untied readout; no biases.

    Maps have entries N(0, 1/fan_in); embeddings N(0, 1), since one row is looked up. Each block has two residual
    branches, attention and MLP.

    Args:
        vocab: Number of different tokens.
        context: Longest sequence.
        width: Units of the residual stream.
        depth: Number of blocks.
        head_size: Units of a head; the number of heads grows with the width.
        heads: A fixed number of heads instead; then q.k is divided by the size of a head, not by its root.
        mlp_ratio: Width inside an MLP, in widths.
        phi: Activation: "gelu", "relu", "tanh" or "linear".
        norm: "layer", "rms" or None.
        norm_place: "pre": at the start of each branch and before the readout; "post": on the stream after each.
        seed: Seed of the initial weights, 0 by default; the global generator is not touched.
        device, dtype: As in torch; the meta device is fine.

    Raises:
        InvalidValueError: A size below 1, a width that is no multiple of the head size, an unknown option, or at
            the call a sequence longer than `context`.
        InvalidTypeError: At the call, input that is not whole numbers.

    Shapes: input (batch, time), whole numbers below `vocab`; output (batch, time, vocab), logits of the next token.

    >>> model = GPT(vocab=65, context=32, width=64, depth=2)
    >>> model(torch.zeros(3, 32, dtype=torch.int64)).shape
    torch.Size([3, 32, 65])
    """

    def __init__(
        self,
        vocab: int,
        context: int,
        width: int,
        depth: int,
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
        check_sizes(vocab=vocab, context=context)
        place = {"device": device, "dtype": dtype}
        super().__init__(vocab, width, depth, head_size, heads, mlp_ratio, phi, norm, norm_place, causal=True, **place)
        self.context = self.positions = context
        self.tokens = Embedding(vocab, width, **place)
        self.places = Embedding(context, width, **place)
        self.reset_parameters(default_seed() if seed is None else seed)

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """One sequence of zeros."""
        return (torch.zeros(1, self.context, dtype=torch.long),)

    def forward(self, x: Int[Tensor, "*batch time"]) -> Float[Tensor, "*batch time vocab"]:
        if x.is_floating_point():
            raise InvalidTypeError(f"input must be tokens, whole numbers of shape (batch, time), got {x.dtype}")
        if x.shape[-1] > self.context:
            raise InvalidValueError(f"input has {x.shape[-1]} tokens a sequence, more than `context` {self.context}")
        place = torch.arange(x.shape[-1], device=x.device)
        if self.places.weight.dim() == 3:
            place = place.expand(len(x), 1, -1)  # (members, 1, time), against (members, batch, time)
        return self.readout(self.transform(self.tokens(x) + self.places(place)))
