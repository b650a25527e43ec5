"""The worker: takes rows of many requests into one batch and runs the sampler on it.

Rows share a batch when their configurations are equal; each keeps its own seed, and the sampler's rows do
not depend on each other, so that a row's text is that of a request alone. A batch runs to its end;
a row leaves it at the next step once its text is whole or nobody waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..device import current_device
from ..evaluation.sampler import Sampler
from ..sampling.canvas import pad_left
from ..sampling.generation import State, diffusion_stream
from .answer import Answer
from .limits import Limits
from .metrics import Metrics
from .refusal import Refusal, stopping
from .row import News, Opening, Row

logger = logging.getLogger(__name__)


class Engine:
    """A queue and the one thread that empties it.

    Rows are given and taken back in event loops; the model runs in the thread alone.
    """

    def __init__(self, sampler: Sampler, limits: Limits, metrics: Metrics) -> None:
        self._sampler, self._limits, self._metrics = sampler, limits, metrics
        self._queue: deque[Row] = deque()
        self._running: list[Row] = []
        self._changed = threading.Condition()
        self._is_stopping = self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def is_ready(self) -> bool:
        """Whether rows are taken."""
        return self.is_alive and not self._is_stopping

    def submit(self, rows: Sequence[Row]) -> None:
        """Queue the rows of a request.

        Raises:
            Refusal: the server is stopping.
        """
        with self._changed:
            if not self.is_ready:
                raise stopping()
            self._queue.extend(rows)
            self._count()
            self._changed.notify_all()

    def abandon(self, rows: Sequence[Row]) -> None:
        """Nobody waits for these rows: those in the queue go now, those in the batch at the next step."""
        with self._changed:
            left = [row for row in rows if not row.news.is_over and not row.is_abandoned]
            for row in left:
                row.is_abandoned = True
                if row in self._queue:
                    self._queue.remove(row)
            self._metrics.abandoned.inc(len(left))
            self._count()

    def stop(self) -> None:
        """Take no more rows; those that are here are finished."""
        self._is_stopping = True

    def close(self, seconds: float = 10.0) -> None:
        """Refuse all that are still here and end the thread after its step."""
        with self._changed:
            self._is_stopping = self._is_closed = True
            rows = [*self._queue, *self._running]
            self._queue.clear()
            for row in rows:
                row.is_abandoned = True
            self._changed.notify_all()
        _refuse(rows, stopping())
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _count(self) -> None:
        self._metrics.queued_rows.set(len(self._queue))
        self._metrics.running_rows.set(len(self._running))

    def _run(self) -> None:
        while rows := self._take():
            try:
                self._generate(rows)
            except Refusal as refusal:
                _refuse(rows, refusal)
            except Exception as error:
                logger.error("a batch failed: %s", where(error))
                sentence = (
                    f"The generation failed ({type(error).__name__}); the server's log says where."
                )
                _refuse(rows, Refusal(500, sentence))
            finally:
                with self._changed:
                    self._running = []
                    self._count()

    def _take(self) -> list[Row]:
        """The oldest row and those that may go with it, oldest first; empty: the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._is_closed)
                if self._is_closed:
                    return []
                until = time.monotonic() + self._limits.batch_wait
                rows = self._companions()
                while 0 < len(rows) < self._limits.max_batch and not self._is_closed:
                    if not self._changed.wait(max(0.0, until - time.monotonic())):
                        break
                    rows = self._companions()
                rows = self._companions()
                if rows and not self._is_closed:
                    break
            taken = set(map(id, rows))
            self._queue = deque(row for row in self._queue if id(row) not in taken)
            self._running = rows
            self._count()
        self._metrics.batch_rows.observe(len(rows))
        return rows

    def _companions(self) -> list[Row]:
        """Rows of the queue that fit one batch with its first."""
        rows: list[Row] = []
        longest = 0
        for row in self._queue:
            if row.config != self._queue[0].config:
                continue
            longest = max(longest, row.size)
            is_too_large = longest * (len(rows) + 1) > self._limits.max_batch_tokens
            if len(rows) == self._limits.max_batch or (rows and is_too_large):
                break
            rows.append(row)
        return rows

    def _generate(self, rows: list[Row]) -> None:
        """Run one batch, telling each row what it got."""
        batch = _Batch(rows, self._sampler)
        num_forward = 0
        try:
            for state in self._states(rows, batch):
                num_forward = state.num_forward
                batch.tell(state)
                if len(batch.left()) == len(rows):
                    break
            batch.finish()
        finally:
            self._metrics.passes.inc(num_forward)
            self._metrics.tokens.inc(batch.num_tokens())

    def _states(self, rows: list[Row], batch: _Batch) -> Iterator[State]:
        """The sampler on one batch; raises Refusal for what it does not take."""
        input_ids, attention_mask = batch.inputs()
        try:
            return diffusion_stream(
                self._sampler.model,
                input_ids,
                attention_mask,
                config=rows[0].config,
                row_ids=[0] * len(rows),
                row_seeds=[row.seed for row in rows],
                stopped_rows=batch.left,
                max_position=self._sampler.max_position,
            )
        except ValueError as error:
            # The sampler refuses in one sentence, which names options and never a prompt.
            raise Refusal(400, str(error)) from None


