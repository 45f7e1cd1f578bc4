"""Forwards that fake tensors, a switched-off gradient or inference mode would hide or break; and whose fault it is."""

import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from isoscale import Role, parametrize
from isoscale.errors import PlanError, TraceError
from isoscale.graph.trace import trace

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Three layers; what a subclass does with them is its own."""

    def __init__(self, width):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(5, width), nn.Linear(width, width), nn.Linear(width, 1)

    def function(self, x):
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(x)))))

    def forward(self, x):
        return self.function(x)


class Gradient(Net):
    """Energy and force."""

    def forward(self, x):
        x = x.detach().requires_grad_()
        energy = self.function(x)
        (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        return energy, force


class ForceOnly(Gradient):
    def forward(self, x):
        return super().forward(x)[1]


class Laplacian(Net):
    """The residual of a differential equation, from second derivatives."""

    def forward(self, x):
        x = x.detach().requires_grad_()
        (first,) = torch.autograd.grad(self.function(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first[:, 0].sum(), x, create_graph=True)
        return second.sum(1)


class GivenWithFlag(Net):
    """Of an input that is handed over as one to differentiate in."""

    def forward(self, x):
        with torch.enable_grad():
            energy = self.function(x)
            return torch.autograd.grad(energy.sum(), x, create_graph=True)[0]


class Functional(Net):
    def forward(self, x):
        return torch.func.vmap(torch.func.grad(lambda row: self.function(row).sum()))(x)


class ForwardMode(Net):
    """The derivative along a direction, beside the function."""

    def forward(self, x):
        return torch.func.jvp(self.function, (x,), (torch.ones_like(x),))


class Checkpointed(Net):
    def forward(self, x):
        return checkpoint(self.function, x, use_reentrant=False)


class ThroughNumpy(Net):
    """The way of its numbers leaves torch."""

    def forward(self, x):
        scale = float(np.abs(x.numpy()).max())
        return self.function(x / max(scale, 1.0))


class Draws(Net):
    def forward(self, x):
        drawn = random.random() + np.random.rand()  # noqa: NPY002
        return self.function(x + torch.rand(1)) if drawn < 3 else None


ROLES = {
    **{"first.weight": Role.INPUT, "middle.weight": Role.HIDDEN, "last.weight": Role.OUTPUT},
    **{"first.bias": Role.VECTOR, "middle.bias": Role.VECTOR, "last.bias": Role.SCALAR},
}
KINDS = [Net, Gradient, ForceOnly, Laplacian, Functional, ForwardMode, Checkpointed, ThroughNumpy, Draws]


def roles_of(plan):
    return {entry.name: entry.role for entry in plan.entries}


# torch's own forward mode still compiles its formulas so.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_the_roles_are_those_of_the_function(kind):
    """A derivative in the inputs scales as the function does, so its maps are the function's."""
    model, base = kind(16), kind(8)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    plan = parametrize(model, base, "mup", lr=0.1, example_inputs=(X,))
    assert roles_of(plan) == ROLES
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_an_input_keeps_its_flag():
    x = X.clone().requires_grad_()
    plan = parametrize(GivenWithFlag(16), GivenWithFlag(8), "mup", lr=0.1, example_inputs=(x,))
    assert roles_of(plan) == ROLES
    assert x.grad is None


# --- training mode ---
class Auxiliary(Net):
    """A second readout in training mode only, dropout, and batch statistics that one sample does not have."""

    def __init__(self, width):
        super().__init__(width)
        self.norm, self.dropout, self.aux = nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 2)

    def forward(self, x):
        hidden = self.dropout(torch.tanh(self.norm(self.first(x))))
        hidden = nn.functional.dropout(hidden, 0.5, self.training)
        out = self.last(torch.tanh(self.middle(hidden)))
        return (out, self.aux(hidden)) if self.training else out


class WantsLabels(Auxiliary):
    def forward(self, x):
        if self.training:
            raise ValueError("labels are needed in training")
        return super().forward(x)


@pytest.mark.parametrize("training", [True, False])
def test_a_readout_of_training_mode_is_one(training):
    model, base = Auxiliary(16).train(training), Auxiliary(8)
    plan = parametrize(model, base, "mup", lr=0.1, example_inputs=(X[:1],))
    roles = roles_of(plan)
    assert roles["aux.weight"] is Role.OUTPUT
    assert {name: roles[name] for name in ROLES} == ROLES
    assert all(module.training is training for module in model.modules())
    assert int(model.norm.num_batches_tracked) == 0


def test_where_training_mode_asks_for_more_inference_is_what_is_traced():
    used = {use.name for _, use in trace(WantsLabels(8), (X,)).uses()}
    assert used == {*ROLES, "norm.weight", "norm.bias"}


# --- inputs in objects ---
@dataclass(frozen=True, slots=True)
class Frozen:
    x: torch.Tensor
    name: str = "batch"


class Pair(NamedTuple):
    x: torch.Tensor
    count: int


