"""Any optimizer of a known family trains from a plan's groups; an unknown class is refused by name."""

import functools

import pytest
import torch
from small_nets import features_in, mlp, mlp_batches, planned_mlp, train

from isoscale import Role, parametrize
from isoscale.errors import InvalidTypeError, InvalidValueError, PlanError

M, R = 4.0, 4.0


class Lion(torch.optim.Optimizer):
    """Sign of an interpolated momentum, decoupled decay (Chen et al., arXiv 2302.06675)."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(momentum.lerp(p.grad, 1 - group["betas"][0]).sign(), alpha=group["lr"])
                momentum.lerp_(p.grad, 1 - group["betas"][1])


class Sophia(torch.optim.Optimizer):
    """A class of which nothing is known; it happens to step by signs."""

    def __init__(self, params, lr=1e-4, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad.sign(), alpha=group["lr"])


CLASSES = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9}, "sgd"),
    "adam": (torch.optim.Adam, {}, "adam"),
    "adamw": (torch.optim.AdamW, {"amsgrad": True}, "adamw"),
    "nadam": (torch.optim.NAdam, {}, "adam"),
    "radam": (torch.optim.RAdam, {}, "adam"),
    "adamax": (torch.optim.Adamax, {}, "adam"),
    "rmsprop": (torch.optim.RMSprop, {}, "adam"),
    "adagrad": (torch.optim.Adagrad, {}, "adam"),
    "lion": (Lion, {}, "sign"),
}

# Folded learning rates relative to the base, from docs/theory.md, section 5 under completep with m = r = 4.
EXPECTED = {
    "sgd": {"input": M, "internal": R, "last": R / R**2, "output": M / M**2},
    "adam": {"input": 1, "internal": 1 / M, "last": 1 / M / R, "output": 1 / M},
}


def rates(plan):
    by_name = {name: group["lr"] for group in plan.param_groups() for name in group["param_names"]}
    places = {"input": "input", "internal": "blocks.1.maps.0", "last": "blocks.1.maps.1", "output": "readout"}
    return {place: by_name[f"{prefix}.weight"] for place, prefix in places.items()}


@pytest.mark.parametrize(("cls", "options", "family"), CLASSES.values(), ids=CLASSES.keys())
def test_a_class_trains_with_its_familys_learning_rates(cls, options, family):
    model, base = mlp(32, 8), mlp(8, 2, seed=7)
    lr = 0.02 if family == "sgd" else 0.002
    plan = parametrize(model, base, "completep", cls, lr=lr, example_inputs=features_in())
    assert plan.settings.optimizer == family
    expected = EXPECTED["sgd" if family == "sgd" else "adam"]
    assert rates(plan) == pytest.approx({place: lr * factor for place, factor in expected.items()})
    optimizer = cls(plan.param_groups(), **options)
    losses = train(model, optimizer, mlp_batches(1, size=16) * 20)
    plan.check(optimizer)
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize(("cls", "options", "family"), CLASSES.values(), ids=CLASSES.keys())
def test_at_the_base_the_plan_is_the_plain_optimizer(cls, options, family):
    """Ratio 1 is the identity: bitwise the losses of one group."""
    settings = {"lr": 0.01, "weight_decay": 0.1} | ({} if cls in (torch.optim.SGD, Lion) else {"eps": 1e-6})
    model, plain = mlp(8, 2), mlp(8, 2)
    plan = parametrize(model, mlp(8, 2, seed=7), "completep", cls, example_inputs=features_in(), **settings)
    assert len(plan.param_groups()) == 1
    losses = train(model, cls(plan.param_groups(), **options), mlp_batches(4))
    assert losses == train(plain, cls(plain.parameters(), **settings, **options), mlp_batches(4))


def test_an_unknown_class_is_refused_by_name_until_its_family_is_declared():
    model, base = mlp(32, 8), mlp(8, 2, seed=7)
    with pytest.raises(InvalidValueError, match=r"no rule for optimizer class Sophia: declare .*'sign'"):
        parametrize(model, base, optimizer=Sophia, lr=0.01, example_inputs=features_in())
    plan = parametrize(model, base, optimizer="sign", lr=0.002, example_inputs=features_in())
    optimizer = Sophia(plan.param_groups())
    losses = train(model, optimizer, mlp_batches(1) * 10)
    plan.check(optimizer)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("cls", [torch.optim.LBFGS, torch.optim.Adafactor, torch.optim.Adadelta, torch.optim.Rprop])
def test_classes_whose_step_no_family_describes_are_refused(cls):
    with pytest.raises(InvalidValueError, match=f"no rule for optimizer class {cls.__name__}"):
        planned_mlp(optimizer=cls)


def test_a_subclass_is_of_its_parents_family():
    mine = type("Mine", (torch.optim.AdamW,), {})
    assert planned_mlp(optimizer=mine)[1].settings.optimizer == "adamw"


def test_an_optimizer_of_another_family_is_caught():
    model, plan = planned_mlp(optimizer="adamw")
    with pytest.raises(PlanError, match="SGD is of family sgd; the plan is for adamw"):
        plan.check(torch.optim.SGD(plan.param_groups()))
    plan.check(torch.optim.AdamW(plan.param_groups(model)))


# --- the class name is not the optimizer ---
FLAGGED = [torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam]


@pytest.mark.parametrize("cls", FLAGGED)
def test_decoupled_decay_is_read_off_the_groups(cls):
    _, coupled = planned_mlp(optimizer=cls, weight_decay=0.1)
    _, decoupled = planned_mlp(optimizer=functools.partial(cls, decoupled_weight_decay=True), weight_decay=0.1)
    assert (coupled.settings.optimizer, decoupled.settings.optimizer) == ("adam", "adamw")
    assert decoupled.entries == planned_mlp(optimizer="adamw", weight_decay=0.1)[1].entries
    coupled.check(cls(coupled.param_groups()))
    optimizer = cls(decoupled.param_groups(), decoupled_weight_decay=True)
    decoupled.check(optimizer)
    with pytest.raises(PlanError, match=f"{cls.__name__} is of family adamw; the plan is for adam"):
        coupled.check(cls(coupled.param_groups(), decoupled_weight_decay=True))
    with pytest.raises(PlanError, match=f"{cls.__name__} is of family adam; .*decoupled_weight_decay=True in it"):
        decoupled.check(cls(decoupled.param_groups()))
    optimizer.param_groups[0]["decoupled_weight_decay"] = False
    with pytest.raises(PlanError, match="some groups of"):
        decoupled.check(optimizer)


def test_without_decay_nothing_is_coupled():
    _, plan = planned_mlp(optimizer="adamw", weight_decay=0.0)
    plan.check(torch.optim.NAdam(plan.param_groups()))
    _, plan = planned_mlp(optimizer="adam", weight_decay=0.0)
    plan.check(torch.optim.AdamW(plan.param_groups()))


class Clipped(torch.optim.Adam):
    """It steps in its own way, and might as well decay in it."""

    def step(self, closure=None):
        return super().step(closure)


class Renamed(torch.optim.Adam):
    pass


def test_a_family_may_be_declared_for_a_step_of_ones_own():
    _, plan = planned_mlp(optimizer="adamw", weight_decay=0.1)
    plan.check(Clipped(plan.param_groups()))
    with pytest.raises(PlanError, match="Renamed is of family adam; the plan is for adamw"):
        plan.check(Renamed(plan.param_groups()))


# --- wrapped optimizers ---
class Sam(torch.optim.Optimizer):
    """A wrapper that is an optimizer itself and holds the one that steps."""

    def __init__(self, params, cls, **options):
        super().__init__(params, {})
        self.base_optimizer = cls(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups


class Wrapper:
    """Accelerate's and Lightning's hold it as `optimizer`."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


