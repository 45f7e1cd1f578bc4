"""A trace leaves the model as it was: the very same tensors with the same numbers, flags, hooks and attributes."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, weight_norm

from isoscale import Role, parametrize
from isoscale.errors import PlanError, TraceError
from isoscale.graph.trace import trace
from isoscale.graph.unwrapping import named_parameters

X = (torch.zeros(2, 5),)


class Net(nn.Module):
    """readout(blocks(input(x))), each block added to the stream."""

    def __init__(self, width, blocks):
        super().__init__()
        self.input, self.readout = nn.Linear(5, width), nn.Linear(width, 3)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        h = self.input(x)
        for block in self.blocks:
            h = h + block(h)
        return self.readout(h)


def block(width):
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def net(width, wrap=lambda module: module):
    return Net(width, [wrap(block(width)) for _ in range(2)])


def with_readout_twice(width):
    model = net(width)
    model.again = model.readout
    return model


def tied(width):
    """One parameter in two modules of the same role."""
    model = net(width)
    model.blocks[1][0].weight = model.blocks[0][0].weight
    return model


class Renamed(nn.Module):
    """A linear layer that knows its weight as `matrix`."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def forward(self, h):
        return torch.relu(h) @ self.matrix.T


def renamed(width):
    shared = nn.Linear(width, width)
    return Net(width, [shared, Renamed(shared.weight)])


