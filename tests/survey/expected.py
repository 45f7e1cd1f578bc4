"""What each tensor of the surveyed models is, written from the architectures and never from what isoscale answers.

A row says of the tensors that a pattern matches ({last} and {third} stand for indices that follow from the depth, see
`rows_of`): their role, and the powers of the width's and the depth's ratios that
their learning rate and their init must have under completep and AdamW, all multipliers folded in. Of several patterns
that match a name the last counts, and each tensor must have one. Learning rates come from docs/theory.md, section 5:

    input layers, embeddings, vectors    1           hidden layers, inner layers         1 / fan_in
    readouts                  1 / fan_in             output projections       1 / (fan_in r), their biases 1 / r

A fan_in that does not grow (a depthwise kernel, the samples' features, a fixed state) counts as 1. A norm that
ends a branch carries the branch's factor 1 / r in the place of the output projection, as a scale does where no layer
stands before it. A layer from the width to a
fixed size within the net (routers, latents) is a readout: TP5, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Powers = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """One kind of tensor.

    Attributes:
        roles: Names of roles that are right; more than one where the tables of section 5 make no difference.
        lr, init: Powers of (width, depth).
        deeper: What lr and init are multiplied by at four times the depth, for a number in the forward that follows it.
        by_shape: Whether the width's ratio is that of the tensor's own fan_in, axes 1 and up: where sizes grow with
            the depth as well.
        frozen: Whether it is not trained.
        unused: Whether the forward does not use it: then it needs no numbers.
    """

    roles: frozenset[str]
    lr: Powers = (0.0, 0.0)
    init: Powers = (0.0, 0.0)
    deeper: float = 1.0
    by_shape: bool = False
    frozen: bool = False
    unused: bool = False


Rows = dict[str, Expected]


def _kind(*roles: str, lr: Powers = (0.0, 0.0), init: Powers = (0.0, 0.0)) -> Expected:
    return Expected(roles=frozenset(roles), lr=lr, init=init)


# Embeddings, and tables and tokens that are added or joined: SGD's and Adam's columns are those of vectors.
INPUT = _kind("input", "vector", "branch_vector")
# From features of a fixed size.
FROM_TABLE = _kind("input", "hidden")
# No side grows.
FIXED = _kind("input", "hidden", "output", "vector", "scalar")
# An embedding that the forward multiplies by the width's root, or by one over it.
TIMES_ROOT = replace(INPUT, lr=(-0.5, 0.0), init=(-0.5, 0.0))
OVER_ROOT = replace(INPUT, lr=(0.5, 0.0), init=(0.5, 0.0))
HIDDEN = _kind("hidden", lr=(-1.0, 0.0), init=(-0.5, 0.0))
OUTPUT = _kind("output", lr=(-1.0, 0.0), init=(-1.0, 0.0))
VECTOR = _kind("vector", "input")
# Norms between blocks, on the stream itself: under completep Adam's numbers are the same within and without.
ON_STREAM = _kind("vector", "branch_vector")
# Sizes that stay: whether one calls it a scalar or a vector of fixed size.
SCALAR = _kind("scalar", "vector")

# A depthwise kernel outside of all branches.
WINDOW = _kind("hidden", "input", "branch_internal")

# Within a residual branch.
INNER = _kind("branch_internal", lr=(-1.0, 0.0), init=(-0.5, 0.0))
FROM_FIXED = _kind("branch_internal", "input")
TO_FIXED = _kind(
    "output", "branch_internal", "branch_last", "branch_vector", "hidden", lr=(-1.0, 0.0), init=(-1.0, 0.0)
)
GATE = _kind("branch_internal", "branch_last", lr=(-1.0, 0.0), init=(-0.5, 0.0))
LAST = _kind("branch_last", lr=(-1.0, -1.0), init=(-0.5, -1.0))
LAST_TO_FIXED = replace(LAST, init=(-1.0, -1.0))
LAST_UNDER_NORM = _kind("branch_last", lr=(-1.0, 0.0), init=(-0.5, 0.0))
IN_BRANCH = _kind("branch_vector", "scalar")
CARRIES = _kind("branch_vector", lr=(0.0, -1.0), init=(0.0, -1.0))

FROZEN = Expected(roles=frozenset(), frozen=True)
UNUSED = Expected(roles=frozenset(), unused=True)


# --- families ---
def ends(
    inputs: tuple[str, ...], outputs: tuple[str, ...], vectors: tuple[str, ...] = (), hidden: tuple[str, ...] = ()
) -> Rows:
    """What stands outside of all blocks; names of modules, whose biases are theirs."""
    rows: Rows = {}
    for name in vectors:
        rows[f"{name}*"] = VECTOR
    for name in inputs:
        rows |= {name: INPUT, f"{name}.weight": INPUT, f"{name}.bias": VECTOR}
    for name in hidden:
        rows |= {f"{name}.weight": HIDDEN, f"{name}.bias": VECTOR}
    for name in outputs:
        rows |= {f"{name}.weight": OUTPUT, f"{name}.bias": SCALAR}
    return rows


def blocks(
    where: str,
    *,
    inner: tuple[str, ...],
    last: tuple[str, ...],
    carriers: tuple[str, ...] = (),
    on_stream: tuple[str, ...] = (),
) -> Rows:
    """Residual blocks: `where` is the pattern of their tensors' names, the others are patterns of what follows it.

    Args:
        where: Pattern of the blocks' names, with the dot.
        inner, last: Modules of inner and of output projections.
        carriers: Norms and scales that end branches; without any, output projections end them.
        on_stream: Norms between blocks.
    """
    rows: Rows = {f"{where}*": IN_BRANCH}
    for name in inner:
        rows[f"{where}{name}.weight"] = INNER
    for name in last:
        rows[f"{where}{name}.weight"] = LAST_UNDER_NORM if carriers else LAST
        rows[f"{where}{name}.bias"] = IN_BRANCH if carriers else CARRIES
    for name in carriers:
        rows[f"{where}{name}*"] = CARRIES
    for name in on_stream:
        rows[f"{where}{name}*"] = ON_STREAM
    return rows


EXPECTED: dict[str, Rows] = {}

# --- transformers: decoders ---
_LLAMA_ENDS = ends(("model.embed_tokens",), ("lm_head",), ("model.norm", "model.final_layernorm"))
_LLAMA = _LLAMA_ENDS | blocks("model.layers.*.", inner=("*_proj",), last=("*.o_proj", "mlp.down_proj"))
_PLAIN = (
    "llama", "mistral", "qwen2", "stablelm", "olmo", "granite", "nemotron", "smollm3", "qwen3", "helium", "phi3",
    "cohere", "cohere2",
)  # fmt: skip
for _name in _PLAIN:
    EXPECTED[_name] = _LLAMA
EXPECTED["gemma"] = _LLAMA | {"model.embed_tokens.weight": TIMES_ROOT}
EXPECTED["starcoder2"] = _LLAMA_ENDS | blocks(
    "model.layers.*.", inner=("self_attn.?_proj", "mlp.c_fc"), last=("self_attn.o_proj", "mlp.c_proj")
)
EXPECTED["phi"] = _LLAMA_ENDS | blocks(
    "model.layers.*.", inner=("self_attn.?_proj", "mlp.fc1"), last=("self_attn.dense", "mlp.fc2")
)
EXPECTED["persimmon"] = _LLAMA_ENDS | blocks(
    "model.layers.*.",
    inner=("self_attn.query_key_value", "mlp.dense_h_to_4h"),
    last=("self_attn.dense", "mlp.dense_4h_to_h"),
)
# Norms after the branches, and (but for OLMo 2) before them as well.
_SANDWICH = blocks(
    "model.layers.*.",
    inner=("*_proj",),
    last=("*.o_proj", "mlp.down_proj"),
    carriers=("post_attention_layernorm", "post_feedforward_layernorm"),
)
EXPECTED["olmo2"] = _LLAMA_ENDS | _SANDWICH
EXPECTED["gemma2"] = EXPECTED["gemma3"] = _LLAMA_ENDS | _SANDWICH | {"model.embed_tokens.weight": TIMES_ROOT}
EXPECTED["glm4"] = _LLAMA_ENDS | blocks(
    "model.layers.*.",
    inner=("*_proj",),
    last=("*.o_proj", "mlp.down_proj"),
    carriers=("post_self_attn_layernorm", "post_mlp_layernorm"),
)
# Experts of three axes: (expert, ., .), of which the expert's index is no fan_in.
_EXPERTS = _LLAMA | {
    "model.layers.*.mlp.gate.weight": TO_FIXED,
    "model.layers.*.mlp.experts.gate_up_proj": INNER,
    "model.layers.*.mlp.experts.down_proj": LAST,
}
for _name in ["mixtral", "qwen3moe", "olmoe"]:
    EXPECTED[_name] = _EXPERTS
EXPECTED["qwen2moe"] = _EXPERTS | {
    "model.layers.*.mlp.shared_expert.down_proj.weight": LAST,
    "model.layers.*.mlp.shared_expert_gate.weight": TO_FIXED,
}
EXPECTED["deepseekv2"] = EXPECTED["deepseekv3"] = _EXPERTS | {
    "model.layers.*.kv_a_proj_with_mqa.weight": INNER,
    "model.layers.*.mlp.shared_experts.down_proj.weight": LAST,
}
EXPECTED["gptoss"] = _EXPERTS | {
    "model.layers.*.mlp.router.weight": TO_FIXED,
    "model.layers.*.mlp.router.bias": IN_BRANCH,
    "model.layers.*.mlp.experts.gate_up_proj_bias": IN_BRANCH,
    "model.layers.*.mlp.experts.down_proj_bias": CARRIES,
}

_GPT2 = ends(("transformer.wte", "transformer.wpe"), ("lm_head",), ("transformer.ln_f",)) | blocks(
    "transformer.h.*.", inner=("attn.c_attn", "mlp.c_fc"), last=("attn.c_proj", "mlp.c_proj")
)
EXPECTED["gpt2"] = EXPECTED["gptbigcode"] = EXPECTED["gpt2_tied"] = _GPT2
EXPECTED["gptneo"] = _GPT2 | blocks(
    "transformer.h.*.", inner=("attn.attention.?_proj", "mlp.c_fc"), last=("attn.attention.out_proj", "mlp.c_proj")
)
EXPECTED["gptj"] = EXPECTED["codegen"] = _GPT2 | blocks(
    "transformer.h.*.", inner=("attn.?_proj", "attn.qkv_proj", "mlp.fc_in"), last=("attn.out_proj", "mlp.fc_out")
)
EXPECTED["gptneox"] = ends(("gpt_neox.embed_in",), ("lm_head",), ("gpt_neox.final_layer_norm",)) | blocks(
    "gpt_neox.layers.*.",
    inner=("attention.query_key_value", "mlp.dense_h_to_4h"),
    last=("attention.dense", "mlp.dense_4h_to_h"),
)
EXPECTED["bloom"] = EXPECTED["falcon"] = ends(
    ("transformer.word_embeddings",), ("lm_head",), ("transformer.ln_f", "transformer.word_embeddings_layernorm")
) | blocks(
    "transformer.h.*.",
    inner=("self_attention.query_key_value", "mlp.dense_h_to_4h"),
    last=("self_attention.dense", "mlp.dense_4h_to_h"),
)
EXPECTED["mpt"] = ends(("transformer.wte",), ("lm_head",), ("transformer.norm_f",)) | blocks(
    "transformer.blocks.*.", inner=("attn.Wqkv", "ffn.up_proj"), last=("attn.out_proj", "ffn.down_proj")
)


def _fairseq_blocks(where: str, *, post_norm: bool = False) -> Rows:
    """Blocks named as fairseq names them, with or without attention to an encoder."""
    return blocks(
        where,
        inner=("self_attn.?_proj", "encoder_attn.?_proj", "fc1"),
        last=("self_attn.out_proj", "encoder_attn.out_proj", "fc2"),
        on_stream=("*layer_norm.",) if post_norm else (),
    )


EXPECTED["opt"] = ends(
    ("model.decoder.embed_tokens", "model.decoder.embed_positions"), ("lm_head",), ("model.decoder.final_layer_norm",)
) | _fairseq_blocks("model.decoder.layers.*.")
EXPECTED["xglm"] = (
    ends((), ("lm_head",), ("model.layer_norm",))
    | _fairseq_blocks("model.layers.*.")
    | {"model.embed_tokens.weight": TIMES_ROOT}
)
EXPECTED["biogpt"] = (
    ends(("biogpt.embed_positions",), ("output_projection",), ("biogpt.layer_norm",))
    | _fairseq_blocks("biogpt.layers.*.")
    | {"biogpt.embed_tokens.weight": TIMES_ROOT}
)
EXPECTED["ctrl"] = (
    ends((), ("lm_head",), ("transformer.layernorm",))
    | blocks(
        "transformer.h.*.",
        inner=("multi_head_attention.W?", "ffn.0"),
        last=("multi_head_attention.dense", "ffn.2"),
    )
    | {"transformer.w.weight": TIMES_ROOT}
)
EXPECTED["openaigpt"] = ends(("transformer.tokens_embed", "transformer.positions_embed"), ("lm_head",)) | blocks(
    "transformer.h.*.", inner=("attn.c_attn", "mlp.c_fc"), last=("attn.c_proj", "mlp.c_proj"), on_stream=("ln_?.",)
)

EXPECTED["nanochat"] = _LLAMA_ENDS | blocks(
    "model.layers.*.", inner=("self_attn.?_proj", "mlp.fc1"), last=("self_attn.o_proj", "mlp.fc2")
)
EXPECTED["reformer"] = ends(
    ("reformer.embeddings.word_embeddings", "reformer.embeddings.position_embeddings.embedding"),
    ("lm_head.decoder",),
    ("reformer.encoder.layer_norm",),
) | blocks(
    "reformer.encoder.layers.*.",
    inner=("attention.self_attention.*", "feed_forward.dense.dense"),
    last=("attention.output.dense", "feed_forward.output.dense"),
)
EXPECTED["reformer"] |= {"lm_head.bias": UNUSED}

# --- transformers: recurrences and state spaces ---
EXPECTED["lfm2"] = ends(("model.embed_tokens",), ("lm_head",), ("model.embedding_norm",)) | blocks(
    "model.layers.*.",
    inner=("conv.in_proj", "self_attn.?_proj", "feed_forward.w[13]"),
    last=("conv.out_proj", "self_attn.out_proj", "feed_forward.w2"),
)
EXPECTED["lfm2"] |= {"*.conv.conv.weight": FROM_FIXED}
_STATES = ends(("backbone.embeddings",), ("lm_head",), ("backbone.norm_f",)) | blocks(
    "backbone.layers.*.", inner=("mixer.in_proj",), last=("mixer.out_proj",)
)
EXPECTED["mamba2"] = _STATES | {"backbone.layers.*.mixer.conv1d.weight": FROM_FIXED}
EXPECTED["mamba"] = EXPECTED["mamba2"] | {
    "backbone.layers.*.mixer.x_proj.weight": TO_FIXED,
    "backbone.layers.*.mixer.dt_proj.weight": FROM_FIXED,
}
# Gates by blocks of the heads' size; keys and values of one head, whose size stays.
EXPECTED["recurrentgemma"] = (
    ends((), ("lm_head",), ("model.final_norm",))
    | blocks(
        "model.layers.*.",
        inner=("temporal_block.linear_?", "temporal_block.?_proj", "mlp_block.*_proj"),
        last=("temporal_block.linear_out", "temporal_block.o_proj", "mlp_block.down_proj"),
    )
    | {
        "model.embed_tokens.weight": TIMES_ROOT,
        "model.layers.*.conv_1d.weight": FROM_FIXED,
        "model.layers.*.rg_lru.*_gate_weight": FROM_FIXED,
        "model.layers.*.temporal_block.[kv]_proj.weight": TO_FIXED,
    }
)
EXPECTED["rwkv"] = (
    ends(("rwkv.embeddings",), ("head",), ("rwkv.ln_out", "rwkv.blocks.0.pre_ln"))
    | blocks(
        "rwkv.blocks.*.",
        inner=("attention.key", "attention.value", "attention.receptance", "feed_forward.key"),
        last=("attention.output", "feed_forward.value"),
    )
    | {"rwkv.blocks.*.feed_forward.receptance.weight": GATE, "rwkv.blocks.0.pre_ln.*": VECTOR}
)

# --- transformers: encoders ---
_BERT_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


def _bert(name: str, outputs: tuple[str, ...], hidden: tuple[str, ...], *, post_norm: bool = True) -> Rows:
    """Embeddings, blocks named as BERT's, a head."""
    return ends((f"{name}.embeddings.*_embeddings",), outputs, (f"{name}.embeddings.LayerNorm",), hidden) | blocks(
        f"{name}.encoder.layer.*.",
        inner=("attention.self.*", "attention.attn.?", "intermediate.dense"),
        last=("attention.output.dense", "attention.attn.o", "output.dense"),
        on_stream=("*LayerNorm.",) if post_norm else (),
    )


