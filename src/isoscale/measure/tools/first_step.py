"""What an optimizer's first step does at one size: to the value that each tensor makes, and to the loss.

The effect on the value "directly after the tensor acts" is taken where a tensor meets data, whatever the operation
is: a linear layer, a convolution, an einsum, a gain of a norm, a fused recurrent layer. The operations of one forward
pass are watched as torch dispatches them; an operation that reads both data and parameters runs again with each of
its parameters moved along its step, while everything else stays. No trace and no role is asked for, so that what is
misread there shows here.

What a parameter makes before it meets data (a transposed view, an exponential, a product with another parameter) moves
with it. A number that the forward multiplies by counts as part of the action of the weight matrix that it follows
(logits / width, branches / depth); where it follows none, of the one that it precedes (a readout of features / width).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from isoscale.measure.tools.passes import call, mean_square, parameters

# A share of the tensor's own size: differences are exact where the operation is linear in the tensor, and off by about
# this share where it is not, at every size alike.
_MOVED = 0.1

# Before the name of a tensor that moves along itself.
_ITSELF = "itself:"

# What is added to data, or multiplies them once they are normed, does not feel their size.
_FREE_OF_DATA = {
    "aten.add",
    "aten.add_",
    "aten.sub",
    "aten.native_layer_norm",
    "aten.native_batch_norm",
    "aten.native_group_norm",
    "aten._fused_rms_norm",
}

# Tensors that the forward makes of numbers.
_FROM_NUMBERS = {"aten.lift_fresh", "aten.lift"}

# What a value may pass after it was made and still be the same value.
_SAME = {
    "aten.view",
    "aten._unsafe_view",
    "aten.reshape",
    "aten.t",
    "aten.transpose",
    "aten.permute",
    "aten.unsqueeze",
    "aten.squeeze",
    "aten.expand",
    "aten.clone",
    "aten.alias",
    "aten.detach",
    "aten._to_copy",
}
_TIMES = {"aten.mul", "aten.mul_"}
_OVER = {"aten.div", "aten.div_", "aten.true_divide"}


@dataclass
class Action:
    """One place where a tensor meets data.

    Attributes:
        name: The parameter's.
        change: Mean square of what the step changes there, the tensor's input as it is.
        size: Mean square of the value itself; of a weight matrix, without its layer's bias.
        data: Mean square of the data that it multiplies; 1 where there are none, or whole numbers as an embedding's.
    """

    name: str
    change: float
    size: float
    data: float


@dataclass(frozen=True)
class FirstStep:
    """What one step does to one network.

    Attributes:
        update: Of each tensor, the root mean square of what its step changes in the values that it makes.
        start: Of each tensor, the root mean square of those values before the step.
        data: Of each tensor, that of the data that it meets.
        order: The tensors in the order in which they meet data.
        missed: Why the action of a tensor could not be followed, by name.
    """

    update: dict[str, float]
    start: dict[str, float]
    data: dict[str, float]
    order: tuple[str, ...]
    missed: dict[str, str]


def first_step(model: nn.Module, inputs: Any, steps: Mapping[str, Tensor], seed: int = 0) -> FirstStep:
    """The direct effect of a step on what each tensor makes, and the size of that before the step.

    Args:
        model: Any module; it is left as it was.
        inputs: Arguments of its forward pass: a tuple, or a mapping of keyword arguments.
        steps: The change of each tensor, by name.
        seed: Of dropout.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> found = first_step(model, (torch.tensor([[1.0, 2.0]]),), {"weight": torch.ones(1, 2)})
    >>> round(found.update["weight"], 4)
    3.0
    """
    params = parameters(model)
    watch = _Watch(params, steps)
    for buffer in model.buffers():
        watch.add_constant(buffer)
    with torch.no_grad(), watch:
        call(model, params, inputs, seed)
    update: dict[str, float] = {}
    start: dict[str, float] = {}
    data: dict[str, float] = {}
    for name, actions in watch.by_name().items():
        # A tensor that acts several times has the mean over its uses.
        update[name] = math.sqrt(sum(action.change for action in actions) / len(actions))
        start[name] = math.sqrt(sum(action.size for action in actions) / len(actions))
        data[name] = math.sqrt(sum(action.data for action in actions) / len(actions))
    order = tuple(dict.fromkeys(action.name for action in watch.actions))
    return FirstStep(update=update, start=start, data=data, order=order, missed=watch.missed)


# --- watching ---
Origin = Literal["data", "constant"]


class _Watch(TorchDispatchMode):
    """Inside this context, operations are watched.

    Every tensor has an origin: the data; or parameters and nothing else, and then it has a change by parameter; or
    neither. A tensor from outside that is no parameter and no buffer is data, however it was handed in.
    """

    def __init__(self, params: Mapping[str, Tensor], steps: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.actions: list[Action] = []
        self.missed: dict[str, str] = {}
        self._origins = WeakIdKeyDictionary()
        # The change of what parameters alone made: {name: change}.
        self._changes = WeakIdKeyDictionary()
        # Actions whose value is this tensor, up to views and numbers.
        self._made = WeakIdKeyDictionary()
        # What data were multiplied by, where that is no part of the action before.
        self._numbers = WeakIdKeyDictionary()
        # What a view is a view of: writing into one writes into the other.
        self._viewed = WeakIdKeyDictionary()
        for name, tensor in params.items():
            self._changes[tensor] = {name: steps[name]} if name in steps else {}
            # What a weight matrix makes by itself, without a bias that its layer adds, is what a share more of it adds.
            if name in steps and tensor.dim() > 1 and tensor.any():
                self._changes[tensor][_ITSELF + name] = tensor

    def add_constant(self, tensor: Tensor) -> None:
        self._origins[tensor] = "constant"

    def by_name(self) -> dict[str, list[Action]]:
        found: dict[str, list[Action]] = defaultdict(list)
        for action in self.actions:
            found[action.name].append(action)
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors((args, kwargs)))
        reads_data = any(self._is_data(tensor) for tensor in given)
        moving = [tensor for tensor in given if self._changes.get(tensor)]
        writes = func._schema.is_mutable
        # Parameters written into a constant: the constant is what the rest of the network reads.
        acts = bool(moving) and (reads_data or (writes and args[0] not in self._changes))
        moved: dict[str, tuple[Tensor, float]] = {}
        # Before the operation itself, which may write into what it reads.
        for name in dict.fromkeys(name for tensor in moving for name in self._changes[tensor]):
            try:
                moved[name] = self._moved(func, args, kwargs, name)
            except Exception as error:  # an operation of the user's own may fail in any way
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
                self.missed[name.removeprefix(_ITSELF)] = f"{func}: {why}"
        out = func(*args, **kwargs)
        result = next(_tensors(out), None)
        if result is None:
            return out
        changes = {name: (value - result) / shift for name, (value, shift) in moved.items()}
        if acts:
            data = 1.0
            met = [tensor for tensor in given if self._is_data(tensor) and tensor.is_floating_point()]
            if met and met[0] is not result and str(func.overloadpacket) not in _FREE_OF_DATA:
                data = float(mean_square(met[0])) / self._numbers.get(met[0], 1.0) ** 2
            made = []
            for name, change in changes.items():
                if not name.startswith(_ITSELF):
                    value = changes.get(_ITSELF + name, result)
                    made.append(Action(name, float(mean_square(change)), float(mean_square(value)), data))
            self.actions += made
            if str(func.overloadpacket) not in _FREE_OF_DATA | _TIMES:
                self._made[result] = made
        for tensor in _tensors(out):
            if reads_data or acts:
                self._origins[tensor] = "data"
                self._changes.pop(tensor, None)
            elif any(tensor_in in self._changes for tensor_in in given):
                self._changes[tensor] = changes if tensor is result else {}
            else:
                self._origins[tensor] = "constant"
        self._follow(func, args, given, result)
        if writes and (reads_data or acts):
            self._spread(args[0])
        return out

    def _is_data(self, tensor: Tensor) -> bool:
        return tensor not in self._changes and self._origins.get(tensor) != "constant"

    def _moved(self, func: Any, args: Any, kwargs: Any, name: str) -> tuple[Tensor, float]:
        """The operation's result with all that comes from one parameter moved along its step, and by how much of it."""
        size = moved = 0.0
        for tensor in _tensors((args, kwargs)):
            change = self._changes.get(tensor, {}).get(name)
            if change is not None:
                size += float(tensor.float().square().sum())
                moved += float(change.float().square().sum())
        shift = 1.0
        if moved:
            shift = _MOVED * math.sqrt(size / moved) if size else 1 / math.sqrt(moved)

        def placed(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            change = self._changes.get(value, {}).get(name)
            if change is not None:
                return value + shift * change
            return value.clone() if func._schema.is_mutable else value

        return next(_tensors(func(*tree_map(placed, args), **tree_map(placed, kwargs)))), shift

    def _follow(self, func: Any, args: Any, given: list[Tensor], result: Tensor) -> None:
        """A value that was just made stays itself past views, and past a multiplication by a number."""
        packet = str(func.overloadpacket)
        if packet in _FROM_NUMBERS:
            self._origins[result] = "constant"
        if not args or not isinstance(args[0], Tensor):
            return
        if packet in _SAME:
            self._viewed[result] = args[0]
            if result not in self._made:
                for known in (self._made, self._numbers):
                    if args[0] in known:
                        known[result] = known[args[0]]
            return
        if packet not in _TIMES and packet not in _OVER:
            return
        for value, other in ((args[0], args[1]), (args[1], args[0])):
            number = self._number(other)
            if not isinstance(value, Tensor) or number is None or (packet in _OVER and value is not args[0]):
                continue
            factor = 1 / number if packet in _OVER else number
            actions = self._made.get(value)
            if actions is None:
                self._numbers[result] = factor * self._numbers.get(value, 1.0)
                return
            for action in actions:
                action.change *= factor**2
                action.size *= factor**2
            self._made[result] = actions
            return

    def _number(self, value: Any) -> float | None:
        """The number that something is; None if it is none, or 0."""
        if isinstance(value, (int, float)) and value != 0:
            return float(value)
        # A tensor without axes that comes from no parameter and no data is a number as well.
        if isinstance(value, Tensor) and value.dim() == 0 and self._origins.get(value) == "constant":
            return float(value) or None
        return None

    def _spread(self, tensor: Tensor) -> None:
        while tensor is not None:
            self._origins[tensor] = "data"
            self._changes.pop(tensor, None)
            tensor = self._viewed.get(tensor)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in tree_iter(values):
        if isinstance(value, Tensor):
            yield value