class Keeps(nn.Module):
    """Makes a mask at its first call, assigns a buffer anew, and keeps what it saw in a list and a dict."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.register_buffer("mean", torch.ones(width))
        self.register_buffer("cache", None)
        self.register_buffer("count", torch.tensor(0))
        self.mask, self.seen, self.by_size = None, [], {"sizes": {}}

    def forward(self, h):
        if self.mask is None:
            self.mask = torch.ones(h.shape[-1])
        self.mean = 0.9 * self.mean + 0.1 * h.mean(0)
        self.cache = h
        self.count += 1
        self.seen.append(h)
        self.by_size["sizes"][h.shape] = h
        self.register_buffer("late", h)
        self.linear.register_forward_hook(lambda *_: None)
        return self.linear(h * self.mask)


class Merging(nn.Linear):
    """Writes into its weight when it is switched to evaluation, as LoRA layers do."""

    def train(self, mode=True):
        if not mode:
            self.weight.data += 1.0
        return super().train(mode)


def mixed(width):
    """Some modules in evaluation mode, some tensors frozen, a hook on one."""
    model = net(width)
    model.blocks[0].eval()
    model.blocks[1].requires_grad_(False)
    model.input.register_forward_hook(lambda module, args, out: out)
    model.input.weight.grad = torch.ones_like(model.input.weight)
    return model


class Choosy(Net):
    """Its way depends on numbers, which fake tensors do not have."""

    def __init__(self, width, blocks):
        super().__init__(width, blocks)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        self.steps += 1
        self.blocks[0][0].bias.fill_(5.0)
        x = x if self.blocks[0][0].weight.sum().item() < 1e9 else -x
        return super().forward(x)


def compiled(module):
    return torch.compile(module, backend="eager")


def compiled_in_place(module):
    module.compile(backend="eager")
    return module


def normed(module, dim=0):
    weight_norm(module[0], dim=dim)
    return module


def parametrized(module, dim=0):
    parametrizations.weight_norm(module[0], dim=dim)
    return module


TRACED = {
    "plain": net,
    "one module under two names": with_readout_twice,
    "one layer n times": lambda width: Net(width, [block(width)] * 3),
    "tied parameters": tied,
    "one parameter under two names": renamed,
    "attributes assigned in the forward": lambda width: Net(width, [Keeps(width)]),
    "a train() that writes": lambda width: Choosy(width, [nn.Sequential(Merging(width, width))]),
    "modes, frozen tensors and hooks": mixed,
    "batch norm": lambda width: net(width, lambda module: nn.Sequential(module, nn.BatchNorm1d(width))),
    "data-dependent": lambda width: Choosy(width, [block(width)]),
    "weight norm": lambda width: net(width, normed),
    "parametrized": lambda width: net(width, parametrized),
    "compiled": lambda width: compiled(net(width)),
    "averaged": lambda width: torch.optim.swa_utils.AveragedModel(net(width)),
    "checkpointed": lambda width: checkpoint_wrapper(net(width)),
    "meta": lambda width: net(width).to("meta"),
    "a shared layer on meta": lambda width: Net(width, [block(width)] * 3).to("meta"),
    "recurrent": lambda width: Recurrent(width),
    "compiled blocks": lambda width: net(width, compiled),
    "blocks compiled in place": lambda width: net(width, compiled_in_place),
    "checkpointed blocks": lambda width: net(width, checkpoint_wrapper),
    "averaged blocks": lambda width: net(width, torch.optim.swa_utils.AveragedModel),
    "checkpointed and compiled blocks": lambda width: net(width, lambda module: compiled(checkpoint_wrapper(module))),
}
# Traced, and then refused as what they are.
ONLY_TRACED = {
    "weight norm by inputs": lambda width: net(width, functools.partial(normed, dim=1)),
    "weight norm by inputs, parametrized": lambda width: net(width, functools.partial(parametrized, dim=1)),
}


class Recurrent(nn.Module):
    """torch's RNNs keep a second list of their weights."""

    def __init__(self, width):
        super().__init__()
        self.rnn, self.readout = nn.LSTM(5, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.readout(self.rnn(x)[0])


def state(model):
    """Everything that a trace could change, with tensors by identity."""
    return {path: held(vars(module)) for path, module in model.named_modules(remove_duplicate=False)}


def held(value):
    if isinstance(value, dict):
        return {key: held(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [held(inner) for inner in value]
    return value if isinstance(value, (bool, int, float, str)) else id(value)


def numbers(model):
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name: (tensor.detach().clone(), tensor.requires_grad, tensor.grad) for name, tensor in named}


class Unchanged:
    """A model is the same at the end as at the beginning; with `planned`, but for the rescaled numbers."""

    def __init__(self, model, planned=False):
        self.model, self.planned = model, planned

    def __enter__(self):
        self.state, self.numbers = state(self.model), numbers(self.model)

    def __exit__(self, *error):
        assert state(self.model) == self.state
        now = numbers(self.model)
        assert now.keys() == self.numbers.keys()
        for name, (before, required_grad, grad) in self.numbers.items():
            tensor, requires_grad, grad_now = now[name]
            assert (requires_grad, grad_now is grad) == (required_grad, True), name
            assert tensor.is_meta or self.planned or torch.equal(tensor, before), name


def on(make, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(width)


pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


@pytest.mark.parametrize("kind", TRACED | ONLY_TRACED)
def test_after_a_trace(kind):
    model = on((TRACED | ONLY_TRACED)[kind])
    generator = torch.get_rng_state()
    with Unchanged(model):
        graph = trace(model, X)
    used = {use.name for _, use in graph.uses()}
    assert used == set(named_parameters(model))
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("kind", TRACED)
def test_after_a_plan_model_and_base_hold_their_own_tensors(kind):
    model, base = on(TRACED[kind], 16), on(TRACED[kind], 8)
    with Unchanged(base), Unchanged(model, planned=True):
        plan = parametrize(model, base, "mup", lr=0.1, example_inputs=X)
    trained = {id(parameter) for group in plan.param_groups() for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", ONLY_TRACED)
def test_after_a_refusal(kind):
    model, base = on(ONLY_TRACED[kind], 16), on(ONLY_TRACED[kind], 8)
    with Unchanged(base), Unchanged(model), pytest.raises(PlanError, match="effective weight is computed"):
        parametrize(model, base, lr=0.1, example_inputs=X)


def test_a_layer_that_runs_n_times_has_one_entry_and_n_branches():
    def make(width, times):
        return Net(width, [block(width)] * times)

    plan = parametrize(make(16, 6), make(8, 2), "completep", lr=0.1, example_inputs=X)
    roles = {entry.name: entry.role for entry in plan.entries}
    assert roles["blocks.0.0.weight"] is Role.BRANCH_INTERNAL
    assert roles["blocks.0.2.weight"] is Role.BRANCH_LAST
    assert not any(name.startswith(("blocks.1", "blocks.2")) for name in roles)
    assert plan.scaling.depth == 3


class Twice(nn.Module):
    """Its readout's weight multiplies the features as well."""

    def __init__(self, width):
        super().__init__()
        self.enter, self.leave = nn.Linear(5, width), nn.Linear(width, 1)

    def forward(self, x):
        return self.leave(self.enter(x) * self.leave.weight)


def test_a_tensor_in_two_roles_is_refused_and_left_alone():
    model, base = Twice(16), Twice(8)
    refusal = pytest.raises(PlanError, match=r"`leave\.weight` serves as output.* and as vector.*Untie it")
    with Unchanged(model), Unchanged(base), refusal:
        parametrize(model, base, lr=0.1, example_inputs=X)


# --- forwards that fail ---
class Failing(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.linear, self.error = nn.Linear(8, 8), error
        self.register_buffer("count", torch.tensor(0))

    def forward(self, h):
        self.count = self.count + 1
        self.kept = self.linear(h)
        raise self.error


@pytest.mark.parametrize("inner", [Failing(ValueError("no")), nn.Linear(7, 8)], ids=["raises", "shapes do not fit"])
def test_after_a_forward_that_fails(inner):
    model = Net(8, [inner] * 2)
    with Unchanged(model), pytest.raises(TraceError, match=r"Net\.forward fails"):
        trace(model, X)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()], ids=repr)
def test_after_an_interruption(error):
    model = Net(8, [Failing(error)] * 2)
    with Unchanged(model), pytest.raises(type(error)):
        trace(model, X)


class FailsLate(Choosy):
    def forward(self, x):
        super().forward(x)
        raise ValueError("with real weights, too")


def test_after_a_data_dependent_forward_that_fails_with_real_weights():
    model = FailsLate(8, [block(8)] * 2)
    with Unchanged(model), pytest.raises(TraceError, match="with real weights, too"):
        trace(model, X)


def test_after_a_data_dependent_forward_on_meta():
    model = Choosy(8, [block(8)] * 2).to("meta")
    with Unchanged(model), pytest.raises(TraceError, match="on the meta device"):
        trace(model, X)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_torchscript_is_refused_by_the_name_of_the_module():
    model = Net(8, [torch.jit.script(block(8))])
    with pytest.raises(TraceError, match=r"`blocks\.0` is TorchScript.*Trace the module before torch\.jit"):
        trace(model, X)


def test_a_traced_model_trains_as_one_that_was_not():
    def losses(model):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        found = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    model = Net(8, [block(8)] * 3)
    twin = copy.deepcopy(model)
    trace(model, X)
    assert losses(model) == losses(twin)
