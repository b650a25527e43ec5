"""The log-likelihood of a continuation under a masked-diffusion model: a bound, the exact one, a chain."""

from .bound import Request, loglikelihood, loglikelihoods
from .draws import KINDS
from .masked_model import BATCH_SIZE, MaskedModel
from .orders import Chain, Enumerated, chain_loglikelihoods, enumerate_orders

__all__ = [
    "BATCH_SIZE",
    "KINDS",
    "Chain",
    "Enumerated",
    "MaskedModel",
    "Request",
    "chain_loglikelihoods",
    "enumerate_orders",
    "loglikelihood",
    "loglikelihoods",
]
