"""A sweep's spec: equal grids are equal however they were typed, and whatever makes no sense is named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoscale import data, rules
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError
from isoscale.runs import Sweep, log2_grid

# --- normalisation ----------------------------------------------------------------------------------------------


def test_grids_are_equal_however_they_were_typed():
    typed = Sweep(
        rule="sp", widths=[64, 32], depths=range(2, 4), lrs=[1, 0.5], seeds=2, eps=1, betas=[0, 0.5], steps=np.int64(7)
    )
    same = Sweep(
        rule=["sp"],
        widths=np.array([32, 64]),
        depths=(3, 2),
        lrs=np.array([0.5, 1.0]),
        seeds=[1, 0],
        base_width=32,
        base_depth=2,
        eps=1.0,
        betas=(0.0, 0.5),
        steps=7,
    )
    assert typed == same
    assert typed.to_toml() == same.to_toml()


def test_numbers_become_pythons_own():
    """Trial keys hash JSON, in which 1 and 1.0 differ and numpy's numbers do not exist."""
    spec = Sweep(weight_decay=0, momentum=np.float32(0.5), model_args={"block_depth": np.int64(2)}, seeds=np.int64(2))
    assert type(spec.weight_decay) is float
    assert type(spec.momentum) is float
    assert type(spec.model_args["block_depth"]) is int
    assert spec.seeds == (0, 1)


def test_rules_keep_their_order_and_get_their_own_names():
    assert Sweep(rule=["sp", "completep"]).rule == ("sp", "completep")
    assert Sweep(rule="residual-family(0.50, 0.75)").rule == ("residual-family(0.5,0.75)",)


def test_base_is_the_smallest_size_unless_given():
    assert (Sweep(widths=[64, 16]).base_width, Sweep(depths=[8, 4]).base_depth) == (16, 4)
    assert Sweep(depths=[8], base_depth=2).base_depth == 2


def test_an_option_of_none_is_left_to_the_model():
    assert Sweep(model_args={"norm": None}) == Sweep()


def test_trials_is_the_size_of_the_grid():
    assert Sweep(rule=["sp", "mup"], widths=[8, 16], depths=[1], lrs=[0.1, 0.2, 0.4], seeds=5).trials == 60


# --- errors -----------------------------------------------------------------------------------------------------
MEANINGLESS = {
    "depths": [([0], "`depths` must be >= 1, got 0"), ([], "`depths` is empty: give at least one")],
    "widths": [([8, -1], "`widths` must be >= 1, got -1"), ([8, 8], "`widths` has a value twice: 8, 8")],
    "lrs": [
        ([], "`lrs` is empty: give at least one"),
        ([0.0], "`lrs` must be positive and finite, got 0.0"),
        ([-1], "`lrs` must be positive and finite, got -1.0"),
        ([math.nan], "`lrs` must be positive and finite, got nan"),
        ([math.inf], "`lrs` must be positive and finite, got inf"),
        ([1, 1.0], "`lrs` has a value twice: 1.0, 1.0"),
    ],
    "rule": [
        ([], "`rule` is empty: give at least one"),
        ("dept-mup", "no rule named 'dept-mup'. Nearest: depth-mup"),
        (["sp", "sp"], "`rule` has a value twice: sp, sp"),
        ("residual-family(2,1)", "`alpha` must be in [0, 1], got 2"),
    ],
    "model": [("residual-mpl", "no model named 'residual-mpl'. Nearest: residual-mlp. All: conv-net, conv-resnet, ")],
    "optimizer": [("adamx", "no optimizer named 'adamx'. Nearest: adam"), (5, "no optimizer named '5'")],
    "dataset": [("cifar-10", "no data set named 'cifar-10'. Nearest: cifar10")],
    "seeds": [
        (0, "`seeds` must be >= 1, got 0"),
        ([], "`seeds` is empty: give at least one"),
        ([-1], "`seeds` must be >= 0, got -1"),
        ([3, 3], "`seeds` has a value twice: 3, 3"),
    ],
    "steps": [(0, "`steps` must be >= 1, got 0")],
    "batch_size": [(-4, "`batch_size` must be >= 1, got -4")],
    "base_width": [(0, "`base_width` must be >= 1, got 0")],
    "base_depth": [(0, "`base_depth` must be >= 1, got 0")],
    "betas": [((0.9,), "`betas` must be two numbers, got (0.9,)")],
}
MISTYPED = {
    "depths": [(4, "`depths` must be a list, got 4"), ("4", "`depths` must be a list, got '4'")],
    "widths": [
        (["8"], "`widths` must be a whole number, got '8'"),
        ([8.0], "`widths` must be a whole number, got 8.0"),
        ([True], "`widths` must be a whole number, got True"),
    ],
    "lrs": [
        (0.1, "`lrs` must be a list, got 0.1"),
        (["0.1"], "`lrs` must be a number, got '0.1'"),
        ([True], "`lrs` must be a number, got True"),
    ],
    "rule": [(5, "`rule` must be a list, got 5"), ([5], "`rule` must be the name of a rule or several, got 5")],
    "seeds": [(True, "`seeds` must be a whole number, got True"), (1.5, "`seeds` must be a list, got 1.5")],
    "steps": [("5", "`steps` must be a whole number, got '5'"), (5.0, "`steps` must be a whole number, got 5.0")],
    "batch_size": [(None, "`batch_size` must be a whole number, got None")],
    "base_depth": [("4", "`base_depth` must be a whole number, got '4'")],
    "momentum": [("0.9", "`momentum` must be a number, got '0.9'")],
    "betas": [(0.9, "`betas` must be a list, got 0.9"), (("a", 0.9), "`betas` must be a number, got 'a'")],
    "eps": [(None, "`eps` must be a number, got None")],
    "weight_decay": [(False, "`weight_decay` must be a number, got False")],
    "model_args": [
        ("phi", "`model_args` must be a mapping of options, got 'phi'"),
        ({"phi": max}, "`model_args.phi` must be text, a number, true or false, or a list of these"),
    ],
}