class Batch(dict):
    """A dict that torch's own walks over containers do not enter."""

    def __getattr__(self, name):
        return self[name]


class Looped(SimpleNamespace):
    """It holds itself."""


def looped():
    batch = Looped(x=X)
    batch.owner = batch
    return batch


INPUTS = {
    "dataclass with slots": Frozen(X),
    "namedtuple": Pair(X, 3),
    "subclass of dict": Batch(x=X),
    "object": SimpleNamespace(x=X, other=[{"y": X}]),
    "object that holds itself": looped(),
    "dataclass in a list": [Frozen(X)],
}


class Unpacks(Net):
    def forward(self, batch):
        batch = batch[0] if isinstance(batch, list) else batch
        out = self.function(batch.x)
        return SimpleNamespace(prediction=out) if isinstance(batch, Looped) else Frozen(out)


@pytest.mark.parametrize("kind", INPUTS)
def test_tensors_in_objects_are_inputs(kind):
    graph = trace(Unpacks(8), (INPUTS[kind],))
    assert [node.op for node in graph.nodes].count("input") == 1
    assert len(graph.outputs) == 1
    assert {use.name for _, use in graph.uses()} == set(ROLES)
    plan = parametrize(Unpacks(16), Unpacks(8), "mup", lr=0.1, example_inputs=(INPUTS[kind],))
    assert roles_of(plan) == ROLES


# --- lazy modules ---
def lazy(width, norm):
    return nn.Sequential(nn.LazyLinear(width), norm(), nn.ReLU(), nn.LazyLinear(width), nn.LazyLinear(1))


@pytest.mark.parametrize("norm", [nn.Identity, nn.LazyBatchNorm1d])
def test_lazy_modules_are_refused_by_name_until_they_are_called(norm):
    model, base = lazy(16, norm), lazy(8, norm)
    for attempt in (
        lambda: parametrize(model, base, lr=0.1, example_inputs=(X,)),
        lambda: parametrize(model, base, lr=0.1, roles={"*": Role.HIDDEN}),
        lambda: trace(model, (X,)),
    ):
        with pytest.raises(TraceError, match=r"`0\.weight` has no shape yet.*Call the model"):
            attempt()
    model(X)
    with pytest.raises(TraceError, match=r"`0\.weight` has no shape yet"):
        parametrize(model, base, lr=0.1, example_inputs=(X,))
    base(X)
    plan = parametrize(model, base, "mup", lr=0.1, example_inputs=(X,))
    assert roles_of(plan)["3.weight"] is Role.HIDDEN


# --- whose fault it is ---
class TooFewNumbers(Net):
    def forward(self, x):
        return self.function(x[: int(x.sum().item() * 0)].reshape(-1, 4))


def test_a_forward_that_fails_for_real_is_told_with_its_own_words():
    with pytest.raises(TraceError, match=r"TooFewNumbers\.forward fails on the example inputs: RuntimeError.*shape"):
        trace(TooFewNumbers(8), (X,))


class LeavesTorch(Net):
    """What numpy computes has no history."""

    def forward(self, x):
        hidden = torch.from_numpy(np.tanh(self.first(x).detach().numpy()))
        return self.last(torch.tanh(self.middle(hidden)))


def test_numbers_that_leave_torch_on_the_way_are_missed_and_not_guessed():
    with pytest.raises(TraceError, match=r"no path from the example inputs to what LeavesTorch\.forward.*numpy"):
        trace(LeavesTorch(8), (X,))


def test_a_failure_of_the_trace_alone_is_not_blamed_on_the_inputs(monkeypatch):
    from isoscale.graph import recorder

    def broken(*args):
        raise LookupError("no such row")

    monkeypatch.setattr(recorder, "operation", broken)
    with pytest.raises(TraceError, match=r"Net\.forward runs on the example inputs, but.*LookupError: no such row"):
        trace(Net(8), (X,))


def test_on_meta_nobody_can_tell():
    with pytest.raises(TraceError, match=r"fails on the meta device: RuntimeError.*trace a model with weights; if not"):
        trace(Net(8).to("meta"), (torch.zeros(4, 6),))


def test_roles_by_hand_for_wrapped_blocks_go_by_the_plain_names():
    def make(width):
        middle = torch.compile(nn.Linear(width, width), backend="eager")
        return nn.Sequential(nn.Linear(5, width), middle, nn.Linear(width, 1))

    roles = {"0.*": Role.INPUT, "1.*": Role.HIDDEN, "2.*": Role.OUTPUT, "*.bias": Role.VECTOR, "2.bias": Role.SCALAR}
    plan = parametrize(make(16), make(8), "mup", lr=0.1, roles=roles)
    assert [entry.name for entry in plan.entries][2:4] == ["1.weight", "1.bias"]
    with pytest.raises(PlanError, match=r"no role for 2 of 6 parameters: `2\.weight`"):
        parametrize(make(16), make(8), lr=0.1, roles={"0.*": Role.INPUT, "1.*": Role.HIDDEN})
