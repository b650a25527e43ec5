"""Megatron-Dream: autoregressive code models made into diffusion models on megatron-core.

Importing the package loads nothing heavy; each verb imports what it needs (see ``cli.py``).
"""

__version__ = "0.1.0.dev0"
