"""The names of the ATen operators that a program may use, and nothing else about them.

Left out are operators that read or write files, take a generator, a storage or a stream, hand out memory as they found it,
or let a tensor's values decide shapes.
"""

from __future__ import annotations

# Each is allowed as NAME.default, and as NAME_.default where torch has one that works in place.
UNARY = """abs neg exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square sin cos tan asin acos atan sinh cosh tanh asinh acosh
atanh arctan sigmoid erf erfc erfinv ceil floor round trunc frac sign sgn reciprocal relu relu6 selu silu mish hardsigmoid
hardswish celu elu leaky_relu hardtanh softplus softshrink hardshrink logit lgamma digamma nan_to_num sinc positive logical_not
bitwise_not isnan isinf isfinite log_sigmoid prelu rrelu threshold gelu glu clamp clamp_min clamp_max dropout alpha_dropout
feature_dropout feature_alpha_dropout tril triu zero detach logical_and logical_or logical_xor addcmul addcdiv atan2 hypot
renorm unsqueeze transpose.int swapaxes cumsum cumprod"""

# NAME.Tensor and NAME.Scalar, and the same in place.
BINARY = """add sub mul div remainder fmod floor_divide true_divide multiply subtract divide eq ne lt le gt ge bitwise_and
bitwise_or bitwise_xor lerp pow masked_fill fill"""

OTHERS = """
clamp.Tensor clamp_.Tensor clamp_min.Tensor clamp_max.Tensor div.Tensor_mode div.Scalar_mode div_.Tensor_mode div.out
rsub.Tensor rsub.Scalar pow.Tensor_Tensor pow.Tensor_Scalar pow.Scalar maximum.default minimum.default fmax.default
fmin.default where.self where.ScalarSelf where.ScalarOther where.Scalar xlogy.Tensor logaddexp.default logaddexp2.default
heaviside.default copysign.Tensor copy_.default real.default imag.default view_as_real.default view_as_complex.default
complex.default conj.default resolve_conj.default polar.default angle.default

sum.default sum.dim_IntList mean.default mean.dim prod.default prod.dim_int amax.default amin.default aminmax.default
max.default max.dim max.other min.default min.dim min.other argmax.default argmin.default var.default var.dim var.correction
std.default std.dim std.correction var_mean.default var_mean.dim var_mean.correction norm.Scalar norm.ScalarOpt_dim
linalg_vector_norm.default linalg_norm.default logsumexp.default cummax.default cummin.default logcumsumexp.default median.dim
median.default kthvalue.default all.default all.dim any.default any.dim topk.default sort.default sort.stable argsort.default
softmax.int log_softmax.int count_nonzero.dim_IntList

view.default reshape.default flatten.using_ints unflatten.int permute.default t.default t_.default mT.default mH.default
matrix_H.default numpy_T.default adjoint.default squeeze.default squeeze.dim squeeze.dims squeeze_.dim expand.default
expand_as.default repeat.default repeat_interleave.self_int tile.default cat.default concat.default stack.default
chunk.default split.Tensor split.sizes split_with_sizes.default tensor_split.sections tensor_split.indices unbind.int
select.int slice.Tensor narrow.default index.Tensor index_select.default gather.default take_along_dim.default flip.default
roll.default rot90.default movedim.int movedim.intlist moveaxis.int swapdims.default diagonal.default diag.default
diag_embed.default unfold.default pixel_shuffle.default pixel_unshuffle.default channel_shuffle.default contiguous.default
clone.default alias.default view_as.default reshape_as.default hstack.default vstack.default dstack.default
column_stack.default meshgrid.default meshgrid.indexing ravel.default broadcast_to.default broadcast_tensors.default
atleast_1d.default atleast_2d.default atleast_3d.default block_diag.default to.dtype to.dtype_layout to.device to.other
type_as.default _to_copy.default lift_fresh_copy.default index_add.default index_add_.default index_put.default
index_put_.default index_fill.int_Scalar index_fill_.int_Scalar index_copy.default scatter.src scatter.value scatter_.src
scatter_.value scatter_add.default scatter_add_.default scatter_reduce.two select_scatter.default slice_scatter.default
one_hot.default bucketize.Tensor

zeros.default ones.default full.default empty.memory_format arange.default arange.start arange.start_step linspace.default
eye.default eye.m zeros_like.default ones_like.default full_like.default empty_like.default new_zeros.default new_ones.default
new_full.default new_empty.default scalar_tensor.default rand.default randn.default rand_like.default randn_like.default
randint.default randint.low randint_like.default randint_like.low_dtype randperm.default bernoulli.default bernoulli.p
bernoulli_.float bernoulli_.Tensor normal.Tensor_Tensor normal.float_Tensor normal.Tensor_float normal_.default
uniform_.default exponential_.default multinomial.default

mm.default bmm.default matmul.default mv.default dot.default vdot.default outer.default ger.default addmm.default
addmv.default baddbmm.default addbmm.default einsum.default linear.default bilinear.default tensordot.default kron.default
cdist.default cross.default linalg_cross.default inner.default cosine_similarity.default pairwise_distance.default
trace.default linalg_diagonal.default

conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default conv3d.padding conv_transpose1d.default
conv_transpose2d.input conv_transpose3d.input batch_norm.default instance_norm.default layer_norm.default group_norm.default
rms_norm.default max_pool1d.default max_pool2d.default max_pool3d.default max_pool1d_with_indices.default
max_pool2d_with_indices.default max_pool3d_with_indices.default avg_pool1d.default avg_pool2d.default avg_pool3d.default
adaptive_avg_pool1d.default adaptive_avg_pool2d.default adaptive_avg_pool3d.default adaptive_max_pool1d.default
adaptive_max_pool2d.default adaptive_max_pool3d.default fractional_max_pool2d.default embedding.default
embedding_bag.padding_idx lstm.input gru.input rnn_tanh.input rnn_relu.input lstm_cell.default gru_cell.default
rnn_tanh_cell.default rnn_relu_cell.default scaled_dot_product_attention.default pad.default constant_pad_nd.default
upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec _upsample_nearest_exact1d.vec
_upsample_nearest_exact2d.vec _upsample_nearest_exact3d.vec upsample_linear1d.vec upsample_bilinear2d.vec
upsample_bicubic2d.vec upsample_trilinear3d.vec grid_sampler.default affine_grid_generator.default im2col.default
col2im.default _weight_norm.default mse_loss.default l1_loss.default smooth_l1_loss.default huber_loss.default
binary_cross_entropy.default binary_cross_entropy_with_logits.default cross_entropy_loss.default nll_loss.default
nll_loss_nd.default kl_div.default

fft_fft.default fft_ifft.default fft_rfft.default fft_irfft.default fft_fft2.default fft_ifft2.default fft_rfft2.default
fft_irfft2.default fft_fftshift.default fft_ifftshift.default

sym_size.int sym_numel.default
"""
