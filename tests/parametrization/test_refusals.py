"""What cannot be handled is refused by a message that names the tensor or the operation, and the way out."""

import functools
import logging

import pytest
import torch
from small_nets import features_in, mlp, mlp_batches, seeded, train, transformer
from torch import nn
from torch.nn.utils import parametrizations, weight_norm
from torch.nn.utils import parametrize as torch_parametrize

from isoscale import Role, parametrize
from isoscale.errors import InvalidTypeError, InvalidValueError, PlanError, TraceError
from isoscale.models import ResidualMLP

X = features_in()


def plain(width=16, middle=None):
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), middle or nn.Linear(width, width), nn.Linear(width, 3))


def planned(make, **options):
    model, base = seeded(lambda: make(16)), seeded(lambda: make(8))
    return model, parametrize(model, base, lr=0.01, example_inputs=X, **options)


# --- weights that are computed ---
class Doubled(nn.Module):
    def forward(self, weight):
        return torch.tanh(weight)


def parametrized(linear):
    torch_parametrize.register_parametrization(linear, "weight", Doubled())
    return linear


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "tensor"),
    [
        (functools.partial(parametrizations.weight_norm, dim=1), r"2\.parametrizations\.weight\.original"),
        (parametrizations.spectral_norm, r"2\.parametrizations\.weight\.original"),
        (parametrizations.orthogonal, r"2\.parametrizations\.weight\.original"),
        (functools.partial(weight_norm, dim=1), r"2\.weight_[gv]"),
        (parametrized, r"2\.parametrizations\.weight\.original"),
    ],
    ids=["weight_norm by inputs", "spectral_norm", "orthogonal", "old weight_norm by inputs", "tanh"],
)
def test_computed_weights_are_refused_by_name(wrap, tensor):
    with pytest.raises((PlanError, TraceError), match=tensor):
        planned(lambda width: plain(width, wrap(nn.Linear(width, width))))


@pytest.mark.parametrize("dim", [0, None], ids=["of a readout", "of all"])
def test_what_a_norm_divides_out_is_offered_no_role_of_its_own(dim):
    """A role would scale the direction alone, and its plan would be that of another size."""

    def make(width):
        place = 3 if dim == 0 else 2
        model = plain(width)
        parametrizations.weight_norm(model[place], dim=dim)
        return model

    with pytest.raises(PlanError, match="remove the weight norm") as refusal:
        planned(make)
    assert "Only of a hidden linear layer normed by each input (dim=1)" in str(refusal.value)


# --- frozen ---
def test_frozen_parameters_are_in_no_group_and_are_left_alone():
    def make(width):
        model = plain(width)
        model[2].requires_grad_(False)
        return model

    model, plan = planned(make)
    untouched = seeded(lambda: make(16))
    names = {name for group in plan.param_groups() for name in group["param_names"]}
    assert names == {"0.weight", "0.bias", "3.weight", "3.bias"}
    optimizer = torch.optim.AdamW(plan.param_groups())
    losses = train(model, optimizer, mlp_batches(1) * 10)
    plan.check(optimizer)
    assert losses[-1] < losses[0]
    assert torch.equal(model[2].weight, untouched[2].weight)
    assert torch.equal(model[2].bias, untouched[2].bias)
    assert any("2 frozen tensors" in note for note in plan.notes)
    assert "frozen" in plan.table().set_index("name").loc["2.weight", "reason"]


def test_a_frozen_backbone_in_the_depth_is_a_note():
    def make(depth, frozen):
        model = ResidualMLP(5, 3, width=8, depth=depth, seed=0)
        for block in list(model.blocks)[:frozen]:
            block.requires_grad_(False)
        return model

    def notes(depth, frozen, rule="completep"):
        plan = parametrize(make(depth, frozen), make(2, 1), rule, lr=0.01, example_inputs=X)
        return [note for note in plan.notes if "frozen blocks" in note]

    (note,) = notes(8, 5)
    assert "the depth x4 counts the branches of 5 frozen blocks with those of 3 trained ones" in note
    assert notes(8, 0) == notes(8, 8) == notes(2, 1) == notes(8, 5, "mup") == []


# --- parameters that cannot be scaled ---
@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (torch.zeros(0, 4), r"`extra` has shape \(0, 4\)"),
        (torch.zeros(3, dtype=torch.int64), r"`extra` holds torch\.int64"),
    ],
)
def test_parameters_without_numbers_or_entries_are_refused_by_name(parameter, message):
    model = plain()
    model.extra = nn.Parameter(parameter, requires_grad=False)
    with pytest.raises(PlanError, match=message):
        parametrize(model, plain(8), lr=0.1, example_inputs=X)


def test_a_model_without_parameters_and_no_model():
    with pytest.raises(InvalidValueError, match="ReLU"):
        parametrize(nn.ReLU(), plain(), lr=0.1, example_inputs=X)
    with pytest.raises(InvalidTypeError, match="`model` must be a torch"):
        parametrize("model", plain(), lr=0.1, example_inputs=X)
    with pytest.raises(InvalidTypeError, match="`base` must be a module"):
        parametrize(plain(), 8, lr=0.1, example_inputs=X)


