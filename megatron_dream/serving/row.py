"""One choice of a request, and how the engine tells the request about it.

A row belongs to the event loop of its request: the engine's thread reads what never changes and
``is_abandoned``; all else is set by callbacks in the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from ..sampling.sampling_config import SamplingConfig
from .refusal import Refusal


@dataclass(frozen=True)
class Opening:
    """What a step changed on a row's canvas, for the stream of states.

    Attributes:
        step: from 0.
        opened: position in the response and the token's text.
        closed: positions masked again.
    """

    step: int
    opened: list[tuple[int, str]]
    closed: list[int]


@dataclass(frozen=True)
class News:
    """What the engine has for a row after a step.

    Attributes:
        text: what is certain so far.
        num_tokens: that it took.
        finish_reason: None while the text grows.
        opening: for a row that wants states.
        refusal: why nothing more will come.
        is_over: nothing more will come.
        num_forward: forward passes of the row's batch so far.
    """

    text: str = ""
    num_tokens: int = 0
    finish_reason: str | None = None
    opening: Opening | None = None
    refusal: Refusal | None = None
    is_over: bool = False
    num_forward: int = 0


@dataclass(eq=False)
class Row:
    """A canvas to fill.

    Attributes:
        prompt: ids.
        config: rows share a batch when theirs are equal; no seed in it.
        seed: of this row.
        loop: of its request.
        ends: tokens that end the text.
        stops: texts that end it.
        wants_states: keep what each step opened.
        news: the latest.
        openings: since the reader last took them; at most (1 + remask_limit) a position.
        is_abandoned: nobody waits for it any more.
        wake: called after news.
    """

    prompt: list[int]
    config: SamplingConfig
    seed: int
    loop: asyncio.AbstractEventLoop
    ends: tuple[int, ...]
    stops: tuple[str, ...] = ()
    wants_states: bool = False
    news: News = field(default_factory=News)
    openings: list[Opening] = field(default_factory=list)
    is_abandoned: bool = False
    wake: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        """Columns of the canvas."""
        return len(self.prompt) + self.config.max_new_tokens

    def tell(self, news: News) -> None:
        """Take in news; in the loop. What comes after the end is not heard."""
        if self.news.is_over:
            return
        self.news = news
        if news.opening is not None:
            self.openings.append(news.opening)
        self.wake()

    def take_openings(self) -> list[Opening]:
        """What opened since the last call."""
        taken, self.openings = self.openings, []
        return taken