_TWO_LAYERS = (("classifier.out_proj",), ("classifier.dense",))
EXPECTED["bert"] = _bert("bert", ("classifier",), ("bert.pooler.dense",))
EXPECTED["roberta"] = _bert("roberta", *_TWO_LAYERS)
# Embeddings of a fixed size, then a layer to the width.
_PROJECTED = {"*.embeddings_project.weight": FROM_TABLE, "*.embeddings_project.bias": VECTOR}
EXPECTED["electra"] = _bert("electra", *_TWO_LAYERS) | _PROJECTED
EXPECTED["roformer"] = _bert("roformer", *_TWO_LAYERS) | _PROJECTED | {"roformer.encoder.embed_positions.*": FROZEN}
EXPECTED["mpnet"] = _bert("mpnet", *_TWO_LAYERS) | {"mpnet.encoder.relative_attention_bias.weight": INPUT}
EXPECTED["nystromformer"] = _bert("nystromformer", *_TWO_LAYERS) | {
    "nystromformer.encoder.layer.*.attention.self.conv.weight": FROM_FIXED
}
EXPECTED["esm"] = _bert("esm", *_TWO_LAYERS, post_norm=False) | {
    "esm.encoder.emb_layer_norm_after.*": VECTOR,
    "esm.contact_head.*": UNUSED,
}
EXPECTED["deberta"] = _bert("deberta", ("classifier",), ("pooler.dense",)) | {
    "deberta.encoder.layer.*.attention.self.?_bias": IN_BRANCH,
    "deberta.encoder.rel_embeddings.weight": INPUT,
}
EXPECTED["debertav2"] = EXPECTED["deberta"] | {"deberta.encoder.LayerNorm.*": VECTOR}
# The Fourier branch has no weight at all.
EXPECTED["fnet"] = _bert("fnet", ("classifier",), ("fnet.pooler.dense", "fnet.embeddings.projection"))
EXPECTED["albert"] = ends(
    ("albert.embeddings.*_embeddings",),
    ("classifier",),
    ("albert.embeddings.LayerNorm",),
    ("albert.pooler",),
) | blocks(
    "albert.encoder.albert_layer_groups.*.albert_layers.*.",
    inner=("attention.query", "attention.key", "attention.value", "ffn"),
    last=("attention.dense", "ffn_output"),
    on_stream=("*LayerNorm.", "*layer_norm."),
)
EXPECTED["albert"] |= {
    "*.embedding_hidden_mapping_in.weight": FROM_TABLE,
    "*.embedding_hidden_mapping_in.bias": VECTOR,
}
EXPECTED["modernbert"] = ends(
    ("model.embeddings.tok_embeddings",),
    ("classifier",),
    ("model.embeddings.norm", "model.final_norm", "head.norm"),
    ("head.dense",),
) | blocks("model.layers.*.", inner=("attn.Wqkv", "mlp.Wi"), last=("attn.Wo", "mlp.Wo"))
EXPECTED["distilbert"] = ends(
    ("distilbert.embeddings.*_embeddings",), ("classifier",), ("distilbert.embeddings.LayerNorm",), ("pre_classifier",)
) | blocks(
    "distilbert.transformer.layer.*.",
    inner=("attention.?_lin", "ffn.lin1"),
    last=("attention.out_lin", "ffn.lin2"),
    on_stream=("*_layer_norm.",),
)
# Blocks within blocks: a bottleneck, and in it as many additions as ever. Only the outer one is repeated.
EXPECTED["mobilebert"] = ends(
    ("mobilebert.embeddings.*_embeddings",),
    ("classifier",),
    ("mobilebert.embeddings.LayerNorm",),
    ("mobilebert.pooler.dense",),
) | blocks(
    "mobilebert.encoder.layer.*.",
    inner=("attention.self.*", "*dense"),
    last=("output.bottleneck.dense",),
    on_stream=("output.bottleneck.LayerNorm.",),
)
EXPECTED["mobilebert"] |= {
    "*.embedding_transformation.weight": FROM_TABLE,
    "*.embedding_transformation.bias": VECTOR,
}
EXPECTED["xlnet"] = (
    ends(("transformer.word_embedding",), ("logits_proj",), (), ("sequence_summary.summary",))
    | blocks(
        "transformer.layer.*.",
        inner=("ff.layer_1",),
        last=("ff.layer_2",),
        on_stream=("rel_attn.layer_norm.", "ff.layer_norm."),
    )
    | {
        "transformer.layer.*.rel_attn.[qkvr]": INNER,
        "transformer.layer.*.rel_attn.o": LAST,
        "transformer.layer.*.rel_attn.r_s_bias": UNUSED,
        "transformer.layer.*.rel_attn.seg_embed": UNUSED,
        "transformer.mask_emb": UNUSED,
    }
)

