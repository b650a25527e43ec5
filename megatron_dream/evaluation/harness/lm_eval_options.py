"""What an lm_eval task asks of a generation, as its own classes take it (0.4.13, models/utils.py)."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
DEFAULT_LENGTH = 256  # lm_eval's


def asked_sampling(options: Json) -> Json:
    """Fields of SamplingConfig from a request's ``generation_kwargs``.

    Temperature, top_p and top_k count only where the task samples: ``do_sample`` true, or not said and a
    temperature above 0.
    """
    lengths = [options[name] for name in _LENGTHS if options.get(name) is not None]
    found: Json = {"max_new_tokens": int(lengths[0]) if lengths else DEFAULT_LENGTH}
    temperature = float(options.get("temperature") or 0.0)
    if temperature > 0 and options.get("do_sample") is not False:
        found["temperature"] = temperature
        found |= {k: options[k] for k in ("top_p", "top_k") if options.get(k) is not None}
    return found


def stops_of(options: Json) -> list[str]:
    """The texts at which an answer is cut; an empty one would cut everything and is none."""
    until = options.get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop]
