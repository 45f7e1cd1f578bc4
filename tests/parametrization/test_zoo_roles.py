"""Every tensor of real architectures gets a role, and those whose role is known by construction get that one."""

from __future__ import annotations

import functools

import pytest
from coordinates import drawn
from zoo import ZOO

import isoscale
from isoscale import Plan, Role

INTERNAL, LAST, IN_BRANCH = Role.BRANCH_INTERNAL, Role.BRANCH_LAST, Role.BRANCH_VECTOR


@functools.cache
def plan_of(kind: str) -> Plan:
    """completep, twice as wide and twice as deep."""
    specimen = ZOO[kind]
    base, model = (drawn(specimen, (k * specimen.width, k * specimen.depth), seed=0) for k in (1, 2))
    inputs = specimen.inputs(0)
    return isoscale.parametrize(model, base, "completep", lr=1e-3, weight_decay=0.1, example_inputs=inputs)


# In a branch every map that another one follows is internal: queries, keys, values, up, gate, router. The map that
# ends it is last. Data enter through input maps, and what follows the last block is not in a branch.
EXPECTED: dict[str, dict[str, Role]] = {
    "gpt2": {
        "transformer.wte.weight": Role.INPUT,
        "transformer.wpe.weight": Role.INPUT,  # positions are looked up: an embedding, not a vector
        "transformer.h.1.ln_1.weight": IN_BRANCH,
        "transformer.h.1.attn.c_attn.weight": INTERNAL,  # Q, K and V in one Conv1D, stored (in, out)
        "transformer.h.1.attn.c_proj.weight": LAST,
        "transformer.h.1.mlp.c_fc.weight": INTERNAL,
        "transformer.h.1.mlp.c_proj.weight": LAST,
        "transformer.h.1.mlp.c_proj.bias": IN_BRANCH,
        "transformer.ln_f.weight": Role.VECTOR,
        "lm_head.weight": Role.OUTPUT,
    },
    "tied gpt2": {
        "transformer.wte.weight": Role.INPUT,  # the readout's own factor stands in the Multiplier before lm_head
        "transformer.h.0.attn.c_attn.weight": INTERNAL,
        "transformer.h.0.attn.c_proj.weight": LAST,
    },
    "llama": {
        "model.embed_tokens.weight": Role.INPUT,
        "model.layers.0.self_attn.q_proj.weight": INTERNAL,
        "model.layers.0.self_attn.k_proj.weight": INTERNAL,  # half as many heads: fan_out of its own
        "model.layers.0.self_attn.v_proj.weight": INTERNAL,
        "model.layers.0.self_attn.o_proj.weight": LAST,
        "model.layers.0.mlp.gate_proj.weight": INTERNAL,
        "model.layers.0.mlp.up_proj.weight": INTERNAL,
        "model.layers.0.mlp.down_proj.weight": LAST,
        "model.layers.0.input_layernorm.weight": IN_BRANCH,
        "model.norm.weight": Role.VECTOR,
        "lm_head.weight": Role.OUTPUT,
    },
    "mixtral": {
        "model.layers.0.mlp.gate.weight": INTERNAL,  # the router: what it says only weighs the experts
        "model.layers.0.mlp.experts.gate_up_proj": INTERNAL,  # (experts, 2 x hidden, width)
        "model.layers.0.mlp.experts.down_proj": LAST,
        "model.layers.0.self_attn.o_proj.weight": LAST,
        "lm_head.weight": Role.OUTPUT,
    },
    "bert": {
        "bert.embeddings.word_embeddings.weight": Role.INPUT,
        "bert.embeddings.token_type_embeddings.weight": Role.INPUT,
        "bert.encoder.layer.0.attention.self.query.weight": INTERNAL,
        "bert.encoder.layer.0.attention.output.dense.weight": LAST,
        "bert.encoder.layer.0.intermediate.dense.weight": INTERNAL,
        "bert.encoder.layer.0.output.dense.weight": LAST,
        "bert.encoder.layer.0.output.LayerNorm.weight": Role.VECTOR,  # post-norm: on the stream, in no branch
        "bert.pooler.dense.weight": Role.HIDDEN,  # after the blocks, width to width
        "classifier.weight": Role.OUTPUT,
        "classifier.bias": Role.SCALAR,  # its size is the number of classes
    },
    "vit": {
        "vit.embeddings.cls_token": Role.VECTOR,  # one row: a learned vector of the stream
        "vit.embeddings.position_embeddings": Role.INPUT,
        "vit.embeddings.patch_embeddings.projection.weight": Role.INPUT,
        "vit.layers.0.attention.v_proj.weight": INTERNAL,
        "vit.layers.0.attention.o_proj.weight": LAST,
        "vit.layers.0.mlp.fc1.weight": INTERNAL,
        "vit.layers.0.mlp.fc2.weight": LAST,
        "vit.layernorm.weight": Role.VECTOR,
        "classifier.weight": Role.OUTPUT,
    },
    "resnet": {
        "resnet.embedder.embedder.convolution.weight": Role.INPUT,
        "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight": INTERNAL,
        "resnet.encoder.stages.0.layers.0.layer.1.convolution.weight": LAST,
        "resnet.encoder.stages.0.layers.0.layer.1.normalization.weight": IN_BRANCH,
        "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight": Role.HIDDEN,  # the skip's own projection
        "classifier.1.weight": Role.OUTPUT,
    },
    "convnext": {
        "convnext.embeddings.patch_embeddings.weight": Role.INPUT,
        "convnext.encoder.stages.0.layers.0.dwconv.weight": INTERNAL,  # depthwise: its fan_in is the window
        "convnext.encoder.stages.0.layers.0.pwconv1.weight": INTERNAL,
        "convnext.encoder.stages.0.layers.0.pwconv2.weight": LAST,
        "convnext.encoder.stages.0.layers.0.layer_scale_parameter": IN_BRANCH,
        "convnext.encoder.stages.1.downsampling_layer.1.weight": Role.HIDDEN,  # between the stages, no skip
        "classifier.weight": Role.OUTPUT,
    },
    "encoder": {
        "embedding.weight": Role.INPUT,
        "positions": Role.INPUT,
        "encoder.layers.0.self_attn.in_proj_weight": INTERNAL,  # Q, K and V in one
        "encoder.layers.0.self_attn.out_proj.weight": LAST,
        "encoder.layers.0.linear1.weight": INTERNAL,
        "encoder.layers.0.linear2.weight": LAST,
        "readout.weight": Role.OUTPUT,
    },
    "unet": {
        "time.0.weight": Role.INPUT,  # from the fixed number of frequencies to the width
        "time.2.weight": Role.HIDDEN,  # shared by all blocks, so in no branch
        "stem.weight": Role.INPUT,
        "down.0.conv1.weight": INTERNAL,
        "down.0.time.weight": INTERNAL,  # feeds this branch alone
        "down.0.conv2.weight": LAST,
        "downsample.weight": Role.HIDDEN,
        "upsample.weight": Role.HIDDEN,  # transposed: stored (in, out)
        "up.0.shortcut.weight": Role.HIDDEN,  # projects the concatenation back to the width
        "readout.weight": Role.OUTPUT,  # a convolution
        "readout.bias": Role.SCALAR,
    },
    "mixer": {
        "stem.weight": Role.INPUT,
        "blocks.0.tokens.0.weight": INTERNAL,  # from the fixed number of patches to the width
        "blocks.0.tokens.2.weight": LAST,
        "blocks.0.channels.0.weight": INTERNAL,
        "blocks.0.channels.2.weight": LAST,
        "readout.weight": Role.OUTPUT,
    },
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_roles(kind):
    plan = plan_of(kind)
    found = {entry.name: entry.role for entry in plan.entries}
    assert {name: found[name] for name in EXPECTED[kind]} == EXPECTED[kind]
    assert plan.open_items == ()
    assert plan.scaling.depth == 2


@pytest.mark.parametrize("kind", EXPECTED)
def test_no_unknown_role(kind):
    table = plan_of(kind).table()
    assert set(table.role) <= set(Role)
    assert table.name.is_unique
    model = drawn(ZOO[kind], (2 * ZOO[kind].width, 2 * ZOO[kind].depth), seed=0)
    assert list(table.name) == [name for name, _ in model.named_parameters()]
    assert (table.reason.str.len() > 0).all()


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_branch_carries_its_multiplier(kind):
    """All that a block's branch adds to the stream is halved: by its last maps and biases, or by a norm after them."""
    plan = plan_of(kind)
    blocks = {entry.block for entry in plan.entries if entry.role is LAST}
    assert blocks
    assert blocks == {entry.block for entry in plan.entries if entry.carries}
    assert {entry.role for entry in plan.entries if entry.carries} <= {LAST, IN_BRANCH}
    if kind != "resnet":
        assert all(entry.carries for entry in plan.entries if entry.role is LAST)


def test_a_convolution_before_batch_norm_does_not_carry():
    """Batch norm undoes any factor on the convolution before it: the norm's gain and bias carry it."""
    carries = {entry.name.split(".layer.")[1] for entry in plan_of("resnet").entries if entry.carries}
    assert carries == {"1.normalization.weight", "1.normalization.bias"}


def test_every_encoder_layer_is_drawn_on_its_own():
    """What TextEncoder says of itself, so that its depth check is one of independent layers."""
    weights = [layer.linear1.weight for layer in drawn(ZOO["encoder"], (64, 2), seed=0).encoder.layers]
    assert not weights[0].equal(weights[1])


def test_sides_that_do_not_scale_alike():
    """Width x2: the router's experts, a depthwise window, the patches do not grow; grouped keys do, all being heads."""
    sides = {
        ("mixtral", "model.layers.0.mlp.gate.weight"): (2, 1),
        ("mixtral", "model.layers.0.mlp.experts.down_proj"): (2, 2),
        ("llama", "model.layers.0.self_attn.k_proj.weight"): (2, 2),
        ("convnext", "convnext.encoder.stages.0.layers.0.dwconv.weight"): (1, 2),
        ("mixer", "blocks.0.tokens.0.weight"): (1, 2),
        ("mixer", "blocks.0.tokens.2.weight"): (2, 1),
        ("unet", "upsample.weight"): (2, 2),
        ("gpt2", "transformer.h.0.mlp.c_proj.weight"): (2, 2),
    }
    for (kind, name), expected in sides.items():
        entry = next(entry for entry in plan_of(kind).entries if entry.name == name)
        assert (entry.fan_in, entry.fan_out) == expected, name


def test_tied_embeddings():
    """One tensor is embedding and readout: it keeps the embedding's factors, the readout's 1/2 stands before it."""
    plan = plan_of("tied gpt2")
    assert plan.multipliers == {"lm_head.input_multiplier": 0.5}
    tied = next(entry for entry in plan.entries if entry.name == "transformer.wte.weight")
    assert tied.tied
    assert tied.lr == 1e-3