# --- transformers: encoders with decoders ---
EXPECTED["t5"] = EXPECTED["umt5"] = (
    ends(("shared",), ("lm_head",), ("encoder.final_layer_norm", "decoder.final_layer_norm"))
    | blocks("*.block.*.", inner=("*.[qkv]", "*.wi", "*.wi_?"), last=("*.o", "*.wo"))
    | {"*.relative_attention_bias.weight": INPUT}
)


def _seq2seq(
    inputs: tuple[str, ...], norms: tuple[str, ...], *, post_norm: bool, outputs: tuple[str, ...] = ("lm_head",)
) -> Rows:
    return ends(inputs, outputs, norms) | _fairseq_blocks("model.*coder.layers.*.", post_norm=post_norm)


_SHARED = {"model.shared.weight": UNUSED}
_EMBEDDINGS = ("model.*coder.embed_tokens", "model.*coder.embed_positions")
EXPECTED["bart"] = _SHARED | _seq2seq(_EMBEDDINGS, ("model.*coder.layernorm_embedding",), post_norm=True)
EXPECTED["pegasus"] = (
    _SHARED
    | _seq2seq(_EMBEDDINGS, ("model.*coder.layer_norm",), post_norm=False)
    | {"model.*coder.embed_positions.weight": FROZEN}
)
EXPECTED["m2m100"] = (
    _SHARED
    | _seq2seq((), ("model.*coder.layer_norm",), post_norm=False)
    | {"model.*coder.embed_tokens.weight": TIMES_ROOT}
)
EXPECTED["marian"] = (
    _SHARED
    | _seq2seq((), (), post_norm=True)
    | {"model.*coder.embed_tokens.weight": TIMES_ROOT, "model.*coder.embed_positions.weight": FROZEN}
)
EXPECTED["whisper"] = (
    _seq2seq(_EMBEDDINGS, ("model.*coder.layer_norm",), post_norm=False, outputs=("proj_out",))
    | ends(("model.encoder.conv1",), (), (), ("model.encoder.conv2",))
    | {"model.encoder.embed_positions.weight": FROZEN}
)

