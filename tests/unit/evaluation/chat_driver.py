"""``chat`` on the tiny model in a process of its own; run by test_chat_command.py through a terminal."""

from __future__ import annotations

import sys
import time
from typing import Any

from megatron_dream.evaluation import chat_command
from megatron_dream.evaluation.sampler import Sampler
from tests.unit.evaluation.letters import LetterTokenizer
from tests.unit.sampling.plain_definition import TinyModel


class HostileTokenizer(LetterTokenizer):
    """Every letter of an answer brings a command for the terminal."""

    def token_text(self, token: int) -> str:
        return f"\x1b]0;owned\x07{super().token_text(token)}"


class SlowModel(TinyModel):
    """Takes a while for each pass, so that somebody can stop it; never ends an answer early."""

    seconds = 0.0

    def forward(self, *arguments: Any, **named: Any) -> Any:
        time.sleep(self.seconds)
        logits = super().forward(*arguments, **named)
        logits[..., [17, 18, 19, 21, 22]] = -100.0
        return logits


def main() -> None:
    """Arguments: seconds a pass, positions of the model, tokens of an answer."""
    model = SlowModel(2)
    model.seconds = float(sys.argv[1])
    sampler = Sampler(model, HostileTokenizer(), int(sys.argv[2]))  # type: ignore[arg-type]
    chat_command.load_model = lambda *_: sampler  # type: ignore[assignment]
    chat_command.run_chat("m", max_new_tokens=int(sys.argv[3]), temperature=1.0, seed=1)


if __name__ == "__main__":
    main()
