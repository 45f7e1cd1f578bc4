"""What an ATen operation does to the numbers that pass through it: one table, one row for each operation.

Whatever this room knows about an operation stands in its row, so adding an operation is adding a row. An operation
without a row is taken to be nonlinear, which is the safe mistake: a multiplier is then never folded through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

# What becomes of an activation, z being the operation's input and c > 0:
#   "view"         the result holds the same numbers, moved, selected, cast or copied
#   "linear"       f(c z) = c f(z), f(y + z) = f(y) + f(z): sums, averages, products with constants
#   "homogeneous"  f(c z) = c f(z) only
#   "norm"         f(c z) = f(z)
#   "attention"    softmax(q k) v, linear in v
#   "softmax"      on its own: what precedes it are logits
#   "shape only"   the result depends on the shape of z alone
Effect = Literal["view", "linear", "homogeneous", "norm", "attention", "softmax", "shape only", "nonlinear"]

# What a view does with the dimensions of its argument.
Dimensions = Literal["kept", "reshaped", "transposed", "permuted", "inserted", "removed", "expanded", "selected"]


@dataclass(frozen=True)
class Contraction:
    """A sum over an axis that two arguments share.

    Attributes:
        first: Position of the first of the two factors; an argument before it is added to their product.
        batched: Whether the leading axis of a factor with three counts separate matrices, as of experts.
        weight: How the second factor is laid out: a "matrix" (in, out), or as F.linear, convolutions and F.bilinear
            have theirs.
    """

    first: int = 0
    batched: bool = False
    weight: Literal["matrix", "linear", "convolution", "bilinear"] = "matrix"

    def summed(self, position: int | None, dimensions: int, args: Sequence[Any]) -> tuple[int, ...] | None:
        """The axes of the argument at this position that are summed over; None if it is not a factor."""
        if self.weight == "matrix":
            # (..., m, k) times (..., k, n): the last axis of the first, the last but one of the second.
            if position is None or position < self.first:
                return None
            return (dimensions - 1,) if position == self.first else (max(dimensions - 2, 0),)
        if position != 1:
            return None
        if self.weight == "linear":
            # (out, in)
            return (1,)
        if self.weight == "bilinear":
            # (out, in, in): each of two activations meets one of the latter.
            return tuple(range(1, dimensions))
        # (out, in / groups, ...), or (in, out / groups, ...) if the convolution is transposed.
        transposed, groups = args[6], args[8]
        if not transposed:
            return tuple(range(1, dimensions))
        # Of inputs in groups of one each there is nothing to sum.
        summed = () if groups == args[1].shape[0] else (0,)
        return (*summed, *range(2, dimensions))

    def is_transposed_in_groups(self, args: Sequence[Any]) -> bool:
        """Whether the first axis of a kernel counts the inputs of several groups together."""
        return self.weight == "convolution" and bool(args[6]) and 1 < args[8] < args[1].shape[0]


@dataclass(frozen=True)
class Operation:
    """A row of the table.

    Attributes:
        name: Without overload and in-place mark: "addmm".
        effect: What it does to activations.
        parameter: How a parameter enters that is no factor of a contraction: it adds ("bias"), it multiplies
            ("gain"), its rows are selected ("embedding").
        contraction: What it sums over, if it multiplies matrices.
        dimensions: What it does with the dimensions of a parameter of which it is a view.
        adds: Whether it is the sum or difference of two arguments.
        multiplies: Whether it is the product or quotient of two arguments, entry by entry.
        divides: Whether it is the quotient.
        masks: Whether one argument says where the other is kept.
        on_skip: Whether it may stand on the skip of a residual block (views and norms always may).
        plain: Whether a parameter that passed it still scales as it does (views always leave it so).
        selects: For an embedding, the axes of the parameter that are indexed.
        addends: Positions of arguments that stand in the result as they are, beside others: what is added, joined or
            filled in. A constant there makes the operation affine.
        filled_with: The number that fills the result, whatever the arguments.
        fill_position: Position of the argument that says which number fills the result.
        reduces: Whether it is a sum or an average over axes that its second argument names.
    """

    name: str
    effect: Effect = "nonlinear"
    parameter: Literal["bias", "gain", "embedding", "other"] = "other"
    contraction: Contraction | None = None
    dimensions: Dimensions = "kept"
    adds: bool = False
    multiplies: bool = False
    divides: bool = False
    masks: bool = False
    on_skip: bool = False
    plain: bool = False
    selects: tuple[int, ...] = ()
    addends: tuple[int, ...] = ()
    filled_with: float | None = None
    fill_position: int | None = None
    reduces: bool = False

    @property
    def is_view(self) -> bool:
        return self.effect == "view"

    @property
    def is_linear(self) -> bool:
        return self.effect in ("view", "linear")

    @property
    def is_homogeneous(self) -> bool:
        return self.is_linear or self.effect == "homogeneous"

    @property
    def is_norm(self) -> bool:
        return self.effect == "norm"

    @property
    def may_be_on_skip(self) -> bool:
        """Whether the skip of a residual block may pass here."""
        return self.on_skip or self.is_view or self.is_norm

    @property
    def is_entrywise(self) -> bool:
        """Whether dimensions of its arguments correspond, from the last."""
        return self.adds or self.multiplies or self.masks or self.name == "cat"

    @property
    def is_known(self) -> bool:
        """Whether it has a row."""
        return self.name in TABLE

    def reduced(self, args: Sequence[Any], rank: int) -> tuple[int, ...]:
        """The axes that it sums or averages over, of an argument with so many; all of them if it names none."""
        given = args[1] if len(args) > 1 else None
        if isinstance(given, int):
            given = [given]
        if not given:
            return tuple(range(rank))
        return tuple(axis % rank for axis in given)

    @property
    def combines(self) -> bool:
        """Whether one argument adds to, gates or masks another."""
        return self.effect == "attention" or self.adds or self.multiplies or self.masks


_ROWS = [
    # --- views ---
    Operation("view", "view", dimensions="reshaped"),
    Operation("_unsafe_view", "view", dimensions="reshaped"),
    Operation("reshape", "view", dimensions="reshaped"),
    Operation("_reshape_alias", "view"),
    Operation("flatten", "view"),
    Operation("unflatten", "view"),
    Operation("t", "view", dimensions="transposed"),
    Operation("transpose", "view", dimensions="transposed"),
    Operation("swapaxes", "view", dimensions="transposed"),
    Operation("permute", "view", dimensions="permuted"),
    Operation("movedim", "view"),
    Operation("unsqueeze", "view", dimensions="inserted"),
    Operation("squeeze", "view"),
    Operation("select", "view", dimensions="removed"),
    Operation("unbind", "view", dimensions="removed"),
    Operation("expand", "view", dimensions="expanded"),
    Operation("broadcast_to", "view", dimensions="expanded"),
    Operation("repeat", "view", dimensions="expanded"),
    Operation("expand_as", "view"),
    Operation("repeat_interleave", "view"),
    Operation("slice", "view"),
    Operation("narrow", "view"),
    Operation("split", "view"),
    Operation("split_with_sizes", "view"),
    Operation("unsafe_split", "view"),
    Operation("chunk", "view"),
    Operation("diagonal", "view"),
    Operation("as_strided", "view"),
    Operation("unfold", "view"),
    Operation("im2col", "view"),
    Operation("pixel_shuffle", "view"),
    Operation("pixel_unshuffle", "view"),
    Operation("channel_shuffle", "view"),
    Operation("roll", "view"),
    Operation("flip", "view"),
    Operation("tril", "view"),
    Operation("triu", "view"),
    Operation("pad", "view"),
    Operation("constant_pad_nd", "view", addends=(2,)),
    Operation("clone", "view"),
    Operation("contiguous", "view"),
    Operation("copy", "view", "bias", addends=(1,)),
    Operation("detach", "view"),
    Operation("alias", "view"),
    Operation("lift_fresh", "view"),
    Operation("set", "view"),
    Operation("to", "view"),
    Operation("_to_copy", "view"),
    Operation("view_as_real", "view"),
    Operation("view_as_complex", "view"),
    Operation("resolve_conj", "view"),
    Operation("resolve_neg", "view"),
    Operation("masked_select", "view"),
    Operation("take_along_dim", "view"),
    Operation("index", "view", "embedding", dimensions="selected", selects=(0,)),
    Operation("index_select", "view", "embedding", selects=(0,)),
    Operation("gather", "view", "embedding"),
    # --- embeddings: rows of a parameter are selected ---
    Operation("embedding", parameter="embedding", dimensions="selected", plain=True, selects=(0,)),
    Operation("embedding_bag", parameter="embedding", selects=(0,)),
    Operation("_embedding_bag", parameter="embedding", selects=(0,)),
    Operation("_embedding_bag_forward_only", parameter="embedding", selects=(0,)),
    Operation("take", parameter="embedding", selects=(0,)),
    # --- sums ---
    Operation("add", "linear", "bias", adds=True, on_skip=True, addends=(0, 1)),
    Operation("sub", "linear", "bias", adds=True, addends=(0, 1)),
    Operation("rsub", "linear", "bias", adds=True, addends=(0, 1)),
    Operation("cat", "linear", "bias", addends=(0,)),
    Operation("stack", "linear", "bias", dimensions="inserted", addends=(0,)),
    Operation("where", "linear", "bias", masks=True, addends=(1, 2)),
    Operation("masked_fill", "linear", "bias", masks=True, addends=(0, 2)),
    Operation("index_put", "linear", "bias", addends=(0, 2)),
    Operation("index_add", "linear", "bias", addends=(0, 3)),
    Operation("scatter", "linear", "bias", addends=(0, 3)),
    Operation("scatter_add", "linear", "bias", addends=(0, 3)),
    Operation("slice_scatter", "linear", "bias", addends=(0, 1)),
    Operation("select_scatter", "linear", "bias", addends=(0, 1)),
    Operation("sum", "linear", reduces=True),
    Operation("mean", "linear", on_skip=True, reduces=True),
    Operation("cumsum", "linear"),
    Operation("addcmul", parameter="bias"),
    # --- averages over positions, and their reverse ---
    Operation("avg_pool1d", "linear"),
    Operation("avg_pool2d", "linear", on_skip=True),
    Operation("avg_pool3d", "linear"),
    Operation("adaptive_avg_pool1d", "linear"),
    Operation("adaptive_avg_pool2d", "linear"),
    Operation("_adaptive_avg_pool2d", "linear"),
    Operation("_adaptive_avg_pool3d", "linear"),
    Operation("upsample_nearest1d", "linear"),
    Operation("upsample_nearest2d", "linear"),
    Operation("upsample_nearest3d", "linear"),
    Operation("_upsample_nearest_exact1d", "linear"),
    Operation("_upsample_nearest_exact2d", "linear"),
    Operation("_upsample_nearest_exact3d", "linear"),
    Operation("upsample_linear1d", "linear"),
    Operation("upsample_bilinear2d", "linear"),
    Operation("upsample_bicubic2d", "linear"),
    Operation("upsample_trilinear3d", "linear"),
    Operation("_upsample_bilinear2d_aa", "linear"),
    Operation("_upsample_bicubic2d_aa", "linear"),
    # --- products entry by entry ---
    Operation("mul", "linear", "gain", multiplies=True, on_skip=True, plain=True),
    Operation("div", "linear", "gain", multiplies=True, divides=True, plain=True),
    Operation("neg", "linear", plain=True),
    Operation("dropout", "linear"),
    Operation("native_dropout", "linear", on_skip=True),
    # --- products of matrices ---
    Operation("mm", "linear", contraction=Contraction()),
    Operation("matmul", "linear", contraction=Contraction(batched=True)),
    Operation("bmm", "linear", contraction=Contraction(batched=True)),
    Operation("mv", "linear", contraction=Contraction()),
    Operation("dot", "linear", contraction=Contraction()),
    Operation("addmm", "linear", "bias", Contraction(first=1), addends=(0,)),
    Operation("baddbmm", "linear", "bias", Contraction(first=1, batched=True), addends=(0,)),
    Operation("addbmm", "linear", "bias", Contraction(first=1), addends=(0,)),
    Operation("addmv", "linear", "bias", Contraction(first=1), addends=(0,)),
    Operation("_grouped_mm", "linear", contraction=Contraction(batched=True)),
    Operation("_sparse_mm", "linear", contraction=Contraction()),
    Operation("_sparse_addmm", "linear", "bias", Contraction(first=1), addends=(0,)),
    Operation("_trilinear", "linear", contraction=Contraction(weight="bilinear")),
    Operation("linear", "linear", "bias", Contraction(weight="linear"), addends=(2,)),
    Operation("convolution", "linear", "bias", Contraction(weight="convolution"), addends=(2,)),
    # --- homogeneous activations: a positive factor passes the kink at zero, and leaves the largest the largest ---
    Operation("relu", "homogeneous"),
    Operation("leaky_relu", "homogeneous"),
    Operation("abs", "homogeneous"),
    Operation("max", "homogeneous"),
    Operation("amax", "homogeneous"),
    Operation("min", "homogeneous"),
    Operation("amin", "homogeneous"),
    Operation("max_pool2d", "homogeneous"),
    Operation("max_pool2d_with_indices", "homogeneous", on_skip=True),
    # --- nonlinear ones that a parameter enters ---
    Operation("prelu", parameter="gain"),
    Operation("_prelu_kernel", parameter="gain"),
    # --- norms: a factor on their input is divided out again, so none is folded through them ---
    Operation("layer_norm", "norm"),
    Operation("native_layer_norm", "norm"),
    Operation("rms_norm", "norm"),
    Operation("_fused_rms_norm", "norm"),
    # Of a weight, by the norm of what each of its first axis holds (`isoscale.graph.recorder`).
    Operation("weight_norm", "norm"),
    Operation("group_norm", "norm"),
    Operation("native_group_norm", "norm"),
    Operation("instance_norm", "norm"),
    Operation("batch_norm", "norm"),
    Operation("native_batch_norm", "norm"),
    Operation("cudnn_batch_norm", "norm"),
    Operation("miopen_batch_norm", "norm"),
    Operation("_batch_norm_impl_index", "norm"),
    Operation("_batch_norm_with_update", "norm"),
    Operation("_batch_norm_no_update", "norm"),
    Operation("_native_batch_norm_legit", "norm"),
    Operation("_native_batch_norm_legit_functional", "norm"),
    Operation("_native_batch_norm_legit_no_training", "norm"),
    # --- attention: the variants that torch picks for a device, mask and head size ---
    Operation("scaled_dot_product_attention", "attention", "bias"),
    Operation("_scaled_dot_product_attention_math", "attention", "bias"),
    Operation("_scaled_dot_product_flash_attention", "attention", "bias"),
    Operation("_scaled_dot_product_flash_attention_for_cpu", "attention", "bias"),
    Operation("_scaled_dot_product_efficient_attention", "attention", "bias"),
    Operation("_scaled_dot_product_cudnn_attention", "attention", "bias"),
    Operation("_scaled_dot_product_fused_attention_overrideable", "attention", "bias"),
    Operation("softmax", "softmax"),
    Operation("_softmax", "softmax"),
    Operation("_safe_softmax", "softmax"),
    # --- new tensors; one that is still empty has no numbers of its own, and is filled before it is used ---
    Operation("empty", "shape only", filled_with=0.0),
    Operation("empty_like", "shape only", filled_with=0.0),
    Operation("empty_strided", "shape only", filled_with=0.0),
    Operation("new_empty", "shape only", filled_with=0.0),
    Operation("new_empty_strided", "shape only", filled_with=0.0),
    Operation("zeros", "shape only", filled_with=0.0),
    Operation("zeros_like", "shape only", filled_with=0.0),
    Operation("new_zeros", "shape only", filled_with=0.0),
    Operation("ones", "shape only", filled_with=1.0),
    Operation("ones_like", "shape only", filled_with=1.0),
    Operation("new_ones", "shape only", filled_with=1.0),
    Operation("full", "shape only", fill_position=1),
    Operation("full_like", "shape only", fill_position=1),
    Operation("new_full", "shape only", fill_position=2),
    Operation("scalar_tensor", "shape only", fill_position=0),
    Operation("rand_like", "shape only"),
    Operation("randn_like", "shape only"),
]

TABLE = {row.name: row for row in _ROWS}

VIEWS = frozenset(row.name for row in _ROWS if row.is_view)
NORMS = frozenset(row.name for row in _ROWS if row.is_norm)


def operation(name: str) -> Operation:
    """The row of that name; of an operation that has none, a nonlinear one."""
    return TABLE.get(name) or Operation(name)