# --- transformers: sound ---
_SPEECH = blocks(
    "*.encoder.layers.*.",
    inner=("attention.?_proj", "feed_forward.intermediate_dense"),
    last=("attention.out_proj", "feed_forward.output_dense"),
    on_stream=("*layer_norm.",),
)
EXPECTED["wav2vec2"] = EXPECTED["hubert"] = (
    ends(
        ("*.feature_extractor.conv_layers.0.conv",),
        ("lm_head",),
        ("*.layer_norm.",),
        ("*.feature_extractor.conv_layers.1.conv", "*.feature_projection.projection"),
    )
    | _SPEECH
    | {"*.masked_spec_embed": UNUSED, "*.pos_conv_embed.conv.bias": VECTOR, "*.pos_conv_embed.conv.weight": HIDDEN}
)


# --- transformers: images ---
def _vit(where: str, *, inner: tuple[str, ...], last: tuple[str, ...], carriers: tuple[str, ...] = ()) -> Rows:
    return {
        "*patch_embed*.weight": INPUT,
        "*patch_embed*.bias": VECTOR,
        "*_token": INPUT,
        "*pos*embed*": INPUT,
    } | blocks(where, inner=inner, last=last, carriers=carriers)


_NAMES = {"inner": ("attention.?_proj", "mlp.fc1"), "last": ("attention.o_proj", "mlp.fc2")}
_CLASSIFIER = ends((), ("classifier",))
EXPECTED["vit"] = EXPECTED["vitmsn"] = _vit("vit.layers.*.", **_NAMES) | _CLASSIFIER | {"vit.layernorm.*": VECTOR}
EXPECTED["deit"] = _vit("deit.layers.*.", **_NAMES) | _CLASSIFIER | {"deit.layernorm.*": VECTOR}
EXPECTED["audiospectrogram"] = _vit("audio_spectrogram_transformer.layers.*.", **_NAMES) | ends(
    (), ("classifier.dense",), ("audio_spectrogram_transformer.layernorm", "classifier.layernorm")
)
EXPECTED["beit"] = (
    _vit("beit.layers.*.", **_NAMES)
    | _CLASSIFIER
    | {"beit.pooler.layernorm.*": VECTOR, "*.relative_position_bias_table": INPUT}
)
EXPECTED["dinov2"] = (
    _vit("dinov2.encoder.layer.*.", **_NAMES)
    | _CLASSIFIER
    | {"dinov2.layernorm.*": VECTOR, "dinov2.embeddings.mask_token": UNUSED}
)
# The pooling head has a learned query, and a block of its own that is not repeated; there is no readout.
EXPECTED["siglipvision"] = (
    _vit(
        "encoder.layers.*.",
        inner=("self_attn.?_proj", "mlp.fc1"),
        last=("self_attn.out_proj", "mlp.fc2"),
    )
    | {"embeddings.*": INPUT, "post_layernorm.*": VECTOR, "head.*": VECTOR, "head.probe": INPUT}
    | {f"head.{name}": HIDDEN for name in ("attention.in_proj_weight", "attention.out_proj.weight", "mlp.*.weight")}
)
EXPECTED["videomae"] = (
    _vit(
        "videomae.encoder.layer.*.",
        inner=("attention.attention.*", "intermediate.dense"),
        last=("attention.output.dense", "output.dense"),
    )
    | _CLASSIFIER
    | {"fc_norm.*": VECTOR}
)
EXPECTED["timesformer"] = (
    _vit(
        "timesformer.encoder.layer.*.",
        inner=("*attention.attention.qkv", "temporal_attention.output.dense", "intermediate.dense"),
        last=("attention.output.dense", "temporal_dense", "output.dense"),
    )
    | _CLASSIFIER
    | {
        "*.temporal_attention.output.dense.weight": INNER,
        "*.temporal_attention.output.dense.bias": IN_BRANCH,
        "timesformer.layernorm.*": VECTOR,
        "timesformer.embeddings.time_embeddings": INPUT,
    }
)
# The last layer's outputs grow, whatever its name.
EXPECTED["siglipvision"] |= {"head.mlp.fc2.weight": replace(HIDDEN, roles=frozenset({"hidden", "output"}))}
# Both towers' projections end in a product of features that grow: hidden, whatever their name: both sides grow.
_TOWER = {"inner": ("self_attn.?_proj", "mlp.fc1"), "last": ("self_attn.out_proj", "mlp.fc2")}
EXPECTED["clip"] = (
    {
        "logit_scale": SCALAR,
        "*_projection.weight": replace(HIDDEN, roles=frozenset({"hidden", "output"})),
        "*_model.embeddings.*": INPUT,
    }
    | {"*_model.*norm.*": VECTOR}
    | blocks("*_model.encoder.layers.*.", **_TOWER)
)

