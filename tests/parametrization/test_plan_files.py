"""A plan as JSON: it comes back the same, and a damaged file is a PlanError that names the key."""

import contextlib
import copy
import json
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from small_nets import mlp, planned_mlp, planned_transformer
from torch import nn

import isoscale
from fuzzing import cases
from isoscale import Plan
from isoscale.errors import InvalidValueError, IsoscaleError, PlanError

PLAN = planned_mlp()[1]
DICT = json.loads(json.dumps(PLAN.to_dict()))

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=6)
    | st.sampled_from(["sgd", "output", "completep", "residual-family(0.5,0.75)", "residual-family(9,9)", "am-mup"])
)
JSON = st.recursive(SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=6), x, max_size=3))


@pytest.mark.parametrize("options", [{}, {"optimizer": "muon", "adjust_lr_fn": "match_rms_adamw"}, {"decay": "none"}])
def test_round_trip(tmp_path, options):
    for _, plan in (planned_mlp(**options), planned_transformer(**options)):
        plan.save(tmp_path / "plan.json")
        loaded = Plan.load(tmp_path / "plan.json")
        assert loaded == plan
        assert loaded.table().equals(plan.table())
        assert Plan.from_dict(plan.to_dict()) == plan
        assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def paths(value, at=()):
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from paths(child, (*at, key))


PATHS = [path for path in paths(DICT) if path[:1] != ("entries",) or path[1:2] in ((), (3,))]


@cases(500)
@given(path=st.sampled_from(PATHS), value=JSON, delete=st.booleans())
def test_a_damaged_plan_is_a_plan_error_or_a_plan(path, value, delete):
    damaged = copy.deepcopy(DICT)
    at = damaged
    for key in path[:-1]:
        at = at[key]
    if not path:
        damaged = value
    elif delete:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    try:
        plan = Plan.from_dict(damaged)
    except PlanError:
        return
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@cases(100)
@given(text=st.text(max_size=60) | JSON.map(json.dumps))
def test_any_text_is_a_plan_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(PlanError):
        Plan.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(isoscale_plan=99), "plan format 99"),
        (lambda d: d.update(extra=1), "unknown key `extra`"),
        (lambda d: d["entries"][2].pop("role"), r"missing key `entries\[2\]\.role`"),
        (lambda d: d["entries"][0].update(role="king"), r"`entries\[0\]\.role` must be a role, got 'king'"),
        (lambda d: d["scaling"].update(depth="deep"), r"`scaling\.depth` must be float, got 'deep'"),
        (lambda d: d["settings"].update(optimizer="adamv"), r"`settings\.optimizer` must be one of 'sgd'"),
        (lambda d: d["entries"][1].update(uses=0.0), r"`entries\[1\]\.uses` must be > 0"),
        (lambda d: d["entries"][1].update(forward=0.0), r"`entries\[1\]\.forward` must be a ratio other than 0"),
        (lambda d: d.update(forward_multipliers={"a": [1.0]}), r"`forward_multipliers\.a` must have 2 items"),
        (lambda d: d["settings"].update(lr=-0.1), r"`settings\.lr` must be > 0, got -0\.1"),
        (lambda d: d["settings"].update(eps=-1e-8), r"`settings\.eps` must be >= 0, got -1e-08"),
        (lambda d: d["settings"].update(betas=[0.9, 1.5]), r"`settings\.betas` must be in \[0, 1\), got 1\.5"),
        (lambda d: d["entries"][0].update(momentum=-1), r"`entries\[0\]\.momentum` must be in \[0, 1\), got -1"),
        (lambda d: d["scaling"].update(width=0), r"`scaling\.width` must be > 0, got 0"),
        (lambda d: d["scaling"].update(rule="none"), r"`scaling\.rule`: no rule named 'none'"),
    ],
)
def test_the_damaged_key_is_named(change, message):
    damaged = copy.deepcopy(DICT)
    change(damaged)
    with pytest.raises(PlanError, match=message):
        Plan.from_dict(damaged)


def test_a_missing_file_and_a_plan_for_another_model(tmp_path):
    with pytest.raises(PlanError, match=r"cannot read a plan from .*none\.json"):
        Plan.load(tmp_path / "none.json")
    with pytest.raises(PlanError, match=r"`blocks\.2\.maps\.0\.weight` is in the plan and not in the model"):
        PLAN.param_groups(mlp(16, 2))
    with pytest.raises(PlanError, match="bound to no model"):
        Plan.from_dict(DICT).param_groups()


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left")

    target = tmp_path / "plan.json"
    target.write_text("precious")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InvalidValueError, match=r"cannot write .*plan\.json.*no space left"):
        PLAN.save(target)
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]
    assert target.read_text() == "precious"


_BASE = isoscale.shapes(nn.Linear(2, 3), (torch.zeros(1, 2),))


@given(key=st.sampled_from([*_BASE, "more"]), inner=st.sampled_from([None, "weight", "bias"]), value=JSON)
@example(key="factors", inner="weight", value=-1)
@cases(500)
def test_damaged_shapes_are_an_error_or_a_base(key, inner, value):
    """A number that is not there is an error of ours, never one of Python's."""
    damaged = json.loads(json.dumps(_BASE))
    if inner is not None and isinstance(damaged.get(key), dict):
        damaged[key][inner] = value
    else:
        damaged[key] = value
    with contextlib.suppress(IsoscaleError):
        isoscale.parametrize(nn.Linear(2, 3), damaged, "mup", lr=1.0, roles={"weight": "output", "bias": "scalar"})