@dataclass
class _Canvas:
    """A row in the batch: its text so far, its ids after the latest step."""

    row: Row
    answer: Answer
    tokens: list[int]


class _Batch:
    """The rows of one run of the sampler."""

    def __init__(self, rows: list[Row], sampler: Sampler) -> None:
        self._tokenizer = sampler.tokenizer
        self._prompt_length = max(len(row.prompt) for row in rows)
        self._num_forward = 0
        self._canvases = [
            _Canvas(
                row,
                Answer(
                    self._tokenizer,
                    row.ends,
                    row.stops,
                    may_close_again=row.config.remask != "none",
                ),
                [self._tokenizer.mask_id] * row.config.max_new_tokens,
            )
            for row in rows
        ]

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention mask [R, P], padded on the left."""
        prompts = [canvas.row.prompt for canvas in self._canvases]
        return pad_left(prompts, self._tokenizer.pad_id, current_device())

    def left(self) -> list[int]:
        """Rows whose text is whole, or for which nobody waits."""
        return [
            number
            for number, canvas in enumerate(self._canvases)
            if canvas.row.is_abandoned or canvas.answer.finish_reason is not None
        ]

    def tell(self, state: State) -> None:
        """Send every row what a step did to it."""
        self._num_forward = state.num_forward
        opened = state.opened_BS[:, self._prompt_length :].tolist()
        closed = None
        if state.reopened_BS is not None:
            closed = state.reopened_BS[:, self._prompt_length :].tolist()
        tokens = state.x_BS[:, self._prompt_length :].tolist()
        left = set(self.left())
        for number, canvas in enumerate(self._canvases):
            if number in left:
                continue
            canvas.tokens = tokens[number]
            closed_here = _places(closed[number]) if closed is not None else []
            self._tell_one(canvas, state.step, _places(opened[number]), closed_here)

    def _tell_one(self, canvas: _Canvas, step: int, opened: list[int], closed: list[int]) -> None:
        changed = canvas.answer.update(canvas.tokens)
        opening = None
        if canvas.row.wants_states and (opened or closed):
            mask = self._tokenizer.mask_id
            texts = [
                (place, self._tokenizer.token_text(canvas.tokens[place]))
                for place in opened
                if canvas.tokens[place] != mask  # opened and masked again in one step
            ]
            opening = Opening(step, texts, closed)
        if changed or opening is not None:
            self._send(canvas, opening)

    def finish(self) -> None:
        """The sampler is done: what is on the canvases is the text."""
        for canvas in self._canvases:
            if canvas.answer.finish_reason is None and not canvas.row.is_abandoned:
                canvas.answer.update(canvas.tokens, is_last=True)
                self._send(canvas, None)

    def _send(self, canvas: _Canvas, opening: Opening | None) -> None:
        answer = canvas.answer
        news = News(
            text=answer.text,
            num_tokens=answer.num_tokens,
            finish_reason=answer.finish_reason,
            opening=opening,
            is_over=answer.finish_reason is not None,
            num_forward=self._num_forward,
        )
        _post(canvas.row, news)

    def num_tokens(self) -> int:
        """Of the texts that are whole."""
        return sum(c.answer.num_tokens for c in self._canvases if c.answer.finish_reason)


def _places(flags: list[bool]) -> list[int]:
    return [place for place, flag in enumerate(flags) if flag]


def _post(row: Row, news: News) -> None:
    """Hand news to the row's event loop; a loop that is closed has nobody who waits."""
    try:
        row.loop.call_soon_threadsafe(row.tell, news)
    except RuntimeError:
        row.is_abandoned = True


def _refuse(rows: Sequence[Row], refusal: Refusal) -> None:
    for row in rows:
        _post(row, News(refusal=refusal, is_over=True))


def where(error: BaseException) -> str:
    """An error's kind and place; its message and values may hold a prompt and are left out."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return f"{type(error).__name__} at " + " > ".join(places)
