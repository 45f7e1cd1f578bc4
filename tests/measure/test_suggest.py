"""The suggestion finds the papers' rates from any starting rule (docs/theory.md, section 4)."""

import functools

import pytest
import torch

from isoscale.errors import InvalidValueError
from isoscale.measure import audit, suggest
from isoscale.models import ResidualMLP

DEPTHS = [4, 8, 16, 32]


def started(rule, optimizer, block_depth, depths=DEPTHS):
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(8, 16, generator=generator), torch.randn(8, 1, generator=generator)

    def make(depth, seed):
        return ResidualMLP(16, 1, width=64, depth=depth, block_depth=block_depth, seed=seed)

    mse = lambda f, y: (f - y).square().mean()  # noqa: E731
    return audit(make, batch, mse, depths=depths, rule=rule, optimizer=optimizer, seeds=1)


@functools.cache
def suggested(rule, optimizer, block_depth):
    seeds = 8 if optimizer == "sgd" else 4  # plain gradients scatter more
    return suggest(started(rule, optimizer, block_depth), seeds=seeds)


# branch multiplier, lr of the inner maps, lr of the last one: docs/theory.md, section 5.
COMPLETEP = {"sgd": (-1.0, 1.0, 1.0), "adam": (-1.0, 0.0, 0.0)}
DEPTH_MUP = {"sgd": (-0.5, None, 0.0), "adam": (-0.5, None, -0.5)}


# By day each depth of a block and each optimizer once.
@pytest.mark.parametrize(
    ("block_depth", "rates", "optimizer"),
    [
        (2, COMPLETEP, "adam"),
        (1, DEPTH_MUP, "sgd"),
        pytest.param(2, COMPLETEP, "sgd", marks=pytest.mark.nightly),
        pytest.param(1, DEPTH_MUP, "adam", marks=pytest.mark.nightly),
    ],
)
def test_the_papers_rates(block_depth, rates, optimizer):
    found = suggested("depth-mup", optimizer, block_depth)
    branch, inner, last = rates[optimizer]
    expected = {"branch multiplier": branch, "lr branch_last": last}
    if inner is not None:
        expected["lr branch_internal"] = inner
    table = found.exponents.set_index("what")
    assert set(table.index) == set(expected)
    for what, value in expected.items():
        row = table.loc[what]
        assert row["low"] <= value <= row["high"], what
        assert row["high"] - row["low"] < 1.5, what  # narrower than the range of all rules in the table
        assert row["simplest"] == value, what
    assert found.flat
    assert found.statement.startswith("every effect of the branches is flat")
    assert found.rule.depth.branch == branch


def test_from_any_rule():
    """The start says what the width does; in depth every start leads to the same."""
    first = suggested("depth-mup", "adam", 2)
    other = suggested("sp", "adam", 2)
    assert other.rule.depth == first.rule.depth
    assert other.rule.width == started("sp", "adam", 2, [2, 4]).rule.width


def test_bad_input():
    with pytest.raises(InvalidValueError, match="four depths or more"):
        suggest(started("completep", "sgd", 2, [2, 4, 8]))

    def plain(depth, seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            maps = [part for _ in range(depth) for part in (torch.nn.Linear(4, 4), torch.nn.ReLU())]
            return torch.nn.Sequential(*maps, torch.nn.Linear(4, 1))

    batch = torch.ones(2, 4), torch.ones(2, 1)
    found = audit(plain, batch, lambda f, y: (f - y).square().mean(), depths=DEPTHS, rule="mup", seeds=1)
    with pytest.raises(InvalidValueError, match="no residual branches"):
        suggest(found)
