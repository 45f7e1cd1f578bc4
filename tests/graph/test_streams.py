"""Residual branches are read off whatever a forward does: what is a stream, what is added to it, and how deep it is.

The networks are in `stream_nets`, and what is right follows from how each is written: a branch for each time that
something computed from a stream is added to that stream.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import stream_nets as nets
import torch
from torch import Tensor, nn

from isoscale import Plan, Role, parametrize
from isoscale.errors import PlanError
from isoscale.graph.branches import residual_additions, residual_branches
from isoscale.graph.graph import Graph
from isoscale.graph.trace import trace

Make = Callable[[int, int], nn.Module]


def stacked(block: Callable[[int], nn.Module]) -> Make:
    return lambda width, depth: nets.Blocks(width, depth, block)


VECTORS = torch.randn(4, nets.IN, generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.randn(4, 6, nets.IN, generator=torch.Generator().manual_seed(1))
ONE, TWO, TIME, MEMORY = (VECTORS,), (VECTORS, VECTORS.flip(0)), (SEQUENCES,), (SEQUENCES, SEQUENCES.flip(0))


def modulated(how: str) -> Make:
    return lambda width, depth: nets.Conditioned(width, depth, lambda n: nets.Modulated(n, how))


def injected(signal: str) -> Make:
    return lambda width, depth: nets.Injected(width, depth, signal)


def terms(order: str) -> Make:
    return stacked(lambda n: nets.Terms(n, order))


# name: network, inputs, output projections of the i-th block, each of which ends a branch
CASES: dict[str, tuple[Make, tuple[Tensor, ...], list[str]]] = {
    "time": (injected("time"), TWO, ["blocks.{}.3"]),
    "time, projected by each block": (injected("own"), TWO, ["blocks.{}.3"]),
    "the input": (injected("input"), TWO, ["blocks.{}.3"]),
    "chunk": (modulated("chunk"), TWO, ["blocks.{}.one.3", "blocks.{}.two.3"]),
    "split": (modulated("split"), TWO, ["blocks.{}.one.3", "blocks.{}.two.3"]),
    "unbind": (modulated("unbind"), TWO, ["blocks.{}.one.3", "blocks.{}.two.3"]),
    "slices": (modulated("slices"), TWO, ["blocks.{}.one.3", "blocks.{}.two.3"]),
    "FiLM": (lambda n, d: nets.Conditioned(n, d, nets.FiLM), TWO, ["blocks.{}.down"]),
    "x + f + g": (terms("x + f + g"), ONE, ["blocks.{}.one.3", "blocks.{}.two.3"]),
    "f + x + g": (terms("f + x + g"), ONE, ["blocks.{}.one.3", "blocks.{}.two.3"]),
    "stacked and summed": (terms("stack"), ONE, ["blocks.{}.one.3", "blocks.{}.two.3"]),
    "sum of a list": (terms("sum"), ONE, ["blocks.{}.one.3", "blocks.{}.two.3"]),
    "one inside": (stacked(lambda n: nets.Nested(n, 1)), ONE, ["blocks.{}.up"]),
    "three inside": (stacked(lambda n: nets.Nested(n, 3)), ONE, ["blocks.{}.up"]),
    "state space": (stacked(nets.StateSpace), TIME, ["blocks.{}.out"]),
    "Res2Net": (stacked(nets.Res2), ONE, ["blocks.{}.up"]),
    "around all blocks": (lambda n, d: nets.AroundAll(n, d, 1), ONE, ["groups.0.{}.3"]),
    "U-Net": (nets.UNet, ONE, ["before.{}.3", "inside.{}.3", "after.{}.3"]),
    "around a residual block": (stacked(nets.Doubled), ONE, ["blocks.{}.mlp.3"]),
    "the first value mixed in": (nets.Remembering, ONE, ["blocks.{}.3"]),
    "two streams": (lambda n, d: nets.Coupled(n, d, False), ONE, ["f.{}.3", "g.{}.3"]),
    "two streams, joined and split": (lambda n, d: nets.Coupled(n, d, True), ONE, ["f.{}.3", "g.{}.3"]),
    "token set aside": (stacked(nets.Divided), TIME, ["blocks.{}.time.3", "blocks.{}.space.3", "blocks.{}.mlp.3"]),
    "token joined once": (nets.WithToken, TIME, ["blocks.{}.3"]),
    "one block again": (nets.Again, ONE, ["block.3"]),
    "experts": (stacked(nets.Experts), ONE, ["blocks.{}.down"]),
    "written by hand": (stacked(nets.Handwritten), ONE, ["blocks.{}.down"]),
    "memory": (nets.Memory, MEMORY, ["encoder.{}.3", "out.{}", "decoder.{}.3"]),
    "lerp": (stacked(lambda n: nets.Stepping(n, True)), ONE, ["blocks.{}.mlp.3"]),
    "a step towards": (stacked(lambda n: nets.Stepping(n, False)), ONE, ["blocks.{}.mlp.3"]),
    "addcmul": (stacked(nets.Fused), ONE, ["blocks.{}.mlp.3"]),
    "lone ones beside": (nets.Lone, ONE, ["blocks.{}.mlp.3"]),
}


def last_names(graph: Graph) -> list[str]:
    """The output projection of each branch."""
    names: list[str] = []
    for branch in residual_branches(graph):
        (index,) = branch.last
        names += [use.name.removesuffix(".weight") for use in graph.nodes[index].uses if use.kind == "map"]
    return names


@pytest.mark.parametrize("kind", CASES)
def test_branches(kind):
    make, inputs, wanted = CASES[kind]
    graph = trace(make(16, 3), inputs)
    expected = [name.format(i) for i in range(3) for name in wanted]
    assert sorted(last_names(graph)) == sorted(expected)
    assert not any(branch.unfoldable for branch in residual_branches(graph))


def planned(make: Make, inputs: tuple[Tensor, ...], rule: str = "completep", **options: Any) -> Plan:
    """Four times as wide and as deep as a base of two blocks."""
    settings = {"lr": 1.0, "example_inputs": inputs} | options
    return parametrize(make(64, 8), make(16, 2), rule, **settings)


@pytest.mark.parametrize("kind", CASES)
def test_depth_and_roles(kind):
    """Every output projection, and nothing else, is last; its rate falls with width and depth, or the depth's share of
    that stands on what ends the branch."""
    make, inputs, wanted = CASES[kind]
    plan = planned(make, inputs)
    assert plan.ratios["depth"] == 4
    # A block that is used again and again is said to be.
    assert all("as often as in the base" in note for note in plan.notes)
    expected = {f"{name.format(i)}.weight" for i in range(8) for name in wanted}
    entries = {entry.name: entry for entry in plan.entries}
    assert {name for name, entry in entries.items() if entry.role is Role.BRANCH_LAST} == expected
    for name in expected:
        carried = 1 / 4 if entries[name].carries else 1
        assert entries[name].lr == pytest.approx(carried / entries[name].fan_in)


# --- what is in a branch, and what is not ---
ROLES: dict[str, dict[str, Role]] = {
    "time": {"time.2.weight": Role.HIDDEN, "blocks.1.1.weight": Role.BRANCH_INTERNAL},
    "time, projected by each block": {"own.1.weight": Role.BRANCH_INTERNAL, "time.2.weight": Role.HIDDEN},
    "chunk": {"blocks.1.map.weight": Role.BRANCH_INTERNAL, "blocks.1.map.bias": Role.BRANCH_VECTOR}
    | {"condition.weight": Role.INPUT, "last.weight": Role.HIDDEN},
    "FiLM": {"blocks.1.scale.weight": Role.BRANCH_INTERNAL, "blocks.1.up.weight": Role.BRANCH_INTERNAL},
    "three inside": {"blocks.1.inner.2.3.weight": Role.BRANCH_INTERNAL, "blocks.1.down.weight": Role.BRANCH_INTERNAL}
    | {"blocks.1.norm.weight": Role.VECTOR},
    "state space": {"blocks.1.scan.weight": Role.BRANCH_INTERNAL, "blocks.1.d": Role.BRANCH_VECTOR},
    "Res2Net": {"blocks.1.parts.1.weight": Role.BRANCH_INTERNAL},
    "around all blocks": {"tails.0.weight": Role.HIDDEN},
    "U-Net": {"down.weight": Role.HIDDEN, "up.weight": Role.HIDDEN},
    "the first value mixed in": {"keep": Role.VECTOR},
    "memory": {"value.1.weight": Role.BRANCH_INTERNAL, "encoder.1.1.weight": Role.BRANCH_INTERNAL},
    "lone ones beside": {"position.weight": Role.HIDDEN, "head.2.3.weight": Role.HIDDEN},
}


@pytest.mark.parametrize("kind", ROLES)
def test_roles_beside_the_output_projections(kind):
    make, inputs, _ = CASES[kind]
    found = {entry.name: entry.role for entry in planned(make, inputs).entries}
    assert {name: found[name] for name in ROLES[kind]} == ROLES[kind]


def test_a_map_to_all_of_a_blocks_shifts_and_gates_follows_the_depth():
    """Depth x4 under depth-mup, Adam: r^-1/2, and 1/4 for the width."""
    make, inputs, _ = CASES["chunk"]
    table = planned(make, inputs, "depth-mup").table().set_index("name")
    assert table.loc["blocks.3.map.weight", "lr"] == pytest.approx(4**-0.5 / 4)


def test_what_a_branch_ends_in_carries_its_multiplier():
    """A learned rate where the rest of the branch cannot: x + rate (f(x) - x)."""
    make, inputs, _ = CASES["lerp"]
    carrying = {entry.name for entry in planned(make, inputs).entries if entry.carries}
    assert carrying == {f"blocks.{i}.rate" for i in range(8)}


def test_long_skips_and_lone_ones_are_additions_to_the_stream():
    """They bound no branch, and the stream goes on behind them."""
    for kind, others in (("U-Net", 1), ("around all blocks", 1), ("lone ones beside", 2)):
        make, inputs, wanted = CASES[kind]
        assert len(residual_additions(trace(make(16, 3), inputs))) == 3 * len(wanted) + others


# --- no stream to add to ---
NOT_RESIDUAL: dict[str, tuple[Make, tuple[Tensor, ...]]] = {
    "plain": (stacked(nets.Plain), ONE),
    "neighbours": (stacked(nets.Neighbours), ONE),
    "dense": (nets.Dense, ONE),
}
RECURRENT: dict[str, tuple[Make, tuple[Tensor, ...]]] = {
    "cell, sum": (lambda n, d: nets.Cell(n, d, "sum"), TIME),
    "cell, mean": (lambda n, d: nets.Cell(n, d, "mean"), TIME),
    "RNN": (lambda n, d: nets.Recurrent(n, d, nn.RNN), TIME),
    "GRU": (lambda n, d: nets.Recurrent(n, d, nn.GRU), TIME),
    "LSTM": (lambda n, d: nets.Recurrent(n, d, nn.LSTM), TIME),
}


@pytest.mark.parametrize("kind", NOT_RESIDUAL | RECURRENT)
def test_no_branch(kind):
    make, inputs = (NOT_RESIDUAL | RECURRENT)[kind]
    assert residual_branches(trace(make(16, 4), inputs)) == []


@pytest.mark.parametrize("kind", NOT_RESIDUAL)
def test_depth_without_residual_branches_is_named(kind):
    make, inputs = NOT_RESIDUAL[kind]
    (note,) = planned(make, inputs).notes
    assert "no residual branch" in note


def test_post_norm_in_depth_is_refused_until_its_norms_are_known():
    make, inputs, _ = CASES["three inside"]

    def plan(depth: int, rule: str = "completep", **options: Any) -> Plan:
        return parametrize(make(16, depth), make(16, 2), rule, lr=1.0, example_inputs=inputs, **options)

    said = "roles={'blocks.*.norm.weight': 'stream_vector', 'blocks.*.norm.bias': 'stream_vector'}"
    with pytest.raises(PlanError, match=f"post-norm at depth x5.*{re.escape(said)}"):
        plan(10)
    slowed = plan(10, roles={"blocks.*.norm.*": "stream_vector"})
    left = plan(10, roles={"blocks.*.norm.*": "vector"})
    for name, lr in {"blocks.3.norm.weight": 0.2, "blocks.3.norm.bias": 0.2}.items():
        assert {entry.name: entry.lr for entry in slowed.entries}[name] == pytest.approx(lr)
        assert {entry.name: entry.lr for entry in left.entries}[name] == 1.0
    assert not plan(8).open_items
    assert not plan(10, "mup").open_items


# --- what cannot be told ---
def test_a_base_of_one_block_does_not_say_which_sum_repeats():
    make, inputs, _ = CASES["three inside"]
    with pytest.raises(PlanError, match=r"with so few blocks one cannot tell.*two blocks or more"):
        parametrize(make(64, 8), make(16, 1), lr=1.0, example_inputs=inputs)
    assert not parametrize(make(64, 8), make(16, 1), "mup", lr=1.0, example_inputs=inputs).open_items


def test_a_stream_inside_a_branch_keeps_its_number_of_additions():
    """Three groups of blocks, each with a skip around it: the blocks of a group are no depth that a rule knows."""

    def groups(width: int, depth: int) -> nn.Module:
        return nets.AroundAll(width, depth, 3)

    with pytest.raises(PlanError, match="hold 8 residual additions of their own, and in the base 2"):
        planned(groups, ONE)
    wider = parametrize(groups(64, 2), groups(16, 2), lr=1.0, example_inputs=ONE)
    assert wider.ratios["depth"] == 1


UNFOLDABLE: dict[str, tuple[Callable[[int], nn.Module], tuple[Tensor, ...], str]] = {
    "Fourier mixing": (nets.Fourier, TIME, "_fft_c2c"),
    "pooling without parameters": (lambda n: nets.Pool(n, affine=False), TIME, "native_layer_norm"),
    "a residual sum at the end": (nets.InnerEnd, ONE, "a residual addition of its own"),
    "one norm at both ends": (nets.SharedNorm, ONE, "`blocks.0.norm.bias`, which acts elsewhere too"),
}


@pytest.mark.parametrize("kind", UNFOLDABLE)
def test_a_branch_that_nothing_in_it_can_scale_is_named(kind):
    block, inputs, end = UNFOLDABLE[kind]
    with pytest.raises(PlanError, match=rf"branch of `blocks\.0` ends in {end}.*isoscale\.Multiplier\(\)"):
        planned(stacked(block), inputs)


def test_a_branch_without_a_matrix_is_scaled_by_its_norm():
    plan = planned(stacked(nets.Pool), TIME)
    assert plan.ratios["depth"] == 4
    carrying = {entry.name for entry in plan.entries if entry.carries and entry.name.startswith("blocks.2")}
    assert carrying == {f"blocks.2.{name}" for name in ("norm.weight", "norm.bias", "down.weight", "down.bias")}


def test_blocks_that_look_residual_and_are_not_read_as_such_are_named():
    with pytest.raises(PlanError, match=r"8 blocks \(`blocks\.0` to `blocks\.7`\) look residual"):
        planned(stacked(nets.Highway), ONE)
    assert not planned(stacked(nets.Highway), ONE, "mup").open_items
    wider = parametrize(nets.Blocks(64, 8, nets.Highway), nets.Blocks(16, 8, nets.Highway), lr=1.0, example_inputs=ONE)
    assert not wider.open_items


# --- by measurement ---
def change_in_one_step(make: Make, inputs: tuple[Tensor, ...], depth: int, rule: str) -> float:
    """Root mean square change of the output in the first step of AdamW, against a base of two blocks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, base = make(32, depth), make(32, 2)
    plan = parametrize(model, base, rule, lr=1e-4, example_inputs=inputs)
    optimizer = torch.optim.AdamW(plan.param_groups())
    before = model(*inputs)
    before.square().mean().backward()
    optimizer.step()
    return float((model(*inputs) - before).detach().square().mean().sqrt())


@pytest.mark.parametrize("kind", ["time, projected by each block", "chunk", "two streams"])
def test_the_outputs_change_in_a_step_does_not_grow_with_depth(kind):
    """As L^0 where the branches are read right: over depths 2 to 16 within L^0.25. Where none is scaled it grows."""
    make, inputs, _ = CASES[kind]
    slopes = {}
    for rule in ("completep", "mup"):
        small, large = (change_in_one_step(make, inputs, depth, rule) for depth in (2, 16))
        slopes[rule] = math.log(large / small) / math.log(8)
    assert abs(slopes["completep"]) < 0.25, slopes
    assert slopes["mup"] > 0.4, slopes