def _cases(table: dict[str, list[tuple[Any, str]]]) -> list[tuple[str, Any, str]]:
    return [(name, value, message) for name, rows in table.items() for value, message in rows]


@pytest.mark.parametrize(("name", "value", "message"), _cases(MEANINGLESS))
def test_a_value_that_makes_no_sense_is_named(name: str, value: Any, message: str):
    with pytest.raises(InvalidValueError) as caught:
        Sweep(**{name: value})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("name", "value", "message"), _cases(MISTYPED))
def test_a_wrong_type_is_named(name: str, value: Any, message: str):
    with pytest.raises(InvalidTypeError) as caught:
        Sweep(**{name: value})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("grid", [(0, -1), (math.nan, 0), (0, math.inf), (0, 2000), (-1e9, 0), (0, 1, 0)], ids=str)
def test_a_log2_grid_that_makes_no_sense(grid: tuple):
    with pytest.raises(InvalidValueError, match=r"log2 grid needs|`per_octave` must be"):
        log2_grid(*grid)


def test_log2_grid_includes_both_ends():
    np.testing.assert_allclose(np.log2(log2_grid(-3, -1, 2)), [-3, -2.5, -2, -1.5, -1])


# --- TOML -------------------------------------------------------------------------------------------------------
_unique = {"min_size": 1, "max_size": 4, "unique": True}
_floats = st.floats(min_value=1e-30, max_value=1e30)
SPECS = st.builds(
    Sweep,
    model_args=st.fixed_dictionaries(
        {}, optional={"phi": st.sampled_from(["relu", "tanh"]), "block_depth": st.integers(1, 3), "norm": st.none()}
    ),
    dataset=st.sampled_from(data.names()),
    dataset_args=st.fixed_dictionaries({}, optional={"batches": st.lists(st.integers(1, 5), **_unique)}),
    rule=st.lists(st.sampled_from([*rules.names(), "residual-family(0.5,0.75)"]), **_unique),
    optimizer=st.sampled_from(rules.OPTIMIZERS),
    widths=st.lists(st.integers(1, 10**6), **_unique),
    depths=st.lists(st.integers(1, 10**6), **_unique),
    lrs=st.lists(_floats, **_unique),
    seeds=st.one_of(st.integers(1, 5), st.lists(st.integers(0, 2**53), **_unique)),
    steps=st.integers(1, 10**6),
    batch_size=st.integers(1, 10**6),
    base_width=st.none() | st.integers(1, 10**6),
    base_depth=st.none() | st.integers(1, 10**6),
    momentum=st.none() | _floats,
    betas=st.tuples(_floats, _floats),
    eps=_floats,
    weight_decay=_floats,
)


@settings(max_examples=100, deadline=None)
@given(spec=SPECS)
def test_toml_round_trip(spec: Sweep, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.getbasetemp() / "spec.toml"
    path.write_text(spec.to_toml(), encoding="utf-8")
    assert Sweep.from_toml(path) == spec
    assert Sweep.from_mapping(spec.to_mapping()) == spec


def _toml(folder: Path, text: str) -> Path:
    path = folder / "sweep.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("depth = [4]", "no setting of a sweep named 'depth'. Nearest: depths"),
        ("zzz = 1", "no setting of a sweep named 'zzz'. All: "),
        ('depths = ["4"]', "`depths` must be a whole number, got '4'"),
        ("depths = [0]", "`depths` must be >= 1, got 0"),
        ('steps = "5"', "`steps` must be a whole number, got '5'"),
        ("rule = 5", "`rule` must be a list, got 5"),
        ("model_args = 1979-05-27", "`model_args` must be a mapping of options"),
    ],
)
def test_toml_errors_are_the_specs_own(tmp_path: Path, text: str, message: str):
    with pytest.raises((InvalidValueError, InvalidTypeError)) as caught:
        Sweep.from_toml(_toml(tmp_path, text))
    assert str(caught.value).startswith(message)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path):
    for path in (_toml(tmp_path, "depths = ["), tmp_path / "missing.toml", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            Sweep.from_toml(path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="binary"):
        Sweep.from_toml(tmp_path / "binary.toml")