# Stages: between them the stream is projected, on the skip or by itself.
EXPECTED["convnext_hf"] = (
    ends(("convnext.embeddings.patch_embeddings",), ("classifier",), ("convnext.embeddings.layernorm",))
    | {"convnext.layernorm.*": VECTOR, "*.downsampling_layer.*": VECTOR, "*.downsampling_layer.1.weight": HIDDEN}
    | blocks("convnext.encoder.stages.*.layers.*.", inner=("pwconv1",), last=("pwconv2",))
    | {"*.dwconv.weight": FROM_FIXED}
)
EXPECTED["convnextv2_hf"] = (
    ends(("convnextv2.embeddings.patch_embeddings",), ("classifier",), ("convnextv2.embeddings.layernorm",))
    | {"convnextv2.layernorm.*": VECTOR, "*.downsampling_layer.*": VECTOR, "*.downsampling_layer.1.weight": HIDDEN}
    | blocks("convnextv2.encoder.stages.*.layers.*.", inner=("pwconv1",), last=("pwconv2",))
    | {"*.dwconv.weight": FROM_FIXED}
)
_SHORTCUT = {"*.shortcut.*": VECTOR, "*.shortcut.convolution.weight": HIDDEN}
EXPECTED["resnet_hf"] = (
    {"resnet.embedder.*": VECTOR, "resnet.embedder.*.convolution.weight": INPUT}
    | ends((), ("classifier.1",))
    | blocks(
        "resnet.encoder.stages.*.layers.*.layer.",
        inner=("[01].convolution",),
        last=("2.convolution",),
        carriers=("2.normalization",),
    )
    | _SHORTCUT
)
# Groups of a fixed size are a fixed fan_in.
EXPECTED["regnet_hf"] = (
    {"regnet.embedder.*": VECTOR, "regnet.embedder.*.convolution.weight": INPUT}
    | ends((), ("classifier.1",))
    | blocks(
        "regnet.encoder.stages.*.layers.*.layer.",
        inner=("0.convolution", "2.attention.?"),
        last=("3.convolution",),
        carriers=("3.normalization",),
    )
    | {"*.layer.1.convolution.weight": FROM_FIXED}
    | _SHORTCUT
)
_SWIN_ENDS = {"swin*.layernorm.*": VECTOR, "swin*.embeddings.*": VECTOR, "*.patch_embeddings.projection.weight": INPUT}
_REDUCTION = {"*.downsample.*": VECTOR, "*.downsample.reduction.weight": HIDDEN}
EXPECTED["swin_hf"] = (
    _SWIN_ENDS
    | _CLASSIFIER
    | blocks("swin.encoder.layers.*.blocks.*.", **_NAMES)
    | _REDUCTION
    | {"*.relative_position_bias_table": INPUT}
)
EXPECTED["swinv2_hf"] = (
    _SWIN_ENDS
    | _CLASSIFIER
    | blocks(
        "swinv2.encoder.layers.*.blocks.*.",
        inner=("attention.self.query", "attention.self.key", "attention.self.value", "intermediate.dense"),
        last=("attention.output.dense", "output.dense"),
        carriers=("layernorm_before", "layernorm_after"),
    )
    | _REDUCTION
    | {"*.continuous_position_bias_mlp.*.weight": FROM_FIXED}
)
EXPECTED["segformer"] = (
    ends(
        ("segformer.stages.0.patch_embeddings.proj",),
        ("decode_head.classifier",),
        ("segformer.stages.*.layer_norm.", "decode_head.batch_norm"),
        (
            "segformer.stages.1.patch_embeddings.proj",
            "decode_head.linear_projections.?.proj",
            "decode_head.linear_fuse",
        ),
    )
    | blocks(
        "segformer.stages.*.blocks.*.",
        inner=("attention.?_proj", "attention.sequence_reduction.sequence_reduction", "mlp.fc1"),
        last=("attention.o_proj", "mlp.fc2"),
    )
    | {"*.dwconv.weight": FROM_FIXED}
)
# A pooling branch has no weight but its norm's and its scale, and is linear: the factor stands on the norm.
EXPECTED["poolformer_hf"] = (
    ends(
        ("poolformer.encoder.patch_embeddings.0.projection",),
        ("classifier",),
        ("norm.",),
        ("poolformer.encoder.patch_embeddings.1.projection",),
    )
    | blocks("poolformer.encoder.block.*.", inner=("*.output.conv1",), last=("*.output.conv2",))
    | {"*.before_norm.*": CARRIES}
)
EXPECTED["poolformer_hf"] |= {"*.before_norm.*": CARRIES}
EXPECTED["pvt"] = (
    ends(
        ("pvt.encoder.patch_embeddings.0.projection", "pvt.encoder.patch_embeddings.?.position_embeddings"),
        ("classifier",),
        ("pvt.encoder.patch_embeddings.?.layer_norm", "pvt.encoder.layer_norm"),
        ("pvt.encoder.patch_embeddings.1.projection",),
    )
    | blocks(
        "pvt.encoder.block.*.",
        inner=("*.attention.self.*", "*.mlp.dense1"),
        last=("*.attention.output.dense", "*.mlp.dense2"),
    )
    | {"*.cls_token": INPUT, "*.attention.self.layer_norm.*": IN_BRANCH}
)
EXPECTED["detr"] = (
    {"model.backbone.*": FROZEN}
    | ends(
        ("model.query_position_embeddings",),
        ("class_labels_classifier", "bbox_predictor.layers.2"),
        ("model.decoder.layernorm",),
        ("model.input_projection", "bbox_predictor.layers.0", "bbox_predictor.layers.1"),
    )
    | blocks(
        "model.*coder.layers.*.",
        inner=("self_attn.?_proj", "encoder_attn.?_proj", "mlp.fc1"),
        last=("self_attn.o_proj", "encoder_attn.o_proj", "mlp.fc2"),
        on_stream=("*_layer_norm.",),
    )
)
# The decoder's stream begins with zeros, to which the first attention, one of positions alone, adds: no branch yet.
EXPECTED["detr"] |= {
    "model.decoder.layers.0.self_attn.*.bias": VECTOR,
    "model.decoder.layers.0.self_attn.*.weight": HIDDEN,
    "model.decoder.layers.0.self_attn.v_proj.weight": UNUSED,
}
EXPECTED["decisiontransformer"] = (
    ends(("embed_*",), ("predict_state", "predict_action.0", "predict_return"), ("encoder.ln_f", "embed_ln"))
    | blocks("encoder.h.*.", inner=("attn.c_attn", "mlp.c_fc"), last=("attn.c_proj", "mlp.c_proj"))
    | {"encoder.w?e.weight": UNUSED, "predict_return.*": UNUSED, "embed_ln.*": VECTOR}
)

