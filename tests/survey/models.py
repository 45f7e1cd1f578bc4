"""Public models at any width and depth, tiny, unmodified, and drawn from their configurations.

`width` is the size of the residual stream (of the first stage, in a staged net), `depth` the number of blocks as the
model's own configuration counts them (per stage, in a staged net). Heads keep their size, so their number grows, and
so do all inner widths. What does not grow is what users do not grow: vocabulary, classes, experts, kernels, states.

A factory imports its package when it is called, so that a package that is not installed skips its own models alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

HEAD = 8
VOCABULARY, TOKENS, CLASSES, PIXELS, BATCH = 31, 6, 3, 16, 2

Make = Callable[[int, int], nn.Module]
Inputs = tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One public model.

    Attributes:
        package: What it is installed from.
        make: (width, depth) -> model, freshly initialised.
        inputs: Arguments of its forward.
        width, depth: The base's sizes.
        deeper: By what the number of residual branches grows where `depth` grows by four: not by four if there are
            blocks that the depth does not count, or if a stage's first block has no skip.
    """

    package: str
    make: Make
    inputs: Callable[[], Inputs]
    width: int = 32
    depth: int = 2
    deeper: float = 4

    @property
    def module(self) -> str:
        """What one imports of the package."""
        return self.package.replace("-", "_")


SUBJECTS: dict[str, Subject] = {}


def subject(package: str, inputs: Callable[[], Inputs], **sizes: Any) -> Callable[[Make], Make]:
    """Enter a factory under its own name."""

    def enter(make: Make) -> Make:
        SUBJECTS[make.__name__] = Subject(package=package, make=make, inputs=inputs, **sizes)
        return make

    return enter


# --- example inputs ---
def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def tokens() -> Tensor:
    return torch.randint(3, VOCABULARY, (BATCH, TOKENS), generator=_generator())


def normal(*shape: int) -> Tensor:
    return torch.randn(BATCH, *shape, generator=_generator())


def text() -> Inputs:
    return {"input_ids": tokens()}


def two_texts() -> Inputs:
    return {"input_ids": tokens(), "decoder_input_ids": tokens()}


def image() -> Inputs:
    return (normal(3, PIXELS, PIXELS),)


def larger_image() -> Inputs:
    return (normal(3, 2 * PIXELS, 2 * PIXELS),)


def large_image() -> Inputs:
    return (normal(3, 4 * PIXELS, 4 * PIXELS),)


# --- packages ---
# Kept for as long as the process lives: what it defines goes with it.
_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")


def package(name: str) -> Any:
    """The module of that name; skips the test if it is not installed."""
    if importlib.util.find_spec("torchvision"):
        _define_box_operators()
    return pytest.importorskip(name)


def _define_box_operators() -> None:
    """torchvision's wheel does not load its kernels beside torch's CPU build, and its import misses their names.

    No model here calls them.
    """
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


# --- transformers ---
def _transformers(model: str, config: str, **sizes: Any) -> nn.Module:
    transformers = package("transformers")
    return getattr(transformers, model)(getattr(transformers, f"{config}Config")(**sizes))


SPECIAL_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _usual(width: int, depth: int) -> dict[str, Any]:
    """What most configurations of language models call their sizes."""
    return SPECIAL_TOKENS | {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // HEAD,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4 * TOKENS,
        "tie_word_embeddings": False,
        "use_cache": False,
    }


