"""``megatron-dream chat``: a conversation in the terminal, whose answers appear where they open.

Differs from chats of autoregressive models: an answer has a fixed canvas (``max_new_tokens``) and is
cut at the first end token; until it is done, it may have holes, and none of it is kept when it is stopped.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..device import current_device
from ..errors import DataError, UserError
from ..sampling.generation import State, diffusion_stream
from ..sampling.randomness import fresh_seed
from ..sampling.sampling_config import SamplingConfig
from ..sampling.text import cut_at_eos
from ..tokenizer.chat import Message
from .generate import sampling_config
from .sample_command import check_options
from .sampler import Sampler, load_model
from .terminal import open_canvas_text, printable

HELP = "/reset begins anew, /exit or Ctrl-D ends, Ctrl-C stops an answer"


@dataclass(frozen=True)
class Answer:
    """An answer on its way.

    Attributes:
        tokens: ids of the canvas, masks among them, up to the first end token that is open.
        opened_step: of each; -1 for masks.
        text: what it says so far, without the masks.
    """

    tokens: list[int]
    opened_step: list[int]
    text: str


@dataclass
class Talk:
    """A conversation with a model.

    Attributes:
        sampler: the model.
        config: of every answer; turn k, from 0, draws from its seed + k.
        system: the system's message; None: the template's own.
        turns: what was said, user and assistant in turn.
    """

    sampler: Sampler
    config: SamplingConfig
    system: str | None = None
    turns: list[Message] = field(default_factory=list)
    _num_asked: int = 0

    def reset(self) -> None:
        """Forget what was said."""
        self.turns, self._num_asked = [], 0

    def ask(self, text: str) -> Iterator[Answer]:
        """Answer a message; it is kept with the answer once that is complete.

        The oldest turns are forgotten where the model has no positions for all.

        Raises:
            DataError: the message alone does not fit.
        """
        asked: Message = {"role": "user", "content": text}
        ids = self._fitting(asked)
        answer = Answer([], [], "")
        for answer in self._states(ids):
            yield answer
        self.turns += [asked, {"role": "assistant", "content": answer.text}]
        self._num_asked += 1

    def _fitting(self, asked: Message) -> list[int]:
        """Ids of as much of the conversation as fits."""
        system: list[Message] = []
        if self.system is not None:
            system = [{"role": "system", "content": self.system}]
        room = self.sampler.max_position - self.config.max_new_tokens
        while True:
            messages = [*system, *self.turns, asked]
            ids = self.sampler.chat_template.encode(self.sampler.tokenizer, messages)
            if len(ids) <= room:
                return ids
            if not self.turns:
                raise DataError(
                    f"the message takes {len(ids)} tokens with its template, and {room} are left beside "
                    f"--max-new-tokens {self.config.max_new_tokens}; shorten it or ask for less"
                )
            del self.turns[:2]

    def _states(self, ids: list[int]) -> Iterator[Answer]:
        seed = fresh_seed() if self.config.seed is None else self.config.seed + self._num_asked
        stream = diffusion_stream(
            self.sampler.model,
            torch.tensor([ids], device=current_device()),
            config=dataclasses.replace(self.config, seed=seed),
            max_position=self.sampler.max_position,
        )
        opened_step = [-1] * self.config.max_new_tokens
        for state in stream:
            yield self._answer(state, len(ids), opened_step)

    def _answer(self, state: State, start: int, opened_step: list[int]) -> Answer:
        tokens = state.x_BS[0, start:].tolist()
        for position in state.opened_BS[0, start:].nonzero().flatten().tolist():
            opened_step[position] = state.step
        kept = cut_at_eos(tokens, self.config.eos_token_ids)
        # Holes and all: what stands before the first end token is the answer so far.
        known = [token for token in kept if token != self.config.mask_token_id]
        text = self.sampler.tokenizer.decode(known, skip_special_tokens=True)
        return Answer(kept, opened_step[: len(kept)], text)


def run_chat(
    model: Path | str,
    *,
    system: str | None = None,
    weights: str | None = None,
    **options: Any,
) -> None:
    """Talk with a model; without a terminal, read lines and print answers.

    Args:
        model: exported folder or checkpoint.
        system: the system's message; default: the chat template's.
        weights: see load_model.
        options: fields of SamplingConfig.

    Raises:
        UserError: model or options are not what they should be; without a terminal, a line does not fit.
    """
    check_options(options)
    sampler = load_model(model, weights)
    ends = [sampler.tokenizer.eos_id, sampler.tokenizer.im_end_id]
    config = sampling_config(sampler, **options, eos_token_id=ends)
    talk = Talk(sampler, config, system)
    if sys.stdin.isatty() and sys.stdout.isatty():
        _talk_in_terminal(talk, Console(highlight=False))
    else:
        _talk_by_lines(talk)


def _talk_by_lines(talk: Talk) -> None:
    for line in sys.stdin:
        command = _command(talk, line)
        if command == "exit":
            return
        if command == "message":
            *_, answer = talk.ask(line.rstrip("\r\n"))
            print(printable(answer.text) if sys.stdout.isatty() else answer.text, flush=True)


def _talk_in_terminal(talk: Talk, console: Console) -> None:
    import readline  # noqa: F401  makes input() editable

    console.print(HELP, style="dim")
    while True:
        try:
            line = input("> ")
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print()
            continue
        command = _command(talk, line)
        if command == "exit":
            return
        if command == "reset":
            console.print("a new conversation", style="dim")
        elif command == "unknown":
            console.print(HELP, style="dim")
        elif command == "message":
            _show_answer(talk, line, console)


def _command(talk: Talk, line: str) -> str:
    """What a line asks for; ``/reset`` is done here."""
    word = line.strip()
    if word == "/reset":
        talk.reset()
    if word in ("/exit", "/reset"):
        return word[1:]
    if not word:
        return "nothing"
    return "unknown" if word.startswith("/") and word[1:].isalpha() else "message"


def _show_answer(talk: Talk, message: str, console: Console) -> None:
    """Play the answer, then print it whole; errors and Ctrl-C end the answer and not the talk."""
    last, num_turns = talk.config.resolved().steps or 1, len(talk.turns)
    token_text = talk.sampler.tokenizer.token_text
    answer = Answer([], [], "")
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            for answer in talk.ask(message):
                texts = [
                    None if token == talk.config.mask_token_id else token_text(token)
                    for token in answer.tokens
                ]
                live.update(open_canvas_text(texts, answer.opened_step, last - 1), refresh=True)
    except KeyboardInterrupt:
        console.print("stopped; this turn is not kept", style="dim")
        return
    except UserError as error:
        console.print(Text(str(error)), style="red")
        return
    console.print(Text(printable(answer.text)))
    if len(talk.turns) < num_turns + 2:
        console.print("the oldest turns no longer fit and are forgotten", style="dim")
