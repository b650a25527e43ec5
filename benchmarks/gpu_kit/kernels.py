"""Which part of a step a kernel belongs to, by its name.

Names are those of cuBLAS, CUTLASS, cuDNN, FlashAttention, Transformer Engine, NCCL, torch and Triton as
profilers print them; tests/unit/benchmarks/test_kernels.py has a list of recorded ones. The first rule that
matches wins. A name says what a kernel does, not for whom: the head's products are told from the layers' by
where they were launched (breakdown.py).
"""

from __future__ import annotations

import re

PARTS = (
    "attention",
    "products",
    "head",
    "optimizer",
    "communication",
    "casts",
    "elementwise",
    "data",
    "gaps",
)
WORDS = {
    "attention": "scores, softmax and values of the layers",
    "products": "matrix products of the layers",
    "head": "output layer and loss on masked rows, all of it",
    "optimizer": "norm, clipping, Adam, gradient buffers",
    "communication": "collectives and sends that no computation hides",
    "casts": "FP8: greatest values, casts, transposes",
    "elementwise": "norms, rotation, SwiGLU, residuals, embedding, sums of gradients",
    "data": "copies between host and device; waits for the loader",
    "gaps": "nothing runs: launches, Python, waits",
}

_RULES = tuple(
    (part, re.compile(pattern, re.IGNORECASE))
    for part, pattern in (
        ("communication", r"nccl|nvshmem|userbuffers|multimem|cross_device_reduce|c10d::|gloo:"),
        ("data", r"memcpy (htod|dtoh)|memcpy.*(host|pinned)"),
        # First: casts are in pieces of many tensors, too, and can name the product they are for.
        ("casts", r"amax|quantiz|cast_transpose|cast_mxfp8|mxfp8|swizzle|block_scaling|fp8.*transpose|"
                  r"transpose.*fp8|cast.*fp8|compute_scale|update_scale"),
        ("optimizer", r"multi_tensor|adam|l2norm|fused_optimizer|FusedOptimizer"),
        (
            "attention",
            r"flash|fmha|sdpa|scaled_dot_product|mha_|softmax_warp|attention|flex_|thd_(lse|out|grad)",
        ),
        # A Triton template is a product, a fused reduction after one (_red_, _per_, _poi_) is not.
        ("elementwise", r"^triton_(poi|red|per)_"),
        (
            "products",
            r"gemm|nvjet|cublas|cutlass|xmma|ampere_.*_tn|splitk|gemv|wgrad|triton_(tem|mm)|"
            r"^aten::(addmm|mm|bmm|baddbmm|linear|_scaled_mm|mkldnn_linear)|mkldnn.*(linear|matmul)|"
            r"mkl_.*linear|dot_kernel",
        ),
    )
)  # fmt: skip


def part_of(name: str) -> str:
    """One of ``PARTS``; what no rule knows is ``elementwise``."""
    return next((part for part, pattern in _RULES if pattern.search(name)), "elementwise")