# --- timm ---
_TIMM = {"inner": ("attn.qkv", "mlp.fc1"), "last": ("attn.proj", "mlp.fc2")}
_TIMM_ENDS = ends((), ("head", "head.fc"), ("norm.", "fc_norm.", "head.norm."))
EXPECTED["timm_vit"] = _vit("blocks.*.", **_TIMM) | _TIMM_ENDS
EXPECTED["timm_deit3"] = _vit("blocks.*.", **_TIMM) | _TIMM_ENDS
EXPECTED["timm_beit"] = _vit("blocks.*.", **_TIMM) | _TIMM_ENDS | {"*.relative_position_bias_table": INPUT}
EXPECTED["timm_eva"] = _vit("blocks.*.", inner=("attn.qkv", "mlp.fc1_?"), last=("attn.proj", "mlp.fc2")) | _TIMM_ENDS
EXPECTED["timm_cait"] = (
    _vit(
        "blocks*.*.",
        inner=("attn.qkv", "attn.[qkv]", "attn.proj_?", "mlp.fc1"),
        last=("attn.proj", "mlp.fc2"),
    )
    | _TIMM_ENDS
)
# The class token's stream begins with its first attention, which adds to a learned token: no branch yet.
EXPECTED["timm_cait"] |= {
    "blocks_token_only.0.gamma_1": VECTOR,
    "blocks_token_only.0.norm1.*": VECTOR,
    "blocks_token_only.0.attn.*.bias": VECTOR,
    "blocks_token_only.0.attn.*.weight": HIDDEN,
}
# Tokens are mixed from the fixed number of patches to the width, and back.
EXPECTED["timm_mixer"] = (
    ends(("stem.proj",), ())
    | _TIMM_ENDS
    | blocks("blocks.*.", inner=("mlp_*.fc1",), last=("mlp_*.fc2",))
    | {"blocks.*.mlp_tokens.fc1.weight": FROM_FIXED, "blocks.*.mlp_tokens.fc2.weight": LAST_TO_FIXED}
)
EXPECTED["timm_convnext"] = (
    ends(("stem.0",), (), ("stem.1",))
    | _TIMM_ENDS
    | {"stages.*.downsample.*": VECTOR, "stages.*.downsample.1.weight": HIDDEN}
    | blocks("stages.*.blocks.*.", inner=("mlp.fc1",), last=("mlp.fc2",))
    | {"*.conv_dw.weight": FROM_FIXED}
)
_DEEP_STEM = {"conv1.*": VECTOR, "conv1.0.weight": INPUT, "conv1.[36].weight": HIDDEN, "bn1.*": VECTOR}
_DOWNSAMPLE = {"layer?.*.downsample.*": VECTOR, "layer?.*.downsample.0.weight": HIDDEN}
EXPECTED["timm_resnet"] = (
    _DEEP_STEM
    | ends((), ("fc",))
    | blocks("layer?.*.", inner=("conv1",), last=("conv2",), carriers=("bn2",))
    | _DOWNSAMPLE
)
# Within a block each part takes in the one before: no residual branches.
EXPECTED["timm_res2net"] = (
    _DEEP_STEM
    | ends((), ("fc",))
    | blocks("layer?.*.", inner=("conv1", "convs.?"), last=("conv3",), carriers=("bn3",))
    | _DOWNSAMPLE
)
EXPECTED["timm_resnetv2"] = (
    ends(("stem.conv",), ("head.fc",), ("norm.",))
    | blocks("stages.*.blocks.*.", inner=("conv[12]",), last=("conv3",))
    | {"*.conv3.weight": LAST_UNDER_NORM, "*.downsample.conv.weight": HIDDEN}
    | {"stages.*.blocks.0.norm1.*": ON_STREAM}
)
# Weights are standardised: their gains carry the branch's factor. A stage's first block divides by the deviation that
# its stage's blocks before are expected to have brought it to: of 1 + 0.2^2 a block, two blocks or eight.
EXPECTED["timm_nfnet"] = (
    ends(("stem.conv",), ("head.fc",))
    | {"stem.conv.gain": VECTOR}
    | blocks("stages.*.*.", inner=("conv1",), last=("conv3",))
    | {"*.conv2*.weight": FROM_FIXED, "*.conv3.weight": LAST_UNDER_NORM, "*.conv3.gain": CARRIES}
    | {"*.downsample.conv.weight": HIDDEN, "*.downsample.conv.bias": VECTOR, "*.downsample.conv.gain": VECTOR}
)
EXPECTED["timm_nfnet"] |= {
    "stages.1.0.downsample.conv.weight": replace(HIDDEN, deeper=(1 + 0.04 * 8) ** 0.5 / (1 + 0.04 * 2) ** 0.5)
}
# Inverted bottlenecks. Where the shape changes there is no skip: hidden layers.
_SQUEEZE = ("se.conv_reduce", "se.conv_expand")
_NO_SKIP = {
    "blocks.1.0.*": VECTOR,
    "blocks.1.0.conv_pw.weight": HIDDEN,
    "blocks.1.0.conv_pwl.weight": HIDDEN,
    "blocks.1.0.se.*.weight": HIDDEN,
    "blocks.1.0.conv_dw.weight": WINDOW,
}
EXPECTED["timm_efficientnet"] = (
    ends(("conv_stem",), ("classifier",), ("bn1", "bn2"), ("conv_head",))
    | blocks("blocks.0.*.", inner=("conv_exp",), last=("conv_pwl",), carriers=("bn2",))
    | blocks("blocks.1.*.", inner=("conv_pw", *_SQUEEZE), last=("conv_pwl",), carriers=("bn3",))
    | {"blocks.*.conv_dw.weight": FROM_FIXED}
    | _NO_SKIP
)
EXPECTED["timm_mobilenetv3"] = (
    ends(("conv_stem",), ("classifier",), ("bn1",), ("conv_head",))
    | blocks("blocks.*.*.", inner=("conv_pw", *_SQUEEZE), last=("conv_pwl",), carriers=("bn3",))
    | {"blocks.*.conv_dw.weight": FROM_FIXED}
    | _NO_SKIP
)
EXPECTED["timm_regnet"] = (
    ends(("stem.conv",), (), ("stem.bn",))
    | _TIMM_ENDS
    | blocks("stages.*.*.", inner=("conv1_1x1.conv", "attn.fc?"), last=("conv3_1x1.conv",), carriers=("conv3_1x1.bn",))
    | {"*.conv2_kxk.conv.weight": FROM_FIXED, "*.shortcut.*": VECTOR, "*.shortcut.conv.weight": HIDDEN}
)
EXPECTED["timm_poolformer"] = (
    ends(("stem.conv",), (), ("stem.norm",))
    | _TIMM_ENDS
    | {"stages.*.downsample.*": VECTOR, "stages.*.downsample.conv.weight": HIDDEN}
    | blocks("stages.*.blocks.*.", inner=("mlp.fc1",), last=("mlp.fc2",))
    | {"stages.*.norm1.*": CARRIES}
)
# The second stage scales its skips: those scales stand on the stream.
EXPECTED["timm_caformer"] = (
    ends(("stem.conv",), ("head.fc.fc2",), ("stem.norm", "head.norm", "head.fc.norm"), ("head.fc.fc1",))
    | {"stages.*.downsample.*": VECTOR, "stages.*.downsample.conv.weight": HIDDEN}
    | blocks(
        "stages.*.blocks.*.",
        inner=("token_mixer.pwconv1", "token_mixer.qkv", "mlp.fc1"),
        last=("token_mixer.pwconv2", "token_mixer.proj", "mlp.fc2"),
        on_stream=("res_scale?.",),
    )
    | {"*.dwconv.weight": FROM_FIXED}
)
EXPECTED["timm_swin"] = (
    ends(("patch_embed.proj",), (), ("patch_embed.norm",))
    | _TIMM_ENDS
    | blocks("layers.*.blocks.*.", **_TIMM)
    | _REDUCTION
    | {"*.relative_position_bias_table": INPUT}
)
# No residual branches: each layer's input is the outputs of all before, so that fan_ins grow with the depth as well.
_BY_SHAPE = replace(HIDDEN, by_shape=True)
EXPECTED["timm_densenet"] = EXPECTED["torchvision_densenet"] = {
    "features.*": VECTOR,
    "features.conv0.weight": INPUT,
    "features.*.conv*.weight": _BY_SHAPE,
    "classifier.weight": replace(OUTPUT, by_shape=True),
    "classifier.bias": SCALAR,
}
_MAXVIT_ATTENTION = {"inner": ("attn.qkv", "mlp.fc1"), "last": ("attn.proj", "mlp.fc2")}
EXPECTED["timm_maxvit"] = (
    ends(("stem.conv1",), (), ("stem.norm1",), ("stem.conv2",))
    | _TIMM_ENDS
    | blocks("stages.*.blocks.*.conv.", inner=("conv1_1x1", "se.fc?"), last=("conv3_1x1",))
    | blocks("stages.*.blocks.*.attn_*.", **_MAXVIT_ATTENTION)
    | {"*.conv2_kxk.weight": FROM_FIXED, "*.relative_position_bias_table": INPUT}
    | {"*.shortcut.expand.weight": HIDDEN, "*.shortcut.expand.bias": VECTOR}
)

