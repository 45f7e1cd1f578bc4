"""Roles given by hand, for a forward that cannot be traced: patterns, or the preset of a known family.

Without a trace the axes of a tensor follow its module's type, blocks its numbered path, and a branch's multiplier is
folded into the output projections and their biases.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import replace

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from isoscale.errors import PlanError, unknown
from isoscale.graph.anatomy import GIVEN, Anatomy, Part, Roles, check_all_known, matched, part_by_shape
from isoscale.graph.multiplier import Multiplier
from isoscale.graph.unwrapping import all_named_parameters, named_modules, named_parameters
from isoscale.scaling.names import indices
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
    # A tensor that has two names is given a role under each of them.
    everywhere = all_named_parameters(model)
    is_preset = isinstance(roles, str)
    if isinstance(roles, str):
        if roles not in PRESETS:
            raise unknown("preset of roles", roles, PRESETS)
        # Models of a family differ: one has no readout, another no biases.
        preset = PRESETS[roles]
        roles = {pattern: role for pattern, role in preset.items() if fnmatch.filter(everywhere, pattern)}
    given = matched(roles, everywhere)
    check_all_known([name for name in everywhere if name not in given], everywhere)

    parts: dict[str, Part] = {}
    for name in named_parameters(model):
        parts[name] = _part(model, name, given)
    readout_multipliers = _multipliers_before_readouts(model, given)
    owners = {multiplier.rpartition(".")[0] for multiplier in readout_multipliers}
    for name, part in parts.items():
        if part.role is Role.OUTPUT and name.rpartition(".")[0] in owners:
            parts[name] = replace(part, explicit=True)
    for name in _tied(model, given):
        parts[name] = replace(parts[name], role=Role.INPUT, tied=True, place="tied to the readout")

    blocks: dict[str, None] = {}
    layers = 0
    for name, part in parts.items():
        if part.block:
            blocks[part.block] = None
        if part.role in (Role.INPUT, Role.HIDDEN) and everywhere[name].dim() > 1:
            layers += 1
    on_stream: list[str] = []
    for name, part in parts.items():
        # A vector of a block that is in none of its branches; of the user's own roles each is meant.
        if is_preset and part.role is Role.VECTOR and _block(name) in blocks:
            on_stream.append(name)
    return Anatomy(
        parts=parts,
        blocks=tuple(blocks),
        depth=len(blocks) or max(1, layers),
        on_stream=tuple(on_stream),
        readout_multipliers=tuple(readout_multipliers),
    )


def _tied(model: nn.Module, given: Mapping[str, Role]) -> list[str]:
    """Names of parameters that are an embedding under one name and the readout under another."""
    names: dict[int, list[str]] = {}
    for name, parameter in all_named_parameters(model).items():
        names.setdefault(id(parameter), []).append(name)
    tied: list[str] = []
    for same in names.values():
        roles = {given[name] for name in same}
        if roles == {Role.INPUT, Role.OUTPUT}:
            tied.append(same[0])
        elif len(roles) > 1:
            both = " and ".join(sorted(roles))
            raise PlanError(f"`{same[0]}` and `{same[1]}` are one tensor, given the roles {both}")
    return tied


def _multipliers_before_readouts(model: nn.Module, given: Mapping[str, Role]) -> list[str]:
    """Where `Multiplier.before` put one on a readout: inside the module that holds its weight."""
    readouts = {name.rpartition(".")[0] for name, role in given.items() if role is Role.OUTPUT}
    found: list[str] = []
    for name, module in named_modules(model).items():
        owner = name.rpartition(".")[0]
        if isinstance(module, Multiplier) and owner in readouts:
            found.append(name)
    return found


def _part(model: nn.Module, name: str, given: Mapping[str, Role]) -> Part:
    role = given[name]
    owner, _, leaf = name.rpartition(".")
    parameter = named_parameters(model)[name]
    module = named_modules(model)[owner]
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        # Rows are picked, not summed over.
        part = Part(role=role, fan_out=(1,))
    elif isinstance(module, _ConvTransposeNd) and module.groups == module.in_channels:
        # Depthwise: each input has outputs of its own, and there is nothing to sum but the kernel.
        part = Part(role=role, fan_in=tuple(range(2, parameter.dim())), fan_out=(0, 1)[: parameter.dim()])
    elif parameter.dim() == 3 and not isinstance(module, _ConvNd | nn.Bilinear):
        # (experts, out, in)
        part = Part(role=role, fan_in=(2,), fan_out=(1,))
    else:
        part = part_by_shape(role, parameter, transposed=_inputs_first(module))
    # c (W z + b) = (c W) z + (c b): a branch's multiplier goes into its output projection and that one's bias.
    weight_role = given.get(f"{owner}.weight")
    is_its_bias = leaf == "bias" and weight_role is Role.BRANCH_LAST
    return replace(
        part,
        carries=role is Role.BRANCH_LAST or is_its_bias,
        block=_block(owner) if role.in_branch else None,
        place=GIVEN,
    )


def _inputs_first(module: nn.Module) -> bool:
    """Whether a weight is stored (in, out, ...); Conv1D is what GPT-2 in transformers is made of."""
    return isinstance(module, _ConvTransposeNd) or type(module).__name__ == "Conv1D"


def _block(path: str) -> str | None:
    """A module path down to its first index; None if it has none."""
    steps = path.split(".")
    found = indices(steps)
    return ".".join(steps[: found[0] + 1]) if found else None
