"""How the outputs of modules change along a change of the parameters, to first order: one Jacobian-vector product.

Forward-mode differentiation gives every module's change in a single pass. Where an operation lacks it, the same
product comes from differentiating the backward pass (linear in its input, so its derivative is the product), and
where that is missing too, from central differences. The result says which.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

import torch
import torch.autograd.forward_ad as fwd
from torch import Tensor, nn

from isoscale.errors import InvalidValueError, unknown
from isoscale.measure.tools.observe import See, linear_layers, observe
from isoscale.measure.tools.passes import call, parameters, widest

Method = Literal["forward-mode", "double backward", "finite differences"]
Kept = TypeVar("Kept")
Keep = Callable[[Tensor, Tensor], Kept]


@dataclass(frozen=True, kw_only=True)
class Jvp(Generic[Kept]):
    """What `forward_jvp` returns.

    Attributes:
        outputs: What was kept of each module's output and of its change, by the module's name, in order of the calls.
        method: How the change was computed.
        why: What the better methods failed on; empty if the first was used.
    """

    outputs: dict[str, Kept]
    method: Method
    why: str


def _copies(primal: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    return primal.clone(), tangent.clone()


def forward_jvp(
    model: nn.Module,
    inputs: tuple[Any, ...],
    tangents: Mapping[str, Tensor],
    *,
    modules: Iterable[str] | None = None,
    keep: Keep[Any] = _copies,
    method: Method | None = None,
    seed: int = 0,
) -> Jvp[Any]:
    """The outputs of a model's modules and their derivative along a change of its parameters.

    The model's mode is kept: in training mode batch norm uses the batch's statistics, whose change is part of the
    derivative, and dropout the masks of `seed`. What the model detaches counts as constant.

    Args:
        model: Any module; it is left as it was.
        inputs: Positional arguments of its forward pass.
        tangents: Change of each tensor, by parameter name and with its shape; tensors left out do not move.
        modules: Names of the modules to watch, "" for the whole model; None: every linear and convolution module.
        keep: What to keep of (output, change), read at once, before in-place operations; copies of both by default.
        method: Use this one and no other; None: the first of "forward-mode", "double backward" and "finite
            differences" that the model's operations have.
        seed: Equal seeds give equal dropout masks.

    Returns:
        `Jvp`: `outputs[name]` is (output, change) unless `keep` says otherwise; names as in `observe`.

    Raises:
        InvalidValueError: No such parameter, module or method, or a tangent of another shape.
        Exception: Whatever the model's own forward pass raises.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> change = forward_jvp(model, (torch.tensor([[1.0, 2.0]]),), {"weight": torch.ones(1, 2)}).outputs[""][1]
    >>> change
    tensor([[3.]])
    """
    if method is not None and method not in get_args(Method):
        raise unknown("`method`", method, get_args(Method))
    params = parameters(model)
    _check(params, tangents)
    names = list(linear_layers(model) if modules is None else modules)
    task = _Task(model, params, inputs, tangents, names, keep, seed)
    candidates: tuple[Method, ...] = get_args(Method) if method is None else (method,)
    failures: list[str] = []
    for candidate in candidates:
        try:
            # A caller's `inference_mode` would leave nothing to differentiate.
            with torch.inference_mode(False):
                outputs = _METHODS[candidate](task)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # A mistake of the model's own comes back when its plain forward pass runs, in the last method.
            if candidate == candidates[-1]:
                raise
            first_line = str(error).splitlines()[0]
            failures.append(f"{candidate}: {first_line}")
            continue
        return Jvp(outputs=outputs, method=candidate, why="; ".join(failures))
    raise AssertionError("the last method returns or raises")


class _Task(NamedTuple):
    model: nn.Module
    params: dict[str, Tensor]
    inputs: tuple[Any, ...]
    tangents: Mapping[str, Tensor]
    names: list[str]
    keep: Keep[Any]
    seed: int

    def run(self, params: Mapping[str, Tensor], see: See, **casts: Any) -> None:
        """One pass with these parameters, watched."""
        inputs = tuple(_cast(x, **casts) for x in self.inputs)
        with observe(self.model, self.names, see):
            call(self.model, params, inputs, self.seed, **casts)

    def outputs(self, params: Mapping[str, Tensor], **casts: Any) -> dict[str, Tensor]:
        """Copies of the outputs with these parameters, with their graph where gradients are on."""
        found: dict[str, Tensor] = {}

        def see(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
            found[name] = output.clone()

        self.run(params, see, **casts)
        return found


def _forward_mode(task: _Task) -> dict[str, Any]:
    _load_forward_mode()
    outputs: dict[str, Any] = {}

    def see(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        primal, tangent = fwd.unpack_dual(output)
        # Outputs upstream of every moved tensor carry no tangent.
        if tangent is None:
            tangent = torch.zeros_like(primal)
        outputs[name] = task.keep(primal, tangent)

    with torch.no_grad(), fwd.dual_level():
        moved = dict(task.params)
        for name, tangent in task.tangents.items():
            param = task.params[name]
            moved[name] = fwd.make_dual(param, tangent.detach())
        task.run(moved, see)
    return outputs


def _double_backward(task: _Task) -> dict[str, Any]:
    """J v = d/du <J^T u, v>: the backward pass is linear in u, so any u will do."""
    moved: dict[str, Tensor] = {}
    for name in task.tangents:
        moved[name] = task.params[name].detach().requires_grad_()
    with torch.enable_grad():
        outputs = task.outputs(task.params | moved)
        # Outputs upstream of every moved tensor have no graph, and do not change.
        live = [name for name, output in outputs.items() if moved and output.requires_grad]
        changes: dict[str, Tensor] = {}
        if live:
            pushed = _pushed(
                outputs=[outputs[name] for name in live],
                inputs=list(moved.values()),
                tangents=list(task.tangents.values()),
            )
            changes = dict(zip(live, pushed, strict=True))
    kept: dict[str, Any] = {}
    for name, output in outputs.items():
        change = changes.get(name)
        if change is None:
            change = torch.zeros_like(output)
        kept[name] = task.keep(output.detach(), change)
    return kept


def _pushed(outputs: list[Tensor], inputs: list[Tensor], tangents: list[Tensor]) -> list[Tensor]:
    """The outputs' changes along the inputs' tangents, by two backward passes.

    An operation whose derivative knows no derivative may count as constant without a word. So u is random, and
    <J^T u, v> = <u, J v> shows whether the second pass is the transpose of the first.
    """
    generator = torch.Generator().manual_seed(0)
    # Drawn on the CPU, so that every device checks the same directions.
    u: list[Tensor] = []
    for output in outputs:
        drawn = torch.randn(output.shape, generator=generator)
        u.append(drawn.to(output).requires_grad_())
    options = {"allow_unused": True, "materialize_grads": True}
    # J^T u by the first pass; <J^T u, v>; and its derivative in u, which is J v.
    pulled = torch.autograd.grad(outputs, inputs, u, create_graph=True, **options)
    inner = _inner(pulled, tangents)
    pushed = [torch.zeros_like(z) for z in u]
    if inner.requires_grad:
        pushed = list(torch.autograd.grad(inner, u, **options))
    # Norms often run in single precision, whatever the model's own.
    eps = torch.finfo(torch.float32).eps
    for output in outputs:
        eps = max(eps, torch.finfo(output.dtype).eps)
    # |<J^T u, v>| <= |J^T u| |v|, each of whose products is rounded.
    bound = (_inner(pulled, pulled) * _inner(tangents, tangents)).sqrt()
    rounding = 10 * eps * bound
    allowed = eps**0.5 * _inner(pushed, pushed).sqrt() + rounding
    difference = inner - _inner(u, pushed)
    if difference.abs() > allowed:
        raise RuntimeError("the backward pass cannot be differentiated")
    return pushed


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    products = []
    for x, y in zip(a, b, strict=True):
        product = widest(x) * widest(y)
        products.append(product.sum())
    return torch.stack(products).sum()


def _finite_differences(task: _Task) -> dict[str, Any]:
    """(z(w + e v) - z(w - e v)) / 2e in the model's own precision, half precision raised to single."""
    dtype = torch.float32
    for param in task.params.values():
        dtype = torch.promote_types(dtype, param.dtype)
    # The cube root of eps balances rounding, eps / e, and curvature, e^2.
    step = torch.finfo(dtype).eps ** (1 / 3) * _relative_size(task.params, task.tangents)

    def at(shift: float) -> dict[str, Tensor]:
        params = {name: _cast(param, dtype=dtype) for name, param in task.params.items()}
        for name, tangent in task.tangents.items():
            params[name] = params[name] + shift * tangent.to(dtype)
        with torch.no_grad():
            return task.outputs(params, dtype=dtype)

    here = at(0.0)
    plus = at(step)
    minus = at(-step)
    kept: dict[str, Any] = {}
    for name, output in here.items():
        change = (plus[name] - minus[name]) / (2 * step)
        kept[name] = task.keep(output, change)
    return kept


