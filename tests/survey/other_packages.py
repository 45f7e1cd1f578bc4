"""Public models of packages beside transformers: images, graphs, diffusion, tables, language."""

from __future__ import annotations

import torch
from torch import nn

from models import (
    CLASSES,
    HEAD,
    PIXELS,
    TOKENS,
    VOCABULARY,
    Inputs,
    image,
    large_image,
    larger_image,
    normal,
    package,
    subject,
    tokens,
)


# --- timm ---
@subject("timm", image)
def timm_vit(width: int, depth: int) -> nn.Module:
    vit = package("timm.models.vision_transformer")
    sizes = {"embed_dim": width, "depth": depth, "num_heads": width // HEAD}
    return vit.VisionTransformer(img_size=PIXELS, patch_size=4, num_classes=CLASSES, **sizes)


@subject("timm", image)
def timm_deit3(width: int, depth: int) -> nn.Module:
    """LayerScale, and a class token without a position."""
    vit = package("timm.models.vision_transformer")
    sizes = {"embed_dim": width, "depth": depth, "num_heads": width // HEAD, "init_values": 0.1}
    return vit.VisionTransformer(img_size=PIXELS, patch_size=4, num_classes=CLASSES, no_embed_class=True, **sizes)


@subject("timm", image)
def timm_beit(width: int, depth: int) -> nn.Module:
    beit = package("timm.models.beit")
    sizes = {"embed_dim": width, "depth": depth, "num_heads": width // HEAD, "init_values": 0.1}
    return beit.Beit(img_size=PIXELS, patch_size=4, num_classes=CLASSES, use_rel_pos_bias=True, **sizes)


@subject("timm", image)
def timm_eva(width: int, depth: int) -> nn.Module:
    """Rotary positions and a gated MLP with an inner norm."""
    eva = package("timm.models.eva")
    sizes = {"embed_dim": width, "depth": depth, "num_heads": width // HEAD, "mlp_ratio": 2.0}
    return eva.Eva(
        img_size=PIXELS,
        patch_size=4,
        num_classes=CLASSES,
        swiglu_mlp=True,
        scale_mlp=True,
        use_rot_pos_emb=True,
        **sizes,
    )


@subject("timm", image, deeper=31 / 7)
def timm_cait(width: int, depth: int) -> nn.Module:
    """Talking heads; blocks for the class token alone, whose first attention begins its stream."""
    cait = package("timm.models.cait")
    sizes = {"embed_dim": width, "depth": depth, "depth_token_only": depth, "num_heads": width // HEAD}
    return cait.Cait(img_size=PIXELS, patch_size=4, num_classes=CLASSES, init_values=0.1, **sizes)


@subject("timm", image)
def timm_mixer(width: int, depth: int) -> nn.Module:
    mixer = package("timm.models.mlp_mixer")
    return mixer.MlpMixer(img_size=PIXELS, patch_size=4, num_classes=CLASSES, embed_dim=width, num_blocks=depth)


@subject("timm", large_image, depth=1)
def timm_convnext(width: int, depth: int) -> nn.Module:
    """All four stages of one width."""
    convnext = package("timm.models.convnext")
    return convnext.ConvNeXt(num_classes=CLASSES, depths=(depth,) * 4, dims=(width,) * 4)


@subject("timm", large_image)
def timm_resnet(width: int, depth: int) -> nn.Module:
    resnet = package("timm.models.resnet")
    sizes = {"layers": (depth,) * 4, "channels": (width,) * 4, "stem_width": width // 2, "stem_type": "deep"}
    return resnet.ResNet(resnet.BasicBlock, num_classes=CLASSES, **sizes)


@subject("timm", larger_image)
def timm_resnetv2(width: int, depth: int) -> nn.Module:
    """Pre-activation, with standardised weights and group norm."""
    resnet = package("timm.models.resnetv2")
    sizes = {"layers": (depth, depth), "channels": (4 * width, 8 * width), "stem_chs": width}
    return resnet.ResNetV2(num_classes=CLASSES, **sizes)


@subject("timm", larger_image)
def timm_nfnet(width: int, depth: int) -> nn.Module:
    nfnet = package("timm.models.nfnet")
    sizes = {"depths": (depth, depth), "channels": (width, 2 * width), "stem_chs": width, "group_size": HEAD}
    return nfnet.NormFreeNet(nfnet.NfCfg(**sizes), num_classes=CLASSES)


@subject("timm", larger_image, deeper=5)
def timm_efficientnet(width: int, depth: int) -> nn.Module:
    """Inverted bottlenecks with squeeze and excitation, and fused ones without."""
    efficientnet = package("timm.models.efficientnet")
    builder = package("timm.models._efficientnet_builder")
    stages = [[f"er_r{depth}_k3_s1_e2_c{width}"], [f"ir_r{depth}_k3_s2_e2_c{2 * width}_se0.25"]]
    return efficientnet.EfficientNet(
        builder.decode_arch_def(stages), num_classes=CLASSES, num_features=4 * width, stem_size=width
    )


@subject("timm", larger_image, deeper=5)
def timm_mobilenetv3(width: int, depth: int) -> nn.Module:
    mobilenet = package("timm.models.mobilenetv3")
    builder = package("timm.models._efficientnet_builder")
    stages = [[f"ir_r{depth}_k3_s1_e2_c{width}"], [f"ir_r{depth}_k3_s2_e2_c{2 * width}_se0.25_nre"]]
    sizes = {"num_features": 4 * width, "head_bias": True, "stem_size": width}
    return mobilenet.MobileNetV3(builder.decode_arch_def(stages), num_classes=CLASSES, **sizes)


@subject("timm", larger_image)
def timm_regnet(width: int, depth: int) -> nn.Module:
    """Of the ResNet family by configuration: grouped convolutions, squeeze and excitation."""
    byobnet = package("timm.models.byobnet")
    options = {"type": "bottle", "d": depth, "gs": HEAD, "attn_layer": "se", "attn_kwargs": {"rd_ratio": 0.25}}
    blocks = tuple(byobnet.ByoBlockCfg(c=k * width, **options) for k in (1, 2))
    sizes = {"stem_chs": width, "stem_pool": "", "zero_init_last": False}
    return byobnet.ByobNet(byobnet.ByoModelCfg(blocks=blocks, **sizes), num_classes=CLASSES)


@subject("timm", larger_image)
def timm_poolformer(width: int, depth: int) -> nn.Module:
    metaformer = package("timm.models.metaformer")
    sizes = {"depths": (depth, depth), "dims": (width, 2 * width), "layer_scale_init_values": 0.1}
    sizes |= {"norm_layers": metaformer.GroupNorm1, "use_mlp_head": False}
    return metaformer.MetaFormer(num_classes=CLASSES, mlp_act=nn.GELU, mlp_bias=True, **sizes)


@subject("timm", larger_image)
def timm_caformer(width: int, depth: int) -> nn.Module:
    """Separable convolutions, then attention; StarReLU, scales on the skip."""
    metaformer = package("timm.models.metaformer")
    sizes = {"depths": (depth, depth), "dims": (width, 2 * width), "res_scale_init_values": (None, 1.0)}
    sizes |= {"token_mixers": [metaformer.SepConv, metaformer.Attention]}
    sizes |= {"norm_layers": [metaformer.LayerNorm2dNoBias, metaformer.LayerNormNoBias]}
    return metaformer.MetaFormer(num_classes=CLASSES, **sizes)


@subject("timm", larger_image)
def timm_swin(width: int, depth: int) -> nn.Module:
    swin = package("timm.models.swin_transformer")
    sizes = {"embed_dim": width, "depths": (depth, depth), "num_heads": (width // HEAD, 2 * width // HEAD)}
    return swin.SwinTransformer(img_size=2 * PIXELS, window_size=4, num_classes=CLASSES, drop_path_rate=0.0, **sizes)


@subject("timm", larger_image)
def timm_densenet(width: int, depth: int) -> nn.Module:
    densenet = package("timm.models.densenet")
    return densenet.DenseNet(growth_rate=width // 2, block_config=(depth, depth), num_classes=CLASSES)


@subject("timm", large_image)
def timm_res2net(width: int, depth: int) -> nn.Module:
    """Each of four parts of a block's channels takes the one before it in."""
    resnet, res2net = package("timm.models.resnet"), package("timm.models.res2net")
    sizes = {"layers": (depth,) * 4, "channels": (width,) * 4, "stem_width": width // 2, "stem_type": "deep"}
    return resnet.ResNet(res2net.Bottle2neck, **sizes, base_width=64, block_args={"scale": 4}, num_classes=CLASSES)


@subject("timm", larger_image)
def timm_maxvit(width: int, depth: int) -> nn.Module:
    maxxvit = package("timm.models.maxxvit")
    attention = maxxvit.MaxxVitTransformerCfg(dim_head=HEAD, window_size=(2, 2), grid_size=(2, 2))
    sizes = {"embed_dim": (width, 2 * width), "depths": (depth, depth), "block_type": ("M", "M"), "stem_width": width}
    return maxxvit.MaxxVit(
        maxxvit.MaxxVitCfg(**sizes, transformer_cfg=attention), img_size=2 * PIXELS, num_classes=CLASSES
    )


# --- torchvision ---
@subject("torchvision", larger_image)
def torchvision_regnet(width: int, depth: int) -> nn.Module:
    regnet = package("torchvision.models.regnet")
    widths = [width, 2 * width]
    stages = regnet.BlockParams([depth, depth], widths, [HEAD, HEAD], [1.0, 1.0], [2, 2], se_ratio=0.25)
    return regnet.RegNet(stages, num_classes=CLASSES, stem_width=width)


@subject("torchvision", image)
def torchvision_vit(width: int, depth: int) -> nn.Module:
    vit = package("torchvision.models.vision_transformer")
    sizes = {"num_layers": depth, "num_heads": width // HEAD, "hidden_dim": width, "mlp_dim": 2 * width}
    return vit.VisionTransformer(image_size=PIXELS, patch_size=4, num_classes=CLASSES, **sizes)


@subject("torchvision", larger_image)
def torchvision_swin(width: int, depth: int) -> nn.Module:
    swin = package("torchvision.models.swin_transformer")
    sizes = {"embed_dim": width, "depths": [depth, depth], "num_heads": [width // HEAD, 2 * width // HEAD]}
    options = {"patch_size": [4, 4], "window_size": [4, 4], "stochastic_depth_prob": 0.0, "num_classes": CLASSES}
    return swin.SwinTransformer(**sizes, **options)


@subject("torchvision", larger_image)
def torchvision_convnext(width: int, depth: int) -> nn.Module:
    convnext = package("torchvision.models.convnext")
    stages = [convnext.CNBlockConfig(width, 2 * width, depth), convnext.CNBlockConfig(2 * width, None, depth)]
    return convnext.ConvNeXt(stages, num_classes=CLASSES)


@subject("torchvision", larger_image, deeper=5)
def torchvision_mobilenetv2(width: int, depth: int) -> nn.Module:
    mobilenet = package("torchvision.models.mobilenetv2")
    stages = [[1, 16, 1, 1], [4, 16, depth, 1], [4, 32, depth, 2]]
    return mobilenet.MobileNetV2(CLASSES, width_mult=width / 32, inverted_residual_setting=stages, dropout=0.0)


@subject("torchvision", larger_image)
def torchvision_densenet(width: int, depth: int) -> nn.Module:
    densenet = package("torchvision.models.densenet")
    sizes = {"growth_rate": width // 2, "block_config": (depth, depth), "num_init_features": width}
    return densenet.DenseNet(**sizes, num_classes=CLASSES)


# --- vit-pytorch ---
@subject("vit-pytorch", image)
def lucid_vit(width: int, depth: int) -> nn.Module:
    vit = package("vit_pytorch.vit")
    sizes = {"dim": width, "depth": depth, "heads": width // HEAD, "dim_head": HEAD, "mlp_dim": 2 * width}
    return vit.ViT(image_size=PIXELS, patch_size=4, num_classes=CLASSES, **sizes)


@subject("vit-pytorch", image)
def lucid_simplevit(width: int, depth: int) -> nn.Module:
    vit = package("vit_pytorch.simple_vit")
    sizes = {"dim": width, "depth": depth, "heads": width // HEAD, "dim_head": HEAD, "mlp_dim": 2 * width}
    return vit.SimpleViT(image_size=PIXELS, patch_size=4, num_classes=CLASSES, **sizes)


@subject("vit-pytorch", image)
def lucid_deepvit(width: int, depth: int) -> nn.Module:
    """Attention maps of the heads are mixed again."""
    vit = package("vit_pytorch.deepvit")
    sizes = {"dim": width, "depth": depth, "heads": width // HEAD, "dim_head": HEAD, "mlp_dim": 2 * width}
    return vit.DeepViT(image_size=PIXELS, patch_size=4, num_classes=CLASSES, **sizes)


@subject("vit-pytorch", image)
def lucid_parallelvit(width: int, depth: int) -> nn.Module:
    """Two attentions, and then two MLPs, side by side."""
    vit = package("vit_pytorch.parallel_vit")
    sizes = {"dim": width, "depth": depth, "heads": width // HEAD, "dim_head": HEAD, "mlp_dim": 2 * width}
    return vit.ViT(image_size=PIXELS, patch_size=4, num_classes=CLASSES, **sizes)


@subject("vit-pytorch", image)
def lucid_smallvit(width: int, depth: int) -> nn.Module:
    """Shifted patches, and a learned temperature of the logits."""
    vit = package("vit_pytorch.vit_for_small_dataset")
    sizes = {"dim": width, "depth": depth, "heads": width // HEAD, "dim_head": HEAD, "mlp_dim": 2 * width}
    return vit.ViT(image_size=PIXELS, patch_size=4, num_classes=CLASSES, **sizes)


# --- x-transformers ---
def token_ids() -> Inputs:
    return (tokens(),)


def _x_decoder(width: int, depth: int, **options: object) -> nn.Module:
    x_transformers = package("x_transformers")
    layers = x_transformers.Decoder(dim=width, depth=depth, heads=width // HEAD, attn_dim_head=HEAD, **options)
    return x_transformers.TransformerWrapper(num_tokens=VOCABULARY, max_seq_len=4 * TOKENS, attn_layers=layers)


@subject("x-transformers", token_ids)
def x_decoder(width: int, depth: int) -> nn.Module:
    return _x_decoder(width, depth)


@subject("x-transformers", token_ids)
def x_palm(width: int, depth: int) -> nn.Module:
    """Rotary positions, RMS norms, gated MLPs without biases."""
    return _x_decoder(width, depth, rotary_pos_emb=True, use_rmsnorm=True, ff_glu=True, ff_swish=True, ff_no_bias=True)


@subject("x-transformers", token_ids)
def x_sandwich(width: int, depth: int) -> nn.Module:
    return _x_decoder(width, depth, sandwich_norm=True, alibi_pos_bias=True)


# --- torch_geometric ---
def _edges(nodes: int = 8) -> torch.Tensor:
    """A ring, in both directions."""
    here = torch.arange(nodes)
    there = (here + 1) % nodes
    return torch.stack([torch.cat([here, there]), torch.cat([there, here])])


def graph() -> Inputs:
    return (normal(4, 5).reshape(8, 5), _edges())


@subject("torch_geometric", graph)
def pyg_gcn(width: int, depth: int) -> nn.Module:
    nets = package("torch_geometric.nn.models")
    return nets.GCN(5, width, num_layers=depth + 1, out_channels=CLASSES)


@subject("torch_geometric", graph)
def pyg_gat(width: int, depth: int) -> nn.Module:
    nets = package("torch_geometric.nn.models")
    return nets.GAT(5, width, num_layers=depth + 1, out_channels=CLASSES)


@subject("torch_geometric", graph)
def pyg_gin(width: int, depth: int) -> nn.Module:
    nets = package("torch_geometric.nn.models")
    return nets.GIN(5, width, num_layers=depth + 1, out_channels=CLASSES)


@subject("torch_geometric", graph)
def pyg_sage(width: int, depth: int) -> nn.Module:
    nets = package("torch_geometric.nn.models")
    return nets.GraphSAGE(5, width, num_layers=depth + 1, out_channels=CLASSES)


def molecule() -> Inputs:
    return (torch.tensor([6, 1, 1, 8]), normal(2, 3).reshape(4, 3))


def _all_pairs(positions: torch.Tensor, _batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every atom sees every other, so that no compiled neighbour search is needed."""
    count = len(positions)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    edges = torch.tensor(pairs).T
    return edges, (positions[edges[0]] - positions[edges[1]]).norm(dim=-1)


@subject("torch_geometric", molecule)
def pyg_schnet(width: int, depth: int) -> nn.Module:
    """Each interaction's filter network is registered under two names."""
    nets = package("torch_geometric.nn.models")
    sizes = {"hidden_channels": width, "num_filters": width, "num_interactions": depth, "num_gaussians": 5}
    return nets.SchNet(**sizes, interaction_graph=_all_pairs)


# --- diffusers ---
def noise_at_times() -> Inputs:
    return {"hidden_states": normal(3, 8, 8), "timestep": torch.tensor([1, 7]), "class_labels": torch.tensor([0, 2])}


@subject("diffusers", noise_at_times)
def diffusers_dit(width: int, depth: int) -> nn.Module:
    """Shifts, scales and gates of each block are chunks of one map of time and class."""
    diffusers = package("diffusers")
    sizes = {"num_attention_heads": width // HEAD, "attention_head_dim": HEAD, "num_layers": depth}
    options = {"in_channels": 3, "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 10, "norm_num_groups": 1}
    return diffusers.DiTTransformer2DModel(**sizes, **options)


def noisy_image() -> Inputs:
    return {"sample": normal(3, PIXELS, PIXELS), "timestep": torch.tensor([1, 7])}


@subject("diffusers", noisy_image, deeper=3)
def diffusers_unet(width: int, depth: int) -> nn.Module:
    diffusers = package("diffusers")
    options = {"in_channels": 3, "out_channels": 3, "norm_num_groups": 4, "attention_head_dim": HEAD}
    return diffusers.UNet2DModel(
        block_out_channels=(width, 2 * width),
        layers_per_block=depth,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **options,
    )


def noisy_latent() -> Inputs:
    times = {"timestep": torch.tensor([1, 7])}
    return {"sample": normal(4, 8, 8), "encoder_hidden_states": normal(TOKENS, 5)} | times


@subject("diffusers", noisy_latent, deeper=3)
def diffusers_unetcondition(width: int, depth: int) -> nn.Module:
    """Stable Diffusion's: transformers, each a branch with residual blocks of its own inside."""
    diffusers = package("diffusers")
    return diffusers.UNet2DConditionModel(
        block_out_channels=(width, 2 * width),
        layers_per_block=depth,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=5,
        attention_head_dim=(width // HEAD, 2 * width // HEAD),  # the number of heads, by an old misnomer
        norm_num_groups=4,
    )


# --- tab-transformer-pytorch ---
def row() -> Inputs:
    return (torch.tensor([[0, 1, 2], [2, 0, 1]]), normal(4))


@subject("tab-transformer-pytorch", row)
def tabtransformer(width: int, depth: int) -> nn.Module:
    tables = package("tab_transformer_pytorch")
    sizes = {"dim": width, "depth": depth, "heads": width // HEAD, "dim_head": HEAD}
    options = {"categories": (3, 3, 3), "num_continuous": 4, "num_residual_streams": 1, "dim_out": CLASSES}
    return tables.TabTransformer(**sizes, **options, mlp_act=nn.ReLU())


@subject("tab-transformer-pytorch", row)
def fttransformer(width: int, depth: int) -> nn.Module:
    tables = package("tab_transformer_pytorch")
    sizes = {"dim": width, "depth": depth, "heads": width // HEAD, "dim_head": HEAD}
    options = {"categories": (3, 3, 3), "num_continuous": 4, "num_residual_streams": 1, "dim_out": CLASSES}
    return tables.FTTransformer(**sizes, **options)


# --- litgpt ---
def _litgpt(width: int, depth: int, **options: object) -> nn.Module:
    litgpt = package("litgpt.model")
    sizes = {"n_embd": width, "n_layer": depth, "n_head": width // HEAD, "intermediate_size": 2 * width}
    return litgpt.GPT(litgpt.Config(**sizes, block_size=4 * TOKENS, padded_vocab_size=VOCABULARY, **options))


@subject("litgpt", token_ids)
def litgpt_pythia(width: int, depth: int) -> nn.Module:
    """x + attention(norm(x)) + mlp(norm(x)), three terms in one line."""
    return _litgpt(width, depth)


@subject("litgpt", token_ids)
def litgpt_llama(width: int, depth: int) -> nn.Module:
    options = {"norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP", "bias": False, "rotary_percentage": 1.0}
    return _litgpt(width, depth, parallel_residual=False, n_query_groups=width // HEAD // 2, **options)


@subject("litgpt", token_ids)
def litgpt_gemma2(width: int, depth: int) -> nn.Module:
    """Embeddings times sqrt(width), norms before and after each branch, soft-capped logits."""
    options = {"norm_class_name": "RMSNorm", "mlp_class_name": "GemmaMLP", "bias": False, "rotary_percentage": 1.0}
    options |= {"post_attention_norm": True, "post_mlp_norm": True, "scale_embeddings": True}
    options |= {"attention_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    return _litgpt(width, depth, parallel_residual=False, head_size=HEAD, **options)


# --- performer-pytorch ---
@subject("performer-pytorch", token_ids)
def performer(width: int, depth: int) -> nn.Module:
    """Attention through random features, whose number follows from the head's size."""
    performers = package("performer_pytorch")
    sizes = {"dim": width, "depth": depth, "heads": width // HEAD, "dim_head": HEAD}
    options = {"num_tokens": VOCABULARY, "max_seq_len": 4 * TOKENS, "rotary_position_emb": False}
    return performers.PerformerLM(**sizes, **options)


# --- torch ---
class _Sequence(nn.Module):
    """An embedding, what the test is about, a readout."""

    def __init__(self, width: int, inner: nn.Module) -> None:
        super().__init__()
        self.embedding, self.inner, self.readout = nn.Embedding(VOCABULARY, width), inner, nn.Linear(width, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.inner(self.embedding(ids))
        return self.readout(hidden[0] if isinstance(hidden, tuple) else hidden)


@subject("torch", token_ids)
def torch_encoder(width: int, depth: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, width // HEAD, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
    return _Sequence(width, nn.TransformerEncoder(layer, depth, enable_nested_tensor=False))


@subject("torch", token_ids)
def torch_lstm(width: int, depth: int) -> nn.Module:
    """The number of layers stays: they are no residual blocks."""
    return _Sequence(width, nn.LSTM(width, width, num_layers=2, batch_first=True))


@subject("torch", token_ids)
def torch_gru(width: int, depth: int) -> nn.Module:
    return _Sequence(width, nn.GRU(width, width, num_layers=2, batch_first=True))
