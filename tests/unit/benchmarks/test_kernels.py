"""Kernels by name: names that profilers printed on A100s, H100s and B200s, and the CPU's operators."""

import pytest

from benchmarks.gpu_kit.kernels import PARTS, WORDS, part_of

RECORDED = {
    "attention": [
        "void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<128, 64, 64, 4>>",
        "void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash_bwd_kernel_traits<128>>",
        "void pytorch_flash::flash_bwd_dot_do_o_kernel<true, Flash_bwd_kernel_traits<128>>",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_kernel0_0",
        "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x128_1x4x1_kernel0_0",
        "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::Coll>>>",
        "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel<...>::Params)",
        "void transformer_engine::scaled_masked_softmax_warp_forward<__nv_bfloat16>",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    ],
    "products": [
        "nvjet_tst_256x128_64x4_1x2_h_bz_coopA_NNT",
        "nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNN",
        "nvjet_qqtst_128x256_128x4_2x1_v_bz_coopB_bias_TNT",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_kernel__5x_cublas",
        "sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize128x128x128_cgasize2x1x1_kernel__5x_cublas",
        "ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn",
        "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_bf16_256x128_32x3_nn_align8>",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float>",
        "triton_tem_fused_mm_3",
        "aten::addmm",
        "aten::mm",
        "mkldnn::_linear_pointwise",
    ],
    "communication": [
        "ncclDevKernel_ReduceScatter_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)",
        "ncclKernel_AllReduce_RING_LL_Sum_float(ncclWorkElem)",
        "userbuffers_fp16_sum_inplace_gpu_rr_rs_oop",
        "kuserbuffers_pushrecv(int, int, int, int*, int*, int, int)",
        "c10d::allreduce_",
    ],
    "optimizer": [
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<TensorListMetadata<4>, FusedAdam>",
        "void transformer_engine::multi_tensor_apply_kernel<TensorListMetadata<1>, L2NormFunctor<float>>",
        "void multi_tensor_apply_kernel<TensorListMetadata<4>, AdamFunctor<float, float, int>>",
    ],
    "casts": [
        "void transformer_engine::cast_transpose_optimized_kernel<true, false, float, __nv_bfloat16>",
        "void transformer_engine::amax_kernel<8, true, __nv_bfloat16>",
        "void block_scaled_1d_cast_transpose_kernel<true, float, __nv_bfloat16, __nv_fp8_e4m3>",
        "transformer_engine::dispatch::mxfp8::quantize_mxfp8_kernel_cast_only",
        "compute_scale_from_amax_kernel",
        "multi_tensor_swizzle_row_scaling_kernel",
    ],
    "elementwise": [
        "void transformer_engine::normalization::rmsnorm_fwd_tuned_kernel<Kernel_traits<__nv_bfloat16>>",
        "void transformer_engine::normalization::rmsnorm_bwd_finalize_general_kernel<float>",
        "fused_rope_forward_kernel",
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>",
        "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>",
        "triton_poi_fused_addmm_mul_silu_view_1",
        "triton_red_fused__to_copy_mean_mul_pow_rsqrt_0",
        "Memcpy DtoD (Device -> Device)",
        "Memset (Device)",
        "aten::silu",
    ],
    "data": ["Memcpy HtoD (Pinned -> Device)", "Memcpy DtoH (Device -> Pinned)"],
}


@pytest.mark.parametrize(("part", "name"), [(p, n) for p, names in RECORDED.items() for n in names])
def test_recorded_names(part, name):
    assert part_of(name) == part


def test_every_part_has_words():
    assert set(WORDS) == set(PARTS) and set(RECORDED) <= set(PARTS)
