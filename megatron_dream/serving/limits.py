"""What one client may ask of the server, and what the server takes at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper bounds; a request over one of them is answered with a sentence and never queued.

    Attributes:
        max_body_bytes: of a request's body.
        max_prompt_tokens: of one prompt, control tokens of the chat template included.
        max_tokens: new tokens of one choice.
        max_steps: of the schedule.
        max_choices: choices of a request: its prompts times n.
        max_queue: requests that are open at once; rows are at most this times max_choices.
        max_seconds: of a request, from its arrival to the last byte of its answer.
        max_batch: rows that are denoised together.
        max_batch_tokens: the same, in rows times columns: bounds the memory of a pass.
        batch_wait: seconds that a batch waits for more rows.
        body_seconds: for a request's body to arrive.
        max_remask_limit: of remask_limit: bounds the states that a slow reader keeps in memory.
        max_forbidden: entries of forbidden_token_ids.
        slack_seconds: for the last bytes of an answer whose time is over.
    """

    max_body_bytes: int = 1 << 20
    max_prompt_tokens: int = 4096
    max_tokens: int = 1024
    max_steps: int = 1024
    max_choices: int = 16
    max_queue: int = 128
    max_seconds: float = 300.0
    max_batch: int = 16
    max_batch_tokens: int = 32768
    batch_wait: float = 0.005
    body_seconds: float = 15.0
    max_remask_limit: int = 16
    max_forbidden: int = 256
    slack_seconds: float = 5.0
