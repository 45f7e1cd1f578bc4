"""Networks with something in them that measuring must survive."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Fused attention; returns a dict."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, -1))
        return {"out": self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0])}


class Take(nn.Module):
    """The entry `key` of what comes in."""

    def __init__(self, key: object) -> None:
        super().__init__()
        self.key = key

    def forward(self, x):
        return x[self.key]


class Sine(torch.autograd.Function):
    """sin, without forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.cos()


class OnceSine(Sine):
    """sin, without a second derivative either."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.cos()


class Apply(nn.Module):
    """An autograd function as a module."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, padding_mode="circular"),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 4, 3, groups=2),
        nn.ELU(inplace=True),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(64, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
    )


def attention() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 8), Attention(8), Take("out"), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 8), nn.Linear(8, 3)
    )


def recurrent() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.LSTM(8, 8, batch_first=True), Take(0), nn.Linear(8, 8), nn.Linear(8, 3))


def through(function: type[torch.autograd.Function]) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), Apply(function), nn.Linear(8, 8), nn.Linear(8, 3))


def shared() -> nn.Module:
    linear = nn.Linear(8, 8)
    return nn.Sequential(linear, nn.ReLU(), linear, nn.Tanh(), nn.Linear(8, 3))


MAKERS = {
    "convolutions": (convolutions, (7, 2, 6, 6)),
    "attention": (attention, (4, 5, 8)),
    "recurrent": (recurrent, (4, 5, 8)),
    "own function": (lambda: through(Sine), (6, 8)),
    "own function, once": (lambda: through(OnceSine), (6, 8)),
    "shared": (shared, (6, 8)),
}


def network(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of that name in training mode, inputs and targets."""
    make, shape = MAKERS[name]
    generator = torch.Generator().manual_seed(1)
    model = make().to(dtype)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.3 * torch.randn(param.shape, generator=generator, dtype=torch.float64).to(dtype))
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randn(shape[0], generator=generator, dtype=torch.float64).to(dtype)
    return model, x, y


def squared(f: Tensor, y: Tensor) -> Tensor:
    """Half the mean squared distance of the summed outputs."""
    return (f.flatten(1).sum(1) - y).square().mean() / 2
