"""The one sampler: rollouts, command line, evaluation and exported folders run these files.

Imports torch and the standard library only; the other files work flat beside remote code too.
"""

from .generation import (
    LogitsModel,
    SamplingOutput,
    State,
    diffusion_generate,
    diffusion_stream,
)
from .history import History
from .sampling_config import ALGORITHMS, SamplingConfig
from .text import cut_at_eos, responses

__all__ = [
    "ALGORITHMS",
    "History",
    "LogitsModel",
    "SamplingConfig",
    "SamplingOutput",
    "State",
    "cut_at_eos",
    "diffusion_generate",
    "diffusion_stream",
    "responses",
]