def _grouped(width: int, depth: int) -> dict[str, Any]:
    """The same, two heads' queries sharing keys and values."""
    return _usual(width, depth) | {"num_key_value_heads": width // HEAD // 2}


def _decoder(name: str, **options: Any) -> None:
    """A causal language model whose configuration has the usual names."""

    def make(width: int, depth: int) -> nn.Module:
        return _transformers(f"{name}ForCausalLM", name, **_grouped(width, depth) | options)

    SUBJECTS[name.lower()] = Subject(package="transformers", make=make, inputs=text)


def _encoder(name: str, model: str | None = None, **options: Any) -> None:
    """A text encoder with a classifier, likewise."""

    def make(width: int, depth: int) -> nn.Module:
        sizes = _usual(width, depth) | {"num_labels": CLASSES} | options
        return _transformers(model or f"{name}ForSequenceClassification", name, **sizes)

    SUBJECTS[name.lower()] = Subject(package="transformers", make=make, inputs=text)


def _vision(name: str, model: str | None = None, **options: Any) -> None:
    """An image classifier of the ViT family, likewise."""

    def make(width: int, depth: int) -> nn.Module:
        sizes = _usual(width, depth) | {"image_size": PIXELS, "patch_size": 4, "num_labels": CLASSES} | options
        for text_only in ("vocab_size", "max_position_embeddings", "use_cache", *SPECIAL_TOKENS):
            del sizes[text_only]
        return _transformers(model or f"{name}ForImageClassification", name, **sizes)

    SUBJECTS[name.lower()] = Subject(package="transformers", make=make, inputs=image)


for _name in ("Llama", "Mistral", "Qwen2", "StableLm", "Olmo", "Olmo2", "Starcoder2", "Granite", "Nemotron", "SmolLM3"):
    _decoder(_name)
for _name in ("Gemma", "Qwen3", "Glm4", "Helium"):
    _decoder(_name, head_dim=HEAD)
_decoder("Gemma2", head_dim=HEAD, query_pre_attn_scalar=HEAD)
_decoder("Phi3", pad_token_id=0)
_decoder("Phi")
_decoder("Persimmon")
_decoder("Cohere")
_decoder("Cohere2", layer_types=None)
_decoder("Mixtral", num_local_experts=4)


@subject("transformers", text)
def gemma3(width: int, depth: int) -> nn.Module:
    sizes = _grouped(width, depth) | {"head_dim": HEAD, "query_pre_attn_scalar": HEAD}
    return _transformers("Gemma3ForCausalLM", "Gemma3Text", **sizes)


@subject("transformers", text)
def qwen2moe(width: int, depth: int) -> nn.Module:
    sizes = _grouped(width, depth) | {"moe_intermediate_size": width, "shared_expert_intermediate_size": width}
    return _transformers("Qwen2MoeForCausalLM", "Qwen2Moe", **sizes, num_experts=4, num_experts_per_tok=2)


@subject("transformers", text)
def qwen3moe(width: int, depth: int) -> nn.Module:
    sizes = _grouped(width, depth) | {"moe_intermediate_size": width, "head_dim": HEAD}
    return _transformers("Qwen3MoeForCausalLM", "Qwen3Moe", **sizes, num_experts=4, num_experts_per_tok=2)


@subject("transformers", text)
def olmoe(width: int, depth: int) -> nn.Module:
    return _transformers("OlmoeForCausalLM", "Olmoe", **_grouped(width, depth), num_experts=4, num_experts_per_tok=2)


def _latent_attention(width: int, depth: int) -> dict[str, Any]:
    """Queries, keys and values through latents whose sizes grow with the width; experts from the first block on."""
    return _usual(width, depth) | {
        "q_lora_rank": width // 2,
        "kv_lora_rank": width // 2,
        "qk_rope_head_dim": HEAD,
        "qk_nope_head_dim": HEAD,
        "v_head_dim": HEAD,
        "num_key_value_heads": width // HEAD,
        "moe_intermediate_size": width,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 0,
        "n_group": 1,
        "topk_group": 1,
    }


@subject("transformers", text)
def deepseekv2(width: int, depth: int) -> nn.Module:
    return _transformers("DeepseekV2ForCausalLM", "DeepseekV2", **_latent_attention(width, depth))


@subject("transformers", text)
def deepseekv3(width: int, depth: int) -> nn.Module:
    return _transformers("DeepseekV3ForCausalLM", "DeepseekV3", **_latent_attention(width, depth))


@subject("transformers", text)
def gptoss(width: int, depth: int) -> nn.Module:
    sizes = _grouped(width, depth) | {"head_dim": HEAD, "num_local_experts": 4, "num_experts_per_tok": 2}
    return _transformers("GptOssForCausalLM", "GptOss", **sizes)


@subject("transformers", text)
def gpt2(width: int, depth: int) -> nn.Module:
    sizes = {"n_embd": width, "n_layer": depth, "n_head": width // HEAD, "n_positions": 4 * TOKENS}
    sizes |= {"vocab_size": VOCABULARY, "tie_word_embeddings": False, "use_cache": False} | SPECIAL_TOKENS
    return _transformers("GPT2LMHeadModel", "GPT2", **sizes)


@subject("transformers", text)
def gpt2_tied(width: int, depth: int) -> nn.Module:
    sizes = {"n_embd": width, "n_layer": depth, "n_head": width // HEAD, "n_positions": 4 * TOKENS}
    sizes |= {"vocab_size": VOCABULARY, "use_cache": False} | SPECIAL_TOKENS
    return _transformers("GPT2LMHeadModel", "GPT2", **sizes)


@subject("transformers", text)
def gptbigcode(width: int, depth: int) -> nn.Module:
    """One head of keys and values for all queries."""
    sizes = {"n_embd": width, "n_layer": depth, "n_head": width // HEAD, "n_positions": 4 * TOKENS}
    sizes |= {"vocab_size": VOCABULARY, "tie_word_embeddings": False, "use_cache": False} | SPECIAL_TOKENS
    return _transformers("GPTBigCodeForCausalLM", "GPTBigCode", **sizes)


@subject("transformers", text)
def gptneo(width: int, depth: int) -> nn.Module:
    sizes = {"hidden_size": width, "num_layers": depth, "num_heads": width // HEAD, "intermediate_size": 2 * width}
    sizes |= {"attention_types": [[["global", "local"], depth // 2]], "max_position_embeddings": 4 * TOKENS}
    sizes |= {"vocab_size": VOCABULARY, "tie_word_embeddings": False, "use_cache": False} | SPECIAL_TOKENS
    return _transformers("GPTNeoForCausalLM", "GPTNeo", **sizes)


@subject("transformers", text)
def gptneox(width: int, depth: int) -> nn.Module:
    return _transformers("GPTNeoXForCausalLM", "GPTNeoX", **_usual(width, depth))


@subject("transformers", text)
def gptj(width: int, depth: int) -> nn.Module:
    sizes = {"n_embd": width, "n_layer": depth, "n_head": width // HEAD, "n_positions": 4 * TOKENS, "rotary_dim": 4}
    sizes |= {"vocab_size": VOCABULARY, "tie_word_embeddings": False, "use_cache": False} | SPECIAL_TOKENS
    return _transformers("GPTJForCausalLM", "GPTJ", **sizes)


@subject("transformers", text)
def codegen(width: int, depth: int) -> nn.Module:
    sizes = {"n_embd": width, "n_layer": depth, "n_head": width // HEAD, "n_positions": 4 * TOKENS, "rotary_dim": 4}
    sizes |= {"vocab_size": VOCABULARY, "tie_word_embeddings": False, "use_cache": False} | SPECIAL_TOKENS
    return _transformers("CodeGenForCausalLM", "CodeGen", **sizes)


@subject("transformers", text)
def opt(width: int, depth: int) -> nn.Module:
    sizes = _usual(width, depth) | {"ffn_dim": 2 * width, "word_embed_proj_dim": width}
    return _transformers("OPTForCausalLM", "OPT", **sizes)


@subject("transformers", text)
def bloom(width: int, depth: int) -> nn.Module:
    sizes = {"hidden_size": width, "n_layer": depth, "n_head": width // HEAD, "vocab_size": VOCABULARY}
    sizes |= {"tie_word_embeddings": False, "use_cache": False} | SPECIAL_TOKENS
    return _transformers("BloomForCausalLM", "Bloom", **sizes)


@subject("transformers", text)
def falcon(width: int, depth: int) -> nn.Module:
    """Attention and MLP side by side, one head of keys and values."""
    return _transformers("FalconForCausalLM", "Falcon", **_usual(width, depth))


@subject("transformers", text)
def mpt(width: int, depth: int) -> nn.Module:
    sizes = {"d_model": width, "n_layers": depth, "n_heads": width // HEAD, "max_seq_len": 4 * TOKENS}
    sizes |= {"vocab_size": VOCABULARY, "tie_word_embeddings": False, "use_cache": False} | SPECIAL_TOKENS
    return _transformers("MptForCausalLM", "Mpt", **sizes)


@subject("transformers", text)
def xglm(width: int, depth: int) -> nn.Module:
    sizes = {"d_model": width, "num_layers": depth, "attention_heads": width // HEAD, "ffn_dim": 2 * width}
    sizes |= {"vocab_size": VOCABULARY, "tie_word_embeddings": False, "use_cache": False} | SPECIAL_TOKENS
    return _transformers("XGLMForCausalLM", "XGLM", **sizes, max_position_embeddings=4 * TOKENS)


@subject("transformers", text)
def ctrl(width: int, depth: int) -> nn.Module:
    sizes = {"n_embd": width, "n_layer": depth, "n_head": width // HEAD, "dff": 2 * width, "n_positions": 4 * TOKENS}
    sizes |= {"vocab_size": VOCABULARY, "tie_word_embeddings": False, "use_cache": False} | SPECIAL_TOKENS
    return _transformers("CTRLLMHeadModel", "CTRL", **sizes)


@subject("transformers", text)
def biogpt(width: int, depth: int) -> nn.Module:
    return _transformers("BioGptForCausalLM", "BioGpt", **_usual(width, depth))


@subject("transformers", text)
def openaigpt(width: int, depth: int) -> nn.Module:
    sizes = {"n_embd": width, "n_layer": depth, "n_head": width // HEAD, "n_positions": 4 * TOKENS}
    sizes |= {"vocab_size": VOCABULARY, "tie_word_embeddings": False} | SPECIAL_TOKENS
    return _transformers("OpenAIGPTLMHeadModel", "OpenAIGPT", **sizes)


@subject("transformers", text)
def mamba(width: int, depth: int) -> nn.Module:
    """The rank of the time steps is fixed, as the state is."""
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "vocab_size": VOCABULARY, "time_step_rank": 2}
    sizes |= {"state_size": 4, "tie_word_embeddings": False, "use_cache": False} | SPECIAL_TOKENS
    return _transformers("MambaForCausalLM", "Mamba", **sizes)


@subject("transformers", text)
def mamba2(width: int, depth: int) -> nn.Module:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "vocab_size": VOCABULARY, "head_dim": HEAD}
    sizes |= {"state_size": 4, "num_heads": 2 * width // HEAD, "n_groups": 1, "chunk_size": TOKENS}
    sizes |= {"tie_word_embeddings": False, "use_cache": False} | SPECIAL_TOKENS
    return _transformers("Mamba2ForCausalLM", "Mamba2", **sizes)


@subject("transformers", text, depth=3)
def recurrentgemma(width: int, depth: int) -> nn.Module:
    sizes = _grouped(width, depth) | {"lru_width": width, "head_dim": HEAD, "num_key_value_heads": 1}
    return _transformers("RecurrentGemmaForCausalLM", "RecurrentGemma", **sizes)


@subject("transformers", text)
def rwkv(width: int, depth: int) -> nn.Module:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "vocab_size": VOCABULARY, "attention_hidden_size": width}
    sizes |= {"intermediate_size": 2 * width, "context_length": TOKENS, "use_cache": False} | SPECIAL_TOKENS
    return _transformers("RwkvForCausalLM", "Rwkv", **sizes)


@subject("transformers", text)
def nanochat(width: int, depth: int) -> nn.Module:
    """Norms without scales, squared ReLU, soft-capped logits."""
    return _transformers("NanoChatForCausalLM", "NanoChat", **_grouped(width, depth))


@subject("transformers", text)
def lfm2(width: int, depth: int) -> nn.Module:
    """Gated short convolutions and attention, half and half."""
    kinds = ["conv", "full_attention"] * (depth // 2)
    sizes = _grouped(width, depth) | {"layer_types": kinds, "block_auto_adjust_ff_dim": False}
    return _transformers("Lfm2ForCausalLM", "Lfm2", **sizes)


@subject("transformers", text)
def reformer(width: int, depth: int) -> nn.Module:
    """Reversible: two streams, each the other's branch."""
    sizes = {"hidden_size": width, "attn_layers": ["local"] * depth, "feed_forward_size": 2 * width}
    sizes |= {"num_attention_heads": width // HEAD, "attention_head_size": HEAD, "vocab_size": VOCABULARY}
    sizes |= {"axial_pos_embds": False, "max_position_embeddings": 24, "local_attn_chunk_length": TOKENS}
    sizes |= {"is_decoder": True, "use_cache": False, "tie_word_embeddings": False} | SPECIAL_TOKENS
    return _transformers("ReformerModelWithLMHead", "Reformer", **sizes)


_encoder("Bert")
_encoder("Roberta")
_encoder("Electra", embedding_size=16)
_encoder("Albert", embedding_size=16)
_encoder("RoFormer", embedding_size=16)
_encoder("FNet")
_encoder("Nystromformer", num_landmarks=2, segment_means_seq_len=TOKENS)
_encoder("MPNet")
_encoder("Esm", position_embedding_type="rotary", mask_token_id=3)
_encoder("Deberta", relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=8)
_encoder("DebertaV2", relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=4)
_encoder("ModernBert", cls_token_id=1, sep_token_id=2)


@subject("transformers", text)
def distilbert(width: int, depth: int) -> nn.Module:
    sizes = {"dim": width, "n_layers": depth, "n_heads": width // HEAD, "hidden_dim": 2 * width}
    sizes |= {"vocab_size": VOCABULARY, "num_labels": CLASSES, "max_position_embeddings": 4 * TOKENS}
    return _transformers("DistilBertForSequenceClassification", "DistilBert", **sizes)


@subject("transformers", text)
def mobilebert(width: int, depth: int) -> nn.Module:
    sizes = _usual(width, depth) | {"embedding_size": 16, "intra_bottleneck_size": width // 2, "num_labels": CLASSES}
    sizes |= {"num_attention_heads": width // 2 // HEAD}
    return _transformers("MobileBertForSequenceClassification", "MobileBert", **sizes)


@subject("transformers", text)
def xlnet(width: int, depth: int) -> nn.Module:
    sizes = {"d_model": width, "n_layer": depth, "n_head": width // HEAD, "d_inner": 2 * width}
    return _transformers("XLNetForSequenceClassification", "XLNet", **sizes, vocab_size=VOCABULARY, num_labels=CLASSES)


def _t5_sizes(width: int, depth: int) -> dict[str, Any]:
    return SPECIAL_TOKENS | {
        "d_model": width,
        "d_kv": HEAD,
        "d_ff": 2 * width,
        "num_layers": depth,
        "num_heads": width // HEAD,
        "vocab_size": VOCABULARY,
        "decoder_start_token_id": 0,
        "use_cache": False,
    }


@subject("transformers", two_texts)
def t5(width: int, depth: int) -> nn.Module:
    return _transformers("T5ForConditionalGeneration", "T5", **_t5_sizes(width, depth))


@subject("transformers", two_texts)
def umt5(width: int, depth: int) -> nn.Module:
    return _transformers("UMT5ForConditionalGeneration", "UMT5", **_t5_sizes(width, depth))


def _bart_sizes(width: int, depth: int) -> dict[str, Any]:
    """Encoder and decoder of one depth."""
    sizes = {}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": depth, f"{side}_attention_heads": width // HEAD, f"{side}_ffn_dim": 2 * width}
    return (
        sizes
        | SPECIAL_TOKENS
        | {"d_model": width, "vocab_size": VOCABULARY, "max_position_embeddings": 4 * TOKENS, "use_cache": False}
        | {"decoder_start_token_id": 1, "tie_word_embeddings": False}
    )


@subject("transformers", two_texts)
def bart(width: int, depth: int) -> nn.Module:
    return _transformers("BartForConditionalGeneration", "Bart", **_bart_sizes(width, depth))


@subject("transformers", two_texts)
def marian(width: int, depth: int) -> nn.Module:
    return _transformers("MarianMTModel", "Marian", **_bart_sizes(width, depth), scale_embedding=True)


@subject("transformers", two_texts)
def pegasus(width: int, depth: int) -> nn.Module:
    return _transformers("PegasusForConditionalGeneration", "Pegasus", **_bart_sizes(width, depth))


@subject("transformers", two_texts)
def m2m100(width: int, depth: int) -> nn.Module:
    return _transformers("M2M100ForConditionalGeneration", "M2M100", **_bart_sizes(width, depth))


def spectrogram_and_text() -> Inputs:
    return {"input_features": normal(5, 8), "decoder_input_ids": tokens()}


@subject("transformers", spectrogram_and_text)
def whisper(width: int, depth: int) -> nn.Module:
    sizes = _bart_sizes(width, depth) | {"num_mel_bins": 5, "max_source_positions": 4, "max_target_positions": 8}
    return _transformers("WhisperForConditionalGeneration", "Whisper", **sizes)


def sound() -> Inputs:
    return (normal(160),)


@subject("transformers", sound)
def wav2vec2(width: int, depth: int) -> nn.Module:
    sizes = _usual(width, depth) | {"conv_dim": (width, width), "conv_kernel": (10, 3), "conv_stride": (5, 2)}
    sizes |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    return _transformers("Wav2Vec2ForCTC", "Wav2Vec2", **sizes, layerdrop=0.0, apply_spec_augment=False)


@subject("transformers", sound)
def hubert(width: int, depth: int) -> nn.Module:
    sizes = _usual(width, depth) | {"conv_dim": (width, width), "conv_kernel": (10, 3), "conv_stride": (5, 2)}
    sizes |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    return _transformers("HubertForCTC", "Hubert", **sizes, layerdrop=0.0, apply_spec_augment=False)


def spectrogram() -> Inputs:
    return (normal(16, 16),)


@subject("transformers", spectrogram)
def audiospectrogram(width: int, depth: int) -> nn.Module:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // HEAD}
    sizes |= {"intermediate_size": 2 * width, "patch_size": 4, "frequency_stride": 4, "time_stride": 4}
    sizes |= {"max_length": 16, "num_mel_bins": 16, "num_labels": CLASSES}
    return _transformers("ASTForAudioClassification", "AST", **sizes)


_vision("ViT")
_vision("DeiT")
_vision("Beit", use_relative_position_bias=True, layer_scale_init_value=0.1)
_vision("Dinov2")
_vision("ViTMSN")
_vision("SiglipVision", "SiglipVisionModel")


def _staged(width: int, depth: int) -> dict[str, Any]:
    return {"hidden_sizes": [width, 2 * width], "depths": [depth, depth], "num_labels": CLASSES}


@subject("transformers", image)
def convnext_hf(width: int, depth: int) -> nn.Module:
    return _transformers("ConvNextForImageClassification", "ConvNext", **_staged(width, depth), num_stages=2)


@subject("transformers", image)
def convnextv2_hf(width: int, depth: int) -> nn.Module:
    return _transformers("ConvNextV2ForImageClassification", "ConvNextV2", **_staged(width, depth), num_stages=2)


@subject("transformers", image)
def resnet_hf(width: int, depth: int) -> nn.Module:
    sizes = _staged(width, depth) | {"embedding_size": width}
    return _transformers("ResNetForImageClassification", "ResNet", **sizes, layer_type="bottleneck")


@subject("transformers", image)
def regnet_hf(width: int, depth: int) -> nn.Module:
    sizes = _staged(width, depth) | {"embedding_size": width, "groups_width": HEAD}
    return _transformers("RegNetForImageClassification", "RegNet", **sizes, layer_type="y")


@subject("transformers", larger_image)
def swin_hf(width: int, depth: int) -> nn.Module:
    sizes = {"embed_dim": width, "depths": [depth, depth], "num_heads": [width // HEAD, width // HEAD * 2]}
    sizes |= {"image_size": 2 * PIXELS, "patch_size": 4, "window_size": 2, "num_labels": CLASSES}
    return _transformers("SwinForImageClassification", "Swin", **sizes)


@subject("transformers", larger_image)
def swinv2_hf(width: int, depth: int) -> nn.Module:
    sizes = {"embed_dim": width, "depths": [depth, depth], "num_heads": [width // HEAD, width // HEAD * 2]}
    sizes |= {"image_size": 2 * PIXELS, "patch_size": 4, "window_size": 2, "num_labels": CLASSES}
    return _transformers("Swinv2ForImageClassification", "Swinv2", **sizes)


@subject("transformers", larger_image)
def segformer(width: int, depth: int) -> nn.Module:
    sizes = {"num_encoder_blocks": 2, "depths": [depth, depth], "hidden_sizes": [width, 2 * width]}
    sizes |= {"sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2]}
    sizes |= {"num_attention_heads": [width // HEAD, width // HEAD * 2], "decoder_hidden_size": width}
    return _transformers("SegformerForSemanticSegmentation", "Segformer", **sizes, num_labels=CLASSES)


@subject("transformers", larger_image)
def poolformer_hf(width: int, depth: int) -> nn.Module:
    sizes = {"num_encoder_blocks": 2, "depths": [depth, depth], "hidden_sizes": [width, 2 * width]}
    sizes |= {"patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1], "num_labels": CLASSES}
    return _transformers("PoolFormerForImageClassification", "PoolFormer", **sizes)


@subject("transformers", larger_image)
def pvt(width: int, depth: int) -> nn.Module:
    sizes = {"num_encoder_blocks": 2, "depths": [depth, depth], "hidden_sizes": [width, 2 * width]}
    sizes |= {"sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2], "strides": [4, 2], "mlp_ratios": [2, 2]}
    sizes |= {"num_attention_heads": [width // HEAD, width // HEAD * 2], "image_size": 2 * PIXELS}
    return _transformers("PvtForImageClassification", "Pvt", **sizes, num_labels=CLASSES)


def image_and_text() -> Inputs:
    return {"input_ids": tokens(), "pixel_values": normal(3, PIXELS, PIXELS)}


@subject("transformers", image_and_text)
def clip(width: int, depth: int) -> nn.Module:
    sizes = _usual(width, depth) | {"projection_dim": width}
    vision = sizes | {"image_size": PIXELS, "patch_size": 4}
    return _transformers("CLIPModel", "CLIP", text_config=sizes, vision_config=vision, projection_dim=width)


def film() -> Inputs:
    return (normal(2, 3, PIXELS, PIXELS),)


@subject("transformers", film)
def timesformer(width: int, depth: int) -> nn.Module:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // HEAD}
    sizes |= {"intermediate_size": 2 * width, "image_size": PIXELS, "patch_size": 4, "num_frames": 2}
    return _transformers("TimesformerForVideoClassification", "Timesformer", **sizes, num_labels=CLASSES)


@subject("transformers", film)
def videomae(width: int, depth: int) -> nn.Module:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // HEAD}
    sizes |= {"intermediate_size": 2 * width, "image_size": PIXELS, "patch_size": 4, "num_frames": 2}
    return _transformers("VideoMAEForVideoClassification", "VideoMAE", **sizes, num_labels=CLASSES)


@subject("transformers", large_image, depth=3, deeper=83 / 20)
def detr(width: int, depth: int) -> nn.Module:
    transformers = package("transformers")
    stages = {
        "embedding_size": width,
        "hidden_sizes": [width, width],
        "depths": [depth, depth],
        "out_features": ["stage2"],
    }
    sizes = _bart_sizes(width, depth) | {"num_queries": 5, "num_labels": CLASSES}
    for text_only in ("vocab_size", "max_position_embeddings", "use_cache", "decoder_start_token_id", *SPECIAL_TOKENS):
        del sizes[text_only]
    backbone = transformers.ResNetConfig(**stages)
    return _transformers("DetrForObjectDetection", "Detr", **sizes, backbone_config=backbone)


def states() -> Inputs:
    steps = torch.arange(4).expand(BATCH, 4)
    return {
        "states": normal(4, 5),
        "actions": normal(4, 2),
        "rewards": normal(4, 1),
        "returns_to_go": normal(4, 1),
        "timesteps": steps,
        "attention_mask": torch.ones(BATCH, 4),
    }


@subject("transformers", states)
def decisiontransformer(width: int, depth: int) -> nn.Module:
    sizes = {"hidden_size": width, "n_layer": depth, "n_head": width // HEAD, "state_dim": 5, "act_dim": 2}
    return _transformers("DecisionTransformerModel", "DecisionTransformer", **sizes, max_ep_len=9, n_positions=32)
