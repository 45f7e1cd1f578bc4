"""Real architectures at any width and depth, tiny and with random weights.

`width` is the size of the residual stream (of the first stage, in a convolutional net), `depth` the number of layers
as the model's own configuration counts them (per stage, in a convolutional net). Heads keep their size, so their
number grows. What a model does with its inputs besides is its own affair: nothing here is made for isoscale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from plain_models import MLPMixer, TextEncoder, UNet
from torch import Tensor, nn
from torch.nn import functional as F

import isoscale

BATCH, TOKENS, VOCABULARY, CLASSES, PIXELS, HEAD = 2, 4, 40, 10, 8, 16
# The gain of the norm that ends a ResNet block. At 1, its default, each of the base's four branches is as loud as the
# stream, and the stream's size changes with depth; at 0, which is usual (Goyal et al. 2017, arXiv 1706.02677), few
# steps do not open the branches, and no rule can be told from another.
QUIET = 0.25


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """An architecture, and where to look at it.

    Attributes:
        make: (width, depth) -> model.
        inputs: Seed -> keyword arguments of `forward`.
        targets: Seed -> what the logits are to say.
        stream: Name of the module whose input is the end of the residual stream.
        readout: Name of the module whose output is the logits.
        width, depth, lr: Of the base; lr for AdamW.
        loss: (logits, targets) -> scalar.
    """

    make: Callable[[int, int], nn.Module]
    inputs: Callable[[int], dict[str, Tensor]]
    targets: Callable[[int], Tensor]
    stream: str
    readout: str
    width: int = 64
    depth: int = 2
    lr: float = 1e-4
    loss: Callable[[Tensor, Tensor], Tensor] = lambda out, y: F.cross_entropy(out.flatten(0, -2), y.flatten())


# --- data: synthetic, the same at every size ---
def _integers(seed: int, below: int, *shape: int) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _text(seed: int) -> dict[str, Tensor]:
    return {"input_ids": _integers(seed, VOCABULARY, BATCH, TOKENS)}


def _next_tokens(seed: int) -> Tensor:
    return _integers(seed + 1, VOCABULARY, BATCH, TOKENS)


def _images(seed: int) -> dict[str, Tensor]:
    return {"pixel_values": _normal(seed, BATCH, 3, PIXELS, PIXELS)}


def _labels(seed: int) -> Tensor:
    return _integers(seed + 1, CLASSES, BATCH)


# --- transformers ---
def gpt2(width: int, depth: int, *, tied: bool = False) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_embd=width, n_layer=depth, n_head=width // HEAD, vocab_size=VOCABULARY, n_positions=TOKENS,
        tie_word_embeddings=tied, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, use_cache=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def tied_gpt2(width: int, depth: int) -> nn.Module:
    model = gpt2(width, depth, tied=True)
    isoscale.Multiplier.before(model.get_submodule("lm_head"))
    return model


def _llama_sizes(width: int, depth: int) -> dict[str, Any]:
    """Grouped queries: half as many key-value heads as heads."""
    return {
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": depth, "vocab_size": VOCABULARY,
        "num_attention_heads": width // HEAD, "num_key_value_heads": width // HEAD // 2, "use_cache": False,
        "max_position_embeddings": TOKENS, "tie_word_embeddings": False,
    }  # fmt: skip


def llama(width: int, depth: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_llama_sizes(width, depth)))


def mixtral(width: int, depth: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = _llama_sizes(width, depth) | {"num_local_experts": 4, "num_experts_per_tok": 2}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes))


def bert(width: int, depth: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=depth, num_attention_heads=width // HEAD,
        vocab_size=VOCABULARY, max_position_embeddings=TOKENS, num_labels=CLASSES,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def vit(width: int, depth: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=depth, num_attention_heads=width // HEAD,
        image_size=PIXELS, patch_size=4, num_labels=CLASSES,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def resnet(width: int, depth: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=width, hidden_sizes=[width, 2 * width], depths=[depth, depth], layer_type="basic",
        num_labels=CLASSES,
    )  # fmt: skip
    model = transformers.ResNetForImageClassification(config)
    for name, parameter in model.named_parameters():
        if name.endswith("layer.1.normalization.weight"):
            nn.init.constant_(parameter, QUIET)
    return model


def convnext(width: int, depth: int, *, layer_scale: float = 1.0) -> nn.Module:
    """LayerScale starts at 1: at its default, 1e-6, the branches are shut for longer than a check lasts."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(
        hidden_sizes=[width, 2 * width], depths=[depth, depth], num_stages=2, patch_size=2, num_labels=CLASSES,
        layer_scale_init_value=layer_scale,
    )  # fmt: skip
    return transformers.ConvNextForImageClassification(config)


# --- plain torch ---
def encoder(width: int, depth: int) -> nn.Module:
    return TextEncoder(VOCABULARY, TOKENS, CLASSES, width, depth, heads=width // HEAD)


def unet(width: int, depth: int) -> nn.Module:
    return UNet(3, width, depth)


def mixer(width: int, depth: int) -> nn.Module:
    return MLPMixer(3, CLASSES, PIXELS // 2, width, depth)


ZOO: Mapping[str, Specimen] = {
    "gpt2": Specimen(make=gpt2, inputs=_text, targets=_next_tokens, stream="transformer.ln_f", readout="lm_head"),
    "tied gpt2": Specimen(
        make=tied_gpt2, inputs=_text, targets=_next_tokens, stream="transformer.ln_f", readout="lm_head"
    ),
    "llama": Specimen(make=llama, inputs=_text, targets=_next_tokens, stream="model.norm", readout="lm_head"),
    "mixtral": Specimen(make=mixtral, inputs=_text, targets=_next_tokens, stream="model.norm", readout="lm_head"),
    "bert": Specimen(make=bert, inputs=_text, targets=_labels, stream="bert.pooler", readout="classifier"),
    "vit": Specimen(make=vit, inputs=_images, targets=_labels, stream="vit.layernorm", readout="classifier"),
    "resnet": Specimen(
        make=resnet,
        inputs=lambda seed: {"pixel_values": _normal(seed, 8, 3, 16, 16)},
        targets=lambda seed: _integers(seed + 1, CLASSES, 8),
        stream="resnet.pooler",
        readout="classifier",
        width=32,
        lr=1e-3,
    ),
    "convnext": Specimen(
        make=convnext, inputs=_images, targets=_labels, stream="convnext.layernorm", readout="classifier", width=32
    ),
    "encoder": Specimen(make=encoder, inputs=_text, targets=_labels, stream="norm", readout="readout"),
    "unet": Specimen(
        make=unet,
        inputs=lambda seed: {"x": _normal(seed, BATCH, 3, 4, 4), "time": _integers(seed, 100, BATCH).float()},
        targets=lambda seed: _normal(seed + 1, BATCH, 3, 4, 4),
        stream="norm",
        readout="readout",
        width=32,
        loss=F.mse_loss,
    ),
    "mixer": Specimen(make=mixer, inputs=_images, targets=_labels, stream="norm", readout="readout"),
}
