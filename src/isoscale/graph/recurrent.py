"""torch's recurrent layers and cells, as linear layers.

Below torch's functions they dissolve into a step for each position, or into one operation of some library: neither
says what the weights do. So they are seen as the functions that they are. One layer is a linear layer of its input
(`weight_ih`), one of its own state (`weight_hh`), and with `proj_size` one that ends it (`weight_hr`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter

_LAYERS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")


@dataclass(frozen=True)
class Direction:
    """One layer in one direction.

    Attributes:
        from_input, from_state, last: Its weights; `last` is None without `proj_size`.
        biases: Of the first two.
    """

    from_input: Tensor
    from_state: Tensor
    biases: tuple[Tensor, ...] = ()
    last: Tensor | None = None


@dataclass(frozen=True)
class Recurrence:
    """A call of one of torch's functions.

    Attributes:
        name: The function's.
        data: What it reads, position by position.
        states: The state that it begins with.
        layers: Its layers; those of one tuple read the same.
    """

    name: str
    data: Tensor
    states: tuple[Tensor, ...]
    layers: tuple[tuple[Direction, ...], ...]


class RecurrentCalls(TorchFunctionMode):
    """Inside this context, calls of recurrent layers are handed on as a whole.

    Args:
        record: Told a call, and a function that makes it and returns what it returns.
    """

    def __init__(self, record: Callable[[Recurrence, Callable[[], Any]], Any]) -> None:
        super().__init__()
        self._call = record

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _LAYERS:
            return self._call(_of_layers(name, args), lambda: func(*args, **kwargs))
        if name in _CELLS:
            return self._call(_of_cell(name, args), lambda: func(*args, **kwargs))
        return func(*args, **kwargs)


def _of_layers(name: str, args: Sequence[Any]) -> Recurrence:
    # (input, state, weights, has_biases, layers, dropout, train, bidirectional, batch_first); of a packed sequence
    # the second argument is its lengths.
    packed = isinstance(args[3], list | tuple)
    at = 3 if packed else 2
    weights, (has_biases, count, _, _, bidirectional) = list(args[at]), args[at + 1 : at + 6]
    directions = 2 if bidirectional else 1
    each = len(weights) // (count * directions)
    made = [_direction(weights[i : i + each], has_biases) for i in range(0, len(weights), each)]
    layers = [tuple(made[i : i + directions]) for i in range(0, len(made), directions)]
    return Recurrence(name, args[0], tuple(_tensors(args[at - 1])), tuple(layers))


def _of_cell(name: str, args: Sequence[Any]) -> Recurrence:
    # (input, state, weight_ih, weight_hh, bias_ih, bias_hh)
    weights = [value for value in args[2:] if isinstance(value, Tensor)]
    layer = _direction(weights, len(weights) > 2)
    return Recurrence(name, args[0], tuple(_tensors(args[1])), ((layer,),))


def _direction(weights: Sequence[Tensor], has_biases: bool) -> Direction:
    biases = tuple(weights[2:4]) if has_biases else ()
    rest = weights[2 + len(biases) :]
    return Direction(weights[0], weights[1], biases, rest[0] if rest else None)


def _tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_iter(value) if isinstance(leaf, Tensor))
