"""What an ATen operation does to the numbers that pass through it.

Only operations named here count as linear or as a norm; any other is taken to be nonlinear, which is the safe
mistake: a multiplier is then never folded through it.
"""

from __future__ import annotations

# Move, select, cast or copy entries: the result holds the same numbers.
VIEWS = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "t",
        "transpose",
        "permute",
        "unsqueeze",
        "squeeze",
        "expand",
        "clone",
        "contiguous",
        "detach",
        "alias",
        "slice",
        "select",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "narrow",
        "flatten",
        "unflatten",
        "movedim",
        "swapaxes",
        "_to_copy",
        "to",
        "copy",
        "lift_fresh",
        "index",
        "index_select",
        "gather",
        "roll",
        "flip",
        "unfold",
        "as_strided",
        "constant_pad_nd",
        "pad",
        "repeat",
        "repeat_interleave",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "masked_select",
        "take_along_dim",
        "view_as_real",
        "view_as_complex",
        "im2col",
        "tril",
        "triu",
        "diagonal",
        "squeeze_",
        "broadcast_to",
        "expand_as",
        "resolve_conj",
        "resolve_neg",
        "set",
    ]
)

# Linear in the activation: views, scaling by constants, sums over positions, averaging.
LINEAR = VIEWS | frozenset(
    [
        "mul",
        "div",
        "neg",
        "sum",
        "mean",
        "add",
        "sub",
        "rsub",
        "cat",
        "stack",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "_adaptive_avg_pool2d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_bilinear2d",
        "upsample_linear1d",
        "index_add",
        "scatter_add",
        "index_put",
        "native_dropout",
        "dropout",
        "cumsum",
        "mm",
        "bmm",
        "matmul",
        "addmm",
        "baddbmm",
        "linear",
        "convolution",
        "masked_fill",
        "where",
        "scatter",
        "slice_scatter",
        "select_scatter",
    ]
)

# phi(c z) = c phi(z) for c > 0: a positive multiplier passes through.
HOMOGENEOUS = LINEAR | frozenset(
    ["relu", "leaky_relu", "abs", "max_pool2d_with_indices", "max_pool2d", "amax", "max", "amin", "min"]
)

NORMS = frozenset(
    [
        "native_layer_norm",
        "layer_norm",
        "native_group_norm",
        "group_norm",
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "_native_batch_norm_legit_functional",
        "batch_norm",
        "cudnn_batch_norm",
        "miopen_batch_norm",
        "_batch_norm_with_update",
        "_batch_norm_no_update",
        "_fused_rms_norm",
        "rms_norm",
        "instance_norm",
        "_batch_norm_impl_index",
    ]
)

ADDS = frozenset(("add", "sub", "rsub"))

ATTENTION = frozenset(
    [
        "scaled_dot_product_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_attention_math",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
    ]
)

# Read the shape of their argument, not its numbers: what they make does not depend on it.
SHAPE_ONLY = frozenset(
    [
        "empty_like",
        "zeros_like",
        "ones_like",
        "full_like",
        "rand_like",
        "randn_like",
        "new_empty",
        "new_zeros",
        "new_ones",
        "new_full",
    ]
)