def test_the_optimizer_inside_a_wrapper_is_checked():
    _, plan = planned_mlp(optimizer="sgd", lr=0.1)
    plan.check(Wrapper(Sam(plan.param_groups(), torch.optim.SGD, momentum=0.9)))
    optimizer = torch.optim.SGD(plan.param_groups())
    plan.check(torch.optim.lr_scheduler.StepLR(optimizer, 10))
    with pytest.raises(PlanError, match="AdamW is of family adamw; the plan is for sgd"):
        plan.check(Sam(plan.param_groups(), torch.optim.AdamW))


# --- parameters of others ---
def test_parameters_of_the_loss_are_let_be():
    _, plan = planned_mlp(optimizer="adamw", lr=0.1)
    weights = torch.nn.Parameter(torch.zeros(2))
    groups = [*plan.param_groups(), {"params": [weights], "param_names": ["loss.weights"], "lr": 7.0}]
    optimizer = torch.optim.AdamW(groups)
    plan.check(optimizer)
    optimizer.param_groups[0]["lr"] *= 2
    with pytest.raises(PlanError, match="ratios of the learning rates are lost"):
        plan.check(optimizer)


def test_two_models_with_an_optimizer_each():
    _, generator = planned_mlp(optimizer="adamw", lr=0.1)
    _, critic = planned_mlp(optimizer="sgd", lr=0.3)
    first, second = torch.optim.AdamW(generator.param_groups()), torch.optim.SGD(critic.param_groups())
    generator.check(first, second)
    critic.check(first, second)
    with pytest.raises(PlanError, match="none that is the plan's model's"):
        critic.check(first)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "sign"])