# --- forwards that cannot be followed ---
class Choosy(nn.Module):
    """Its way depends on the numbers."""

    def __init__(self, width, device=None):
        super().__init__()
        self.input, self.inner = nn.Linear(5, width, device=device), nn.Linear(width, width, device=device)
        self.readout = nn.Linear(width, 3, device=device)

    def forward(self, x):
        h = self.input(x)
        if h.sum().item() > 1e9:
            h = -h
        return self.readout(self.inner(h).relu())


def test_data_dependent_control_flow_on_meta_names_the_operation_and_real_weights_trace():
    with pytest.raises(TraceError, match=r"Choosy: `aten\._local_scalar_dense.*Trace a model with weights.*roles="):
        parametrize(Choosy(16, "meta"), Choosy(8, "meta"), lr=0.1, example_inputs=X)
    model, plan = planned(Choosy)
    assert {entry.name: entry.role for entry in plan.entries}["inner.weight"] is Role.HIDDEN
    losses = train(model, torch.optim.AdamW(plan.param_groups()), mlp_batches(1) * 10)
    assert losses[-1] < losses[0]


def test_roles_by_hand_stand_in_for_a_trace():
    roles = {"*.bias": "vector", "input.weight": "input", "inner.weight": Role.HIDDEN, "readout.*": Role.OUTPUT}
    by_hand = parametrize(Choosy(16, "meta"), Choosy(8, "meta"), lr=0.1, example_inputs=X, roles=roles)
    assert [str(entry.role) for entry in by_hand.entries] == ["input", "vector", "hidden", "vector", "output", "output"]
    with pytest.raises(TraceError, match=r"_local_scalar_dense.*do not suffice.*`inner\.weight`"):
        parametrize(Choosy(16, "meta"), Choosy(8), lr=0.1, example_inputs=X, roles={"*.bias": "vector"})


def test_inputs_that_do_not_fit_are_the_forwards_own_error_and_told_once(monkeypatch):
    log = logging.getLogger("torch._subclasses.fake_tensor")
    monkeypatch.setattr(log, "callHandlers", lambda record: pytest.fail(f"logged as well: {record.getMessage()}"))
    with pytest.raises(TraceError, match=r"Sequential\.forward fails on the example inputs: RuntimeError"):
        parametrize(plain(), plain(8), lr=0.1, example_inputs=(torch.zeros(1, 7),))
    with pytest.raises(TraceError, match=r"`base`: Sequential\.forward fails"):
        parametrize(plain(), nn.Sequential(nn.Linear(7, 8), *plain(8)[1:]), lr=0.1, example_inputs=X)
    with pytest.raises(InvalidValueError, match="`example_inputs` is needed"):
        parametrize(plain(), plain(8), lr=0.1)
    with pytest.raises(InvalidTypeError, match="`example_inputs` must be a tuple"):
        parametrize(plain(), plain(8), lr=0.1, example_inputs=5)


# --- roles ---
def test_a_pattern_that_matches_nothing_lists_candidates():
    with pytest.raises(InvalidValueError, match=r"no parameter that matches named 'reedout\.\*'.*readout\.weight"):
        parametrize(mlp(16, 2), mlp(8, 2), lr=0.1, example_inputs=X, roles={"reedout.*": Role.OUTPUT})
    with pytest.raises(InvalidValueError, match=r"no role named 'outputt'.*Nearest: output"):
        parametrize(mlp(16, 2), mlp(8, 2), lr=0.1, example_inputs=X, roles={"readout.*": "outputt"})


def test_a_tensor_that_nothing_matches_is_named():
    with pytest.raises(PlanError, match=r"no role for 2 of 6 parameters: `2\.weight` \(16, 16\), `2\.bias`"):
        parametrize(plain(), plain(8), lr=0.1, roles={"0.*": Role.INPUT, "3.*": Role.OUTPUT})


def test_given_roles_win_over_the_trace():
    _, plan = planned(plain, roles={"2.weight": Role.INPUT})
    assert {entry.name: entry.role for entry in plan.entries}["2.weight"] is Role.INPUT


# --- another architecture ---
@pytest.mark.parametrize(
    ("base", "message"),
    [
        (
            lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8)), nn.Linear(8, 3)),
            r"`2\.(weight|0)`",
        ),
        (lambda: mlp(8, 2), r"only the (target|base) has `(0|input)`"),
        (lambda: nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3)), r"`0\.bias`"),
    ],
)
def test_a_base_of_another_architecture_names_the_first_difference(base, message):
    with pytest.raises(PlanError, match=message):
        parametrize(plain(), base(), lr=0.1, example_inputs=X)


def test_another_rank_is_named():
    def make(shape):
        model = plain()
        model.p = nn.Parameter(torch.ones(shape))
        return model

    with pytest.raises(PlanError, match=r"`p` has shape \(4, 4\) and its counterpart in the base, `p`, \(4,\)"):
        parametrize(make((4, 4)), make((4,)), lr=0.1, example_inputs=X, roles={"p": Role.VECTOR})


def test_a_refused_model_is_left_as_it_was():
    model = transformer(16, 2, heads=2, tied=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training = [module.training for module in model.modules()]
    with pytest.raises(PlanError):
        parametrize(model, transformer(8, 2, heads=1, tied=True), lr=0.1, example_inputs=(torch.zeros(1, 6).long(),))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == training
