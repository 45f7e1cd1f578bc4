"""Every example in a docstring gives what it shows."""

import doctest
import importlib
import pkgutil

import pytest

import isoscale

MODULES = [name for _, name, _ in pkgutil.walk_packages(isoscale.__path__, "isoscale.") if name != "isoscale.__main__"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


@pytest.mark.parametrize("name", ["rules", "stats.power_law", "models.residual_mlp", "runs.spec", "limit.solve"])
def test_examples_are_there(name):
    assert doctest.testmod(importlib.import_module(f"isoscale.{name}")).attempted