@pytest.mark.parametrize("decay", ["independent", "coupled", "none"])
def test_what_a_decay_keeps_constant(optimizer, decay):
    model, base = mlp(32, 8, norm="layer"), mlp(8, 2, seed=7, norm="layer")
    plan = parametrize(
        model, base, optimizer=optimizer, lr=0.01, weight_decay=0.1, decay=decay, example_inputs=features_in()
    )
    for group in plan.param_groups():
        for name in group["param_names"]:
            if name.endswith("bias") or "norm" in name or decay == "none":
                assert group["weight_decay"] == 0
            elif decay == "coupled":
                assert group["weight_decay"] == 0.1
            elif optimizer != "adam":
                assert group["lr"] * group["weight_decay"] == pytest.approx(0.01 * 0.1)
            else:  # part of a gradient g / c of weights c w: wd / c^2 keeps the direction of the sum
                c = 1 / M if name == "readout.weight" else 1 / R if "maps.1" in name else 1.0
                assert group["weight_decay"] == pytest.approx(0.1 / c**2)


def test_independent_decay_shrinks_every_map_alike():
    """With no gradient, AdamW multiplies each map by 1 - lr weight_decay, at base and target the same."""
    shrunk = {}
    for size in ((8, 2), (32, 8)):
        model = mlp(*size)
        plan = parametrize(model, mlp(8, 2, seed=7), lr=0.1, weight_decay=0.5, example_inputs=features_in())
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        torch.optim.AdamW(plan.param_groups()).step()
        shrunk[size] = [(p.norm() / before[name].norm()).item() for name, p in model.named_parameters()]
    assert shrunk[8, 2] == pytest.approx([0.95] * 6, rel=1e-6)
    assert shrunk[32, 8] == pytest.approx([0.95] * 18, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": 0}, InvalidValueError, "`lr` must be > 0"),
        ({"lr": float("nan")}, InvalidValueError, "`lr`"),
        ({"lr": "0.1"}, InvalidTypeError, "`lr` must be a number, got '0.1'"),
        ({"lr": {"muon": 0.1, "adamw": 0.1}}, InvalidValueError, "a mapping for Muon alone"),
        ({"weight_decay": -1}, InvalidValueError, "`weight_decay` must be >= 0"),
        ({"eps": float("inf")}, InvalidValueError, "`eps`"),
        ({"decay": "full"}, InvalidValueError, "`decay`.*independent"),
        ({"optimizer": "adamv"}, InvalidValueError, "Nearest: adam, adamw"),
        ({"rule": "complete"}, InvalidValueError, "Nearest: completep"),
        ({"optimizer": "muon", "adjust_lr_fn": "rms"}, InvalidValueError, "match_rms_adamw"),
    ],
)
def test_settings_that_make_no_sense_are_named(options, error, message):
    with pytest.raises(error, match=message):
        planned_mlp(**options)


def test_roles_have_the_names_of_the_rules():
    _, plan = planned_mlp()
    assert {entry.role for entry in plan.entries} == {
        Role.INPUT,
        Role.BRANCH_INTERNAL,
        Role.BRANCH_LAST,
        Role.OUTPUT,
    }