# --- torchvision ---
EXPECTED["torchvision_vit"] = (
    ends(("class_token", "conv_proj", "encoder.pos_embedding"), ("heads.head",), ("encoder.ln",))
    | blocks("encoder.layers.encoder_layer_*.", inner=("mlp.0",), last=("self_attention.out_proj", "mlp.3"))
    | {"*.self_attention.in_proj_weight": INNER}
)
EXPECTED["torchvision_swin"] = (
    ends(("features.0.0",), ("head",), ("features.0.2", "norm."))
    | blocks("features.[13].*.", inner=("attn.qkv", "mlp.0"), last=("attn.proj", "mlp.3"))
    | {"features.2.*": VECTOR, "features.2.reduction.weight": HIDDEN, "*.relative_position_bias_table": INPUT}
)
EXPECTED["torchvision_convnext"] = (
    ends(("features.0.0",), ("classifier.2",), ("features.0.1", "classifier.0"))
    | {"features.2.*": VECTOR, "features.2.1.weight": HIDDEN}
    | blocks("features.[13].*.", inner=("block.3",), last=("block.5",))
    | {"features.[13].*.block.0.weight": FROM_FIXED}
)
EXPECTED["torchvision_regnet"] = (
    ends(("stem.0",), ("fc",), ("stem.1",))
    | blocks("trunk_output.*.f.", inner=("a.0", "se.fc?"), last=("c.0",), carriers=("c.1",))
    | {"*.f.b.0.weight": FROM_FIXED, "*.proj.*": VECTOR, "*.proj.0.weight": HIDDEN}
)
# A stage's first block has no skip where the shape changes: here the first of all, and the first of the third stage.
EXPECTED["torchvision_mobilenetv2"] = (
    {"features.*": VECTOR, "features.*.0.weight": HIDDEN, "features.0.0.weight": INPUT}
    | ends((), ("classifier.1",))
    | blocks("features.*.conv.", inner=("0.0",), last=("2",), carriers=("3.",))
    | {"features.*.conv.1.0.weight": FROM_FIXED}
    | {"features.1.conv.*": VECTOR, "features.1.conv.0.0.weight": WINDOW, "features.1.conv.1.weight": HIDDEN}
    | {
        "features.{third}.conv.*": VECTOR,
        "features.{third}.conv.0.0.weight": HIDDEN,
        "features.{third}.conv.1.0.weight": WINDOW,
        "features.{third}.conv.2.weight": HIDDEN,
    }
)

# --- vit-pytorch ---
_LUCID_ENDS = {
    "cls_token": INPUT,
    "pos_embedding": INPUT,
    "to_patch_embedding.*": VECTOR,
    "transformer.norm.*": VECTOR,
    "*_head.0.*": VECTOR,
    "*_head.1.weight": OUTPUT,
    "*_head.1.bias": SCALAR,
    "*_head.weight": OUTPUT,
    "*_head.bias": SCALAR,
}
_LUCID = blocks("transformer.layers.*.", inner=("*.to_qkv", "*.net.1"), last=("*.to_out", "*.to_out.0", "*.net.4"))
EXPECTED["lucid_vit"] = _LUCID_ENDS | _LUCID | {"to_patch_embedding.2.weight": INPUT}
EXPECTED["lucid_simplevit"] = (
    _LUCID_ENDS
    | blocks("transformer.layers.*.", inner=("*.to_qkv", "*.net.1"), last=("*.to_out", "*.net.3"))
    | {"to_patch_embedding.2.weight": INPUT}
)
EXPECTED["lucid_deepvit"] = EXPECTED["lucid_vit"] | {"*.reattn_weights": INNER}
EXPECTED["lucid_parallelvit"] = _LUCID_ENDS | _LUCID | {"to_patch_embedding.1.weight": INPUT}
EXPECTED["lucid_smallvit"] = _LUCID_ENDS | _LUCID | {"to_patch_embedding.to_patch_tokens.3.weight": INPUT}

# --- x-transformers ---
_X_ENDS = {
    "token_emb.emb.weight": INPUT,
    "pos_emb.emb.weight": OVER_ROOT,
    "attn_layers.final_norm.*": VECTOR,
    "to_logits.weight": OUTPUT,
}
_X_NAMES = {"inner": ("*.to_[qkv]", "*.ff.0.0", "*.ff.0.proj"), "last": ("*.to_out", "*.ff.2")}
EXPECTED["x_decoder"] = EXPECTED["x_palm"] = blocks("attn_layers.layers.*.", **_X_NAMES) | _X_ENDS
EXPECTED["x_sandwich"] = blocks("attn_layers.layers.*.", **_X_NAMES, carriers=("0.1.gamma",)) | _X_ENDS

