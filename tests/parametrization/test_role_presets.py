"""Presets of roles for families of models: what the trace finds, without a trace."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch import nn

import isoscale
from isoscale.errors import InvalidValueError, PlanError
from isoscale.graph.anatomy import from_graph
from isoscale.graph.by_hand import PRESETS, by_hand
from isoscale.graph.trace import trace

pytest.importorskip("transformers")

MODELS = {"bert": zoo.bert, "gpt2": zoo.gpt2, "llama": zoo.llama, "mixtral": zoo.mixtral}
TOKENS = {"input_ids": torch.zeros(2, 4, dtype=torch.long)}


@pytest.mark.parametrize("family", PRESETS)
def test_a_preset_is_what_the_trace_finds(family: str):
    model = MODELS[family](32, 3)
    found = from_graph(trace(model, TOKENS), dict(model.named_parameters()))
    known = by_hand(model, family)
    assert known.blocks == found.blocks
    for name, part in found.parts.items():
        preset = known.parts[name]
        assert (preset.role, preset.carries, preset.tied) == (part.role, part.carries, part.tied), name
        assert (preset.fan_in, preset.fan_out) == (part.fan_in, part.fan_out), name


@pytest.mark.parametrize("family", PRESETS)
def test_a_plan_by_preset_is_the_traced_plan(family: str):
    def plan(**how: object) -> isoscale.Plan:
        model, base = [MODELS[family](width, depth) for width, depth in ((64, 4), (32, 2))]
        return isoscale.parametrize(model, base, "completep", "adamw", lr=1e-3, force=True, **how)

    mine, traced = plan(roles=family).table(), plan(example_inputs=TOKENS).table()
    assert mine[["name", "role", "lr", "eps"]].equals(traced[["name", "role", "lr", "eps"]])


def test_tied_weights_are_known_without_a_trace():
    models = zoo.gpt2(64, 2, tied=True), zoo.gpt2(32, 2, tied=True)
    with pytest.raises(PlanError, match="embedding and readout at once"):
        isoscale.parametrize(*models, lr=1e-3, roles="gpt2")
    for model in models:
        isoscale.Multiplier.before(model.lm_head)
    plan = isoscale.parametrize(*models, lr=1e-3, roles="gpt2")
    assert plan.multipliers == {"lm_head.input_multiplier": 0.5}


def test_one_tensor_has_one_role():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    with pytest.raises(PlanError, match=r"`0\.weight` and `1\.weight` are one tensor"):
        by_hand(model, {"0.weight": "hidden", "1.weight": "branch_last"})


def test_unknown_preset():
    with pytest.raises(InvalidValueError, match=r"no preset of roles named 'lama'\. Nearest: llama"):
        isoscale.parametrize(nn.Linear(2, 2), nn.Linear(2, 2), lr=1.0, roles="lama")
