"""Models from the command line: a built-in name, or a factory in the user's own file, `pkg.module:make`.

The factory is called with the sizes as keyword arguments and returns a module. It is the only code of the user's
that runs.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isoscale.cli.grid import value_of
from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.user_code import load

if TYPE_CHECKING:
    from torch import nn

_DTYPES = {"float": "float32", "int": "int64"}


@dataclass(frozen=True)
class Factory:
    """Something that makes a model of given sizes.

    Attributes:
        name: As the user wrote it.
        make: Called with sizes as keyword arguments.
        inputs: Arguments of the model's forward, if the factory's module offers `example_inputs`.
        module: The user's module; None for a built-in model.
    """

    name: str
    make: Callable[..., Any]
    inputs: Any = None
    module: Any = None

    def build(self, sizes: dict[str, Any], *, meta: bool = False) -> nn.Module:
        """The model of these sizes; on the meta device if asked and if its code allows it.

        Raises:
            InvalidTypeError, InvalidValueError: The factory fails or returns no module.
        """
        import torch

        if meta:
            # Code that computes with its weights cannot run there; it is run for real instead.
            with contextlib.suppress(Exception), torch.device("meta"):
                return self._called(sizes)
        return self._called(sizes)

    def build_from_seed(self, seed: int, **sizes: Any) -> nn.Module:
        """The model of these sizes and seed."""
        from isoscale.measure import build

        return build(self.make, seed, **sizes)

    def _called(self, sizes: dict[str, Any]) -> nn.Module:
        from torch import nn

        shown = ", ".join(f"{name}={value}" for name, value in sizes.items())
        try:
            model = self.make(**sizes)
        except Exception as error:
            raise InvalidValueError(f"{self.name}({shown}) fails: {type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(f"{self.name}({shown}) must return a torch.nn.Module, got {type(model).__name__}")
        return model


def factory(name: str) -> Factory:
    """The factory of that name: `pkg.module:make`, `path/file.py:make`, or a built-in model.

    Raises:
        InvalidValueError: No such module, function or model.
    """
    if ":" not in name:
        return _built_in(name)
    loaded = load(name)
    inputs = getattr(loaded.module, "example_inputs", None)
    if callable(inputs):
        inputs = inputs()
    return Factory(name, loaded.value, inputs, loaded.module)


# Shapes of a sample and numbers of outputs where only the model matters: those of digits, and short texts.
_SHAPES = {"features": ((64,), 10), "images": ((1, 8, 8), 10), "tokens": ((32,), 64)}


def _built_in(name: str) -> Factory:
    from isoscale.models import registry

    in_shape, out_features = _SHAPES[registry.takes(name)]

    def make(**sizes: Any) -> nn.Module:
        # Every model has sizes and a seed; what else was given is an option of this one.
        options = {key: sizes.pop(key) for key in set(sizes) - {"width", "depth", "seed"}}
        return registry.build(name, options, in_shape=in_shape, out_features=out_features, **sizes)

    return Factory(name, make)


def keywords(text: str, flag: str) -> dict[str, Any]:
    """The keyword arguments in "width=512,depth=8".

    >>> keywords("width=512,depth=8,phi=relu", "--base")
    {'width': 512, 'depth': 8, 'phi': 'relu'}
    """
    found = {}
    for item in text.split(","):
        name, _, value = (part.strip() for part in item.partition("="))
        # Without an equals sign the value is empty.
        if not name.isidentifier() or not value:
            raise InvalidValueError(f"`{flag}` is written width=512,depth=8, got {text!r}")
        found[name] = value_of(value)
    return found


def example_inputs(specs: tuple[str, ...], made: Factory, model: nn.Module) -> Any:
    """Arguments of the model's forward: from `--inputs`, from the factory's module, or from the model itself.

    A spec is dtype:shape, as float:2x3x32x32 or int:2x16 (whole numbers are zeros). Hugging Face models offer
    `dummy_inputs`. None for a model that has a property `example_inputs`, or `roles`.

    Raises:
        InvalidValueError: A spec that cannot be read; no inputs from anywhere.
    """
    if specs:
        return tuple(_zeros(spec) for spec in specs)
    if made.inputs is not None:
        return made.inputs
    if isinstance(getattr(model, "roles", None), dict) or getattr(model, "example_inputs", None) is not None:
        return None
    # A property of Hugging Face's models, which raises for some of them.
    with contextlib.suppress(Exception):
        dummy = getattr(model, "dummy_inputs", None)
        if isinstance(dummy, dict):
            return dummy
    raise InvalidValueError(
        f"`--inputs` is needed to trace {made.name}: --inputs int:2x16 for token numbers, --inputs float:2x3x32x32 for "
        "images, one a forward argument; or define `example_inputs` beside the factory"
    )


def _zeros(spec: str) -> Any:
    import torch

    match = re.fullmatch(r"([a-z]+\d*):(\d+(?:x\d+)*)", spec)
    if match:
        name, shape = match.groups()
        dtype = getattr(torch, _DTYPES.get(name, name), None)
        if isinstance(dtype, torch.dtype):
            sizes = [int(size) for size in shape.split("x")]
            return torch.zeros(sizes, dtype=dtype)
    raise InvalidValueError(f"`--inputs` is written dtype:shape, as float:2x3x32x32 or int:2x16, got {spec!r}")


# --- sizes between two, and inputs with numbers ---
# Networks up to this much larger than the base come before the target itself, which may be out of reach.
_FACTORS = (1, 2, 4)


def axes_between(made: Factory, base: dict[str, Any], target: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The sizes that grow, by what they change: each number of layers on its own, all widths together.

    Returns:
        By the name of an argument, keyword arguments of some sizes from the base's to the target's.

    >>> made = factory("residual-mlp")
    >>> axes_between(made, {"width": 8, "depth": 2}, {"width": 64, "depth": 4})["depth"]
    [{'depth': 2}, {'depth': 4}]
    """
    grown: list[str] = []
    for name, size in target.items():
        before = base.get(name)
        if isinstance(size, int) and isinstance(before, int) and not isinstance(size, bool) and size > before > 0:
            grown.append(name)
    shapes = _shapes(made, base) or {}
    together: list[str] = []
    groups: list[list[str]] = []
    for name in grown:
        # A number of layers changes no tensor that is there already, and a size that cannot change alone is a width.
        alone = _shapes(made, base | {name: target[name]})
        if alone is not None and all(shapes.get(key, shape) == shape for key, shape in alone.items()):
            groups.append([name])
        else:
            together.append(name)
    if together:
        groups.append(together)
    axes: dict[str, list[dict[str, Any]]] = {}
    for names in groups:
        values: list[dict[str, Any]] = []
        for factor in _FACTORS:
            if all(base[name] * factor < target[name] for name in names) or factor == 1:
                values.append({name: base[name] * factor for name in names})
        values.append({name: target[name] for name in names})
        axes[names[0]] = values
    return axes


def _shapes(made: Factory, sizes: dict[str, Any]) -> dict[str, Any] | None:
    """Of each parameter of a model, by name; None if there is no model of these sizes."""
    with contextlib.suppress(InvalidValueError):
        model = made.build(sizes, meta=True)
        return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return None


def with_numbers(inputs: Any, model: nn.Module, seed: int = 0) -> Any:
    """Arguments of forward in which whatever was the same number throughout is drawn: normal, or token numbers."""
    import torch
    from torch.utils._pytree import tree_map

    tables = [module.num_embeddings for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    tokens = min(tables, default=2)
    generator = torch.Generator().manual_seed(seed)

    def drawn(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype is torch.bool or value.is_complex():
            return value
        if not value.is_meta and value.numel() and value.flatten().ne(value.flatten()[0]).any():
            return value
        if value.is_floating_point():
            return torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value.dtype)
        return torch.randint(tokens, value.shape, generator=generator).to(value.dtype)

    return tree_map(drawn, inputs)