# --- torch_geometric: no residual branches ---
EXPECTED["pyg_gcn"] = {
    "convs.*.bias": VECTOR,
    "convs.*.weight": HIDDEN,
    "convs.0.lin.weight": INPUT,
    "convs.{last}.lin.weight": OUTPUT,
    "convs.{last}.bias": SCALAR,
}
# An attention's vector turns each head's features into one number.
EXPECTED["pyg_gat"] = EXPECTED["pyg_gcn"] | {
    "convs.*.att_???": TO_FIXED,
    "convs.{last}.att_???": FIXED,
    "convs.{last}.lin.weight": TO_FIXED,
}
EXPECTED["pyg_gin"] = {
    "convs.*.bias": VECTOR,
    "convs.*.weight": HIDDEN,
    "convs.0.nn.lins.0.weight": INPUT,
    "convs.{last}.nn.lins.0.weight": TO_FIXED,
    "convs.{last}.nn.lins.0.bias": SCALAR,
    "convs.{last}.nn.lins.1.weight": FIXED,
    "convs.{last}.nn.lins.1.bias": SCALAR,
}
EXPECTED["pyg_sage"] = EXPECTED["pyg_gcn"] | {
    "convs.0.lin_?.weight": INPUT,
    "convs.{last}.lin_?.weight": OUTPUT,
    "convs.{last}.lin_l.bias": SCALAR,
}

EXPECTED["pyg_schnet"] = ends(("embedding",), ("lin2",), (), ("lin1",)) | blocks(
    "interactions.*.", inner=("mlp.2", "conv.lin?"), last=("lin",)
)
EXPECTED["pyg_schnet"] |= {"interactions.*.mlp.0.weight": FROM_FIXED}

# --- diffusers ---
# A map of time and class gives a block's shifts, scales and gates; it feeds two branches, and the first one the end.
_CONDITION = _kind("hidden", "branch_internal", lr=(-1.0, 0.0), init=(-0.5, 0.0))
EXPECTED["diffusers_dit"] = (
    ends(("pos_embed.proj",), ("proj_out_2",), (), ("proj_out_1",))
    | blocks("transformer_blocks.*.", inner=("attn1.to_?", "ff.net.0.proj"), last=("attn1.to_out.0", "ff.net.2"))
    | {
        "transformer_blocks.*.norm?.*.bias": _kind("vector", "branch_vector"),
        "transformer_blocks.*.norm?.linear.weight": _CONDITION,
        "transformer_blocks.*.timestep_embedder.linear_1.weight": FROM_FIXED,
        "transformer_blocks.*.timestep_embedder.linear_2.weight": _CONDITION,
        "transformer_blocks.*.class_embedder.*": _kind("branch_internal", "input", "branch_vector"),
    }
)
# The sinusoids of time are as many as the width.
_UNET = (
    ends(("conv_in",), ("conv_out",), ("conv_norm_out",), ("time_embedding.linear_?",))
    | {"time_embedding.linear_1.weight": replace(HIDDEN, roles=frozenset({"hidden", "input"}))}
    | blocks(
        "*_block*.resnets.*.",
        inner=("conv1", "time_emb_proj"),
        last=("conv2",),
    )
    | {
        "*.conv_shortcut.weight": _BY_SHAPE,
        "*.conv_shortcut.bias": VECTOR,
        "*samplers.0.conv.weight": HIDDEN,
        "*samplers.0.conv.bias": VECTOR,
        "*.resnets.*.conv1.weight": replace(INNER, by_shape=True),
    }
)
EXPECTED["diffusers_unet"] = _UNET | blocks("*.attentions.*.", inner=("to_?",), last=("to_out.0",))
# Of a transformer that is itself a branch, only the last layer ends it.
EXPECTED["diffusers_unetcondition"] = (
    _UNET
    | blocks("*.attentions.*.", inner=("proj_in", "*.to_?", "*.to_out.0", "*.ff.net.*"), last=("proj_out",))
    | {"*.attn2.to_[kv].weight": FROM_FIXED}
)

# --- tab-transformer-pytorch ---
EXPECTED["fttransformer"] = (
    {"cls_token": INPUT, "embedding.*": INPUT, "to_logits.*": VECTOR, "to_logits.2.weight": OUTPUT}
    | {"to_logits.2.bias": SCALAR}
    | blocks("transformer.layers.*.", inner=("*.to_qkv", "*.branch.1"), last=("*.to_out", "*.branch.4"))
)
EXPECTED["tabtransformer"] = (
    {"shared_category_embed": INPUT, "categorical_embeds.*": INPUT, "special_token_embed.*": UNUSED, "norm.*": VECTOR}
    | blocks("transformer.layers.*.", inner=("*.to_qkv", "*.net.0"), last=("*.to_out", "*.net.3"))
    | {"mlp.layers.*.bias": VECTOR, "mlp.layers.*.0.weight": _BY_SHAPE}
    | {"mlp.layers.2.weight": replace(OUTPUT, by_shape=True), "mlp.layers.2.bias": SCALAR}
)

# --- litgpt ---
_LITGPT_ENDS = ends(("transformer.wte",), ("lm_head",), ("transformer.ln_f",))
_LITGPT_NAMES = {"inner": ("attn.qkv", "mlp.fc", "mlp.fc_?"), "last": ("attn.proj", "mlp.proj")}
EXPECTED["litgpt_pythia"] = EXPECTED["litgpt_llama"] = _LITGPT_ENDS | blocks("transformer.h.*.", **_LITGPT_NAMES)
EXPECTED["litgpt_gemma2"] = (
    _LITGPT_ENDS
    | blocks("transformer.h.*.", **_LITGPT_NAMES, carriers=("post_attention_norm", "post_mlp_norm"))
    | {"transformer.wte.weight": TIMES_ROOT}
)

# --- performer-pytorch ---
EXPECTED["performer"] = ends(("token_emb", "pos_emb.emb"), ("to_out",), ("norm.",)) | blocks(
    "performer.net.layers.*.", inner=("*.to_[qkv]", "*.w1"), last=("*.to_out", "*.w2")
)

# --- torch ---
EXPECTED["torch_encoder"] = (
    ends(("embedding",), ("readout",))
    | blocks("inner.layers.*.", inner=("linear1",), last=("self_attn.out_proj", "linear2"))
    | {"*.self_attn.in_proj_weight": INNER}
)
EXPECTED["torch_lstm"] = EXPECTED["torch_gru"] = ends(("embedding",), ("readout",)) | {
    "inner.bias_*": VECTOR,
    "inner.weight_*": HIDDEN,
}


def rows_of(name: str, depth: int) -> Rows:
    """A model's rows, with the indices that its depth gives to its last layer and to its third stage."""
    indices = {"{last}": str(depth), "{third}": str(depth + 2)}
    rows: Rows = {}
    for pattern, row in EXPECTED[name].items():
        for placeholder, index in indices.items():
            pattern = pattern.replace(placeholder, index)
        rows[pattern] = row
    return rows
