"""Jobs of test_rollouts.py: responses of one model on any layout, and its fingerprint."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from policy_jobs import MASK, PAD, VOCAB, PolicyCase, PolicyRun

from megatron_dream.config.schema import RlConfig

PROMPTS = [[3, 5], [7, 1, 4, 9, 2], [8], [6, 6, 1], [30, 31, 2, 9]]


def rollouts(case: PolicyCase, alg: str, cache: str, rows: int) -> dict[str, Any]:
    """Tokens of each prompt of this rank, and the fingerprint before and after one bit is changed."""
    from megatron_dream.checkpoint.inference import CheckpointModel
    from megatron_dream.checkpoint.state import unwrap
    from megatron_dream.rl.fingerprint import weights_fingerprint
    from megatron_dream.rl.rollout import make_rollouts, rollout_config

    run = PolicyRun(case)
    core: Any = unwrap(run.model[0]).eval()
    tokenizer: Any = SimpleNamespace(
        mask_id=MASK, pad_id=PAD, eos_id=PAD, bos_id=0, vocab_size=VOCAB
    )
    rl = RlConfig(group_size=3, response_length=12, block_length=4, alg=alg, cache=cache, top_p=0.9)  # type: ignore[arg-type]
    model = CheckpointModel(core, None, tokenizer)  # type: ignore[arg-type]
    places = range(run.ranks.dp_rank, len(PROMPTS), run.ranks.dp_size)
    made = make_rollouts(
        model,
        [PROMPTS[place] for place in places],
        list(places),
        rollout_config(rl, tokenizer),
        seed=11,
        rows=rows,
    )
    tokens = {places[one.place]: one.tokens_GL.tolist() for one in made}
    before = weights_fingerprint(run.model, run.ranks)
    parameter = next(iter(core.parameters()))
    with torch.no_grad():
        bits = parameter.view(-1)[:1].view(torch.int32)
        if run.ranks.rank == 0:
            bits ^= 1
    return {
        "tokens": tokens,
        "dp_rank": run.ranks.dp_rank,
        "fingerprint": before,
        "changed": weights_fingerprint(run.model, run.ranks),
    }