_METHODS: dict[Method, Callable[[_Task], dict[str, Any]]] = {
    "forward-mode": _forward_mode,
    "double backward": _double_backward,
    "finite differences": _finite_differences,
}


def _check(params: Mapping[str, Tensor], tangents: Mapping[str, Tensor]) -> None:
    for name, tangent in tangents.items():
        if name not in params:
            raise unknown("parameter", name, params, listing="model.named_parameters()")
        if tangent.shape != params[name].shape:
            wanted = tuple(params[name].shape)
            raise InvalidValueError(f"the tangent of `{name}` must have its shape {wanted}, got {tuple(tangent.shape)}")


def _relative_size(params: Mapping[str, Tensor], tangents: Mapping[str, Tensor]) -> float:
    """The smallest |w| / |v| over the tensors: no tensor may move by more than a small part of itself."""
    ratios: list[float] = []
    largest = 0.0
    for name, tangent in tangents.items():
        size = float(params[name].float().norm())
        moved = float(tangent.float().norm())
        largest = max(largest, moved)
        if size > 0 and moved > 0:
            ratios.append(size / moved)
    if ratios:
        return min(ratios)
    # Weights that are all zero have no size of their own: the largest change is then 1.
    return 1 / largest if largest > 0 else 1.0


def _cast(value: Any, **casts: Any) -> Any:
    if casts and isinstance(value, Tensor) and value.is_floating_point():
        return value.to(**casts)
    return value


@functools.cache
def _load_forward_mode() -> None:
    """Torch loads its forward-mode formulas at the first use, and warns about its own means of doing so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with fwd.dual_level():
            fwd.make_dual(torch.zeros(()), torch.zeros(()))
