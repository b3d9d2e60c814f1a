"""Name the torch functions by what they do to a grid that grows.

The tables are a closed world: a function in none of them is not known, and is noted where its grid grows.
Scope: names. Not here: arguments and shapes (see `torch.checking.grown_functions`).
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def plain_name(name: str) -> str:
    """The name of a function without the marks of operators and of in-place variants.

    Examples
    --------
    >>> plain_name("__iadd__"), plain_name("relu_"), plain_name("__rtruediv__"), plain_name("__getitem__")
    ('add', 'relu', 'truediv', 'getitem')
    """
    if not (name.startswith("__") and name.endswith("__")):
        return name.rstrip("_")
    inner = name.strip("_")
    return inner[1:] if inner[1:] in _OPERATORS and inner[:1] in "ir" else inner


_OPERATORS = _names("""
    add sub mul div truediv floordiv mod pow and or xor lshift rshift matmul
""")

POINTWISE = _names("""
    abs absolute acos acosh add addcdiv addcmul angle asin asinh atan atan2 atanh and bitwise_and bitwise_not
    bitwise_or bitwise_xor bool byte ceil celu clamp clamp_max clamp_min clip complex conj copy copysign cos
    cosh cpu cuda deg2rad detach digamma div divide double elu eq erf erfc erfinv exp exp2 expm1 float floor
    floor_divide floordiv fmod frac ge gelu greater gt half hardshrink hardsigmoid hardswish hardtanh heaviside
    hypot imag int invert isfinite isinf isnan ldexp le leaky_relu lerp less lgamma log log10 log1p log2
    logaddexp logical_and logical_not logical_or logical_xor logit logsigmoid long lt masked_fill maximum
    minimum mish mod mul multiply nan_to_num ne neg negative nextafter or polar positive pow prelu real
    reciprocal relu relu6 remainder requires_grad round rrelu rsqrt rsub selu sgn short sigmoid sign silu sin
    sinc sinh softplus softshrink softsign sqrt square sub subtract tan tanh tanhshrink threshold to true_divide
    truediv trunc type type_as view_as_complex view_as_real where xlogy xor contiguous clone alias bfloat16 fill
    zero hash data glu xpu dequantize as_subclass resolve_conj resolve_neg special_expit is_complex
    record_stream share_memory
""")
"""Each pixel by itself, or pixel by pixel of two tensors. (`glu` halves an axis: `grown_functions` looks at it.)"""

ARITHMETIC = _names("""
    add sub subtract rsub mul multiply div divide true_divide truediv floordiv pow
""")
"""Functions of a tensor and a number."""

NORMS = _names("""
    batch_norm group_norm instance_norm layer_norm rms_norm local_response_norm
""")
"""Mean and spread, of one channel over all pixels or of one pixel over its channels."""

MEANS = _names("""
    mean nanmean amax amin aminmax max min median nanmedian var std var_mean std_mean quantile nanquantile
    softmax softmin adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d all any gumbel_softmax cosine_similarity dropout dropout1d dropout2d
    dropout3d alpha_dropout feature_dropout feature_alpha_dropout adaptive_max_pool2d_with_indices
    adaptive_max_pool1d_with_indices adaptive_max_pool3d_with_indices
""")
"""What stays about the same where one axis has more pixels of the same picture."""

GROW_WITH_PIXELS = {
    **dict.fromkeys(("sum", "nansum", "count_nonzero"), 1.0),
    **dict.fromkeys(("norm", "vector_norm", "normalize", "frobenius_norm", "dist", "pdist", "cdist"), 0.5),
    **dict.fromkeys(
        ("prod", "logsumexp", "cumsum", "cumprod", "logcumsumexp", "log_softmax", "trace", "dot", "vdot", "inner"), 0.0
    ),
}
"""Functions whose result grows with the number of pixels: with its power given here; 0 where no factor tells."""

PRODUCTS = _names("""
    matmul bmm mm mv baddbmm addmm addbmm einsum tensordot linear bilinear
""")
"""Products that sum over an axis."""

MOVES = _names("""
    view reshape flatten unflatten permute transpose swapaxes swapdims movedim moveaxis t squeeze unsqueeze
    expand expand_as repeat tile repeat_interleave cat concat concatenate stack hstack vstack dstack flip fliplr
    flipud broadcast_to broadcast_tensors ravel get view_as reshape_as atleast_2d atleast_3d diagonal adjoint
    meshgrid pad getitem select narrow chunk split tensor_split unbind roll split_with_sizes block_diag
    cartesian_prod setitem
""")
"""Functions that move pixels. `grown_functions` looks at the arguments of those that may cut, group or shift them."""

PLANNED = _names("""
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d max_pool1d max_pool2d max_pool3d
    max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d
    lp_pool1d lp_pool2d lp_pool3d fractional_max_pool2d fractional_max_pool3d fractional_max_pool2d_with_indices
    fractional_max_pool3d_with_indices max_unpool1d max_unpool2d max_unpool3d pixel_shuffle pixel_unshuffle
    unfold fold scaled_dot_product_attention multi_head_attention_forward _transformer_encoder_layer_fwd
    _native_multi_head_attention conv_tbc channel_shuffle native_channel_shuffle interpolate upsample
    upsample_nearest upsample_bilinear
""")
"""Functions that the planner changes or notes itself."""

CREATES = _names("""
    zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_empty new_full
    new_tensor zeros ones full empty arange linspace range tensor as_tensor bernoulli eye tril triu rand randn
    normal uniform randint randint_like embedding one_hot grid_sample affine_grid get_default_dtype numel size
    dim is_floating_point storage_offset stride element_size data_ptr record_function result_type promote_types
    broadcast_shapes isclose allclose equal masked_select numpy item tolist
""")
"""Functions that make tensors, or look at a place that is given on the scale of the whole image."""

AT_EVERY_PHASE = (
    POINTWISE
    | MOVES
    | _names("""
    conv1d conv2d conv3d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d batch_norm linear dropout zeros_like ones_like
""")
)
"""Functions that do to each phase of a grid what they did to the trained grid."""

STEPS = _names("""
    lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
""")
"""Recurrences: one step for each position."""

BENDS = _names("""
    sin cos tan exp log polar pow sinc embedding one_hot outer einsum index_select gather
""")
"""Functions of coordinates that keep a scale: past them, pixels counted from 0 and parts of the image look alike."""

KNOWN = POINTWISE | NORMS | MEANS | PRODUCTS | MOVES | PLANNED | CREATES | frozenset(GROW_WITH_PIXELS)
