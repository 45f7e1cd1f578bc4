"""Roles given by hand, for a forward that cannot be traced: patterns, or the preset of a known family.

Without a trace the axes of a tensor follow its module's type, blocks its numbered path, and a branch's multiplier is
folded into the maps that are called last and their biases.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import replace

from torch import nn
from torch.nn.modules.conv import _ConvNd

from isoscale.errors import PlanError, unknown
from isoscale.graph.anatomy import Anatomy, Part, Roles, check_all_known, matched, part_by_shape
from isoscale.graph.multiplier import Multiplier
from isoscale.scaling.roles import Role

_INPUT, _OUTPUT, _VECTOR, _SCALAR = Role.INPUT, Role.OUTPUT, Role.VECTOR, Role.SCALAR
_INTERNAL, _LAST, _IN_BRANCH = Role.BRANCH_INTERNAL, Role.BRANCH_LAST, Role.BRANCH_VECTOR

_LLAMA = {
    "*embed_tokens.weight": _INPUT,
    "*layers.*.self_attn.[qkv]_proj.weight": _INTERNAL,
    "*layers.*.self_attn.o_proj.weight": _LAST,
    "*layers.*norm.weight": _IN_BRANCH,
    "model.norm.weight": _VECTOR,
    "lm_head.weight": _OUTPUT,
}

# Families by their names in transformers; later patterns win.
PRESETS: dict[str, dict[str, Role]] = {
    "bert": {
        "*embeddings.*.weight": _INPUT,
        "*LayerNorm.*": _VECTOR,
        "*encoder.layer.*.query.*": _INTERNAL,
        "*encoder.layer.*.key.*": _INTERNAL,
        "*encoder.layer.*.value.*": _INTERNAL,
        "*encoder.layer.*.intermediate.dense.*": _INTERNAL,
        "*encoder.layer.*.output.dense.*": _LAST,
        "*encoder.layer.*.dense.bias": _IN_BRANCH,
        "*encoder.layer.*.self.*.bias": _IN_BRANCH,
        "*embeddings.LayerNorm.*": _VECTOR,
        "*pooler.dense.weight": Role.HIDDEN,
        "*pooler.dense.bias": _VECTOR,
        "classifier.weight": _OUTPUT,
        "classifier.bias": _SCALAR,
        "cls.predictions.transform.dense.weight": Role.HIDDEN,
        "cls.predictions.transform.dense.bias": _VECTOR,
        "cls.predictions.decoder.*": _OUTPUT,
        "cls.predictions*bias": _SCALAR,
        "cls.predictions.transform.*bias": _VECTOR,
    },
    "gpt2": {
        "transformer.wte.weight": _INPUT,
        "transformer.wpe.weight": _INPUT,
        "transformer.h.*": _IN_BRANCH,
        "transformer.h.*.attn.c_attn.weight": _INTERNAL,
        "transformer.h.*.mlp.c_fc.weight": _INTERNAL,
        "transformer.h.*.c_proj.weight": _LAST,
        "transformer.ln_f.*": _VECTOR,
        "lm_head.weight": _OUTPUT,
    },
    "llama": _LLAMA
    | {
        "*layers.*.mlp.gate_proj.weight": _INTERNAL,
        "*layers.*.mlp.up_proj.weight": _INTERNAL,
        "*layers.*.mlp.down_proj.weight": _LAST,
    },
    "mixtral": _LLAMA
    | {
        "*layers.*.mlp.gate.weight": _INTERNAL,
        "*layers.*.mlp.experts.gate_up_proj": _INTERNAL,
        "*layers.*.mlp.experts.down_proj": _LAST,
    },
}


def by_hand(model: nn.Module, roles: Roles | str) -> Anatomy:
    """Roles for every parameter by pattern or by a preset's name, without a trace.

    Raises:
        InvalidValueError: No such preset.
        PlanError: A pattern that matches nothing, a parameter that none matches.
    """
    everywhere = dict(model.named_parameters(remove_duplicate=False))
    if isinstance(roles, str):
        if roles not in PRESETS:
            raise unknown("preset of roles", roles, PRESETS)
        # Members of a family differ: one has no readout, another no biases.
        preset = PRESETS[roles]
        roles = {pattern: role for pattern, role in preset.items() if fnmatch.filter(everywhere, pattern)}
    given = matched(roles, everywhere)
    check_all_known([name for name in everywhere if name not in given], everywhere)
    parts = {name: _part(model, name, given) for name in dict(model.named_parameters())}
    ties = _ties(model, given)
    parts |= {name: replace(parts[name], role=Role.INPUT, tied=True, place="tied to the readout") for name in ties}
    blocks = tuple(dict.fromkeys(part.block for part in parts.values() if part.block))
    maps = sum(part.role in (Role.INPUT, Role.HIDDEN) and everywhere[n].dim() > 1 for n, part in parts.items())
    return Anatomy(
        parts=parts,
        blocks=blocks,
        depth=len(blocks) or max(1, maps),
        readout_multipliers=tuple(_multipliers(model, given)),
    )


def _ties(model: nn.Module, given: Mapping[str, Role]) -> list[str]:
    """Names of parameters that are an embedding under one name and the readout under another."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    ties = []
    for same in names.values():
        roles = {given[name] for name in same}
        if roles == {Role.INPUT, Role.OUTPUT}:
            ties.append(same[0])
        elif len(roles) > 1:
            raise PlanError(
                f"`{same[0]}` and `{same[1]}` are one tensor, given the roles {' and '.join(sorted(roles))}"
            )
    return ties


def _multipliers(model: nn.Module, given: Mapping[str, Role]) -> list[str]:
    """Multipliers that `Multiplier.before` put on a readout."""
    owners = {name.rpartition(".")[0] for name, role in given.items() if role is Role.OUTPUT}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Multiplier) and name.rpartition(".")[0] in owners
    ]


def _part(model: nn.Module, name: str, given: Mapping[str, Role]) -> Part:
    role = given[name]
    owner, _, leaf = name.rpartition(".")
    parameter = model.get_parameter(name)
    module = model.get_submodule(owner)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):  # rows are picked, not summed over
        part = Part(role=role, fan_out=(1,))
    elif parameter.dim() == 3 and not isinstance(module, _ConvNd):  # (experts, out, in)
        part = Part(role=role, fan_in=(2,), fan_out=(1,))
    else:
        part = part_by_shape(role, parameter, transposed=_inputs_first(module))
    weight = f"{owner}.weight"
    carries = role is Role.BRANCH_LAST or (leaf == "bias" and given.get(weight) is Role.BRANCH_LAST)
    block = _first_index(owner) if role.in_branch else None
    return replace(part, carries=carries, block=block, place="given by hand")


def _inputs_first(module: nn.Module) -> bool:
    """Whether a weight is stored (in, out, ...); Conv1D is what GPT-2 in transformers is made of."""
    transposed = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    return transposed or type(module).__name__ == "Conv1D"


def _first_index(path: str) -> str | None:
    steps = path.split(".")
    at = next((i for i, step in enumerate(steps) if step.isdecimal()), None)
    return None if at is None else ".".join(steps[: at + 1])
