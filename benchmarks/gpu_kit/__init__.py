"""``make gpu-check`` and ``make gpu-bench``: what a node with GPUs must show (docs/gpu_kit.md)."""
